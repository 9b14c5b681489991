//! A network's operations, as it computes the logits of a batch of images.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::{
    backend::{
        capture::{CaptureBackend, CapturedGraph, TensorId},
        ir::{BaseOperationIr, IrVisitorMut, OperationIr, TensorIr, TensorStatus},
    },
    tensor::{Device, Shape, Slice, Tensor, TensorData},
};
use kindling_classification::ClassificationError;
use kindling_models::ImageShape;
use kindling_training::{TrainingError, contained};

use crate::{ExchangeError, ExportedRun};

/// Two batch sizes; what differs between them as they do depends on the batch.
const BATCHES: [usize; 2] = [2, 3];

/// Size of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// So many, whatever the batch.
    Fixed(usize),
    /// So many for each image of the batch.
    PerImage(usize),
}

/// The operations that lead from a batch of images to its logits, in order, for a batch of any size.
pub(super) struct Trace {
    pub(super) operations: Vec<OperationIr>,
    /// The weights, and other numbers that the network has.
    pub(super) values: BTreeMap<TensorId, TensorData>,
    /// The images, normalized.
    pub(super) input: TensorId,
    pub(super) output: TensorIr,
    sizes: HashMap<TensorId, Vec<Size>>,
    /// The ranges of slices for the other batch size, by what the slices give.
    other_ranges: HashMap<TensorId, Vec<Slice>>,
}

impl Trace {
    /// Records the network of `run` for two batch sizes and compares.
    ///
    /// # Errors
    /// When the weights cannot be read, the network fails, or what it does depends on how many images a batch has.
    pub(super) fn of(run: &ExportedRun, shape: ImageShape) -> Result<Self, ExchangeError> {
        let [mut graph, mut other] = [record(run, shape, BATCHES[0])?, record(run, shape, BATCHES[1])?];
        let mut trace = Self {
            operations: Vec::new(),
            values: BTreeMap::new(),
            input: graph.graph.inputs[0],
            output: output(&graph)?,
            sizes: HashMap::new(),
            other_ranges: HashMap::new(),
        };
        let [operations, others] = [&mut graph, &mut other].map(needed);
        let [mut first, mut second] = [Normalizer::default(), Normalizer::default()];
        if operations.len() != others.len() {
            return Err(ExchangeError::OnnxBatch { what: "takes another path".to_owned() });
        }
        for (operation, other) in operations.iter().zip(&others) {
            let [plain, other] = [first.normalized(operation), second.normalized(other)];
            if plain != other {
                return Err(ExchangeError::OnnxBatch { what: format!("has another operation `{}`", name(operation)) });
            }
            for ((id, shape), (_, other)) in first.seen.drain(..).zip(second.seen.drain(..)) {
                trace.sizes.insert(id, sizes(operation, &shape, &other)?);
            }
            let ranges = std::mem::take(&mut second.ranges);
            if let (Some(out), false) = (operation.outputs().next(), ranges.is_empty()) {
                trace.other_ranges.insert(out.id, ranges);
            }
        }
        let same_place = second.ids.iter().map(|(id, place)| (*place, *id)).collect::<HashMap<_, _>>();
        for (id, place) in &first.ids {
            let Some(value) = graph.values.remove(id).filter(|_| *id != trace.input) else { continue };
            let same = same_place.get(place).and_then(|id| other.values.get(id));
            if same.is_none_or(|same| same.as_bytes() != value.as_bytes()) {
                return Err(ExchangeError::OnnxBatch { what: "has another constant".to_owned() });
            }
            trace.values.insert(*id, value);
        }
        trace.operations = operations;
        Ok(trace)
    }

    /// The sizes of a tensor's axes.
    pub(super) fn sizes(&self, tensor: &TensorIr) -> Vec<Size> {
        let fixed = || tensor.shape.iter().map(|size| Size::Fixed(*size)).collect();
        self.sizes.get(&tensor.id).cloned().unwrap_or_else(fixed)
    }

    /// The ranges of the slice that gives `out` for the other batch size.
    pub(super) fn other_ranges(&self, out: &TensorIr) -> &[Slice] {
        self.other_ranges.get(&out.id).map_or(&[], Vec::as_slice)
    }

    /// How many there are on an axis of this size for the other batch size.
    pub(super) fn other(size: Size) -> usize {
        match size {
            Size::Fixed(size) => size,
            Size::PerImage(each) => each * BATCHES[1],
        }
    }
}

