//! The config of each row of the assignment's tables.

use kindling_config::{Config, ConfigError, Partial, Registry};
use serde_json::{Map, Value, json};

use super::reference::Question;

/// Batches of every split in a quick reproduction: a ninth of the data.
const QUICK_BATCHES: usize = 100;

/// The config of a row's run with this seed. All follow the reference's protocol: all of train in file order, batches of
/// 64, plain SGD. A quick one sees only a part of the data.
pub(crate) fn config(
    (question, row): (Question, &str),
    seed: u64,
    quick: bool,
    registry: &Registry,
) -> Result<Config, ConfigError> {
    let is_suggested = |name: &str| question == Question::Suggestions && (row == name || row == "all");
    let network = match row {
        "deeper" | "mlp-deep" => "mlp-deep",
        "wider" | "mlp-wide" => "mlp-wide",
        _ if is_suggested("more layers") => "cnn-deep",
        _ if question == Question::Suggestions || row == "cnn" => "cnn",
        _ => "mlp",
    };
    // Rows of 1.2 and 1.3 are learning rates.
    let learning_rate = if question == Question::FirstRun { 0.001 } else { row.parse().unwrap_or(0.1) };
    let epochs = match question {
        Question::FirstRun => 5,
        Question::LearningRates | Question::Structures => 10,
        Question::Convergence => 50,
        Question::Gradients => 1,
        Question::Cnn | Question::Suggestions => 13,
    };
    let gradient_steps = (question == Question::Gradients).then_some(100);
    let augment: &[&str] = if is_suggested("augmentation") { &["shift", "flip", "erase"] } else { &[] };
    let sections = [
        ("network", json!(network)),
        ("data", json!({ "name": "fashion-mnist", "augment": augment })),
        ("optimizer", json!({ "name": "sgd", "learning_rate": learning_rate })),
        ("schedule", json!(if is_suggested("falling learning rate") { "cosine" } else { "constant" })),
        ("protocol", json!({ "name": "assignment", "monitor": "test/loss" })),
        (
            "training",
            json!({
                "epochs": epochs,
                "batch_size": 64,
                "seed": seed,
                "early_stopping": (question == Question::Convergence).then_some(3),
                "gradient_steps": gradient_steps,
                "limit_batches": gradient_steps.or(quick.then_some(QUICK_BATCHES)),
            }),
        ),
    ];
    let object: Map<String, Value> = sections.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Partial::from_object(object)?.resolve(registry)
}

#[cfg(test)]
mod tests {
    use kindling_config::Order;
    use kindling_workbench::Workbench;

    use super::*;

    #[test]
    fn every_row_has_its_config_and_follows_the_references_protocol() {
        let registry = Workbench::new("kindling").registry();
        let mut shown = Vec::new();
        for question in Question::ALL {
            for &row in question.rows() {
                let of = |quick| config((question, row), 3, quick, &registry).unwrap();
                let (whole, quick) = (of(false), of(true));
                let (protocol, training) = (&whole.protocol, &whole.training);
                let order = (protocol.name(), protocol.order(), protocol.monitor());
                assert_eq!(order, ("assignment", Order::File, "test/loss"));
                assert_eq!((whole.optimizer.name(), training.batch_size, training.seed), ("sgd", 64, 3));
                let is_limited = question == Question::Gradients;
                assert_eq!((training.limit_batches.is_some(), quick.training.limit_batches), (is_limited, Some(100)));
                let rate = whole.optimizer.learning_rate();
                let (network, schedule) = (&whole.network.name, whole.schedule.name());
                let [augment, stopping] = [whole.data.augment.len(), training.early_stopping.unwrap_or(0)];
                shown.push(format!("{network} {rate} {} {schedule} {augment} {stopping}", training.epochs));
            }
        }
        // 1.2 and 1.5, and 1.7 and the suggestions, share a run.
        let expected = "mlp 0.001 5 constant 0 0, mlp 1 10 constant 0 0, mlp 0.1 10 constant 0 0, \
                        mlp 0.01 10 constant 0 0, mlp 0.001 10 constant 0 0, mlp 1 50 constant 0 3, \
                        mlp 0.1 50 constant 0 3, mlp 0.01 50 constant 0 3, mlp 0.001 50 constant 0 3, \
                        mlp 0.1 10 constant 0 0, mlp-deep 0.1 10 constant 0 0, mlp-wide 0.1 10 constant 0 0, \
                        mlp 0.1 1 constant 0 0, mlp-deep 0.1 1 constant 0 0, mlp-wide 0.1 1 constant 0 0, \
                        cnn 0.1 1 constant 0 0, cnn 0.1 13 constant 0 0, cnn 0.1 13 constant 0 0, \
                        cnn-deep 0.1 13 constant 0 0, cnn 0.1 13 cosine 0 0, cnn 0.1 13 constant 3 0, \
                        cnn-deep 0.1 13 cosine 3 0";
        assert_eq!(shown.join(", "), expected);
    }
}
