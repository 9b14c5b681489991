//! Graphs run by tract, against the same networks on Burn's flex.

mod operations;

use std::io::Cursor;

use burn::{
    module::{Module, Param},
    nn::{
        Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig},
        conv::{Conv2d, Conv2dConfig},
    },
    store::{ModuleStore, SafetensorsStore},
    tensor::{Device, Tensor, TensorData},
};
use kindling_classification::{AnyNetwork, network};
use kindling_config::{Config, Partial, Registry, Section};
use kindling_data::{ImageData, ImageSet};
use kindling_models::{
    AirbenchConfig, CnnConfig, ImageShape, MlpConfig, ModelError, Network, NetworkConfig, ResnetConfig, WrnConfig,
};
use kindling_record::{RunDirectory, RunRecord};
use kindling_training::{Host, Place};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;
use tract_onnx::prelude::*;

use super::{OnnxOptions, PROBABILITIES, encode, export, proto::Model};
use crate::{ExchangeError, ExportedRun};

/// A run of a few steps.
struct Trained {
    network: Box<dyn AnyNetwork>,
    config: Config,
    directory: RunDirectory,
    record: RunRecord,
    _place: TempDir,
}

impl Trained {
    /// Trains on small random images of these channels and sides, in three classes.
    fn new<C: NetworkConfig>(config: &C, shape @ [channels, height, width]: [usize; 3]) -> Self {
        let network = network("net", config);
        let byte = |place: usize| (place * place % 251) as u8;
        let bytes = |count: usize| (0..count * channels * height * width).map(byte).collect();
        let labels = |count: u16| (0..count).map(|label| label % 3).collect();
        let set = |count: u16| ImageSet::new(bytes(usize::from(count)), labels(count), shape);
        let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let data = ImageData::new("drawn", classes, set(24).unwrap(), set(6).unwrap()).unwrap();
        let keys = json!({
            "network": "net", "data": { "name": "drawn", "normalize": "auto" }, "protocol": "assignment",
            "training": { "epochs": 1, "batch_size": 8 },
        });
        let dataset = Section { name: "drawn".to_owned(), keys: serde_json::Map::new(), help: Vec::new() };
        let registry = Registry { networks: vec![network.section()], datasets: vec![dataset] };
        let keys = keys.as_object().unwrap().clone();
        let config = Partial::from_object(keys).and_then(|partial| partial.resolve(&registry)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(place.path(), "net").unwrap();
        let record = network.train(&config, &data, &directory, Host::silent(Place::new(Device::flex()))).unwrap();
        Self { network, config, directory, record, _place: place }
    }

    fn run(&self) -> ExportedRun<'_> {
        let Self { network, config, directory, record, .. } = self;
        ExportedRun { directory, record, config, network: &**network }
    }

    fn export(&self, fold_batch_norm: bool) -> Result<Model, ExchangeError> {
        export(&self.run(), &OnnxOptions { fold_batch_norm })
    }

    /// Checks that tract finds the logits that flex does, for a batch of one image and of five, and probabilities that
    /// sum to one.
    fn check(&self, fold_batch_norm: bool) -> Model {
        let model = self.export(fold_batch_norm).unwrap();
        let shape = self.run().shape().unwrap();
        for batch in [1, 5] {
            let bytes: Vec<u8> = (0..batch * shape.channels * shape.height * shape.width)
                .map(|place| (place * 37 % 256) as u8)
                .collect();
            let [found, probabilities] = by_tract(&model, &bytes, batch, shape);
            let expected = self.by_flex(&bytes, batch, shape);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                // Sums in another order, of numbers of this size.
                let what = &self.config.network.keys;
                assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} for {expected}: {what:?}");
            }
            assert!(expected.iter().any(|logit| logit.abs() > 1e-3), "logits that say nothing: {expected:?}");
            for row in probabilities.chunks(shape.classes) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
            }
        }
        model
    }

    fn by_flex(&self, bytes: &[u8], batch: usize, shape: ImageShape) -> Vec<f32> {
        let (device, run) = (Device::flex(), self.run());
        let network = self.network.trained(&self.config, &self.directory, shape, &device).unwrap();
        let (ImageShape { channels, height, width, .. }, normalization) = (shape, run.normalization().unwrap());
        let normal = |(place, byte): (usize, &u8)| {
            let channel = place / (height * width) % channels;
            (f32::from(*byte) / 255.0 - normalization.mean[channel] as f32) / normalization.std[channel] as f32
        };
        let pixels: Vec<f32> = bytes.iter().enumerate().map(normal).collect();
        let pixels = TensorData::new(pixels, [batch, channels, height, width]);
        network.logits(Tensor::from_data(pixels, &device)).into_data().iter::<f32>().collect()
    }
}

