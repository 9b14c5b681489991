//! Batch norms as a part of the convolutions before them.

use super::proto::{ElementType, Graph, Tensor};

/// Makes every batch norm that takes a convolution's output, which nothing else takes, a part of it: with
/// `s = γ / √(variance + ε)` for each channel, its weight is multiplied by `s`, and its bias `b` is `(b - mean) s + β`.
pub(super) fn fold_batch_norms(graph: &mut Graph) {
    for index in (0..graph.node.len()).rev() {
        if graph.node[index].op_type == "BatchNormalization" && fold(graph, index).is_some() {
            graph.node.remove(index);
        }
    }
    let used = |name: &String| graph.node.iter().any(|node| node.input.contains(name));
    let used: Vec<_> = graph.initializer.iter().map(|tensor| used(&tensor.name)).collect();
    let mut used = used.into_iter();
    graph.initializer.retain(|_| used.next().unwrap_or(true));
}

fn fold(graph: &mut Graph, index: usize) -> Option<()> {
    let norm = &graph.node[index];
    let input = norm.input.first()?;
    let readers = |name: &String| graph.node.iter().filter(|node| node.input.contains(name)).count();
    let place = graph.node.iter().position(|node| node.op_type == "Conv" && node.output.contains(input))?;
    let conv = &graph.node[place];
    let weight = conv.input.get(1)?;
    let bias = conv.input.get(2);
    let is_shared = bias.is_some_and(|bias| readers(bias) > 1);
    if readers(input) > 1 || readers(weight) > 1 || is_shared {
        return None;
    }
    let tensor = |name: &String| graph.initializer.iter().find(|tensor| tensor.name == *name);
    let floats = |name: &String| tensor(name).and_then(floats);
    let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|input| norm.input.get(input).and_then(floats));
    let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
    let epsilon = norm.attribute.iter().find(|attribute| attribute.name == "epsilon").and_then(|it| it.f);
    let epsilon = f64::from(epsilon.unwrap_or(1e-5));
    let scales: Vec<_> =
        gamma.iter().zip(&variance).map(|(gamma, variance)| gamma / (variance + epsilon).sqrt()).collect();
    let (mut numbers, channels) = (floats(weight)?, scales.len());
    let before = match bias {
        Some(bias) => floats(bias)?,
        None => vec![0.0; channels],
    };
    if [before.len(), beta.len(), mean.len()] != [channels; 3] || !numbers.len().is_multiple_of(channels) {
        return None;
    }
    let each = (numbers.len() / channels).max(1);
    for (index, number) in numbers.iter_mut().enumerate() {
        *number *= scales[index / each];
    }
    let shifted = |channel: usize| (before[channel] - mean[channel]) * scales[channel] + beta[channel];
    let shifted: Vec<_> = (0..channels).map(shifted).collect();
    let (weight, output) = (weight.clone(), norm.output.clone());
    let bias = bias.cloned().unwrap_or_else(|| match weight.strip_suffix(".weight") {
        Some(layer) => format!("{layer}.bias"),
        None => format!("{weight}_bias"),
    });
    let dims = tensor(&weight)?.dims.clone();
    graph.initializer.retain(|tensor| tensor.name != weight && tensor.name != bias);
    graph.initializer.push(stored(weight, dims, &numbers));
    graph.initializer.push(stored(bias.clone(), vec![channels as i64], &shifted));
    let conv = &mut graph.node[place];
    conv.input.truncate(2);
    conv.input.push(bias);
    conv.output = output;
    Some(())
}

fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let is_float = tensor.data_type == ElementType::Float as i32;
    let (numbers, _) = tensor.raw_data.as_chunks::<4>();
    is_float.then(|| numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
}

fn stored(name: String, dims: Vec<i64>, numbers: &[f64]) -> Tensor {
    let raw_data = numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect();
    Tensor { name, dims, data_type: ElementType::Float as i32, raw_data, ..Tensor::default() }
}
