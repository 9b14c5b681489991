// The inference: an interpreter of ONNX's operations, https://onnx.ai/onnx/operators/.
//
// Every entry of OPERATIONS takes the operation's inputs (undefined where an optional one is left out) and its
// attributes, and returns its output, or a list of outputs. The exporter refuses operations that are not there.

/** Abramowitz and Stegun, 7.1.26: the error is below 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  const value = 1 - sum * Math.exp(-x * x);
  return x < 0 ? -value : value;
}

/** Numbers to the nearest integer, halves to the even one. */
function roundedToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below & 1) : Math.round(x);
}

const add = (a, b) => a + b;

const larger = (a, b) => (a > b || a !== a ? a : b);

const smaller = (a, b) => (a < b || a !== a ? a : b);

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** Where the first number of each row is that no other is `better` than. */
function place([x], { axis = 0, keepdims = 1 }, better) {
  const along = axisOf(axis, x.shape.length), { kept, rows, length } = rowsAlong(x, [along]), data = rows.data;
  const places = new Int32Array(data.length / length).map((_, row) => {
    let best = 0;
    for (let i = 1; i < length; i++) if (better(data[row * length + i], data[row * length + best])) best = i;
    return best;
  });
  const flat = x.shape.map((size, axis) => (axis === along ? 1 : size));
  return tensor(keepdims ? flat : kept.map((axis) => x.shape[axis]), places);
}

const TYPES = { 1: Float32Array, 2: Uint8Array, 9: Uint8Array, 10: Float32Array, 11: Float32Array };

