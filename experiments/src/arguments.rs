//! Arguments as typed. [`Settings`] are what they mean; [`Settings::resolve`] checks them.

use std::{env, fs, iter, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use kindling_kernels::Kernels;
use kindling_models::ModelName;
use kindling_training::{
    AugmentationName, DatasetName, OptimizerName, OrderName, Precision, Protocol, ScheduleName, Settings,
    StoppingMetric,
};
use serde_json::Value;

use crate::{
    backend::Request,
    commands::{
        CheckArguments, CompareArguments, GradientsArguments, LrFindArguments, PredictArguments, ReportArguments,
        ReproduceArguments, SamplesArguments, SweepArguments,
    },
};

/// The command as its user could type it again, with quotes where a shell needs them.
pub(crate) fn command_line() -> String {
    let arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    shell_words::join(iter::once("kindling".to_owned()).chain(arguments))
}

/// Trains image classifiers on any backend of Burn, and keeps every run.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show images of the data set with their classes, and the shapes of images and batches
    Samples(SamplesArguments),
    /// List the models with their layers, shapes and parameters
    Models(ModelsArguments),
    /// Check a model and its config before a long training
    Check(Box<CheckArguments>),
    /// Look for a learning rate: a short training with one that grows
    LrFind(Box<LrFindArguments>),
    /// Train a model; the last line printed is the run's directory
    Train(Box<TrainArguments>),
    /// Go on with an interrupted run, to the same end as if it had never stopped
    Resume(ResumeArguments),
    /// Train every combination of values for a config; finished runs are not run again
    Sweep(Box<SweepArguments>),
    /// Look at the gradients of a model's first steps
    Gradients(Box<GradientsArguments>),
    /// List the runs
    Runs(RunsArguments),
    /// Set runs side by side: a table, and curves
    Compare(CompareArguments),
    /// Look closer at a run's weights: figures for each class, calibration, mistakes
    Evaluate(EvaluateArguments),
    /// Classify pictures with a run's weights
    Predict(PredictArguments),
    /// Write a report of runs: HTML, Markdown, and every plot as SVG and PNG
    Report(ReportArguments),
    /// Regenerate the assignment: every table and curve, beside the reference's
    Reproduce(ReproduceArguments),
    /// Compare the speed of models, backends and batch sizes, and of PyTorch
    Bench(BenchArguments),
    /// Say what this build and this machine have, measure it, and recommend a backend
    Doctor(DoctorArguments),
    /// Offer a device to `kindling train --backend remote` on this machine or another
    Serve(ServeArguments),
}

#[derive(Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    #[command(flatten)]
    pub(crate) host: HostArguments,
    /// Name of the run: its id is NAME and the time [default: the model]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// What makes a config: a file, and flags that override it.
