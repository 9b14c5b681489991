//! Data of one's own: a small network that tells how far a car gets with a gallon, from a table.
//!
//!     cargo run --release --example own_data -- [RUNS]
//!
//! The table is R's `mtcars`, from Henderson and Velleman (1981), <https://doi.org/10.2307/2530428>.
#![allow(clippy::print_stdout, clippy::print_stderr)]
use std::{env, error::Error};

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor, TensorData};
use kindling_record::{RecordError, RunDirectory};
use kindling_training::{Metric, Objective, Rows, Source, SourceError, Sums, Task, Trainer};

/// Rows of the table: miles per gallon first, then what they are told from.
#[derive(Clone)]
struct Cars(Vec<[f32; 5]>);

impl Cars {
    /// Reads the table, each column scaled to about one.
    fn read(table: &str) -> Result<Self, Box<dyn Error>> {
        let scale = [1.0, 0.125, 0.002, 0.005, 0.2];
        let row = |line: &str| -> Result<[f32; 5], Box<dyn Error>> {
            let numbers = line.split(',').map(str::parse::<f32>).collect::<Result<Vec<_>, _>>()?;
            let numbers: Vec<f32> = numbers.iter().zip(scale).map(|(number, scale)| number * scale).collect();
            numbers.try_into().map_err(|row| format!("expected five numbers, found {row:?}").into())
        };
        table.lines().skip(1).map(row).collect::<Result<_, _>>().map(Self)
    }
}

impl Source for Cars {
    type Batch = (Tensor<2>, Tensor<1>); // [batch, 4] and [batch]

    fn len(&self) -> usize {
        self.0.len()
    }

    fn digest(&self) -> String {
        format!("{} cars", self.0.len())
    }

    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<Self::Batch, SourceError> {
        let features: Vec<f32> = rows.iter().flat_map(|&row| self.0[row][1..].to_vec()).collect();
        let miles: Vec<f32> = rows.iter().map(|&row| self.0[row][0]).collect();
        let features = Tensor::from_data(TensorData::new(features, [rows.len(), 4]), device);
        Ok((features, Tensor::from_data(TensorData::new(miles, [rows.len()]), device)))
    }
}

/// Four numbers to one.
#[derive(Module, Debug)]
struct Regression {
    hidden: Linear,
    output: Linear,
}

impl Regression {
    /// How far off each prediction is, in miles per gallon, `[batch]`.
    fn errors(&self, (features, miles): (Tensor<2>, Tensor<1>)) -> Tensor<1> {
        let output = self.output.forward(self.hidden.forward(features).tanh()).squeeze_dim(1); // [batch]
        output * 6.0 + 20.0 - miles // in about the table's mean and standard deviation
    }

    fn sums(errors: &Tensor<1>) -> Sums {
        Sums::new(errors.dims()[0], [errors.clone().square().sum(), errors.clone().abs().sum()])
    }
}

impl Task for Regression {
    type Batch = (Tensor<2>, Tensor<1>);
    const METRICS: &'static [Metric] =
        &[Metric::LOSS, Metric { name: "absolute error", higher_is_better: false, unit: Some("mpg") }];
    const SAMPLES: &'static str = "cars";

    fn train(&self, batch: Self::Batch) -> Objective {
        let errors = self.errors(batch);
        Objective::new(errors.clone().square().mean(), Self::sums(&errors))
    }

    fn evaluate(&self, batch: Self::Batch) -> Sums {
        Self::sums(&self.errors(batch))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs = env::args().nth(1).unwrap_or_else(|| "runs".to_owned());
    let mut train = Cars::read(include_str!("cars.csv"))?;
    let valid = Cars(train.0.split_off(24));
    let device = Device::flex();
    device.seed(1);
    let (hidden, output) = (LinearConfig::new(4, 16).init(&device), LinearConfig::new(16, 1).init(&device));
    let trainer = Trainer::new(Regression { hidden, output }, AdamConfig::new().init())
        .learning_rate(0.02)
        .epochs(200)
        .batch_size(8)
        .monitor("valid/absolute error")
        .patience(50);
    let record = match RunDirectory::find(runs.as_ref(), "cars") {
        Ok(directory) => trainer.name("cars").resume(&directory, train, valid)?,
        Err(RecordError::NotFound { .. }) => {
            trainer.name("cars").fit(&RunDirectory::create(runs.as_ref(), "cars")?, train, valid)?
        }
        Err(error) => return Err(error.into()),
    };
    println!("{} in epoch {:?} of {}", record.status, record.best_epoch, record.id);
    Ok(())
}
