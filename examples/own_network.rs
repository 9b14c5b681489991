//! A network in Burn's own layers, with every command around it: `cargo run --release --example own_network -- train mine`
use std::process::ExitCode;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, conv::Conv2d, conv::Conv2dConfig};
use burn::tensor::{Device, Tensor, activation::gelu, module::adaptive_avg_pool2d};
use kindling_workbench::{ImageShape, ModelError, Network, NetworkConfig, Workbench};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct MineConfig {
    channels: usize,
}

#[derive(Module, Debug)]
struct Mine {
    conv: Conv2d,
    head: Linear,
}

impl NetworkConfig for MineConfig {
    type Network = Mine;

    fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Mine, ModelError> {
        let conv = Conv2dConfig::new([shape.channels, self.channels], [5, 5]).init(device);
        let head = LinearConfig::new(self.channels * 4 * 4, shape.classes).init(device);
        Ok(Mine { conv, head })
    }
}

impl Network for Mine {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = adaptive_avg_pool2d(gelu(self.conv.forward(images)), [4, 4]); // [batch, channels, 4, 4]
        self.head.forward(x.flatten(1, 3)) // [batch, classes]
    }
}

fn main() -> ExitCode {
    Workbench::new("mine").network("mine", MineConfig { channels: 16 }).main()
}