#[derive(Args)]
pub(crate) struct ConfigArguments {
    /// The network: mlp, mlp-deep, mlp-wide, cnn or cnn-deep; may be left out when --config names it
    #[arg(value_parser = names(&ModelName::ALL.map(ModelName::as_str)).try_map(|name| name.parse::<ModelName>()))]
    model: Option<ModelName>,
    /// Read the config from a JSON file: a config, or the run.json of a run; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How often the training images are seen [default: 10]
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<usize>,
    /// Learning rate, before the schedule [default: 0.1; 0.01 with momentum; 0.001 with adam, adamw, muon]
    #[arg(long, value_name = "X", help_heading = "Training")]
    learning_rate: Option<f64>,
    /// Images in a batch [default: 64]
    #[arg(long, value_name = "N", help_heading = "Training")]
    batch_size: Option<usize>,
    /// Decides weights, order and split [default: 42]
    #[arg(long, value_name = "N", help_heading = "Training")]
    seed: Option<u64>,
    /// Widths of the hidden layers of mlp, such as 512,512 [default: 512,512]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Training")]
    hidden: Option<Vec<usize>>,
    /// Number type of the whole network: Burn does not mix them. Losses are in f32 all the same; there is no loss scaling
    /// [default: f32]
    #[arg(long, help_heading = "Training", value_parser = names(&["f32", "bf16", "f16"]).try_map(from_name::<Precision>))]
    precision: Option<Precision>,
    /// Update rule; all but muon have PyTorch's semantics and defaults [default: sgd]
    #[arg(long, help_heading = "Training", value_parser = names(&["sgd", "momentum", "adam", "adamw", "muon"]).try_map(from_name::<OptimizerName>))]
    optimizer: Option<OptimizerName>,
    /// Momentum of the optimizers momentum [default: 0.9] and muon [default: 0.95]
    #[arg(long, value_name = "X", help_heading = "Training")]
    momentum: Option<f64>,
    /// Let the optimizer momentum look ahead [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    nesterov: Option<bool>,
    /// With muon: the learning rate of AdamW, which trains all but the hidden matrices [default: 0.001]
    #[arg(long, value_name = "X", help_heading = "Training")]
    adamw_learning_rate: Option<f64>,
    /// Weight decay: decoupled with adamw and muon [default: 0.01], otherwise added to the gradient [default: 0]
    #[arg(long, value_name = "X", help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Share of each target that is spread evenly over the classes [default: 0]
    #[arg(long, value_name = "X", help_heading = "Training")]
    label_smoothing: Option<f64>,
    /// Largest norm of all gradients taken together [default: none]
    #[arg(long, value_name = "X", help_heading = "Training")]
    clip_norm: Option<f64>,
    /// How the learning rate changes [default: constant]
    #[arg(long, help_heading = "Training", value_parser = names(&["constant", "step", "cosine", "one-cycle"]).try_map(from_name::<ScheduleName>))]
    schedule: Option<ScheduleName>,
    /// Epochs over which the learning rate rises from zero [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    warm_up_epochs: Option<usize>,
    /// Epochs between the drops of the schedule step [default: 5]
    #[arg(long, value_name = "N", help_heading = "Training")]
    step_epochs: Option<usize>,
    /// What a drop multiplies the learning rate by [default: 0.1]
    #[arg(long, value_name = "X", help_heading = "Training")]
    step_factor: Option<f64>,
    /// End after so many epochs without improvement [default: never]
    #[arg(long, value_name = "PATIENCE", help_heading = "Training")]
    early_stopping: Option<usize>,
    /// What has to improve [default: valid_loss; test_loss with the protocol assignment]
    #[arg(long, help_heading = "Training", value_parser = names(&["valid_loss", "valid_accuracy", "test_loss"]).try_map(from_name::<StoppingMetric>))]
    early_stopping_metric: Option<StoppingMetric>,
    /// Write statistics of the gradients of the first N steps into steps.jsonl [default: none]
    #[arg(long, value_name = "N", help_heading = "Training")]
    gradient_steps: Option<usize>,

    /// What to train on [default: fashion-mnist]
    #[arg(long, help_heading = "Data", value_parser = names(&["fashion-mnist", "idx", "synthetic"]).try_map(from_name::<DatasetName>))]
    dataset: Option<DatasetName>,
    /// validated holds a twelfth of train out and tests the best epoch once; assignment trains on all and evaluates the
    /// test set after each epoch [default: validated]
    #[arg(long, help_heading = "Data", value_parser = names(&["validated", "assignment"]).try_map(from_name::<Protocol>))]
    protocol: Option<Protocol>,
    /// In which order an epoch sees the images [default: shuffled; file with the protocol assignment]
    #[arg(long, help_heading = "Data", value_parser = names(&["shuffled", "file"]).try_map(from_name::<OrderName>))]
    order: Option<OrderName>,
    /// Change training images at random each time they are seen: shift (by up to 2 pixels), flip (left to right), erase
    /// (a rectangle) [default: none]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Data", value_parser = names(&["shift", "flip", "erase"]).try_map(from_name::<AugmentationName>))]
    augment: Option<Vec<AugmentationName>>,
    /// Use only the first N batches of every split; the record says so
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit_batches: Option<usize>,
    /// Swap rows and columns of the images, as EMNIST needs; with --dataset idx [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    transpose: Option<bool>,
    /// Subtract this from pixels in [0, 1] [default: 0]
    #[arg(long, value_name = "X", help_heading = "Data")]
    pixel_mean: Option<f64>,
    /// Divide pixels by this after that [default: 1]
    #[arg(long, value_name = "X", help_heading = "Data")]
    pixel_deviation: Option<f64>,
}

