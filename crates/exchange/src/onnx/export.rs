use kindling_data::Normalization;
use kindling_models::ImageShape;
use prost::Message;
use serde_json::json;

use super::{
    LOGITS, PIXELS, PROBABILITIES,
    fold::fold_batch_norms,
    graph::{Graph, int},
    lower::lower,
    proto::{self, Dimension, ElementType, Model, Node, OperatorSet, Shape, StringEntry, TensorType, Type, ValueInfo},
    trace::Trace,
    weights::Weights,
};
use crate::{ExchangeError, ExportedRun};

/// Version of ONNX's operators that graphs are written for; it came with version 8 of the format (ONNX 1.13).
const OPERATORS: i64 = 18;
const FORMAT: i64 = 8;

/// What can be chosen about a graph.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnnxOptions {
    /// Whether a batch norm right behind a convolution becomes a part of it: faster, and the same but for rounding.
    pub fold_batch_norm: bool,
}

/// The network of a run with its weights, from the bytes of images to logits and probabilities.
///
/// # Shapes
/// - [`PIXELS`]: bytes, `[batch, channels, height, width]`, of any number of images
/// - [`LOGITS`], [`PROBABILITIES`]: `[batch, classes]`
///
/// # Errors
/// When the run was not trained on images, its weights cannot be read, or the network has an operation that is not
/// known or that depends on the number of images.
pub fn export(run: &ExportedRun, options: &OnnxOptions) -> Result<Model, ExchangeError> {
    let (shape, normalization) = (run.shape()?, run.normalization()?);
    let trace = Trace::of(run, shape)?;
    let weights = Weights::of(run.directory)?;
    let mut graph = Graph::default();
    [PIXELS, LOGITS, PROBABILITIES].into_iter().chain(weights.names()).for_each(|name| graph.reserve(name));
    let images = normalized(&mut graph, &normalization);
    let logits = lower(&trace, weights, &mut graph, images)?;
    let mut graph = finished(graph, &logits, shape, run);
    if options.fold_batch_norm {
        fold_batch_norms(&mut graph);
    }
    Ok(Model {
        ir_version: FORMAT,
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATORS }],
        producer_name: "kindling".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: format!("The network {} of run {}, from bytes to probabilities", run.record.model, run.record.id),
        graph: Some(graph),
        metadata_props: metadata(run, shape)?,
    })
}

/// The bytes of a file.
#[must_use]
pub fn encode(model: &Model) -> Vec<u8> {
    model.encode_to_vec()
}

/// `(byte / 255 - mean) / std`, step by step as training has it; returns the name.
fn normalized(graph: &mut Graph, normalization: &Normalization) -> String {
    let pixels = graph.node("Cast", &[PIXELS], vec![int("to", ElementType::Float as usize)]);
    let range = graph.floats(&[], &[255.0]);
    let mut pixels = graph.node("Div", &[&pixels, &range], Vec::new());
    for (op_type, numbers, none) in [("Sub", &normalization.mean, 0.0), ("Div", &normalization.std, 1.0)] {
        if numbers.iter().all(|number| (number - none).abs() < f64::MIN_POSITIVE) {
            continue;
        }
        let numbers: Vec<_> = numbers.iter().map(|number| *number as f32).collect();
        let numbers = graph.floats(&[numbers.len(), 1, 1], &numbers);
        pixels = graph.node(op_type, &[&pixels, &numbers], Vec::new());
    }
    pixels
}

/// The graph with its inputs and outputs, `logits` under its own name.
fn finished(graph: Graph, logits: &str, shape: ImageShape, run: &ExportedRun) -> proto::Graph {
    let Graph { nodes: mut node, initializers: initializer, .. } = graph;
    for name in node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)) {
        if name == logits {
            LOGITS.clone_into(name);
        }
    }
    node.push(Node {
        input: vec![LOGITS.to_owned()],
        output: vec![PROBABILITIES.to_owned()],
        name: PROBABILITIES.to_owned(),
        op_type: "Softmax".to_owned(),
        attribute: vec![int("axis", 1)],
        domain: String::new(),
    });
    let ImageShape { channels, height, width, classes } = shape;
    let layout = match channels {
        1 => "grey",
        3 => "red, green and blue",
        _ => "channels",
    };
    let pixels =
        format!("Pixels as files have them, 0 to 255, {layout}: [batch, channels, height, width]; normalized inside");
    let output = "a row for each image, in the order of the classes in the metadata: [batch, classes]";
    proto::Graph {
        node,
        name: run.record.model.clone(),
        initializer,
        doc_string: format!("{} on {}", run.record.model, run.record.dataset.name),
        input: vec![value(PIXELS, ElementType::Uint8, &[channels, height, width], &pixels)],
        output: vec![
            value(LOGITS, ElementType::Float, &[classes], &format!("Logits, {output}")),
            value(PROBABILITIES, ElementType::Float, &[classes], &format!("Probabilities from 0 to 1, {output}")),
        ],
        value_info: Vec::new(),
    }
}

/// A value of these sizes for each image of the batch.
fn value(name: &str, element: ElementType, sizes: &[usize], doc_string: &str) -> ValueInfo {
    let batch = Dimension { dim_param: Some("batch".to_owned()), ..Dimension::default() };
    let fixed = sizes.iter().map(|size| Dimension { dim_value: Some(*size as i64), ..Dimension::default() });
    let shape = Some(Shape { dim: std::iter::once(batch).chain(fixed).collect() });
    let tensor_type = Some(TensorType { elem_type: element as i32, shape });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }), doc_string: doc_string.to_owned() }
}

/// What the file says beside the network; what is no text is JSON.
fn metadata(run: &ExportedRun, shape: ImageShape) -> Result<Vec<StringEntry>, ExchangeError> {
    let (record, normalization) = (run.record, run.normalization()?);
    let text = |text: &str| text.to_owned();
    let entries = [
        ("task", text("image-classification")),
        ("classes", json!(run.classes()).to_string()),
        ("channels", shape.channels.to_string()),
        ("height", shape.height.to_string()),
        ("width", shape.width.to_string()),
        ("background", run.images()?.background.to_string()),
        ("pixel_mean", json!(normalization.mean).to_string()),
        ("pixel_std", json!(normalization.std).to_string()),
        ("network", text(&record.model)),
        ("config", json!(record.config).to_string()),
        ("run", text(&record.id)),
        ("metrics", json!(record.test.as_ref().map(|test| &test.metrics)).to_string()),
        ("dataset", text(&record.dataset.name)),
        ("dataset_sha256", text(&record.dataset.sha256)),
        ("versions", json!(record.versions).to_string()),
    ];
    Ok(entries.map(|(key, value)| StringEntry { key: key.to_owned(), value }).to_vec())
}
