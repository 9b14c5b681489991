//! The assignment's experiments: which runs each of its tables is made from.

use kindling_models::ModelName;
use kindling_report::reproduction::Question;
use kindling_training::{
    AugmentationName, DatasetName, ExperimentConfig, Protocol, ScheduleName, Settings, StoppingMetric,
};

/// Batches of every split in a quick reproduction: a ninth of the data.
const QUICK_BATCHES: usize = 100;

/// One row of one table: a name for it, and the config that its runs have, but for their seeds.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    pub(crate) question: Question,
    /// As in [`Question`].
    pub(crate) row: &'static str,
    settings: Settings,
}

/// How the program names the questions, as in `--only 1.3`.
pub(crate) const QUESTIONS: [(&str, Question); 7] = [
    ("1.1", Question::FirstRun),
    ("1.2", Question::LearningRates),
    ("1.3", Question::Convergence),
    ("1.5", Question::Structures),
    ("1.6", Question::Gradients),
    ("1.7", Question::Cnn),
    ("suggestions", Question::Suggestions),
];

/// All rows of all tables.
pub(crate) fn experiments() -> Vec<Experiment> {
    let mut all = vec![row(Question::FirstRun, "mlp", ModelName::Mlp, 0.001, 5)];
    let rates = [("1", 1.0), ("0.1", 0.1), ("0.01", 0.01), ("0.001", 0.001)];
    all.extend(rates.map(|(name, rate)| row(Question::LearningRates, name, ModelName::Mlp, rate, 10)));
    all.extend(rates.map(|(name, rate)| {
        let experiment = row(Question::Convergence, name, ModelName::Mlp, rate, 50);
        let settings = Settings {
            early_stopping: Some(3),
            early_stopping_metric: Some(StoppingMetric::TestLoss),
            ..experiment.settings
        };
        Experiment { settings, ..experiment }
    }));
    let structures = [("base", ModelName::Mlp), ("deeper", ModelName::MlpDeep), ("wider", ModelName::MlpWide)];
    all.extend(structures.map(|(name, model)| row(Question::Structures, name, model, 0.1, 10)));
    all.extend(ModelName::REFERENCE.map(|model| {
        let experiment = row(Question::Gradients, model.as_str(), model, 0.1, 1);
        let settings = Settings { gradient_steps: Some(100), limit_batches: Some(100), ..experiment.settings };
        Experiment { settings, ..experiment }
    }));
    all.push(cnn(Question::Cnn, "cnn", Settings::default()));
    let more_layers = Settings { model: Some(ModelName::CnnDeep), ..Settings::default() };
    let falling = Settings { schedule: Some(ScheduleName::Cosine), ..Settings::default() };
    let augmentation = vec![AugmentationName::Shift, AugmentationName::Flip, AugmentationName::Erase];
    let augmented = Settings { augment: Some(augmentation), ..Settings::default() };
    let everything = more_layers.clone().or(falling.clone()).or(augmented.clone());
    all.push(cnn(Question::Suggestions, "cnn", Settings::default()));
    all.push(cnn(Question::Suggestions, "more layers", more_layers));
    all.push(cnn(Question::Suggestions, "falling learning rate", falling));
    all.push(cnn(Question::Suggestions, "augmentation", augmented));
    all.push(cnn(Question::Suggestions, "all", everything));
    all
}

impl Experiment {
    /// The config for one seed; a quick one sees a part of the data alone.
    pub(crate) fn config(&self, seed: u64, quick: bool) -> anyhow::Result<ExperimentConfig> {
        let limit = self.settings.limit_batches.or(quick.then_some(QUICK_BATCHES));
        Ok(Settings { seed: Some(seed), limit_batches: limit, ..self.settings.clone() }.resolve()?)
    }

    /// What its runs' names begin with.
    pub(crate) fn name(&self) -> String {
        let (number, _) = QUESTIONS.iter().find(|(_, question)| *question == self.question).unwrap_or(&QUESTIONS[0]);
        format!("{number}-{}", self.row.replace(' ', "-"))
    }
}

/// The reference's protocol: all of train in the order of the file, batches of 64, plain SGD.
fn row(question: Question, row: &'static str, model: ModelName, learning_rate: f64, epochs: usize) -> Experiment {
    let settings = Settings {
        model: Some(model),
        dataset: Some(DatasetName::FashionMnist),
        protocol: Some(Protocol::Assignment),
        batch_size: Some(64),
        learning_rate: Some(learning_rate),
        epochs: Some(epochs),
        ..Settings::default()
    };
    Experiment { question, row, settings }
}

/// The reference's CNN with what `changes` says otherwise.
fn cnn(question: Question, name: &'static str, changes: Settings) -> Experiment {
    let experiment = row(question, name, ModelName::Cnn, 0.1, 13);
    Experiment { settings: changes.or(experiment.settings), ..experiment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_that_two_questions_share_are_the_same() {
        let configs: Vec<_> = experiments().iter().map(|e| (e.name(), e.config(1, false).unwrap())).collect();
        let of = |name: &str| &configs.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(of("1.2-0.1"), of("1.5-base"));
        assert_eq!(of("1.7-cnn"), of("suggestions-cnn"));
        assert_ne!(of("1.2-0.1"), of("1.3-0.1"));
    }

    #[test]
    fn every_experiment_makes_sense_and_follows_the_references_protocol() {
        for experiment in experiments() {
            for quick in [false, true] {
                let config = experiment.config(3, quick).unwrap();
                assert_eq!((config.protocol, config.batch_size, config.seed), (Protocol::Assignment, 64, 3));
                assert_eq!(config.order, kindling_training::OrderName::File);
                let is_limited = quick || experiment.question == Question::Gradients;
                assert_eq!(config.limit_batches.is_some(), is_limited, "{}", experiment.name());
            }
        }
    }
}