/// Where and how a run takes place: none of it is part of the config.
#[derive(Args)]
pub(crate) struct HostArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Whether to show the dashboard: auto does where standard input and output are a terminal, without --json
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dashboard: Dashboard,
    /// Print the run's record as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where runs take place, and where they find their data and leave their records.
#[derive(Args)]
pub(crate) struct PlaceArguments {
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Operations that the layers compute by: auto has Kindling's own, fused, on flex and ndarray in f32; composed has
    /// Burn's everywhere, for comparison [default: auto, or the run's]
    #[arg(long, value_parser = kernels())]
    pub(crate) kernels: Option<Kernels>,
    /// Directory of the data set [default: the first of KINDLING_DATA_DIR, data/fashion-mnist, the system's copy and
    /// the user's cache that has it; else it is downloaded]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
}

/// Where tensors live.
#[derive(Args)]
pub(crate) struct DeviceArguments {
    /// Backend: flex (or cpu), ndarray, wgpu, vulkan, libtorch, libtorch-cuda, remote, cuda, metal or rocm, as far as the
    /// build has it; GPUs can be named by index, as in libtorch-cuda:1, or wgpu:0,2 for discrete ones [default: flex, or the run's]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// Share every batch among N devices of the backend; batch norms take their running statistics from the first
    /// [default: 1, or the run's]
    #[arg(long, value_name = "N")]
    pub(crate) devices: Option<usize>,
    /// With --backend remote: where `kindling serve` listens, as in ws://127.0.0.1:3000
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
}

impl DeviceArguments {
    /// What they ask for, with `default` where they name no backend: its name, and the number of its devices.
    pub(crate) fn request(&self, default: (&str, Option<usize>)) -> anyhow::Result<Request> {
        match &self.backend {
            Some(backend) => Request::new(backend, self.devices, self.remote.as_deref()),
            None => Request::new(default.0, self.devices.or(default.1), self.remote.as_deref()),
        }
    }
}

#[derive(Args)]
pub(crate) struct RunsDirectory {
    /// Directory that holds the runs
    #[arg(id = "runs_dir", long = "runs-dir", value_name = "DIR", env = "KINDLING_RUNS_DIR", default_value = "runs")]
    pub(crate) path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dashboard {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Args)]
pub(crate) struct ResumeArguments {
    /// The run: its id, a prefix that no other run has, or its path
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) host: HostArguments,
}

