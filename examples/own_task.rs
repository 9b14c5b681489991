//! A task of one's own, by the engine alone: a denoising autoencoder that is trained on Fashion-MNIST.
//!
//!     cargo run --release --example own_task -- [RUNS [BATCHES]]
//!
//! Stopped with Ctrl-C or killed, the same command resumes it.
#![allow(clippy::print_stdout, clippy::print_stderr)]
use std::{env, error::Error};

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor, activation::sigmoid};
use kindling_data::{ImageBatch, ImageSource, Normalization, fashion_mnist};
use kindling_record::{RecordError, RunDirectory};
use kindling_training::{Metric, Objective, Schedule, Sums, Task, Trainer};

/// 784 pixels, some of them dropped, to 32 numbers and back.
#[derive(Module, Debug)]
struct Autoencoder {
    noise: Dropout,
    encoder: Linear,
    decoder: Linear,
}

impl Autoencoder {
    /// The mean squared error of each image, `[batch]`, and the fraction of its pixels that are off by less than 0.1.
    fn errors(&self, images: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
        let x = images.flatten::<2>(1, 3); // [batch, 784]
        let code = self.encoder.forward(self.noise.forward(x.clone())).tanh(); // [batch, 32]
        let error = sigmoid(self.decoder.forward(code)) - x; // [batch, 784]
        let close = error.clone().abs().lower_elem(0.1).float();
        (error.square().mean_dim(1).squeeze_dim(1), close.mean_dim(1).squeeze_dim(1))
    }
}

impl Task for Autoencoder {
    type Batch = ImageBatch;
    const METRICS: &'static [Metric] = &[Metric::LOSS, Metric::higher("close")];
    const SAMPLES: &'static str = "images";

    fn train(&self, batch: ImageBatch) -> Objective {
        let (errors, close) = self.errors(batch.images);
        Objective::new(errors.clone().mean(), Sums::new(errors.dims()[0], [errors.sum(), close.sum()]))
    }

    fn evaluate(&self, batch: ImageBatch) -> Sums {
        let (errors, close) = self.errors(batch.images);
        Sums::new(errors.dims()[0], [errors.sum(), close.sum()])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let runs = arguments.next().unwrap_or_else(|| "runs".to_owned());
    let batches = arguments.next().map(|batches| batches.parse()).transpose()?;
    let data = fashion_mnist::load(None, &mut |event| eprintln!("{event:?}"))?;
    let source = |set, split| ImageSource::new(set, Normalization::default(), format!("{} {split}", data.sha256));
    let (train, test) = (source(data.train, "train"), source(data.test, "test"));

    let device = Device::flex();
    device.seed(1);
    let (encoder, decoder) = (LinearConfig::new(784, 32).init(&device), LinearConfig::new(32, 784).init(&device));
    let noise = DropoutConfig::new(0.2).init();
    let trainer = Trainer::new(Autoencoder { noise, encoder, decoder }, AdamConfig::new().init())
        .learning_rate(0.002)
        .schedule(Schedule::cosine())
        .epochs(5)
        .batch_size(128)
        .limit_batches(batches);
    let record = match RunDirectory::find(runs.as_ref(), "autoencoder") {
        Ok(directory) => trainer.resume(&directory, train, test)?,
        Err(RecordError::NotFound { .. }) => {
            trainer.fit(&RunDirectory::create(runs.as_ref(), "autoencoder")?, train, test)?
        }
        Err(error) => return Err(error.into()),
    };
    println!("{} in epoch {:?} of {}", record.status, record.best_epoch, record.id);
    Ok(())
}
