//! What a network is made of, known from its config alone.

/// One row of a network's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Name in the weights file; empty for what has no weights.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// Shape of what comes out, for one image.
    pub output: Vec<usize>,
    /// Number of trainable parameters; the largest number there is where they are more.
    pub parameters: usize,
}

/// The number of trainable parameters of a network with these layers, or the largest number there is where they are more.
///
/// Batch norm's running statistics are state, not parameters: nothing trains them.
#[must_use]
pub fn trainable_parameters(layers: &[LayerSummary]) -> usize {
    layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.parameters))
}

pub(crate) fn linear(name: impl Into<String>, inputs: usize, outputs: usize) -> LayerSummary {
    row(name, format!("linear {inputs} to {outputs}"), &[outputs], counted(inputs, outputs))
}

pub(crate) fn convolution(name: impl Into<String>, inputs: usize, outputs: usize, size: [usize; 2]) -> LayerSummary {
    let kind = format!("convolution 3x3, {inputs} to {outputs}");
    row(name, kind, &[outputs, size[0], size[1]], counted(inputs.saturating_mul(9), outputs))
}

pub(crate) fn batch_norm(name: impl Into<String>, output: &[usize]) -> LayerSummary {
    row(name, "batch norm".to_owned(), output, output[0].saturating_mul(2))
}

pub(crate) fn plain(name: &str, kind: &str, output: &[usize]) -> LayerSummary {
    row(name, kind.to_owned(), output, 0)
}

/// Weights between so many inputs and outputs, and biases.
fn counted(inputs: usize, outputs: usize) -> usize {
    inputs.saturating_mul(outputs).saturating_add(outputs)
}

fn row(name: impl Into<String>, kind: String, output: &[usize], parameters: usize) -> LayerSummary {
    LayerSummary { name: name.into(), kind, output: output.to_vec(), parameters }
}
