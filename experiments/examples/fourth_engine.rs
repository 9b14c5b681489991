//! The engine alone: a data set and a batcher of Burn's, a scheduler of Burn's, and callbacks.
//!
//!     fourth_engine RUNS NAME [STOP_AFTER_STEP [WORKERS [STOP_AFTER_EPOCH]]]
use std::{env, error::Error, ops::ControlFlow};

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::exponential::ExponentialLrSchedulerConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use burn::train::metric::IterationSpeedMetric;
use kindling_record::RunDirectory;
use kindling_training::{DatasetSource, Metric, Objective, Sums, Task, Trainer};

/// A point of one of two spirals.
#[derive(Clone, Debug)]
struct Point {
    at: [f32; 2],
    arm: i32,
}

fn spirals(count: usize, phase: f32) -> InMemDataset<Point> {
    let point = |index: usize| {
        let (arm, t) = ((index % 2) as i32, (index as f32 + phase) / count as f32);
        let angle = t * 9.0 + arm as f32 * std::f32::consts::PI;
        Point { at: [t * angle.cos(), t * angle.sin()], arm }
    };
    InMemDataset::new((0..count).map(point).collect())
}

#[derive(Clone, Debug)]
struct Points {
    at: Tensor<2>,       // [batch, 2]
    arm: Tensor<1, Int>, // [batch]
}

#[derive(Clone)]
struct PointBatcher;

impl Batcher<Point, Points> for PointBatcher {
    fn batch(&self, items: Vec<Point>, device: &Device) -> Points {
        let count = items.len();
        let at: Vec<f32> = items.iter().flat_map(|item| item.at).collect();
        let arm: Vec<i32> = items.iter().map(|item| item.arm).collect();
        Points {
            at: Tensor::from_data(TensorData::new(at, [count, 2]), device),
            arm: Tensor::from_data(TensorData::new(arm, [count]), device),
        }
    }
}

#[derive(Module, Debug)]
struct Spirals {
    first: Linear,
    second: Linear,
    dropout: Dropout,
    head: Linear,
}

impl Spirals {
    fn logits(&self, at: Tensor<2>) -> Tensor<2> {
        let x = relu(self.first.forward(at * 4.0));
        let x = self.dropout.forward(relu(self.second.forward(x)));
        self.head.forward(x)
    }

    /// Mean loss `[1]`, and number of right answers `[1]`.
    fn measure(&self, batch: Points) -> (Tensor<1>, Tensor<1>, usize) {
        let count = batch.arm.dims()[0];
        let logits = self.logits(batch.at);
        let right = logits.clone().argmax(1).flatten::<1>(0, 1).equal(batch.arm.clone()).float().sum();
        let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, batch.arm);
        (loss, right, count)
    }
}

impl Task for Spirals {
    type Batch = Points;
    const METRICS: &'static [Metric] = &[Metric::LOSS, Metric::ACCURACY];
    const SAMPLES: &'static str = "points";

    fn train(&self, batch: Points) -> Objective {
        let (loss, right, count) = self.measure(batch);
        Objective::new(loss.clone(), Sums::new(count, [loss * count as f64, right]))
    }

    fn evaluate(&self, batch: Points) -> Sums {
        let (loss, right, count) = self.measure(batch);
        Sums::new(count, [loss * count as f64, right])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map(|text| text.parse::<usize>()).transpose();
    let (runs, name) = (arguments[0].clone(), arguments[1].clone());
    let stop = number(2)?.unwrap_or(0);
    let workers = number(3)?.unwrap_or(2);
    let last_epoch = number(4)?.unwrap_or(0);

    let device = Device::flex();
    device.seed(1);
    let task = Spirals {
        first: LinearConfig::new(2, 64).init(&device),
        second: LinearConfig::new(64, 64).init(&device),
        dropout: DropoutConfig::new(0.1).init(),
        head: LinearConfig::new(64, 2).init(&device),
    };
    let train = DatasetSource::new(spirals(2000, 0.0), PointBatcher);
    let valid = DatasetSource::new(spirals(500, 0.5), PointBatcher);
    let trainer = Trainer::new(task, AdamConfig::new().init())
        .name("spirals")
        .schedule(ExponentialLrSchedulerConfig::new(0.01, 0.999).init()?)
        .epochs(6)
        .batch_size(32)
        .workers(workers)
        .ema(0.99, true)
        .monitor("valid/accuracy")
        .metric(IterationSpeedMetric::new())
        .on_step(move |step| {
            if step.step == stop {
                ControlFlow::Break("this step was asked for".into())
            } else {
                ControlFlow::Continue(())
            }
        })
        .on_epoch(move |epoch| {
            println!("epoch {}: {:?}", epoch.epoch, epoch.get("valid/accuracy"));
            if epoch.epoch == last_epoch { ControlFlow::Break("enough".into()) } else { ControlFlow::Continue(()) }
        });
    let record = match RunDirectory::find(runs.as_ref(), &name) {
        Ok(directory) => trainer.resume(&directory, train, valid)?,
        Err(_) => trainer.fit(&RunDirectory::create(runs.as_ref(), &name)?, train, valid)?,
    };
    println!(
        "{} in epoch {:?} of {}; stopped early: {:?}",
        record.status, record.best_epoch, record.id, record.stopped_early
    );
    Ok(())
}