// One line of two spaces and a name begins each: the exporter looks for it.
const OPERATIONS = {
  Identity([x]) { return x; },
  Relu([x]) {
    const from = x.data, to = new Float32Array(from.length);
    for (let i = 0; i < from.length; i++) to[i] = from[i] < 0 ? 0 : from[i];
    return tensor(x.shape, to);
  },
  Abs([x]) { return each(x, Math.abs); },
  Acos([x]) { return each(x, Math.acos); },
  Acosh([x]) { return each(x, Math.acosh); },
  Asin([x]) { return each(x, Math.asin); },
  Asinh([x]) { return each(x, Math.asinh); },
  Atan([x]) { return each(x, Math.atan); },
  Atanh([x]) { return each(x, Math.atanh); },
  Ceil([x]) { return each(x, Math.ceil); },
  Cos([x]) { return each(x, Math.cos); },
  Cosh([x]) { return each(x, Math.cosh); },
  Elu([x], { alpha = 1 }) { return each(x, (v) => (v < 0 ? alpha * Math.expm1(v) : v)); },
  Erf([x]) { return each(x, erf); },
  Exp([x]) { return each(x, Math.exp); },
  Floor([x]) { return each(x, Math.floor); },
  HardSigmoid([x], { alpha = 0.2, beta = 0.5 }) { return each(x, (v) => Math.max(0, Math.min(1, alpha * v + beta))); },
  HardSwish([x]) { return each(x, (v) => v * Math.max(0, Math.min(1, v / 6 + 0.5))); },
  IsInf([x]) { return each(x, (v) => Math.abs(v) === Infinity, Uint8Array); },
  IsNaN([x]) { return each(x, Number.isNaN, Uint8Array); },
  LeakyRelu([x], { alpha = 0.01 }) { return each(x, (v) => (v < 0 ? alpha * v : v)); },
  Log([x]) { return each(x, Math.log); },
  Neg([x]) { return each(x, (v) => -v); },
  Not([x]) { return each(x, (v) => !v); },
  Reciprocal([x]) { return each(x, (v) => 1 / v); },
  Round([x]) { return each(x, roundedToEven); },
  Sigmoid([x]) { return each(x, sigmoid); },
  Sign([x]) { return each(x, Math.sign); },
  Sin([x]) { return each(x, Math.sin); },
  Sinh([x]) { return each(x, Math.sinh); },
  Softplus([x]) { return each(x, (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)))); },
  Sqrt([x]) { return each(x, Math.sqrt); },
  Tan([x]) { return each(x, Math.tan); },
  Tanh([x]) { return each(x, Math.tanh); },
  Gelu([x], { approximate = "none" }) {
    const inner = Math.sqrt(2 / Math.PI);
    if (approximate === "none") return each(x, (v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2)));
    return each(x, (v) => 0.5 * v * (1 + Math.tanh(inner * (v + 0.044715 * v * v * v))));
  },
  Clip([x, least, most]) {
    const low = least ? least.data[0] : -Infinity, high = most ? most.data[0] : Infinity;
    return each(x, (v) => smaller(larger(v, low), high));
  },
  Cast([x], { to }) {
    const Kind = TYPES[to] ?? Int32Array;
    return to === 9 ? each(x, (v) => v !== 0, Kind) : tensor(x.shape, Kind.from(x.data));
  },

  Add([a, b]) { return pairs(a, b, add); },
  Div([a, b]) { return pairs(a, b, (p, q) => p / q); },
  // Integers round towards negative infinity, numbers (`fmod`) towards zero.
  Mod([a, b], { fmod = 0 }) { return pairs(a, b, fmod ? (p, q) => p % q : (p, q) => ((p % q) + q) % q); },
  Mul([a, b]) { return pairs(a, b, (p, q) => p * q); },
  Pow([a, b]) { return pairs(a, b, (p, q) => p ** q); },
  Sub([a, b]) { return pairs(a, b, (p, q) => p - q); },
  PRelu([a, b]) { return pairs(a, b, (p, q) => (p < 0 ? p * q : p)); },
  Max(list) { return list.reduce((a, b) => pairs(a, b, larger)); },
  Min(list) { return list.reduce((a, b) => pairs(a, b, smaller)); },
  And([a, b]) { return pairs(a, b, (p, q) => p && q); },
  Or([a, b]) { return pairs(a, b, (p, q) => p || q); },
  Xor([a, b]) { return pairs(a, b, (p, q) => p !== q); },
  Equal([a, b]) { return pairs(a, b, (p, q) => p === q, Uint8Array); },
  Greater([a, b]) { return pairs(a, b, (p, q) => p > q, Uint8Array); },
  GreaterOrEqual([a, b]) { return pairs(a, b, (p, q) => p >= q, Uint8Array); },
  Less([a, b]) { return pairs(a, b, (p, q) => p < q, Uint8Array); },
  LessOrEqual([a, b]) { return pairs(a, b, (p, q) => p <= q, Uint8Array); },
  Where([choice, a, b]) {
    const shape = broadcast([choice.shape, a.shape, b.shape]);
    const [c, p, q] = [choice, a, b].map((x) => strided(x, shape, stridesWithin(x.shape, shape)));
    p.data.forEach((_, i) => { if (!c.data[i]) p.data[i] = q.data[i]; });
    return p;
  },

  Conv([x, weight, bias], attributes) {
    const { pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1 } = attributes;
    const [batch, inputs, height, width] = x.shape, [outputs, channels, ...kernel] = weight.shape;
    const places = placesOf([height, width], kernel, pads, strides, dilations), pixels = places[0] * places[1];
    const out = floats([batch, outputs, ...places]), of = outputs / group, length = channels * kernel[0] * kernel[1];
    for (let image = 0; image < batch; image++) {
      for (let g = 0; g < group; g++) {
        const start = (image * inputs + g * channels) * height * width;
        const rows = patches(x.data, start, channels, [height, width], kernel, pads, strides, dilations, places);
        const to = (image * outputs + g * of) * pixels;
        products(weight.data, g * of * length, rows, 0, out.data, to, of, pixels, length, bias?.data, g * of);
      }
    }
    return out;
  },
  MatMul([a, b]) {
    const left = a.shape.length === 1 ? [1, ...a.shape] : a.shape;
    const right = b.shape.length === 1 ? [...b.shape, 1] : b.shape;
    const [m, k] = left.slice(-2), n = right.at(-1), outer = broadcast([left.slice(0, -2), right.slice(0, -2)]);
    const whole = (x, shape) => {
      const all = [...outer, ...shape.slice(-2)];
      return count(shape.slice(0, -2)) === 1 ? x.data : strided(x, all, stridesWithin(shape, all)).data;
    };
    const data = matrixProduct(whole(a, left), whole(b, right), count(outer), m, k, n);
    return tensor([...outer, ...(a.shape.length === 1 ? [] : [m]), ...(b.shape.length === 1 ? [] : [n])], data);
  },
  Gemm([a, b, c], { alpha = 1, beta = 1, transA = 0, transB = 0 }) {
    const left = transA ? transposed(a, [1, 0]) : a, [m, k] = left.shape, n = b.shape[transB ? 0 : 1];
    let out = floats([m, n]);
    if (transB) products(left.data, 0, b.data, 0, out.data, 0, m, n, k, null, 0);
    else out = tensor([m, n], matrixProduct(left.data, b.data, 1, m, k, n));
    if (alpha !== 1) out = each(out, (v) => alpha * v);
    return c ? pairs(out, c, (p, q) => p + beta * q) : out;
  },

  MaxPool([x], attributes) { return pooled(x, attributes, -Infinity, larger, (most) => most); },
  AveragePool([x], attributes) { return pooled(x, attributes, 0, add, (sum, pixels) => sum / pixels); },
  GlobalAveragePool([x]) { return OPERATIONS.ReduceMean([x], { axes: range(x.shape.length).slice(2) }); },
  GlobalMaxPool([x]) { return OPERATIONS.ReduceMax([x], { axes: range(x.shape.length).slice(2) }); },
  ArgMax(inputs, attributes) { return place(inputs, attributes, (value, best) => value > best); },
  ArgMin(inputs, attributes) { return place(inputs, attributes, (value, best) => value < best); },
  ReduceMax(inputs, attributes) { return reduced(inputs, attributes, -Infinity, larger); },
  ReduceMean(inputs, attributes) { return reduced(inputs, attributes, 0, add, (sum, length) => sum / length); },
  ReduceMin(inputs, attributes) { return reduced(inputs, attributes, Infinity, smaller); },
  ReduceProd(inputs, attributes) { return reduced(inputs, attributes, 1, (p, q) => p * q); },
  ReduceSum(inputs, attributes) { return reduced(inputs, attributes, 0, add); },
  ReduceSumSquare(inputs, attributes) { return reduced(inputs, attributes, 0, (sum, v) => sum + v * v); },
  ReduceL2(inputs, attributes) { return reduced(inputs, attributes, 0, (sum, v) => sum + v * v, Math.sqrt); },

  Softmax([x], { axis = -1 }) {
    return eachAlong(x, [axisOf(axis, x.shape.length)], (from, to, start, length) => {
      let most = -Infinity, sum = 0;
      for (let i = start; i < start + length; i++) most = larger(most, from[i]);
      for (let i = start; i < start + length; i++) sum += to[i] = Math.exp(from[i] - most);
      for (let i = start; i < start + length; i++) to[i] /= sum;
    });
  },
  LogSoftmax([x], { axis = -1 }) {
    return eachAlong(x, [axisOf(axis, x.shape.length)], (from, to, start, length) => {
      let most = -Infinity, sum = 0;
      for (let i = start; i < start + length; i++) most = larger(most, from[i]);
      for (let i = start; i < start + length; i++) sum += Math.exp(from[i] - most);
      for (let i = start; i < start + length; i++) to[i] = from[i] - most - Math.log(sum);
    });
  },
  BatchNormalization([x, scale, shift, mean, variance], { epsilon = 1e-5 }) {
    const out = floats(x.shape), channels = x.shape[1], pixels = count(x.shape.slice(2));
    for (let plane = 0; plane < x.shape[0] * channels; plane++) {
      const channel = plane % channels, factor = scale.data[channel] / Math.sqrt(variance.data[channel] + epsilon);
      const center = mean.data[channel], add = shift.data[channel];
      for (let i = plane * pixels; i < (plane + 1) * pixels; i++) out.data[i] = (x.data[i] - center) * factor + add;
    }
    return out;
  },
  InstanceNormalization([x, scale, shift], { epsilon = 1e-5 }) {
    const out = floats(x.shape), channels = x.shape[1], pixels = count(x.shape.slice(2));
    for (let plane = 0; plane < x.shape[0] * channels; plane++) {
      const [mean, variance] = moments(x.data, plane * pixels, pixels), channel = plane % channels;
      const factor = scale.data[channel] / Math.sqrt(variance + epsilon);
      const add = shift.data[channel];
      for (let i = plane * pixels; i < (plane + 1) * pixels; i++) out.data[i] = (x.data[i] - mean) * factor + add;
    }
    return out;
  },
  LayerNormalization([x, scale, shift], { axis = -1, epsilon = 1e-5 }) {
    const axes = range(x.shape.length).slice(axisOf(axis, x.shape.length));
    const normal = eachAlong(x, axes, (from, to, start, length) => {
      const [mean, variance] = moments(from, start, length), factor = 1 / Math.sqrt(variance + epsilon);
      for (let i = start; i < start + length; i++) to[i] = (from[i] - mean) * factor;
    });
    const scaled = pairs(normal, scale, (p, q) => p * q);
    return shift ? pairs(scaled, shift, add) : scaled;
  },

  Shape([x], { start = 0, end }) {
    const part = x.shape.slice(start, end);
    return tensor([part.length], Int32Array.from(part));
  },
  ConstantOfShape([shape], { value = 0 }) {
    const out = floats([...shape.data]);
    out.data.fill(value);
    return out;
  },
  Reshape([x, wanted], { allowzero = 0 }) {
    const shape = [...wanted.data].map((size, axis) => (size === 0 && !allowzero ? x.shape[axis] : size));
    const free = shape.indexOf(-1);
    if (free >= 0) shape[free] = x.data.length / -count(shape);
    if (count(shape) !== x.data.length) throw new Error(`${x.shape} cannot be reshaped to ${[...wanted.data]}`);
    return tensor(shape, x.data);
  },
  Flatten([x], { axis = 1 }) {
    const split = axisOf(axis, x.shape.length);
    return tensor([count(x.shape.slice(0, split)), count(x.shape.slice(split))], x.data);
  },
  Squeeze([x, given]) {
    const axes = given && [...given.data].map((axis) => axisOf(axis, x.shape.length));
    return tensor(x.shape.filter((size, axis) => (axes ? !axes.includes(axis) : size !== 1)), x.data);
  },
  Unsqueeze([x, given]) {
    const rank = x.shape.length + given.data.length, axes = [...given.data].map((axis) => axisOf(axis, rank));
    const sizes = [...x.shape];
    return tensor(range(rank).map((axis) => (axes.includes(axis) ? 1 : sizes.shift())), x.data);
  },
  Transpose([x], { perm = range(x.shape.length).reverse() }) { return transposed(x, perm); },
  Expand([x, wanted]) {
    const shape = broadcast([x.shape, [...wanted.data]]);
    return strided(x, shape, stridesWithin(x.shape, shape));
  },
  Tile([x, repeats]) {
    return picked(x, x.shape.map((size, axis) => range(size * repeats.data[axis]).map((index) => index % size)));
  },
  Concat(list, { axis }) {
    const along = axisOf(axis, list[0].shape.length), shape = [...list[0].shape];
    shape[along] = list.reduce((sum, x) => sum + x.shape[along], 0);
    const out = alike(list[0], shape), outer = count(shape.slice(0, along));
    for (let row = 0, at = 0; row < outer; row++) {
      for (const x of list) {
        const length = x.data.length / outer;
        out.data.set(x.data.subarray(row * length, (row + 1) * length), at);
        at += length;
      }
    }
    return out;
  },
  Split([x, given], { axis = 0, num_outputs = 1 }) {
    const along = axisOf(axis, x.shape.length), size = x.shape[along], part = Math.ceil(size / num_outputs);
    const sizes = given ? [...given.data] : range(num_outputs).map((index) => Math.min(part, size - index * part));
    const starts = sizes.map((_, index) => sizes.slice(0, index).reduce(add, 0));
    return sizes.map((size, index) => pickedAlong(x, { [along]: range(size).map((place) => starts[index] + place) }));
  },
  Slice([x, starts, ends, given, steps]) {
    const lists = {};
    starts.data.forEach((start, index) => {
      const axis = given ? axisOf(given.data[index], x.shape.length) : index, step = steps ? steps.data[index] : 1;
      const size = x.shape[axis], within = (at, low, high) => Math.max(low, Math.min(high, at < 0 ? at + size : at));
      const [from, to] = step > 0 ? [within(start, 0, size), within(ends.data[index], 0, size)]
        : [within(start, -1, size - 1), within(ends.data[index], -1, size - 1)];
      lists[axis] = range(Math.max(0, Math.ceil((to - from) / step))).map((place) => from + place * step);
    });
    return pickedAlong(x, lists);
  },
  Gather([x, indices], { axis = 0 }) {
    const along = axisOf(axis, x.shape.length), size = x.shape[along];
    const out = pickedAlong(x, { [along]: [...indices.data].map((index) => axisOf(index, size)) });
    return tensor([...x.shape.slice(0, along), ...indices.shape, ...x.shape.slice(along + 1)], out.data);
  },
  Pad([x, pads, value, given], { mode = "constant" }) {
    const axes = given ? [...given.data] : range(x.shape.length), lists = {};
    axes.forEach((axis, index) => {
      const along = axisOf(axis, x.shape.length), size = x.shape[along], before = pads.data[index];
      lists[along] = range(before + size + pads.data[index + axes.length]).map((place) => {
        const at = place - before;
        if (at >= 0 && at < size) return at;
        if (mode === "edge") return at < 0 ? 0 : size - 1;
        if (mode === "wrap") return ((at % size) + size) % size;
        return mode === "reflect" ? (at < 0 ? -at : 2 * (size - 1) - at) : -1;
      });
    });
    return pickedAlong(x, lists, value ? value.data[0] : 0);
  },
};