/// Logits and probabilities.
fn by_tract(model: &Model, bytes: &[u8], batch: usize, shape: ImageShape) -> [Vec<f32>; 2] {
    let ImageShape { channels, height, width, .. } = shape;
    let sizes = [batch, channels, height, width];
    let fact = InferenceFact::dt_shape(u8::datum_type(), sizes);
    let model = tract_onnx::onnx().model_for_read(&mut Cursor::new(encode(model))).unwrap();
    let model = model.with_input_fact(0, fact).unwrap().into_optimized().unwrap().into_runnable().unwrap();
    let pixels = tract_ndarray::Array4::from_shape_vec((batch, channels, height, width), bytes.to_vec()).unwrap();
    let outputs = model.run(tvec!(pixels.into_tensor().into())).unwrap();
    [0, 1].map(|output| {
        let output = outputs[output].to_plain_array_view::<f32>().unwrap();
        assert_eq!(output.shape(), [batch, shape.classes]);
        output.iter().copied().collect()
    })
}

/// Name, shape and bytes of a tensor in a file.
type Stored = (String, Vec<i64>, Vec<u8>);

fn weights(trained: &Trained) -> Vec<Stored> {
    let bytes = std::fs::read(trained.directory.weights()).unwrap();
    let mut store = SafetensorsStore::from_bytes(Some(bytes));
    let tensors = store.get_all_tensors().unwrap().values();
    let parts = tensors.map(|it| {
        let dims = it.shape.iter().map(|size| *size as i64).collect();
        (it.name.clone(), dims, it.to_bytes().unwrap().to_vec())
    });
    parts.collect()
}

fn count(model: &Model, op_type: &str) -> usize {
    model.graph.as_ref().unwrap().node.iter().filter(|node| node.op_type == op_type).count()
}

/// Checks a preset as it is and with its batch norms folded, of which `left` cannot be.
fn check_preset<C: NetworkConfig>(config: &C, shape: [usize; 3], [norms, left]: [usize; 2]) {
    let trained = Trained::new(config, shape);
    let model = trained.check(false);
    assert_eq!(count(&model, "BatchNormalization"), norms);
    // Each of the file's tensors is in the graph as the file has it, under its name.
    let constants = &model.graph.as_ref().unwrap().initializer;
    for (name, dims, bytes) in weights(&trained) {
        let found = constants.iter().find(|tensor| tensor.name == name);
        let found = found.unwrap_or_else(|| panic!("{name} is not in the graph"));
        assert!(found.dims == dims && found.raw_data == bytes, "{name} is another tensor");
    }
    assert_eq!(count(&trained.check(true), "BatchNormalization"), left);
}

#[test]
fn an_mlp_is_the_same_in_tract() {
    check_preset(&MlpConfig { hidden: vec![16, 12] }, [1, 6, 5], [0, 0]);
}

#[test]
fn a_cnn_is_the_same_in_tract_with_and_without_its_batch_norms() {
    check_preset(&CnnConfig { channels: vec![4, 6], hidden: 8 }, [3, 9, 10], [2, 0]);
}

#[test]
fn a_resnet_is_the_same_in_tract_with_and_without_its_batch_norms() {
    check_preset(&ResnetConfig { depth: 8, ..ResnetConfig::default() }, [3, 8, 8], [7, 0]);
}

#[test]
fn a_wide_resnet_keeps_the_batch_norms_that_come_before_convolutions() {
    let config = WrnConfig { depth: 10, factor: 1, width: 4, ..WrnConfig::default() };
    // The second of each block is behind the first convolution.
    check_preset(&config, [1, 8, 8], [7, 4]);
}

