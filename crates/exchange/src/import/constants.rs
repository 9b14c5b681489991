//! The weights in an ONNX file: its constants, as PyTorch has them.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use burn::{
    store::burn_pack::Tensor as Stored,
    tensor::{Bytes, DType},
};
use kindling_training::weights::{WeightsFile, digest_of};
use prost::Message;

use crate::{
    ExchangeError,
    onnx::{
        proto::{ElementType, Graph, Model, Node, Tensor},
        transposed,
    },
};

/// Where [`Tensor::data_location`] says that the elements are in another file.
const ELSEWHERE: i32 = 1;

/// Reads the constants of the model in `path`, in the order in which its nodes take them.
pub(super) fn read(path: &Path) -> Result<WeightsFile, ExchangeError> {
    let fails = |message: String| ExchangeError::file(path, message);
    let bytes = fs::read(path).map_err(|error| fails(error.to_string()))?;
    let sha256 = digest_of(&bytes);
    let model = Model::decode(&*bytes)
        .map_err(|error| fails(format!("expected a whole ONNX file: {error} (it may be cut short)")))?;
    drop(bytes);
    let graph = model.graph.ok_or_else(|| fails("expected an ONNX model with a graph, found none".to_owned()))?;
    let tensors = tensors(graph).map_err(fails)?;
    Ok(WeightsFile { sha256, tensors })
}

fn tensors(graph: Graph) -> Result<Vec<Stored>, String> {
    let Graph { node, initializer, .. } = graph;
    let mut uses: HashMap<&str, (usize, bool)> = HashMap::new();
    for (index, (node, operand, name)) in node.iter().flat_map(operands).enumerate() {
        let is_transposed = operand == 1 && is_product(node);
        // One that is used in both ways is left as it is.
        uses.entry(name).and_modify(|(_, all)| *all &= is_transposed).or_insert((index, is_transposed));
    }
    let uses = |name: &str| uses.get(name).copied().unwrap_or((usize::MAX, false));
    let mut tensors = initializer.into_iter().map(|tensor| (uses(&tensor.name), tensor)).collect::<Vec<_>>();
    tensors.sort_by_key(|((first, _), _)| *first);
    tensors.into_iter().map(|((_, is_transposed), tensor)| stored(tensor, is_transposed)).collect()
}

/// Each operand of a node with its place.
fn operands(node: &Node) -> impl Iterator<Item = (&Node, usize, &str)> {
    node.input.iter().enumerate().map(move |(operand, name)| (node, operand, name.as_str()))
}

/// Whether a node multiplies by its second operand as it is: that is the transpose of a weight of PyTorch's.
fn is_product(node: &Node) -> bool {
    let flag = |name| node.attribute.iter().find(|attribute| attribute.name == name).and_then(|attribute| attribute.i);
    match node.op_type.as_str() {
        "MatMul" => true,
        "Gemm" => flag("transB").unwrap_or_default() == 0,
        _ => false,
    }
}

/// A constant as PyTorch has it: a matrix is transposed where it is a factor.
fn stored(tensor: Tensor, is_transposed: bool) -> Result<Stored, String> {
    let name = tensor.name.clone();
    if tensor.data_location == ELSEWHERE {
        return Err(format!(
            "the numbers of `{name}` are in another file; save the model in one: torch.onnx.export(…, \
             external_data=False), or in Python onnx.save(onnx.load(PATH), NEW)"
        ));
    }
    let mut shape = Vec::new();
    let mut count = 1_usize;
    for &side in &tensor.dims {
        let side = usize::try_from(side).map_err(|_| format!("`{name}` has a side of {side}"))?;
        count =
            count.checked_mul(side).ok_or_else(|| format!("`{name}` is larger than any memory: {:?}", tensor.dims))?;
        shape.push(side);
    }
    let (dtype, width, mut data) = elements(tensor)?;
    let wanted = count.saturating_mul(width);
    if data.len() != wanted {
        return Err(format!("expected {wanted} bytes in `{name}`, found {} (the file is damaged)", data.len()));
    }
    if let ([rows, columns], true) = (&mut shape[..], is_transposed) {
        data = transposed(&data, width, *rows, *columns);
        std::mem::swap(rows, columns);
    }
    // Shared, since names and places are tried in several ways.
    let data = Arc::new(data);
    let bytes = data.len();
    Ok(Stored::deferred(name, dtype, shape, None, bytes, move || Ok(Bytes::from_bytes_vec(data.to_vec()))))
}

