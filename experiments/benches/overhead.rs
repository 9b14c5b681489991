//! What training costs beyond the arithmetic: the training steps as users run them (loader, metrics, `steps.jsonl`,
//! renderer) against a bare loop of forward, backward and step on the same batches, in alternating pairs.
//!
//!     just bench-overhead [MODEL] [PAIRS] [IMAGES] [BACKEND]
//!
//! Prints images per second of both sides of each pair, and the median of their ratios.

#![recursion_limit = "512"]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

// Their tests belong to the program.
#[path = "../src/output.rs"]
#[allow(dead_code, unused_imports)]
mod output;
#[path = "../src/progress.rs"]
#[allow(dead_code)]
mod progress;
#[path = "../src/terminal.rs"]
#[allow(dead_code)]
mod terminal;

use std::time::Instant;

use burn::{
    data::dataloader::DataLoader,
    optim::GradientsParams,
    tensor::Device,
    train::{Interrupter, renderer::MetricsRenderer},
};
use kindling_data::{BatchLoader, DeviceSplit, ImageData, Normalization, Order, fashion_mnist, validated_splits};
use kindling_models::{ImageShape, ModelName};
use kindling_record::{MachineRecord, RunDirectory};
use kindling_training::{Classifier, ExperimentConfig, Host, Settings, cross_entropy, init_optimizer, train};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let model: ModelName = arguments.next().map_or(ModelName::Mlp, |name| name.parse().unwrap());
    let pairs: usize = arguments.next().map_or(7, |count| count.parse().unwrap());
    let images: usize = arguments.next().map_or(30_000, |count| count.parse().unwrap());
    let data = fashion_mnist::load(None, &mut |_| ()).unwrap();
    let runs = tempfile::tempdir().unwrap();

    let mut ratios = Vec::new();
    for pair in 1..=pairs {
        let settings =
            Settings { model: Some(model), epochs: Some(1), limit_batches: Some(images / 64), ..Settings::default() };
        let config = settings.resolve().unwrap();
        let device = Device::flex();
        // The side that goes first changes, so that neither profits from its place.
        let (bare, whole) = if pair % 2 == 0 {
            let bare = bare_loop(&config, &data, &device);
            (bare, training(&config, &data, &device, runs.path()))
        } else {
            let whole = training(&config, &data, &device, runs.path());
            (bare_loop(&config, &data, &device), whole)
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
fn bare_loop(config: &ExperimentConfig, data: &ImageData, device: &Device) -> f64 {
    let device = device.clone().autodiff();
    let network = config.network().unwrap().init(ImageShape::MNIST, config.seed, &device).unwrap();
    let mut model = Classifier::new(network, 0.0);
    let mut optimizer = init_optimizer(config, &model);
    let train = validated_splits(data, config.seed).unwrap().train;
    let split = DeviceSplit::new(&train, Normalization::default(), &device, None);
    let loader = BatchLoader::new(split, config.batch_size, Order::Shuffled { seed: config.seed }, &device)
        .limited_to(config.limit_batches);
    let start = Instant::now();
    for batch in loader.iter() {
        let batch = batch.unwrap();
        let loss = cross_entropy(model.network.forward(batch.images), batch.targets, 0.0).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(config.learning_rate, model, gradients);
    }
    device.sync().unwrap();
    loader.num_items() as f64 / start.elapsed().as_secs_f64()
}

/// Images per second as the record has them.
fn training(config: &ExperimentConfig, data: &ImageData, device: &Device, runs: &std::path::Path) -> f64 {
    let directory = RunDirectory::create(runs, "overhead").unwrap();
    let machine = MachineRecord { platform: String::new(), processor: None, threads: 0 };
    let host = Host {
        devices: vec![device.clone()],
        largest_tensor: None,
        memory: None,
        compiles_kernels: false,
        backend: "flex".to_owned(),
        device_name: String::new(),
        kernels: String::new(),
        instructions: String::new(),
        machine,
        interrupter: Interrupter::new(),
        renderer: Box::new(|_| Box::new(progress::Progress::new()) as Box<dyn MetricsRenderer>),
        on_event: Box::new(|_| ()),
        program_start: Instant::now(),
    };
    train(config, data, &directory, host).unwrap().epochs[0].images_per_second
}
