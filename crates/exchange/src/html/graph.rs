//! The network as the page's interpreter takes it.

use std::collections::{BTreeMap, HashSet};

use burn::tensor::{bf16, f16};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::INTERPRETER;
use crate::{
    ExchangeError,
    onnx::proto::{Attribute, AttributeKind, ElementType, Graph, Model, Node, Tensor},
};

/// What `networkOf` in `run.js` takes.
#[derive(Debug, Serialize)]
pub(super) struct Network<'a> {
    input: &'a str,
    outputs: BTreeMap<&'a str, &'a str>,
    constants: BTreeMap<&'a str, Constant>,
    operations: Vec<Operation<'a>>,
}

#[derive(Debug, Serialize)]
struct Constant {
    r#type: &'static str,
    shape: Vec<i64>,
    #[serde(flatten)]
    numbers: Numbers,
}

/// The numbers of a constant, or where they begin in the weights, in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Numbers {
    Numbers(Vec<i32>),
    At(usize),
}

#[derive(Debug, Serialize)]
struct Operation<'a> {
    #[serde(rename = "operation")]
    kind: &'a str,
    inputs: &'a [String],
    outputs: &'a [String],
    #[serde(skip_serializing_if = "Map::is_empty")]
    attributes: Map<String, Value>,
}

/// The network, and its weights as f32 in little endian.
///
/// # Errors
/// When it has an operation that the page does not have, or is not a network.
pub(super) fn network(model: &Model) -> Result<(Network<'_>, Vec<u8>), ExchangeError> {
    let graph = model.graph.as_ref().ok_or_else(|| malformed("it has no graph"))?;
    let input = graph.input.first().ok_or_else(|| malformed("it has no input"))?;
    let outputs = graph.output.iter().map(|output| (output.name.as_str(), output.name.as_str())).collect();
    let mut weights = Vec::new();
    let mut constants = BTreeMap::new();
    for tensor in &graph.initializer {
        constants.insert(tensor.name.as_str(), constant(tensor, &mut weights)?);
    }
    let mut operations = Vec::new();
    for node in &graph.node {
        if let Some((name, tensor)) = held(node) {
            constants.insert(name, constant(tensor, &mut weights)?);
        } else {
            check_dimensions(node, graph)?;
            operations.push(operation(node)?);
        }
    }
    check_names(graph)?;
    Ok((Network { input: &input.name, outputs, constants, operations }, weights))
}

/// The name and the value of a node that is a constant.
fn held(node: &Node) -> Option<(&str, &Tensor)> {
    let value = node.attribute.iter().find_map(|attribute| attribute.t.as_ref())?;
    (node.op_type == "Constant").then_some((node.output.first()?, value))
}

/// Whether it is a convolution over images, if it is one.
fn check_dimensions(node: &Node, graph: &Graph) -> Result<(), ExchangeError> {
    let weight = node.input.get(1).filter(|_| node.op_type == "Conv");
    let weight = weight.and_then(|name| graph.initializer.iter().find(|tensor| tensor.name == *name));
    match weight.map(|weight| weight.dims.len().saturating_sub(2)) {
        None | Some(2) => Ok(()),
        Some(axes) => Err(ExchangeError::PageOperation { operation: format!("Conv in {axes} dimensions") }),
    }
}

/// Whether every value is there before it is used.
fn check_names(graph: &Graph) -> Result<(), ExchangeError> {
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    let mut known: HashSet<&str> = given.map(String::as_str).chain([""]).collect();
    for node in &graph.node {
        if let Some(name) = node.input.iter().find(|name| !known.contains(name.as_str())) {
            return Err(malformed(&format!("nothing gives `{name}`, which {} takes", node.op_type)));
        }
        known.extend(node.output.iter().map(String::as_str));
    }
    Ok(())
}

fn operation(node: &Node) -> Result<Operation<'_>, ExchangeError> {
    let unknown = |what: &str| ExchangeError::PageOperation { operation: format!("{}{what}", node.op_type) };
    // An entry of the interpreter's table begins so: there is no other list.
    let table = INTERPRETER.split_once("const OPERATIONS").map_or("", |(_, table)| table);
    let is_known = table.contains(&format!("\n  {}(", node.op_type));
    if !is_known || !["", "ai.onnx"].contains(&node.domain.as_str()) {
        return Err(unknown(""));
    }
    let mut attributes = Map::new();
    for attribute in &node.attribute {
        let value = value(attribute).ok_or_else(|| unknown(&format!(" with `{}`", attribute.name)))?;
        match attribute.name.as_str() {
            "auto_pad" if value != "NOTSET" => return Err(unknown(&format!(" with `auto_pad` {value}"))),
            "kernel_shape" if attribute.ints.len() != 2 => {
                return Err(unknown(&format!(" in {} dimensions", attribute.ints.len())));
            }
            _ => attributes.insert(attribute.name.clone(), value),
        };
    }
    Ok(Operation { kind: &node.op_type, inputs: &node.input, outputs: &node.output, attributes })
}