#[derive(Args)]
pub(crate) struct RunsArguments {
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EvaluateArguments {
    /// The run: its id, a prefix that no other run has, or its path
    pub(crate) run: String,
    /// Backend to evaluate on, as for train [default: the run's]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// With --backend remote: where `kindling serve` listens
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Operations that the layers compute by, as for train
    #[arg(long, value_parser = kernels(), default_value_t)]
    pub(crate) kernels: Kernels,
    /// Directory of the data set [default: where the run found it, then as for train]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct DoctorArguments {
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ServeArguments {
    /// Backend to offer: flex (or cpu), ndarray, wgpu, vulkan [default: flex]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// Offer N devices of the backend
    #[arg(long, value_name = "N")]
    pub(crate) devices: Option<usize>,
    /// Where to listen; there is no authentication, so think before naming anything but loopback
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Models to time [default: mlp, mlp-deep, mlp-wide, cnn; none with --widths]
    #[arg(value_parser = names(&ModelName::ALL.map(ModelName::as_str)).try_map(|name| name.parse::<ModelName>()))]
    pub(crate) models: Vec<ModelName>,
    /// Also time mlp with two hidden layers of each of these widths
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) widths: Vec<usize>,
    /// Backends to time, as for train [default: all of the build that find a device, without remote]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) backends: Vec<String>,
    /// With remote among the backends: where `kindling serve` listens
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Kernels to time on flex and ndarray in f32: auto, Kindling's own, fused; composed, Burn's, which all others have
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kernels(), default_value = "auto")]
    pub(crate) kernels: Vec<Kernels>,
    /// Batch sizes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    pub(crate) batch_sizes: Vec<usize>,
    /// What to time
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, default_value = "train,infer")]
    pub(crate) modes: Vec<Mode>,
    /// How batches are made: gathered as a shuffled epoch does, or sliced as file order does; the same on both sides
    #[arg(long, value_enum, default_value = "gather")]
    pub(crate) batches: Batches,
    /// Number type of the whole network
    #[arg(long, value_parser = names(&["f32", "bf16", "f16"]).try_map(from_name::<Precision>), default_value = "f32")]
    pub(crate) precision: Precision,
    /// How often each contender is timed, all taking turns
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) repeats: usize,
    /// How long one timing takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// Time PyTorch in the same run, with this Python; ratios are against it
    #[arg(long, value_name = "PYTHON")]
    pub(crate) pytorch: Option<PathBuf>,
    /// Where PyTorch computes: cpu or cuda [default: cuda where a backend runs on an NVIDIA GPU, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) pytorch_device: Option<String>,
    /// How PyTorch computes: eager, channels_last, compiled
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "eager")]
    pub(crate) pytorch_variants: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print the table as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// What a timing covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Batch, forward, backward, optimizer step, reading the loss back
    Train,
    /// Batch, forward, reading the number of correct images back
    Infer,
}

/// How batches are made from the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Batches {
    /// Rows in a shuffled order
    Gather,
    /// Neighbouring rows
    Slice,
}

#[derive(Args)]
pub(crate) struct ModelsArguments {
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

impl ConfigArguments {
    /// What flags and file say, with nothing filled in.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let Some(path) = &self.config else { return Ok(self.flags()) };
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(self.flags().or(Settings::from_json(&text).with_context(|| path.display().to_string())?))
    }

    fn flags(&self) -> Settings {
        Settings {
            model: self.model,
            hidden: self.hidden.clone(),
            precision: self.precision,
            dataset: self.dataset,
            transpose: self.transpose,
            pixel_mean: self.pixel_mean,
            pixel_deviation: self.pixel_deviation,
            protocol: self.protocol,
            order: self.order,
            augment: self.augment.clone(),
            limit_batches: self.limit_batches,
            epochs: self.epochs,
            batch_size: self.batch_size,
            seed: self.seed,
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            adamw_learning_rate: self.adamw_learning_rate,
            schedule: self.schedule,
            warm_up_epochs: self.warm_up_epochs,
            step_epochs: self.step_epochs,
            step_factor: self.step_factor,
            label_smoothing: self.label_smoothing,
            clip_norm: self.clip_norm,
            early_stopping: self.early_stopping,
            early_stopping_metric: self.early_stopping_metric,
            gradient_steps: self.gradient_steps,
            ..Settings::default()
        }
    }
}

fn names(names: &[&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(names.iter().copied())
}

fn kernels() -> impl TypedValueParser<Value = Kernels> {
    names(&Kernels::ALL.map(Kernels::as_str)).try_map(|name| name.parse::<Kernels>())
}

/// The value that a config calls `name`.
fn from_name<T: serde::de::DeserializeOwned>(name: String) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::String(name))
}