#[test]
fn airbench_is_the_same_in_tract_and_keeps_the_batch_norms_behind_pooling() {
    let config = AirbenchConfig { widths: vec![8, 8, 8], ..AirbenchConfig::default() };
    check_preset(&config, [3, 32, 32], [6, 3]);
}

/// A small vision transformer of Burn's layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AttendingConfig {}

#[derive(Module, Debug)]
struct Attending {
    patches: Conv2d,
    token: Param<Tensor<3>>,
    norm: LayerNorm,
    attention: MultiHeadAttention,
    inner: Linear,
    head: Linear,
}

impl NetworkConfig for AttendingConfig {
    type Network = Attending;

    fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Attending, ModelError> {
        Ok(Attending {
            patches: Conv2dConfig::new([shape.channels, 8], [2, 2]).with_stride([2, 2]).init(device),
            token: burn::nn::Initializer::Normal { mean: 0.0, std: 1.0 }.init([1, 1, 8], device),
            norm: LayerNormConfig::new(8).init(device),
            attention: MultiHeadAttentionConfig::new(8, 2).init(device),
            inner: LinearConfig::new(8, 8).init(device),
            head: LinearConfig::new(8, shape.classes).init(device),
        })
    }
}

impl Network for Attending {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.patches.forward(images).flatten::<3>(2, 3).permute([0, 2, 1]); // [batch, patches, 8]
        let [batch, _, features] = x.dims();
        let x = Tensor::cat(vec![self.token.val().expand([batch, 1, features]), x], 1);
        let attended = self.attention.forward(MhaInput::self_attn(self.norm.forward(x.clone()))).context;
        let x = x + attended;
        let x = x.clone() + Gelu::new().forward(self.inner.forward(x));
        let first = x.clone().narrow(1, 0, 1).reshape([batch, features]);
        self.head.forward(first + x.mean_dim(1).squeeze_dim::<2>(1))
    }
}

#[test]
fn a_network_of_burns_layers_with_attention_is_the_same_in_tract() {
    let trained = Trained::new(&AttendingConfig {}, [3, 6, 8]);
    let model = trained.check(true);
    let graph = model.graph.as_ref().unwrap();
    for name in ["attention.query.weight", "inner.weight", "head.bias", "norm.weight", "token"] {
        let stored = weights(&trained).into_iter().find(|weight| weight.0 == name).unwrap();
        let tensor = graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
        assert_eq!((&tensor.dims, &tensor.raw_data), (&stored.1, &stored.2), "{name}");
    }
}

#[test]
fn the_file_says_what_goes_in_what_comes_out_and_where_it_is_from() {
    let trained = Trained::new(&MlpConfig { hidden: vec![4] }, [1, 3, 2]);
    let model = trained.export(false).unwrap();
    let entry = |key: &str| &model.metadata_props.iter().find(|entry| entry.key == key).unwrap().value;
    assert_eq!(
        (entry("classes"), entry("height"), entry("width")),
        (&r#"["a","b","c"]"#.to_owned(), &"3".into(), &"2".into())
    );
    assert_eq!((entry("run"), entry("network")), (&trained.record.id, &"net".to_owned()));
    let graph = model.graph.as_ref().unwrap();
    assert_eq!(graph.output[1].name, PROBABILITIES);
    assert!(graph.input[0].doc_string.contains("0 to 255") && graph.output[0].doc_string.contains("[batch, classes]"));
    let read = <Model as prost::Message>::decode(&*encode(&model)).unwrap();
    assert_eq!(read, model);
}

#[test]
fn a_run_without_weights_is_an_error() {
    let trained = Trained::new(&MlpConfig { hidden: vec![4] }, [1, 3, 2]);
    std::fs::remove_file(trained.directory.weights()).unwrap();
    assert!(trained.export(false).unwrap_err().to_string().contains("model.safetensors"));
    std::fs::write(trained.directory.weights(), b"no weights").unwrap();
    assert!(trained.export(false).is_err());
}
