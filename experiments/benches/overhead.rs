//! What training costs beyond the arithmetic: the training steps as users run them (loader, metrics, `steps.jsonl`,
//! renderer) against a bare loop of forward, backward and step on the same batches, in alternating pairs.
//!
//!     just bench-overhead [MODEL] [PAIRS] [IMAGES] [BACKEND]
//!
//! Prints images per second of both sides of each pair, and the median of their ratios.

#![recursion_limit = "512"]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use burn::{
    optim::GradientsParams,
    tensor::Device,
    train::{Interrupter, renderer::MetricsRenderer},
};
use kindling_classification::{Classifier, cross_entropy, init_optimizer};
use kindling_config::{Config, Partial};
use kindling_data::{ImageData, ImageSource, Normalization, fashion_mnist, validated_splits};
use kindling_models::{ImageShape, Network, NetworkConfig, Preset, presets};
use kindling_record::RunDirectory;
use kindling_training::{Host, Order, Place, Source, batches};
use kindling_workbench::{Workbench, progress::Progress};

kindling_workbench::allocator!();

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let model = arguments.next().unwrap_or_else(|| "mlp".to_owned());
    let pairs: usize = arguments.next().map_or(7, |count| count.parse().unwrap());
    let images: usize = arguments.next().map_or(30_000, |count| count.parse().unwrap());
    let data = fashion_mnist::load(None, &mut |_| ()).unwrap();
    let runs = tempfile::tempdir().unwrap();
    let workbench = Workbench::new("kindling");
    let (_, preset) = presets().into_iter().find(|(name, _)| *name == model).unwrap();

    let mut ratios = Vec::new();
    for pair in 1..=pairs {
        let mut partial = Partial::default();
        let limit = images / 64;
        for (key, value) in [("network.name", model.as_str().into()), ("training.epochs", 1.into())] {
            partial.set(key, value);
        }
        partial.set("training.limit_batches", limit.into());
        let config = partial.resolve(&workbench.registry()).unwrap();
        let device = Device::flex();
        // The side that goes first changes, so that neither profits from its place.
        let (bare, whole) = if pair % 2 == 0 {
            let bare = bare_loop(&config, &preset, &data, &device);
            (bare, training(&workbench, &config, &data, &device, runs.path()))
        } else {
            let whole = training(&workbench, &config, &data, &device, runs.path());
            (bare_loop(&config, &preset, &data, &device), whole)
        };
        println!("pair {pair}: bare {bare:.0} images/s, training {whole:.0} images/s, ratio {:.3}", whole / bare);
        ratios.push(whole / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{model}, batch 64: training runs at {:.3} of the bare loop (median of {pairs} pairs, {:.3} to {:.3})",
        ratios[pairs / 2],
        ratios[0],
        ratios[pairs - 1]
    );
}

/// Images per second of forward, backward and step, and nothing else.
fn bare_loop(config: &Config, preset: &Preset, data: &ImageData, device: &Device) -> f64 {
    let (device, seed) = (device.clone().autodiff(), config.training.seed);
    match preset {
        Preset::Mlp(it) => bare_steps(config, it.init(ImageShape::MNIST, seed, &device).unwrap(), data, &device),
        Preset::Cnn(it) => bare_steps(config, it.init(ImageShape::MNIST, seed, &device).unwrap(), data, &device),
        Preset::Resnet(it) => bare_steps(config, it.init(ImageShape::MNIST, seed, &device).unwrap(), data, &device),
        Preset::Wrn(it) => bare_steps(config, it.init(ImageShape::MNIST, seed, &device).unwrap(), data, &device),
        Preset::Airbench(it) => bare_steps(config, it.init(ImageShape::MNIST, seed, &device).unwrap(), data, &device),
    }
}

fn bare_steps<N: Network>(config: &Config, network: N, data: &ImageData, device: &Device) -> f64 {
    let training = &config.training;
    let mut model = Classifier::new(network, 0.0);
    let mut optimizer = init_optimizer(&config.optimizer, &model);
    let train = validated_splits(data, training.seed).unwrap().train;
    let source = ImageSource::new(train, Normalization::default(), "");
    let order = Order::Shuffled { seed: training.seed };
    let images = source.len().min(training.limit_batches.unwrap() * training.batch_size);
    let start = Instant::now();
    for batch in batches(&source, training.batch_size, training.limit_batches, order, 1, device) {
        let batch = batch.unwrap();
        let loss = cross_entropy(model.network.forward(batch.images), batch.targets, 0.0).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(config.optimizer.learning_rate(), model, gradients);
    }
    device.sync().unwrap();
    images as f64 / start.elapsed().as_secs_f64()
}

/// Images per second as the record has them.
fn training(workbench: &Workbench, config: &Config, data: &ImageData, device: &Device, runs: &std::path::Path) -> f64 {
    let directory = RunDirectory::create(runs, "overhead").unwrap();
    let host = Host {
        place: Place::new(device.clone()),
        interrupter: Interrupter::new(),
        renderer: Box::new(|_| Box::new(Progress::new()) as Box<dyn MetricsRenderer>),
        on_event: Box::new(|_| ()),
        program_start: Instant::now(),
    };
    let network = workbench.network_of(&config.network).unwrap();
    network.train(config, data, &directory, host).unwrap().epochs[0].samples_per_second
}
