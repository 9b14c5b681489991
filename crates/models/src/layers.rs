use burn::module::Module;
use kindling_kernels::nn;

/// One row of a network's table: a module that has parameters of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Path in the network, which begins the names of its tensors in the weights file (`fc1`); empty for the network itself.
    pub name: String,
    /// Name of its type: `Linear`, `Conv2d`, `BatchNorm`.
    pub kind: String,
    /// Shape of its first parameter, usually the weight, in PyTorch's layout: a linear layer's is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// Number of trainable parameters, or `usize::MAX` if there are more.
    pub parameters: usize,
}

/// The layers of a module in order, read from the module itself; lazy parameters stay lazy.
///
/// Batch norm's running statistics are state, not parameters: nothing trains them.
#[must_use]
pub fn layers<M: Module>(module: &M) -> Vec<LayerSummary> {
    let mut layers: Vec<LayerSummary> = Vec::new();
    for parameter in nn::named_parameters(module) {
        let parameters = if parameter.trainable { parameter.count() } else { 0 };
        if let Some(layer) = layers.iter_mut().find(|layer| layer.name == parameter.layer) {
            layer.parameters = layer.parameters.saturating_add(parameters);
            continue;
        }
        let mut shape = parameter.shape;
        // As the weights file has it.
        if parameter.kind == "Linear" && shape.len() == 2 {
            shape.reverse();
        }
        layers.push(LayerSummary { name: parameter.layer, kind: parameter.kind, shape, parameters });
    }
    layers
}

/// Number of trainable parameters of a network with these layers, or `usize::MAX` if there are more.
#[must_use]
pub fn trainable_parameters(layers: &[LayerSummary]) -> usize {
    layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.parameters))
}
