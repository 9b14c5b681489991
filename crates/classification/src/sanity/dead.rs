//! Whether every layer learns.

use kindling_models::NetworkConfig;
use kindling_training::named_parameters;

use super::{
    bench::{Bench, CheckResult},
    slopes::{Gradient, gradients},
};
use crate::ClassificationError;

/// Every layer has a gradient, and most of its units take part.
pub(super) fn no_dead_layers<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let model = bench.model()?;
    let gradients = gradients(&model.network, &bench.step(&model, bench.batch()?)?.gradients)?;
    // Not from the gradients: what nothing reaches has none.
    let parameters = named_parameters(&model.network);
    let trainable = parameters.iter().filter(|parameter| parameter.trainable);
    let mut layers: Vec<&str> = trainable.map(|parameter| parameter.layer.as_str()).collect();
    layers.dedup();
    let norm = |layer: &str| {
        let of_layer = gradients.iter().filter(|gradient| gradient.layer == layer);
        of_layer.flat_map(|gradient| &gradient.values).map(|value| value * value).sum::<f64>()
    };
    let silent: Vec<&str> = layers.into_iter().filter(|layer| !norm(layer).is_finite() || norm(layer) == 0.0).collect();
    let shares = gradients.iter().filter_map(|gradient| Some((&gradient.layer, silent_share(gradient)?)));
    let worst = shares.max_by(|a, b| a.1.total_cmp(&b.1));
    let share = worst.as_ref().map_or(0.0, |(_, share)| *share);
    Ok(CheckResult {
        name: "no dead layers",
        passed: silent.is_empty() && share <= 0.5,
        wanted: "a finite gradient in every layer, and at most half of a layer's units silent for the batch".to_owned(),
        found: if silent.is_empty() {
            format!(
                "at most {:.0} % silent{}",
                share * 100.0,
                worst.map_or(String::new(), |(layer, _)| format!(", in {layer}"))
            )
        } else {
            format!("no gradient in {}", silent.join(", "))
        },
        advice: "initial weights, or a layer that nothing reaches",
    })
}

/// The share of a layer's units whose bias has no gradient at all, since their ReLU lets nothing through for any image;
/// none for a tensor that is no bias.
fn silent_share(gradient: &Gradient) -> Option<f64> {
    let is_shift = [".bias", ".beta"].iter().any(|end| gradient.name.ends_with(end));
    // Behind a convolution, batch norm takes the bias's effect away, and its gradient with it.
    if !is_shift || gradient.kind.starts_with("Conv") {
        return None;
    }
    let silent = gradient.values.iter().filter(|value| **value == 0.0).count();
    Some(silent as f64 / gradient.values.len().max(1) as f64)
}
