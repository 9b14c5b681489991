//! Operations of Burn as operations of ONNX.

use std::collections::HashMap;

use burn::{
    backend::{
        capture::TensorId,
        ir::{
            BaseOperationIr, CastOpIr, FloatOperationIr, NumericOperationIr, OperationIr, PadModeIr, ScalarOpIr,
            SliceOpIr, TensorIr,
        },
    },
    tensor::DType,
};

use super::{
    graph::{Graph, Number, element, int, ints, tensor, text},
    proto::{Attribute, Tensor},
    table::{cast, number, plain, reduction, scalar},
    trace::{Size, Trace, name},
    weights::{Weight, Weights},
};
use crate::ExchangeError;

/// Adds to `graph` what `trace` computes of `images`, which are normalized; returns the name of the logits.
///
/// # Errors
/// When the network has an operation that is not known here, or one that depends on the number of images.
pub(super) fn lower(
    trace: &Trace,
    weights: Weights,
    graph: &mut Graph,
    images: String,
) -> Result<String, ExchangeError> {
    let values = HashMap::from([(trace.input, images)]);
    let mut lowering = Lowering { graph, trace, weights, values, named: HashMap::new(), layer: None, batch: None };
    for operation in &trace.operations {
        lowering.operation(operation)?;
    }
    let logits = lowering.operand(&trace.output);
    Ok(lowering.cast(&logits, trace.output.dtype, DType::F32))
}

pub(super) struct Lowering<'a> {
    pub(super) graph: &'a mut Graph,
    pub(super) trace: &'a Trace,
    weights: Weights,
    /// Names of what has been computed.
    values: HashMap<TensorId, String>,
    /// Names of weights that are in use, and whether they are turned in files.
    named: HashMap<TensorId, (String, bool)>,
    /// The last layer whose weights were used.
    layer: Option<String>,
    /// Name of the number of images, `[1]`.
    pub(super) batch: Option<String>,
}

