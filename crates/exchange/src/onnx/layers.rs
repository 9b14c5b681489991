//! Layers and activations of Burn as operations of ONNX.

use burn::backend::ir::{
    ActivationOperationIr, AttentionOpIr, InterpolateModeIr, InterpolateOpIr, LinearOpIr, ModuleOperationIr,
    OperationIr, TensorIr,
};

use super::{
    graph::{Number, float, int, ints, text},
    lower::Lowering,
    proto::Attribute,
    table::number,
};
use crate::ExchangeError;

impl Lowering<'_> {
    pub(super) fn activation(
        &mut self,
        it: &ActivationOperationIr,
        operation: &OperationIr,
    ) -> Result<(), ExchangeError> {
        match it {
            ActivationOperationIr::LeakyRelu(it) => {
                self.put(&it.out, "LeakyRelu", &[&it.lhs], vec![float("alpha", number(it.rhs).float)])
            }
            ActivationOperationIr::Gelu(it) => {
                // `Gelu` came with operator set 20.
                let x = self.operand(&it.input);
                let [root, one, half] = [std::f64::consts::FRAC_1_SQRT_2, 1.0, 0.5]
                    .map(|value| self.graph.number(Number::float(value), it.input.dtype));
                let scaled = self.graph.node("Mul", &[&x, &root], Vec::new());
                let erf = self.graph.node("Erf", &[&scaled], Vec::new());
                let twice = self.graph.node("Add", &[&erf, &one], Vec::new());
                let halved = self.graph.node("Mul", &[&x, &half], Vec::new());
                self.set(&it.out, "Mul", &[&halved, &twice], Vec::new())
            }
            ActivationOperationIr::HardSigmoid(it) => {
                let attributes = [("alpha", it.alpha), ("beta", it.beta)];
                let attributes = attributes.map(|(name, value)| float(name, number(value).float)).to_vec();
                self.put(&it.out, "HardSigmoid", &[&it.tensor], attributes)
            }
            ActivationOperationIr::LogSigmoid(it) => {
                let x = self.operand(&it.input);
                let negative = self.graph.node("Neg", &[&x], Vec::new());
                let loss = self.graph.node("Softplus", &[&negative], Vec::new());
                self.set(&it.out, "Neg", &[&loss], Vec::new())
            }
            ActivationOperationIr::Softmax(it) => {
                self.put(&it.out, "Softmax", &[&it.input], vec![int("axis", it.axis)])
            }
            ActivationOperationIr::LogSoftmax(it) => {
                self.put(&it.out, "LogSoftmax", &[&it.input], vec![int("axis", it.axis)])
            }
            ActivationOperationIr::Softmin(it) => {
                let x = self.operand(&it.input);
                let negative = self.graph.node("Neg", &[&x], Vec::new());
                self.set(&it.out, "Softmax", &[&negative], vec![int("axis", it.axis)])
            }
            _ => Err(self.unknown(operation)),
        }
    }

    pub(super) fn module(&mut self, it: &ModuleOperationIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        match it {
            ModuleOperationIr::BatchNorm(it) => {
                let x = self.operand(&it.x);
                let roles = [
                    (&it.gamma, "weight"),
                    (&it.beta, "bias"),
                    (&it.mean, "running_mean"),
                    (&it.variance, "running_var"),
                ];
                let [gamma, beta, mean, variance] = roles.map(|(tensor, role)| self.operand_as(tensor, role));
                let epsilon = vec![float("epsilon", number(it.epsilon).float)];
                self.set(&it.out, "BatchNormalization", &[&x, &gamma, &beta, &mean, &variance], epsilon)
            }
            ModuleOperationIr::LayerNorm(it) => {
                let operands = [Some(&it.input), Some(&it.gamma), it.beta.as_ref()];
                let attributes = vec![float("epsilon", number(it.epsilon).float)];
                self.layer("LayerNormalization", operands, attributes, &it.out)
            }
            ModuleOperationIr::Linear(it) => self.linear(it),
            ModuleOperationIr::Embedding(it) => self.put(&it.out, "Gather", &[&it.weights, &it.indices], Vec::new()),
            ModuleOperationIr::Conv1d(it) => {
                let options = conv(&it.options.stride, &it.options.dilation, &it.options.padding, it.options.groups);
                self.layer("Conv", [Some(&it.x), Some(&it.weight), it.bias.as_ref()], options, &it.out)
            }
            ModuleOperationIr::Conv2d(it) => {
                let options = conv(&it.options.stride, &it.options.dilation, &it.options.padding, it.options.groups);
                self.layer("Conv", [Some(&it.x), Some(&it.weight), it.bias.as_ref()], options, &it.out)
            }
            ModuleOperationIr::ConvTranspose1d(it) => {
                let padding = it.options.padding.map(|padding| (padding, padding));
                let mut options = conv(&it.options.stride, &it.options.dilation, &padding, it.options.groups);
                options.push(ints("output_padding", &it.options.padding_out));
                self.layer("ConvTranspose", [Some(&it.x), Some(&it.weight), it.bias.as_ref()], options, &it.out)
            }
            ModuleOperationIr::ConvTranspose2d(it) => {
                let padding = it.options.padding.map(|padding| (padding, padding));
                let mut options = conv(&it.options.stride, &it.options.dilation, &padding, it.options.groups);
                options.push(ints("output_padding", &it.options.padding_out));
                self.layer("ConvTranspose", [Some(&it.x), Some(&it.weight), it.bias.as_ref()], options, &it.out)
            }
            ModuleOperationIr::MaxPool1d(it) => {
                let pool = [it.kernel_size, it.stride, it.padding, it.dilation].map(|value| [value]);
                self.max_pool(&it.x, &pool.each_ref().map(<[usize; 1]>::as_slice), &it.out)
            }
            ModuleOperationIr::MaxPool1dWithIndices(it) => {
                let pool = [it.kernel_size, it.stride, it.padding, it.dilation].map(|value| [value]);
                self.max_pool(&it.x, &pool.each_ref().map(<[usize; 1]>::as_slice), &it.out)
            }
            ModuleOperationIr::MaxPool2d(it) => {
                self.max_pool(&it.x, &[&it.kernel_size, &it.stride, &it.padding, &it.dilation], &it.out)
            }
            ModuleOperationIr::MaxPool2dWithIndices(it) => {
                self.max_pool(&it.x, &[&it.kernel_size, &it.stride, &it.padding, &it.dilation], &it.out)
            }
            ModuleOperationIr::AvgPool1d(it) => {
                let pool = [it.kernel_size, it.stride, it.padding].map(|value| [value]);
                self.average_pool(&it.x, &pool.each_ref().map(<[usize; 1]>::as_slice), it.count_include_pad, &it.out)
            }
            ModuleOperationIr::AvgPool2d(it) => {
                let pool: [&[usize]; 3] = [&it.kernel_size, &it.stride, &it.padding];
                self.average_pool(&it.x, &pool, it.count_include_pad, &it.out)
            }
            ModuleOperationIr::AdaptiveAvgPool1d(it) => self.adaptive_pool(&it.x, &it.out),
            ModuleOperationIr::AdaptiveAvgPool2d(it) => self.adaptive_pool(&it.x, &it.out),
            ModuleOperationIr::Interpolate(it) => self.interpolated(it, operation),
            ModuleOperationIr::Attention(it) => self.attention(it, operation),
            _ => Err(self.unknown(operation)),
        }
    }

    /// Adds a layer's operation, with its weight, and its bias if it has one.
    fn layer(
        &mut self,
        op_type: &str,
        [x, weight, bias]: [Option<&TensorIr>; 3],
        options: Vec<Attribute>,
        out: &TensorIr,
    ) -> Result<(), ExchangeError> {
        let roles = [(x, ""), (weight, "weight"), (bias, "bias")];
        let names: Vec<_> = roles.iter().filter_map(|(tensor, role)| Some(self.operand_as((*tensor)?, role))).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        self.set(out, op_type, &names, options)
    }

    /// `x W + b`, with the weight as files have it.
    fn linear(&mut self, it: &LinearOpIr) -> Result<(), ExchangeError> {
        let x = self.operand(&it.x);
        let (weight, is_turned) = self.weight(&it.weight, "weight");
        if it.x.shape.num_dims() == 2 && !weight.is_empty() {
            let bias = it.bias.as_ref().map(|bias| self.operand_as(bias, "bias"));
            let names: Vec<&str> = [&*x, &*weight].into_iter().chain(bias.as_deref()).collect();
            return self.set(&it.out, "Gemm", &names, vec![int("transB", usize::from(is_turned))]);
        }
        let weight = self.operand_as(&it.weight, "weight");
        let product = self.graph.node("MatMul", &[&x, &weight], Vec::new());
        match &it.bias {
            Some(bias) => {
                let bias = self.operand_as(bias, "bias");
                self.set(&it.out, "Add", &[&product, &bias], Vec::new())
            }
            None => self.alias(&it.out, product),
        }
    }

    /// Max pooling by kernel, stride, padding and dilation. Where the last pool reaches beyond the padding, that is
    /// made as wide: what is outside is never the largest.
    fn max_pool(
        &mut self,
        x: &TensorIr,
        [kernel, stride, padding, dilation]: &[&[usize]; 4],
        out: &TensorIr,
    ) -> Result<(), ExchangeError> {
        let ends = (0..kernel.len()).map(|axis| {
            let reach = (out.shape[axis + 2] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1;
            padding[axis].max(reach.saturating_sub(x.shape[axis + 2] + padding[axis]))
        });
        let pads: Vec<_> = padding.iter().copied().chain(ends).collect();
        let shape = vec![ints("kernel_shape", kernel), ints("strides", stride), ints("dilations", dilation)];
        self.put(out, "MaxPool", &[x], [shape, vec![ints("pads", &pads)]].concat())
    }

    /// Average pooling by kernel, stride and padding.
    fn average_pool(
        &mut self,
        x: &TensorIr,
        [kernel, stride, padding]: &[&[usize]; 3],
        counts_padding: bool,
        out: &TensorIr,
    ) -> Result<(), ExchangeError> {
        let (sizes, places) = (&x.shape[2..], &out.shape[2..]);
        let reach = |axis: usize| (places[axis] - 1) * stride[axis] + kernel[axis];
        if (0..kernel.len()).all(|axis| reach(axis) <= sizes[axis] + 2 * padding[axis]) {
            let pads = [*padding, *padding].concat();
            let shape = vec![ints("kernel_shape", kernel), ints("strides", stride), ints("pads", &pads)];
            let counts = int("count_include_pad", usize::from(counts_padding));
            return self.put(out, "AveragePool", &[x], [shape, vec![counts]].concat());
        }
        // A last pool that reaches beyond the padding: ONNX counts differently what is outside.
        let windows = |axis: usize| -> Vec<(usize, usize, usize)> {
            let (size, padding) = (sizes[axis], padding[axis]);
            let window = |place: usize| {
                let (start, end) =
                    (place * stride[axis], (place * stride[axis] + kernel[axis]).min(size + 2 * padding));
                let inside = (start.saturating_sub(padding), end.saturating_sub(padding).min(size));
                (inside.0, inside.1, if counts_padding { end - start } else { inside.1 - inside.0 })
            };
            (0..places[axis]).map(window).collect()
        };
        let windows: Vec<_> = (0..kernel.len()).map(windows).collect();
        self.averaged(x, &windows, out)
    }

    /// Pooling to a given size, in which pools may overlap and differ by a pixel.
    fn adaptive_pool(&mut self, x: &TensorIr, out: &TensorIr) -> Result<(), ExchangeError> {
        let (sizes, places) = (&x.shape[2..], &out.shape[2..]);
        let pairs: Vec<_> = sizes.iter().copied().zip(places.iter().copied()).collect();
        if pairs.iter().all(|(size, places)| size.is_multiple_of(*places)) {
            let kernel: Vec<_> = pairs.iter().map(|(size, places)| size / places).collect();
            return self.put(out, "AveragePool", &[x], vec![ints("kernel_shape", &kernel), ints("strides", &kernel)]);
        }
        let windows = |&(size, places): &(usize, usize)| {
            let window = |place: usize| (place * size / places, ((place + 1) * size).div_ceil(places));
            (0..places).map(window).map(|(start, end)| (start, end, end - start)).collect()
        };
        let windows: Vec<Vec<_>> = pairs.iter().map(windows).collect();
        self.averaged(x, &windows, out)
    }

    /// Sums over windows (start, end, divisor) of each of the last axes, by matrices.
    fn averaged(
        &mut self,
        x: &TensorIr,
        windows: &[Vec<(usize, usize, usize)>],
        out: &TensorIr,
    ) -> Result<(), ExchangeError> {
        let mut product = self.operand(x);
        let axes = windows.iter().zip(&x.shape[2..]).enumerate();
        for (axis, (windows, &size)) in axes {
            let is_last = axis + 1 == x.shape.num_dims() - 2;
            let weight = |place: usize, at: usize| {
                let (start, end, divisor) = windows[place];
                if (start..end).contains(&at) { 1.0 / divisor as f32 } else { 0.0 }
            };
            let places = windows.len();
            product = if is_last {
                let numbers: Vec<_> = (0..size * places).map(|index| weight(index % places, index / places)).collect();
                let matrix = self.graph.floats(&[size, places], &numbers);
                self.graph.node("MatMul", &[&product, &matrix], Vec::new())
            } else {
                let numbers: Vec<_> = (0..size * places).map(|index| weight(index / size, index % size)).collect();
                let matrix = self.graph.floats(&[places, size], &numbers);
                self.graph.node("MatMul", &[&matrix, &product], Vec::new())
            };
        }
        self.alias(out, product)
    }

    fn interpolated(&mut self, it: &InterpolateOpIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        let mode = match it.options.mode {
            InterpolateModeIr::Nearest => "nearest",
            InterpolateModeIr::Bilinear => "linear",
            InterpolateModeIr::Bicubic => "cubic",
            _ => return Err(self.unknown(operation)),
        };
        let places = match (mode, it.options.align_corners) {
            ("nearest", _) => "asymmetric",
            (_, true) => "align_corners",
            (_, false) => "half_pixel",
        };
        let mut options =
            vec![text("mode", mode), text("coordinate_transformation_mode", places), ints("axes", &[2, 3])];
        options.push(text("nearest_mode", "floor"));
        options.push(float("cubic_coeff_a", -0.75));
        let sizes = it.output_size.map(|size| size as i64);
        let (x, sizes) = (self.operand(&it.x), self.graph.integers(&sizes));
        self.set(&it.out, "Resize", &[&x, "", "", &sizes], options)
    }

    /// `softmax(q kᵀ scale) v`, with a mask that says what is not seen, and a bias.
    fn attention(&mut self, it: &AttentionOpIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        if it.options.is_causal || it.options.softcap.is_some() {
            return Err(self.unknown(operation));
        }
        let features = it.query.shape[it.query.shape.num_dims() - 1] as f64;
        let scale = it.options.scale.map_or_else(|| Number::float(1.0 / features.sqrt()), number);
        let scale = self.graph.number(scale, it.query.dtype);
        let [query, key, value] = [&it.query, &it.key, &it.value].map(|operand| self.operand(operand));
        let turned = self.graph.node("Transpose", &[&key], vec![ints("perm", &[0, 1, 3, 2])]);
        let scores = self.graph.node("MatMul", &[&query, &turned], Vec::new());
        let mut scores = self.graph.node("Mul", &[&scores, &scale], Vec::new());
        if let Some(mask) = &it.mask {
            let (mask, never) =
                (self.operand(mask), self.graph.number(Number::float(f64::NEG_INFINITY), it.query.dtype));
            scores = self.graph.node("Where", &[&mask, &never, &scores], Vec::new());
        }
        if let Some(bias) = &it.attn_bias {
            let bias = self.operand(bias);
            scores = self.graph.node("Add", &[&scores, &bias], Vec::new());
        }
        let weights = self.graph.node("Softmax", &[&scores], vec![int("axis", 3)]);
        self.set(&it.out, "MatMul", &[&weights, &value], Vec::new())
    }
}

/// The options of a convolution.
fn conv(stride: &[usize], dilation: &[usize], padding: &[(usize, usize)], groups: usize) -> Vec<Attribute> {
    let pads: Vec<_> = padding.iter().map(|pad| pad.0).chain(padding.iter().map(|pad| pad.1)).collect();
    vec![ints("strides", stride), ints("dilations", dilation), ints("pads", &pads), int("group", groups)]
}
