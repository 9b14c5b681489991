//! A graph in the making.

use std::collections::{HashMap, HashSet};

use burn::tensor::DType;

use super::proto::{Attribute, AttributeKind, ElementType, Node, Tensor};

/// Nodes and constants, each under a name of its own.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) initializers: Vec<Tensor>,
    names: HashSet<String>,
    /// The constants that have no name of their own, by what they hold.
    constants: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
}

impl Graph {
    /// Adds an operation of one output, whose name is returned; empty inputs are left out.
    pub(super) fn node(&mut self, op_type: &str, inputs: &[&str], attribute: Vec<Attribute>) -> String {
        // What a layer computes has the layer's name.
        let layer = inputs.iter().find_map(|input| input.strip_suffix(".weight"));
        let name = self.unused(&layer.map_or_else(|| op_type.to_lowercase(), |layer| layer.replace('.', "/")));
        let (input, op_type) = (inputs.iter().map(ToString::to_string).collect(), op_type.to_owned());
        let output = vec![name.clone()];
        self.nodes.push(Node { input, output, name: name.clone(), op_type, attribute, domain: String::new() });
        name
    }

    /// `name`, or it with a number behind it where it is taken.
    fn unused(&mut self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let mut free = std::iter::once(name.to_owned()).chain(numbered).filter(|name| !self.names.contains(name));
        let name = free.next().unwrap_or_default();
        self.names.insert(name.clone());
        name
    }

    /// Adds a tensor under its own name, which must be reserved; once where it is added again.
    pub(super) fn initializer(&mut self, tensor: Tensor) -> String {
        let name = tensor.name.clone();
        if self.initializers.iter().all(|other| other.name != name) {
            self.initializers.push(tensor);
        }
        name
    }

    /// Keeps a name for something that has one already.
    pub(super) fn reserve(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    /// Adds a constant without a name of its own.
    pub(super) fn constant(&mut self, dims: &[usize], element: ElementType, raw_data: Vec<u8>) -> String {
        let dims: Vec<i64> = dims.iter().map(|size| *size as i64).collect();
        let key = (element as i32, dims, raw_data);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.unused("constant");
        let (data_type, dims, raw_data) = key.clone();
        self.constants.insert(key, name.clone());
        self.initializers.push(Tensor { name: name.clone(), data_type, dims, raw_data, ..Tensor::default() });
        name
    }

    /// Adds a constant vector, such as a shape.
    pub(super) fn integers(&mut self, numbers: &[i64]) -> String {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(&[numbers.len()], ElementType::Int64, bytes)
    }

    /// Adds a constant array.
    pub(super) fn floats(&mut self, dims: &[usize], numbers: &[f32]) -> String {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant(dims, ElementType::Float, bytes)
    }

    /// Adds a single number of a type, `[]`.
    pub(super) fn number(&mut self, number: Number, dtype: DType) -> String {
        let (element, bytes) = number.bytes(dtype);
        self.constant(&[], element, bytes)
    }
}

/// A number of any type.
#[derive(Clone, Copy)]
pub(super) struct Number {
    /// The number.
    pub(super) float: f64,
    /// It without rounding, where it is whole.
    pub(super) int: i64,
}

impl Number {
    /// A number that may have a fraction.
    pub(super) fn float(float: f64) -> Self {
        Self { float, int: float as i64 }
    }

    /// The number as a type has it, in little endian.
    pub(super) fn bytes(self, dtype: DType) -> (ElementType, Vec<u8>) {
        let element = element(dtype);
        let bytes = match element {
            ElementType::Double => self.float.to_le_bytes().to_vec(),
            ElementType::Float16 => burn::tensor::f16::from_f64(self.float).to_le_bytes().to_vec(),
            ElementType::Bfloat16 => burn::tensor::bf16::from_f64(self.float).to_le_bytes().to_vec(),
            ElementType::Int64 | ElementType::Uint64 => self.int.to_le_bytes().to_vec(),
            ElementType::Int32 | ElementType::Uint32 => (self.int as i32).to_le_bytes().to_vec(),
            ElementType::Int16 | ElementType::Uint16 => (self.int as i16).to_le_bytes().to_vec(),
            ElementType::Int8 | ElementType::Uint8 | ElementType::Bool => vec![self.int as u8],
            _ => (self.float as f32).to_le_bytes().to_vec(),
        };
        (element, bytes)
    }
}

/// The type that ONNX has for one of Burn's.
pub(super) fn element(dtype: DType) -> ElementType {
    match dtype {
        DType::F64 => ElementType::Double,
        DType::F16 => ElementType::Float16,
        DType::BF16 => ElementType::Bfloat16,
        DType::I64 => ElementType::Int64,
        DType::I32 => ElementType::Int32,
        DType::I16 => ElementType::Int16,
        DType::I8 => ElementType::Int8,
        DType::U64 => ElementType::Uint64,
        DType::U32 => ElementType::Uint32,
        DType::U16 => ElementType::Uint16,
        DType::U8 => ElementType::Uint8,
        DType::Bool(_) => ElementType::Bool,
        _ => ElementType::Float,
    }
}

/// An attribute with an integer.
pub(super) fn int(name: &str, value: usize) -> Attribute {
    Attribute { i: Some(value as i64), ..attribute(name, AttributeKind::Int) }
}

/// An attribute with integers.
pub(super) fn ints(name: &str, values: &[usize]) -> Attribute {
    let ints = values.iter().map(|value| *value as i64).collect();
    Attribute { ints, ..attribute(name, AttributeKind::Ints) }
}

/// An attribute with a number.
pub(super) fn float(name: &str, value: f64) -> Attribute {
    Attribute { f: Some(value as f32), ..attribute(name, AttributeKind::Float) }
}

/// An attribute with a text.
pub(super) fn text(name: &str, value: &str) -> Attribute {
    Attribute { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeKind::String) }
}

/// An attribute with a tensor of one number, `[1]`.
pub(super) fn tensor(name: &str, number: Number, dtype: DType) -> Attribute {
    let (element, raw_data) = number.bytes(dtype);
    let t = Tensor { dims: vec![1], data_type: element as i32, raw_data, ..Tensor::default() };
    Attribute { t: Some(t), ..attribute(name, AttributeKind::Tensor) }
}

fn attribute(name: &str, kind: AttributeKind) -> Attribute {
    Attribute { name: name.to_owned(), kind: kind as i32, ..Attribute::default() }
}