impl Lowering<'_> {
    fn operation(&mut self, operation: &OperationIr) -> Result<(), ExchangeError> {
        if let Some(op_type) = plain(operation) {
            let inputs: Vec<_> = operation.inputs().map(|input| self.operand(input)).collect();
            let inputs: Vec<_> = inputs.iter().map(String::as_str).collect();
            let output = self.graph.node(op_type, &inputs, Vec::new());
            return self.outputs(operation, &[output]);
        }
        if let Some((op_type, ScalarOpIr { lhs, rhs, out })) = scalar(operation) {
            let number = self.graph.number(number(*rhs), lhs.dtype);
            let lhs = self.operand(lhs);
            return self.set(out, op_type, &[&lhs, &number], Vec::new());
        }
        if let Some(CastOpIr { input, out }) = cast(operation) {
            let operand = self.operand(input);
            let name = self.cast(&operand, input.dtype, out.dtype);
            return self.alias(out, name);
        }
        if let Some((op_type, input, axes)) = reduction(operation) {
            let x = self.operand(input);
            let output = if let Some(axes) = axes {
                let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
                let axes = self.graph.integers(&axes);
                self.graph.node(op_type, &[&x, &axes], Vec::new())
            } else {
                let (all, shape) =
                    (self.graph.node(op_type, &[&x], vec![int("keepdims", 0)]), self.graph.integers(&[1]));
                self.graph.node("Reshape", &[&all, &shape], Vec::new())
            };
            return self.outputs(operation, &[output]);
        }
        match operation {
            OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) => {
                self.base(base, operation)
            }
            OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric) => {
                self.numeric(numeric, operation)
            }
            OperationIr::Float(_, float) => self.float(float, operation),
            OperationIr::Activation(activation) => self.activation(activation, operation),
            OperationIr::Module(module) => self.module(module, operation),
            _ => Err(self.unknown(operation)),
        }
    }

    fn base(&mut self, base: &BaseOperationIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        match base {
            BaseOperationIr::Reshape(it) => {
                let (from, to) = (self.trace.sizes(&it.input), self.trace.sizes(&it.out));
                let x = self.operand(&it.input);
                if from == to {
                    return self.alias(&it.out, x);
                }
                let shape = self.shape(&to, true);
                self.set(&it.out, "Reshape", &[&x, &shape], Vec::new())
            }
            BaseOperationIr::SwapDims(it) => {
                let mut axes: Vec<_> = (0..it.input.shape.num_dims()).collect();
                axes.swap(it.dim1, it.dim2);
                self.turned(&it.input, &it.out, &axes)
            }
            BaseOperationIr::Permute(it) => self.turned(&it.input, &it.out, &it.axes),
            BaseOperationIr::Expand(it) => {
                let (from, mut to) = (self.trace.sizes(&it.input), self.trace.sizes(&it.out));
                let x = self.operand(&it.input);
                if from == to {
                    return self.alias(&it.out, x);
                }
                // What has its size already is left as it is.
                let new = to.len() - from.len();
                to[new..]
                    .iter_mut()
                    .zip(&from)
                    .filter(|(to, from)| to == from)
                    .for_each(|(to, _)| *to = Size::Fixed(1));
                let shape = self.shape(&to, false);
                self.set(&it.out, "Expand", &[&x, &shape], Vec::new())
            }
            BaseOperationIr::Flip(it) => {
                let ranges: Vec<_> = it.axes.iter().map(|axis| (*axis, [-1, i64::MIN, -1])).collect();
                let x = self.operand(&it.input);
                let name = self.sliced(&x, &ranges);
                self.alias(&it.out, name)
            }
            BaseOperationIr::Slice(SliceOpIr { tensor, ranges, out }) => {
                let ranges = self.ranges(tensor, ranges, out)?;
                let x = self.operand(tensor);
                let name = self.sliced(&x, &ranges);
                self.alias(out, name)
            }
            BaseOperationIr::SliceAssign(it) => self.assigned(it, operation),
            BaseOperationIr::Gather(it) => {
                self.put(&it.out, "GatherElements", &[&it.tensor, &it.indices], vec![int("axis", it.dim)])
            }
            BaseOperationIr::Select(it) => {
                self.put(&it.out, "Gather", &[&it.tensor, &it.indices], vec![int("axis", it.dim)])
            }
            BaseOperationIr::MaskWhere(it) => {
                self.put(&it.out, "Where", &[&it.mask, &it.value, &it.tensor], Vec::new())
            }
            BaseOperationIr::MaskFill(it) => {
                let value = self.graph.number(number(it.value), it.tensor.dtype);
                let [mask, x] = [&it.mask, &it.tensor].map(|operand| self.operand(operand));
                self.set(&it.out, "Where", &[&mask, &value, &x], Vec::new())
            }
            BaseOperationIr::NotEqual(it) => {
                let [lhs, rhs] = [&it.lhs, &it.rhs].map(|operand| self.operand(operand));
                let equal = self.graph.node("Equal", &[&lhs, &rhs], Vec::new());
                self.set(&it.out, "Not", &[&equal], Vec::new())
            }
            BaseOperationIr::NotEqualElem(it) => {
                let value = self.graph.number(number(it.rhs), it.lhs.dtype);
                let lhs = self.operand(&it.lhs);
                let equal = self.graph.node("Equal", &[&lhs, &value], Vec::new());
                self.set(&it.out, "Not", &[&equal], Vec::new())
            }
            BaseOperationIr::RepeatDim(it) => {
                let (from, to) = (self.trace.sizes(&it.tensor)[it.dim], self.trace.sizes(&it.out)[it.dim]);
                let mut times = vec![Size::Fixed(1); it.out.shape.num_dims()];
                times[it.dim] = match (from, to) {
                    (Size::Fixed(from), Size::Fixed(to)) | (Size::PerImage(from), Size::PerImage(to)) => {
                        Size::Fixed(to / from.max(1))
                    }
                    (Size::Fixed(from), Size::PerImage(to)) if to.is_multiple_of(from.max(1)) => {
                        Size::PerImage(to / from.max(1))
                    }
                    _ => return Err(self.unknown(operation)),
                };
                let (x, times) = (self.operand(&it.tensor), self.shape(&times, false));
                self.set(&it.out, "Tile", &[&x, &times], Vec::new())
            }
            BaseOperationIr::Cat(it) => {
                let tensors: Vec<_> = it.tensors.iter().collect();
                self.put(&it.out, "Concat", &tensors, vec![int("axis", it.dim)])
            }
            BaseOperationIr::Zeros(it) => self.filled(&it.out, Number::float(0.0)),
            BaseOperationIr::Ones(it) => self.filled(&it.out, Number::float(1.0)),
            _ => Err(self.unknown(operation)),
        }
    }

    fn numeric(&mut self, numeric: &NumericOperationIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        match numeric {
            NumericOperationIr::Full(it) => self.filled(&it.out, number(it.value)),
            NumericOperationIr::Clamp(it) => {
                let [min, max] = [it.min, it.max].map(|limit| self.graph.number(number(limit), it.tensor.dtype));
                let x = self.operand(&it.tensor);
                self.set(&it.out, "Clip", &[&x, &min, &max], Vec::new())
            }
            NumericOperationIr::ClampMax(it) => {
                let max = self.graph.number(number(it.rhs), it.lhs.dtype);
                let x = self.operand(&it.lhs);
                self.set(&it.out, "Clip", &[&x, "", &max], Vec::new())
            }
            NumericOperationIr::ArgMax(it) => self.arg("ArgMax", &it.input, it.axis, &it.out),
            NumericOperationIr::ArgMin(it) => self.arg("ArgMin", &it.input, it.axis, &it.out),
            NumericOperationIr::MaxDimWithIndices(it) => {
                self.arg("ArgMax", &it.tensor, it.dim, &it.out_indices)?;
                self.reduced("ReduceMax", &it.tensor, it.dim, &it.out)
            }
            NumericOperationIr::MinDimWithIndices(it) => {
                self.arg("ArgMin", &it.tensor, it.dim, &it.out_indices)?;
                self.reduced("ReduceMin", &it.tensor, it.dim, &it.out)
            }
            NumericOperationIr::Rem(it) => {
                let [lhs, rhs] = [&it.lhs, &it.rhs].map(|operand| self.operand(operand));
                self.remainder(&lhs, &rhs, &it.out)
            }
            NumericOperationIr::RemScalar(it) => {
                let (lhs, rhs) = (self.operand(&it.lhs), self.graph.number(number(it.rhs), it.lhs.dtype));
                self.remainder(&lhs, &rhs, &it.out)
            }
            NumericOperationIr::CumSum(it) => {
                let axis = self.graph.number(Number::float(it.axis as f64), DType::I64);
                let x = self.operand(&it.input);
                self.set(&it.out, "CumSum", &[&x, &axis], Vec::new())
            }
            NumericOperationIr::Pad(it) => {
                let sides = it.padding.iter().map(|sides| sides.0).chain(it.padding.iter().map(|sides| sides.1));
                let pads: Vec<_> = sides.map(|pad| pad as i64).collect();
                let (x, pads) = (self.operand(&it.input), self.graph.integers(&pads));
                let (mode, value) = match it.mode {
                    PadModeIr::Constant(value) => ("constant", self.graph.number(number(value), it.input.dtype)),
                    PadModeIr::Reflect => ("reflect", String::new()),
                    PadModeIr::Edge => ("edge", String::new()),
                };
                let inputs = [&*x, &*pads, &*value];
                let given = if value.is_empty() { &inputs[..2] } else { &inputs[..] };
                self.set(&it.out, "Pad", given, vec![text("mode", mode)])
            }
            _ => Err(self.unknown(operation)),
        }
    }

    fn float(&mut self, float: &FloatOperationIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        match float {
            FloatOperationIr::Log1p(it) => {
                let (x, one) = (self.operand(&it.input), self.graph.number(Number::float(1.0), it.input.dtype));
                let more = self.graph.node("Add", &[&x, &one], Vec::new());
                self.set(&it.out, "Log", &[&more], Vec::new())
            }
            FloatOperationIr::Trunc(it) => {
                let x = self.operand(&it.input);
                let [sign, size] = ["Sign", "Abs"].map(|op_type| self.graph.node(op_type, &[&x], Vec::new()));
                let whole = self.graph.node("Floor", &[&size], Vec::new());
                self.set(&it.out, "Mul", &[&sign, &whole], Vec::new())
            }
            _ => Err(self.unknown(operation)),
        }
    }

    /// The name of an operand.
    pub(super) fn operand(&mut self, tensor: &TensorIr) -> String {
        self.operand_as(tensor, "")
    }

    /// The name of an operand which, if it is a weight, plays this role in its layer: `bias`.
    pub(super) fn operand_as(&mut self, tensor: &TensorIr, role: &str) -> String {
        if let Some(name) = self.values.get(&tensor.id) {
            return name.clone();
        }
        let (name, is_turned) = self.weight(tensor, role);
        let name = if is_turned { self.graph.node("Transpose", &[&name], vec![ints("perm", &[1, 0])]) } else { name };
        self.values.insert(tensor.id, name.clone());
        name
    }

    /// The name of a weight as files have it, and whether that is turned; of a constant, if it is no weight.
    pub(super) fn weight(&mut self, tensor: &TensorIr, role: &str) -> (String, bool) {
        if let Some(found) = self.named.get(&tensor.id) {
            return found.clone();
        }
        // Everything that is read was computed before or is a value: the recording has checked that.
        let Some(value) = self.trace.values.get(&tensor.id) else { return (String::new(), false) };
        let found = if let Some(Weight { name, dims, bytes: raw_data, is_turned }) = self.weights.find(value, role) {
            self.layer = name.rsplit_once('.').map(|(layer, _)| layer.to_owned());
            let (dims, data_type) = (dims.iter().map(|size| *size as i64).collect(), element(value.dtype()) as i32);
            (self.graph.initializer(Tensor { dims, data_type, name, raw_data, ..Tensor::default() }), is_turned)
        } else {
            let bytes = match value.dtype() {
                DType::Bool(_) => value.iter::<bool>().map(u8::from).collect(),
                _ => value.as_bytes().to_vec(),
            };
            (self.graph.constant(&value.shape().to_vec(), element(value.dtype()), bytes), false)
        };
        self.named.insert(tensor.id, found.clone());
        found
    }

    /// Adds an operation on tensors, of one output.
    pub(super) fn put(
        &mut self,
        out: &TensorIr,
        op_type: &str,
        inputs: &[&TensorIr],
        attributes: Vec<Attribute>,
    ) -> Result<(), ExchangeError> {
        let inputs: Vec<_> = inputs.iter().map(|input| self.operand(input)).collect();
        let inputs: Vec<_> = inputs.iter().map(String::as_str).collect();
        self.set(out, op_type, &inputs, attributes)
    }

    /// Adds an operation on what has these names, of one output.
    pub(super) fn set(
        &mut self,
        out: &TensorIr,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> Result<(), ExchangeError> {
        let name = self.graph.node(op_type, inputs, attributes);
        self.alias(out, name)
    }

    /// Says what the name of a tensor is.
    #[allow(clippy::unnecessary_wraps)] // What an operation ends with.
    pub(super) fn alias(&mut self, out: &TensorIr, name: String) -> Result<(), ExchangeError> {
        self.values.insert(out.id, name);
        Ok(())
    }

    fn outputs(&mut self, operation: &OperationIr, names: &[String]) -> Result<(), ExchangeError> {
        operation.outputs().zip(names).try_for_each(|(out, name)| self.alias(out, name.clone()))
    }

    /// The error of an operation that is not known.
    pub(super) fn unknown(&self, operation: &OperationIr) -> ExchangeError {
        ExchangeError::OnnxOperation { operation: name(operation), after: self.layer.clone() }
    }

    /// The sizes of a tensor's axes.
    pub(super) fn sizes(&self, tensor: &TensorIr) -> Vec<Size> {
        self.trace.sizes(tensor)
    }

    fn cast(&mut self, operand: &str, from: DType, to: DType) -> String {
        if element(from) == element(to) {
            return operand.to_owned();
        }
        self.graph.node("Cast", &[operand], vec![int("to", element(to) as usize)])
    }

    fn turned(&mut self, x: &TensorIr, out: &TensorIr, axes: &[usize]) -> Result<(), ExchangeError> {
        self.put(out, "Transpose", &[x], vec![ints("perm", axes)])
    }

    fn filled(&mut self, out: &TensorIr, number: Number) -> Result<(), ExchangeError> {
        let sizes = self.sizes(out);
        let shape = self.shape(&sizes, false);
        self.set(out, "ConstantOfShape", &[&shape], vec![tensor("value", number, out.dtype)])
    }

    fn arg(&mut self, op_type: &str, x: &TensorIr, axis: usize, out: &TensorIr) -> Result<(), ExchangeError> {
        let x = self.operand(x);
        let name = self.graph.node(op_type, &[&x], vec![int("axis", axis)]);
        let name = self.cast(&name, DType::I64, out.dtype);
        self.alias(out, name)
    }

    fn reduced(&mut self, op_type: &str, x: &TensorIr, axis: usize, out: &TensorIr) -> Result<(), ExchangeError> {
        let (operand, reduced) = (self.operand(x), self.graph.integers(&[axis as i64]));
        self.set(out, op_type, &[&operand, &reduced], Vec::new())
    }

    /// `x - floor(x / y) y`, which has the sign of `y`.
    fn remainder(&mut self, x: &str, y: &str, out: &TensorIr) -> Result<(), ExchangeError> {
        if out.dtype.is_int() {
            return self.set(out, "Mod", &[x, y], Vec::new());
        }
        let ratio = self.graph.node("Div", &[x, y], Vec::new());
        let whole = self.graph.node("Floor", &[&ratio], Vec::new());
        let multiple = self.graph.node("Mul", &[&whole, y], Vec::new());
        self.set(out, "Sub", &[x, &multiple], Vec::new())
    }
}