/// Runs the network on Burn's device that records operations.
fn record(run: &ExportedRun, shape: ImageShape, batch: usize) -> Result<CapturedGraph, ExchangeError> {
    let device = Device::capture();
    let mut failure = None;
    let graph = contained(|| {
        let graph = device.capture_scope(|scope| {
            let work = || {
                let network = run.network.trained(run.config, run.directory, shape, &device)?;
                let ImageShape { channels, height, width, .. } = shape;
                let zeros = TensorData::zeros::<f32, _>([batch, channels, height, width]);
                let images = Tensor::<4>::from_data(zeros, &device);
                let logits = contained(|| Ok(network.logits(images.clone())))?;
                let fails = |error| TrainingError::backend(format!("{error:?}"));
                let input = images.try_into_primitive::<CaptureBackend>().map_err(fails)?;
                let output = logits.try_into_primitive::<CaptureBackend>().map_err(fails)?;
                Ok::<_, ClassificationError>((input.id(), output.id(), (input, output)))
            };
            match work() {
                // What the scope ends with must not have been dropped before.
                Ok((input, output, _kept)) => scope.complete([input], [output]),
                Err(error) => {
                    failure = Some(error);
                    scope.complete([], [])
                }
            }
        });
        graph.map_err(TrainingError::backend)
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(graph.map_err(ClassificationError::from)?),
    }
}

fn output(graph: &CapturedGraph) -> Result<TensorIr, ExchangeError> {
    let made = |operation: &OperationIr| operation.outputs().find(|out| graph.graph.outputs.contains(&out.id)).cloned();
    let nothing = || ExchangeError::OnnxOperation { operation: "Identity".to_owned(), after: None };
    graph.graph.operations.iter().find_map(made).ok_or_else(nothing)
}

/// The operations that the output comes from, in order.
fn needed(graph: &mut CapturedGraph) -> Vec<OperationIr> {
    let mut wanted: HashSet<TensorId> = graph.graph.outputs.iter().copied().collect();
    let mut operations = std::mem::take(&mut graph.graph.operations);
    operations.reverse();
    operations.retain(|operation| {
        let is_needed =
            !matches!(operation, OperationIr::Init(_)) && operation.outputs().any(|out| wanted.contains(&out.id));
        if is_needed {
            wanted.extend(operation.inputs().map(|input| input.id));
        }
        is_needed
    });
    operations.reverse();
    operations
}

/// What an axis is, by its sizes for the two batch sizes.
fn sizes(operation: &OperationIr, shape: &Shape, other: &Shape) -> Result<Vec<Size>, ExchangeError> {
    let size = |(&size, &other): (&usize, &usize)| {
        let each = size / BATCHES[0];
        if size == other {
            Ok(Size::Fixed(size))
        } else if BATCHES.map(|batch| each * batch) == [size, other] {
            Ok(Size::PerImage(each))
        } else {
            Err(ExchangeError::OnnxBatch { what: format!("has another shape in `{}`", name(operation)) })
        }
    };
    shape.iter().zip(other.iter()).map(size).collect()
}

/// Takes from operations what differs between two recordings of the same network: ids, shapes, and ranges.
#[derive(Default)]
struct Normalizer {
    /// The tensors by the order in which they are first seen.
    ids: HashMap<TensorId, u64>,
    /// The shapes of the latest operation's tensors.
    seen: Vec<(TensorId, Shape)>,
    /// Its ranges.
    ranges: Vec<Slice>,
}

impl Normalizer {
    fn normalized(&mut self, operation: &OperationIr) -> OperationIr {
        let mut plain = operation.clone();
        self.ranges.clear();
        plain.visit_mut(self);
        if let OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) = &mut plain
            && let BaseOperationIr::RepeatDim(repeat) = base
        {
            repeat.times = 0; // It follows from the shapes.
        }
        plain
    }
}

impl IrVisitorMut for Normalizer {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        let next = self.ids.len() as u64;
        let id = *self.ids.entry(tensor.id).or_insert(next);
        self.seen.push((tensor.id, tensor.shape.clone()));
        let shape = Shape::from(vec![0; tensor.shape.num_dims()]);
        *tensor = TensorIr { id: TensorId::new(id), shape, status: TensorStatus::ReadOnly, dtype: tensor.dtype };
    }

    fn visit_range_mut(&mut self, range: &mut Slice) {
        self.ranges.push(*range);
        *range = Slice::new(0, None, range.step);
    }
}

/// Name of an operation, as Burn has it: what its description says before its operands.
pub(super) fn name(operation: &OperationIr) -> String {
    if let OperationIr::Custom(custom) = operation {
        return custom.id.clone();
    }
    let text = format!("{operation:?}");
    let before = text.split(" {").next().unwrap_or_default(); // `NumericFloat(F32, Sort(SortOpIr`
    let mut names = before.rsplit(['(', ' ']);
    names.next();
    names.next().unwrap_or(before).to_owned()
}