/**
 * A function of pixels, bytes of a shape [batch, channels, height, width], that returns the network's outputs by name.
 *
 * `network` is { input, outputs: { name: value }, constants: { value: { type, shape, at | numbers } }, operations:
 * [{ operation, inputs, outputs, attributes }] }, and `weights` the bytes in which a constant's numbers begin at `at`.
 */
function networkOf(network, weights) {
  const kinds = { f32: Float32Array, i32: Int32Array, u8: Uint8Array };
  const constants = Object.entries(network.constants).map(([value, { type, shape, at, numbers }]) => {
    const Kind = kinds[type];
    const data = numbers ? Kind.from(numbers) : new Kind(weights.buffer, weights.byteOffset + at, count(shape));
    return [value, tensor(shape, data)];
  });
  return (pixels, shape) => {
    const values = new Map(constants).set(network.input, tensor(shape, pixels));
    for (const { operation, inputs, outputs, attributes = {} } of network.operations) {
      const results = OPERATIONS[operation](inputs.map((value) => values.get(value)), attributes);
      [results].flat().forEach((result, index) => values.set(outputs[index], result));
    }
    return Object.fromEntries(Object.entries(network.outputs).map(([name, value]) => [name, values.get(value)]));
  };
}

/** The bytes that base64 stands for. */
function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