/// The value of an attribute; a tensor's is its first number.
fn value(attribute: &Attribute) -> Option<Value> {
    let kind = AttributeKind::try_from(attribute.kind).ok()?;
    Some(match kind {
        AttributeKind::Float => json!(attribute.f?),
        AttributeKind::Int => json!(attribute.i?),
        AttributeKind::String => json!(String::from_utf8_lossy(attribute.s.as_deref()?)),
        AttributeKind::Floats => json!(attribute.floats),
        AttributeKind::Ints => json!(attribute.ints),
        AttributeKind::Tensor => {
            let tensor = attribute.t.as_ref()?;
            floats(tensor).map_or_else(|| Some(json!(integers(tensor)?.first()?)), |all| Some(json!(all.first()?)))?
        }
        AttributeKind::Undefined => return None,
    })
}

/// Adds a tensor's numbers to the weights, if they are not integers.
fn constant(tensor: &Tensor, weights: &mut Vec<u8>) -> Result<Constant, ExchangeError> {
    let shape = tensor.dims.clone();
    let r#type = match tensor.data_type() {
        ElementType::Float | ElementType::Double | ElementType::Float16 | ElementType::Bfloat16 => "f32",
        ElementType::Uint8 | ElementType::Bool => "u8",
        _ => "i32",
    };
    let expected = shape.iter().try_fold(1, |product: usize, size| product.checked_mul(usize::try_from(*size).ok()?));
    let fits = |count: usize| if expected == Some(count) { Ok(()) } else { Err(malformed_constant(tensor, count)) };
    let numbers = if r#type == "f32" {
        let numbers = floats(tensor).unwrap_or_default();
        fits(numbers.len())?;
        let start = weights.len();
        weights.extend(numbers.into_iter().flat_map(f32::to_le_bytes));
        Numbers::At(start)
    } else {
        let numbers = integers(tensor).unwrap_or_default();
        fits(numbers.len())?;
        // What is larger stands for "to the end": no axis is that long.
        let bounded = |number: i64| number.clamp(-i64::from(i32::MAX), i64::from(i32::MAX)) as i32;
        Numbers::Numbers(numbers.into_iter().map(bounded).collect())
    };
    Ok(Constant { r#type, shape, numbers })
}

/// The elements of a tensor of a floating-point type.
fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    let raw = &tensor.raw_data;
    Some(match tensor.data_type() {
        ElementType::Float if raw.is_empty() => tensor.float_data.clone(),
        ElementType::Float => raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        ElementType::Double if raw.is_empty() => tensor.double_data.iter().map(|number| *number as f32).collect(),
        ElementType::Double => raw.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        ElementType::Float16 => raw.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        ElementType::Bfloat16 => raw.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        _ => return None,
    })
}

/// The elements of a tensor of integers or truth values.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    let raw = &tensor.raw_data;
    Some(match tensor.data_type() {
        ElementType::Int64 if raw.is_empty() => tensor.int64_data.clone(),
        ElementType::Int64 | ElementType::Uint64 => {
            raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        }
        ElementType::Int32 | ElementType::Uint8 | ElementType::Bool if raw.is_empty() => {
            tensor.int32_data.iter().map(|number| i64::from(*number)).collect()
        }
        ElementType::Int32 => raw.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        ElementType::Uint32 => raw.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect(),
        ElementType::Int16 => raw.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes).into()).collect(),
        ElementType::Uint16 => raw.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes).into()).collect(),
        ElementType::Int8 => raw.iter().map(|byte| byte.cast_signed().into()).collect(),
        ElementType::Uint8 | ElementType::Bool => raw.iter().map(|byte| i64::from(*byte)).collect(),
        _ => return None,
    })
}

fn malformed(message: &str) -> ExchangeError {
    ExchangeError::PageNetwork { message: message.to_owned() }
}

fn malformed_constant(tensor: &Tensor, count: usize) -> ExchangeError {
    malformed(&format!("`{}` of shape {:?} has {count} numbers", tensor.name, tensor.dims))
}
