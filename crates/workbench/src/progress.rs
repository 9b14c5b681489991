//! Progress without the dashboard: a bar on a terminal, and a line for each epoch everywhere.

use std::{
    io::{Write, stderr},
    ops::Range,
    time::Duration,
};

use burn::train::{
    LearnerSummary,
    logger::{EvaluationProgressLogger, TrainingProgressLogger},
    metric::MetricDefinition,
    renderer::{EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining},
};
use indicatif::{ProgressBar, ProgressStyle};
use kindling_record::EpochRecord;

use crate::{output::notice, terminal};

/// A bar for the current epoch; hidden where standard error is no terminal with escape sequences.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    compiling: ProgressBar,
    epoch: usize,
    epochs: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar that is drawn as soon as there are samples.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, terminal::bars());
        let template = "{prefix} {bar:30} {human_pos} of {human_len} samples, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, compiling: ProgressBar::with_draw_target(None, terminal::bars()), epoch: 0, epochs: 0 }
    }

    /// Shows that the backend compiles and autotunes its kernels.
    pub(crate) fn start_compiling(&self) {
        notice("warming up: a few steps before the clock starts; a GPU's kernels are compiled and autotuned once");
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
            self.compiling.set_style(style);
        }
        self.compiling.reset_elapsed();
        self.compiling.enable_steady_tick(Duration::from_millis(100));
    }

    /// Shows the warm-up step at hand: in a spinner, or in a line of its own.
    pub(crate) fn warm_up(&self, model: &str, samples: usize, training: bool) {
        let step = if training { "training" } else { "evaluation" };
        let step = format!("warming up {model}: {step} step with {samples} samples");
        if self.compiling.is_hidden() {
            notice(format_args!("{step}, after {:.1} s", self.compiling.elapsed().as_secs_f64()));
        }
        self.compiling.set_message(step);
    }

    /// Shows that the kernels are ready.
    pub(crate) fn finish_compiling(&self, seconds: f64) {
        self.compiling.finish_and_clear();
        notice(format_args!("kernels compiled in {seconds:.1} s"));
    }

    /// Shows a finished epoch.
    pub(crate) fn show_epoch(&self, epoch: &EpochRecord, epochs: usize) {
        // Where standard error is closed, the run continues.
        let _ = self.bar.suspend(|| writeln!(stderr(), "epoch {:>2} of {epochs}: {epoch}", epoch.epoch));
    }
}

/// A bar for a whole sweep, in shares of its work; hidden where standard error is no terminal with escape sequences.
#[derive(Clone)]
pub(crate) struct SweepBar {
    bar: ProgressBar,
    /// The current run's part of the bar, and its epochs.
    run: Range<u64>,
    epochs: usize,
    title: String,
    /// Work in a step of the bar.
    unit: f64,
}

impl SweepBar {
    const STEPS: f64 = 1_000_000.0;

    /// A bar for a sweep with this much work, in any unit.
    pub(crate) fn new(work: f64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(Self::STEPS as u64), terminal::bars());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} %, {eta} left; {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, run: 0..0, epochs: 1, title: String::new(), unit: work.max(f64::MIN_POSITIVE) / Self::STEPS }
    }

    /// The part of the bar of a run with this much work, which begins now.
    pub(crate) fn run(&self, title: &str, work: f64, epochs: usize) -> Self {
        self.bar.set_message(title.to_owned());
        let begin = self.bar.position();
        let run = begin..begin + (work / self.unit) as u64;
        Self { run, epochs, title: title.to_owned(), ..self.clone() }
    }

    /// Shows that the backend compiles the run's kernels.
    pub(crate) fn show_warm_up(&self, model: &str, samples: usize) {
        self.bar.set_message(format!("{}, warming up {model} with {samples} samples", self.title));
    }

    /// Shows a finished epoch of the run.
    pub(crate) fn show_epoch(&self, epoch: &EpochRecord) {
        let whole = self.run.end - self.run.start;
        self.bar.set_position(self.run.start + whole * epoch.epoch as u64 / self.epochs as u64);
        self.bar.set_message(format!("{}, epoch {}: {epoch}", self.title, epoch.epoch));
    }

    /// Counts all the work of the run, however it ended.
    pub(crate) fn finish_run(&self) {
        self.bar.set_position(self.run.end);
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| notice(line));
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl TrainingProgressLogger for Progress {
    fn start(&mut self, total_epochs: usize, starting_epoch: usize, _total_items: Option<usize>, _label: Option<&str>) {
        (self.epoch, self.epochs) = (starting_epoch, total_epochs);
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.epoch = epoch + 1;
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        self.bar.set_prefix(format!("epoch {} of {}, {split}", self.epoch, self.epochs));
        self.bar.set_length(total_items as u64);
        self.bar.reset();
    }

    fn update_split(&mut self, items_processed: usize) {
        self.bar.set_position(items_processed as u64);
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {
        self.bar.finish_and_clear();
    }

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererTraining for Progress {
    fn update_train(&mut self, _state: MetricState) {}

    fn update_valid(&mut self, _state: MetricState) {}

    fn on_train_end(&mut self, _summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl MetricsRenderer for Progress {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}

// burn-train's evaluator is not used; a renderer must have these all the same.
impl EvaluationProgressLogger for Progress {
    fn start_global_progress(&mut self, _total_tests: usize) {}
    fn start_test(&mut self, _name: &str, _total_items: usize) {}
    fn update_test_progress(&mut self, _items_processed: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRendererEvaluation for Progress {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}