/// The type, the bytes of an element, and all elements in little endian.
fn elements(tensor: Tensor) -> Result<(DType, usize, Vec<u8>), String> {
    let Tensor { name, data_type, raw_data, float_data, double_data, int32_data, int64_data, .. } = tensor;
    let halves = || int32_data.iter().flat_map(|&bits| (bits as u16).to_le_bytes()).collect::<Vec<u8>>();
    let (dtype, width, listed): (_, _, Vec<u8>) = match ElementType::try_from(data_type) {
        Ok(ElementType::Float) => (DType::F32, 4, float_data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Ok(ElementType::Double) => (DType::F64, 8, double_data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Ok(ElementType::Float16) => (DType::F16, 2, halves()),
        Ok(ElementType::Bfloat16) => (DType::BF16, 2, halves()),
        Ok(ElementType::Int64) => (DType::I64, 8, int64_data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Ok(ElementType::Int32) => (DType::I32, 4, int32_data.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Ok(ElementType::Uint8 | ElementType::Bool) => (DType::U8, 1, int32_data.iter().map(|&x| x as u8).collect()),
        Ok(ElementType::Int8) => (DType::I8, 1, int32_data.iter().map(|&x| x as u8).collect()),
        _ => {
            return Err(format!("expected numbers in `{name}`, found elements of ONNX's type {data_type}"));
        }
    };
    Ok((dtype, width, if raw_data.is_empty() { listed } else { raw_data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::Attribute;

    fn tensor(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let data_type = ElementType::Float as i32;
        Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type, raw_data, ..Tensor::default() }
    }

    fn node(op_type: &str, input: &[&str], trans_b: i64) -> Node {
        let attribute = Attribute { name: "transB".to_owned(), i: Some(trans_b), ..Attribute::default() };
        let input = input.iter().map(|&name| name.to_owned()).collect();
        Node { op_type: op_type.to_owned(), input, attribute: vec![attribute], ..Node::default() }
    }

    #[allow(clippy::type_complexity)] // Name, shape and numbers.
    fn read_graph(node: Vec<Node>, initializer: Vec<Tensor>) -> Result<Vec<(String, Vec<usize>, Vec<f32>)>, String> {
        let found = tensors(Graph { node, initializer, ..Graph::default() })?;
        let numbers = |bytes: &[u8]| bytes.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        Ok(found
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.to_vec(), numbers(&tensor.to_bytes().unwrap())))
            .collect())
    }

    #[test]
    fn factors_are_transposed_and_constants_come_in_the_order_of_the_nodes() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let nodes = vec![
            node("MatMul", &["x", "first"], 1),
            node("Gemm", &["y", "second", "bias"], 0),
            node("Gemm", &["z", "third"], 1),
        ];
        let names = ["third", "second", "first"];
        let mut constants: Vec<_> = names.iter().map(|name| tensor(name, &[2, 3], &values)).collect();
        constants.push(tensor("bias", &[1], &[0.5]));
        constants.push(Tensor { raw_data: Vec::new(), float_data: vec![7.0], ..tensor("rest", &[1], &[]) });
        let found = read_graph(nodes, constants).unwrap();
        let turned = (vec![3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let expected = [
            ("first", turned.clone()),
            ("second", turned),
            ("bias", (vec![1], vec![0.5])),
            ("third", (vec![2, 3], values.to_vec())),
            ("rest", (vec![1], vec![7.0])),
        ];
        assert_eq!(found, expected.map(|(name, (shape, values))| (name.to_owned(), shape, values)));
    }

    #[test]
    fn half_and_double_precision_are_read_from_either_field() {
        let of = |data_type: ElementType, tensor: Tensor| {
            elements(Tensor { data_type: data_type as i32, name: "w".to_owned(), ..tensor }).unwrap()
        };
        let half = Tensor { int32_data: vec![0x3c00], ..Tensor::default() };
        assert_eq!(of(ElementType::Float16, half), (DType::F16, 2, vec![0x00, 0x3c]));
        let double = Tensor { double_data: vec![1.0], ..Tensor::default() };
        assert_eq!(of(ElementType::Double, double), (DType::F64, 8, 1_f64.to_le_bytes().to_vec()));
        let raw = Tensor { raw_data: vec![1, 2], int32_data: vec![9], ..Tensor::default() };
        assert_eq!(of(ElementType::Bfloat16, raw).2, [1, 2]);
    }

    #[test]
    fn what_cannot_be_weights_is_told_with_its_name() {
        let refused = |tensor: Tensor| read_graph(Vec::new(), vec![tensor]).unwrap_err();
        let elsewhere = Tensor { data_location: ELSEWHERE, ..tensor("w", &[1], &[]) };
        assert!(refused(elsewhere).contains("the numbers of `w` are in another file"));
        assert!(refused(tensor("w", &[2], &[1.0])).contains("expected 8 bytes in `w`, found 4"));
        assert!(refused(tensor("w", &[-1], &[])).contains("`w` has a side of -1"));
        assert!(refused(tensor("w", &[i64::MAX, i64::MAX], &[])).contains("larger than any memory"));
        let text = Tensor { data_type: ElementType::String as i32, ..tensor("w", &[1], &[]) };
        assert!(refused(text).contains("found elements of ONNX's type 8"));
    }
}
