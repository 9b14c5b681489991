// Tensors: shapes, broadcasting, rows, products and patches, over typed arrays.
//
// A tensor is { shape, data }, data a Float32Array for numbers, an Int32Array for integers, a Uint8Array for bytes and
// truth values.

"use strict";

const count = (shape) => shape.reduce((product, size) => product * size, 1);

const tensor = (shape, data) => ({ shape, data });

const floats = (shape) => tensor(shape, new Float32Array(count(shape)));

const alike = (x, shape) => tensor(shape, new x.data.constructor(count(shape)));

/** Steps from one index to the next along each axis, in elements. */
function stridesOf(shape) {
  const strides = new Array(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) strides[axis] = strides[axis + 1] * shape[axis + 1];
  return strides;
}

const axisOf = (axis, rank) => (axis < 0 ? axis + rank : axis);

/** Calls `visit(start, places)` for each row along the last axis: its start in the output, and in inputs. */
function eachRow(shape, strides, visit) {
  const outer = shape.slice(0, -1), index = new Array(outer.length).fill(0), places = strides.map(() => 0);
  const length = shape.length ? shape[shape.length - 1] : 1, total = count(shape);
  for (let start = 0; start < total; start += length) {
    visit(start, places);
    for (let axis = outer.length - 1; axis >= 0; axis--) {
      index[axis]++;
      for (let which = 0; which < places.length; which++) places[which] += strides[which][axis];
      if (index[axis] < outer[axis]) break;
      for (let which = 0; which < places.length; which++) places[which] -= strides[which][axis] * outer[axis];
      index[axis] = 0;
    }
  }
}

/** A copy of `x` read with these strides. */
function strided(x, shape, strides) {
  const out = alike(x, shape), from = x.data, to = out.data;
  const length = shape.length ? shape[shape.length - 1] : 1, step = strides.length ? strides[strides.length - 1] : 1;
  eachRow(shape, [strides], (start, [place]) => {
    for (let i = 0, at = place; i < length; i++, at += step) to[start + i] = from[at];
  });
  return out;
}

/** The elements whose index along each axis is in that axis's list; `fill` where the list has -1. */
function picked(x, lists, fill = 0) {
  const out = alike(x, lists.map((list) => list.length)), strides = stridesOf(x.shape), from = x.data, to = out.data;
  const last = lists.length - 1, total = to.length, length = lists[last].length, index = new Array(last + 1).fill(0);
  for (let start = 0; start < total; start += length) {
    let place = 0, outside = false;
    for (let axis = 0; axis < last; axis++) {
      const at = lists[axis][index[axis]];
      outside ||= at < 0;
      place += at * strides[axis];
    }
    for (let i = 0; i < length; i++) {
      const at = lists[last][i];
      to[start + i] = outside || at < 0 ? fill : from[place + at];
    }
    for (let axis = last - 1; axis >= 0 && ++index[axis] === lists[axis].length; axis--) index[axis] = 0;
  }
  return out;
}

const range = (length) => Array.from({ length }, (_, index) => index);

/** `picked` along some axes, as { axis: list }. */
const pickedAlong = (x, lists, fill) => picked(x, x.shape.map((size, axis) => lists[axis] ?? range(size)), fill);

function transposed(x, order) {
  const strides = stridesOf(x.shape);
  return strided(x, order.map((axis) => x.shape[axis]), order.map((axis) => strides[axis]));
}

/** The shape that tensors of these shapes are broadcast to. */
function broadcast(shapes) {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return range(rank).map((axis) => {
    const sizes = shapes.map((shape) => shape[shape.length - rank + axis] ?? 1);
    const size = sizes.find((size) => size !== 1) ?? 1;
    if (sizes.some((other) => other !== 1 && other !== size)) throw new Error(`${shapes.join(" and ")} do not fit`);
    return size;
  });
}

/** Strides of `shape` within `whole`: none along axes that are broadcast. */
function stridesWithin(shape, whole) {
  const strides = stridesOf(shape), missing = whole.length - shape.length;
  return whole.map((_, axis) => (axis < missing || shape[axis - missing] === 1 ? 0 : strides[axis - missing]));
}

/** `of` each element. */
function each(x, of, Kind = x.data.constructor) {
  const from = x.data, to = new Kind(from.length);
  for (let i = 0; i < from.length; i++) to[i] = of(from[i]);
  return tensor(x.shape, to);
}

/** `of` each two elements, broadcast. */
function pairs(a, b, of, Kind = a.data.constructor) {
  const shape = broadcast([a.shape, b.shape]), length = shape.length ? shape[shape.length - 1] : 1;
  const out = tensor(shape, new Kind(count(shape))), [first, second, to] = [a.data, b.data, out.data];
  if (first.length === to.length && second.length === to.length) {
    for (let i = 0; i < to.length; i++) to[i] = of(first[i], second[i]);
    return out;
  }
  const strides = [a, b].map((x) => stridesWithin(x.shape, shape)), [p, q] = strides.map((list) => list.at(-1) ?? 0);
  eachRow(shape, strides, (start, [at, other]) => {
    for (let i = 0; i < length; i++) to[start + i] = of(first[at + i * p], second[other + i * q]);
  });
  return out;
}

/** Rows along `axes`, which are moved behind the `kept` others: `rows` has their numbers, `length` of them each. */
function rowsAlong(x, axes) {
  const kept = range(x.shape.length).filter((axis) => !axes.includes(axis)), order = [...kept, ...axes];
  const rows = order.every((axis, place) => axis === place) ? x : transposed(x, order);
  return { kept, order, rows, length: count(axes.map((axis) => x.shape[axis])) };
}

/** One number of each row along the axes: `fold` them from `start`, then `finish(sum, length)`. */
function reduced([x, given], attributes, start, fold, finish) {
  const { axes = given ? [...given.data] : [], keepdims = 1, noop_with_empty_axes = 0 } = attributes;
  if (!axes.length && noop_with_empty_axes) return x;
  const rank = x.shape.length;
  const along = axes.length ? axes.map((axis) => axisOf(axis, rank)).sort((a, b) => a - b) : range(rank);
  const { kept, rows, length } = rowsAlong(x, along), numbers = rows.data;
  const flat = x.shape.map((size, axis) => (along.includes(axis) ? 1 : size));
  const shape = keepdims ? flat : kept.map((axis) => x.shape[axis]);
  const out = alike(x, shape);
  for (let row = 0, at = 0; row < out.data.length; row++) {
    let sum = start;
    for (const end = at + length; at < end; at++) sum = fold(sum, numbers[at]);
    out.data[row] = finish ? finish(sum, length) : sum;
  }
  return out;
}

/** Each row along the axes as `change(from, to, start, length)` writes it. */
function eachAlong(x, axes, change) {
  const { order, rows, length } = rowsAlong(x, axes), out = alike(rows, rows.shape);
  for (let start = 0; start < out.data.length; start += length) change(rows.data, out.data, start, length);
  return rows === x ? out : transposed(out, order.map((_, axis) => order.indexOf(axis)));
}

/** Mean and variance of a row. */
function moments(numbers, start, length) {
  let mean = 0, variance = 0;
  for (let i = start; i < start + length; i++) mean += numbers[i];
  mean /= length;
  for (let i = start; i < start + length; i++) variance += (numbers[i] - mean) ** 2;
  return [mean, variance / length];
}

/**
 * out[m][n] = bias[m] + sum over k of a[m][k] b[n][k], of rows from `aAt`, `bAt`, `outAt` and `biasAt`.
 * Four rows by two at a time, so that a number that was read is used more than once.
 */
function products(a, aAt, b, bAt, out, outAt, m, n, k, bias, biasAt) {
  let row = 0;
  for (; row + 4 <= m; row += 4) {
    const a0 = aAt + row * k, a1 = a0 + k, a2 = a1 + k, a3 = a2 + k, to = outAt + row * n;
    const [c0, c1, c2, c3] = bias ? bias.subarray(biasAt + row, biasAt + row + 4) : [0, 0, 0, 0];
    let column = 0;
    for (; column + 2 <= n; column += 2) {
      let s00 = c0, s01 = c0, s10 = c1, s11 = c1, s20 = c2, s21 = c2, s30 = c3, s31 = c3;
      const b0 = bAt + column * k, b1 = b0 + k;
      for (let i = 0; i < k; i++) {
        const x = b[b0 + i], y = b[b1 + i], w0 = a[a0 + i], w1 = a[a1 + i], w2 = a[a2 + i], w3 = a[a3 + i];
        s00 += w0 * x; s01 += w0 * y; s10 += w1 * x; s11 += w1 * y;
        s20 += w2 * x; s21 += w2 * y; s30 += w3 * x; s31 += w3 * y;
      }
      const p = to + column;
      out[p] = s00; out[p + 1] = s01; out[p + n] = s10; out[p + n + 1] = s11;
      out[p + 2 * n] = s20; out[p + 2 * n + 1] = s21; out[p + 3 * n] = s30; out[p + 3 * n + 1] = s31;
    }
    if (column < n) productsOneByOne(a, aAt, b, bAt, out, outAt, [row, row + 4], [column, n], n, k, bias, biasAt);
  }
  if (row < m) productsOneByOne(a, aAt, b, bAt, out, outAt, [row, m], [0, n], n, k, bias, biasAt);
}

function productsOneByOne(a, aAt, b, bAt, out, outAt, [top, bottom], [left, right], n, k, bias, biasAt) {
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      let sum = bias ? bias[biasAt + row] : 0;
      for (let i = 0, p = aAt + row * k, q = bAt + column * k; i < k; i++) sum += a[p + i] * b[q + i];
      out[outAt + row * n + column] = sum;
    }
  }
}

/** `[batch, m, k]` times `[batch, k, n]`, of which either may be a single matrix. */
function matrixProduct(a, b, batch, m, k, n) {
  const out = new Float32Array(batch * m * n), matrices = b.length / (k * n), single = matrices === 1;
  const turned = m < 4 ? null : strided(tensor([], b), [matrices, n, k], [k * n, 1, n]).data;
  const sums = new Float64Array(n);
  for (let one = 0; one < batch; one++) {
    const aAt = a.length === m * k ? 0 : one * m * k, bAt = single ? 0 : one * k * n;
    if (turned) {
      products(a, aAt, turned, bAt, out, one * m * n, m, n, k, null, 0);
      continue;
    }
    // A few rows: turning the matrix would take as long as the product.
    for (let row = 0; row < m; row++) {
      sums.fill(0);
      for (let i = 0; i < k; i++) {
        const x = a[aAt + row * k + i], at = bAt + i * n;
        for (let column = 0; column < n; column++) sums[column] += x * b[at + column];
      }
      out.set(sums, (one * m + row) * n);
    }
  }
  return out;
}

let scratch = new Float32Array(0);

/** What is under each place of the kernel, one row of the kernel's size times `channels` for each of `places`. */
function patches(x, start, channels, [height, width], kernel, [top, left], [down, right], [apart, beside], places) {
  const [rows, columns] = places;
  const length = channels * kernel[0] * kernel[1];
  if (scratch.length < rows * columns * length) scratch = new Float32Array(rows * columns * length);
  const to = scratch;
  let place = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let ky = 0; ky < kernel[0]; ky++) {
      for (let kx = 0; kx < kernel[1]; kx++, place++) {
        for (let row = 0, at = place; row < rows; row++) {
          const y = row * down - top + ky * apart, line = start + (channel * height + y) * width;
          const inside = y >= 0 && y < height;
          for (let column = 0, xx = kx * beside - left; column < columns; column++, xx += right, at += length) {
            to[at] = inside && xx >= 0 && xx < width ? x[line + xx] : 0;
          }
        }
      }
    }
  }
  return to;
}

/** The size of the output along both axes. */
function placesOf(size, kernel, pads, strides, dilations, ceil_mode = 0) {
  return [0, 1].map((axis) => {
    const steps = (size[axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) / strides[axis];
    if (!ceil_mode) return Math.floor(steps) + 1;
    const places = Math.ceil(steps) + 1;
    // A place that begins behind the image and the padding before it does not count.
    return (places - 1) * strides[axis] >= size[axis] + pads[axis] ? places - 1 : places;
  });
}

/** `fold(sum, value)` of the pixels under each place of the kernel, then `finish(sum, pixels)`. */
function pooled(x, attributes, start, fold, finish) {
  const { kernel_shape: kernel, pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1] } = attributes;
  const { ceil_mode = 0, count_include_pad = 0 } = attributes;
  const [batch, channels, height, width] = x.shape;
  const [rows, columns] = placesOf([height, width], kernel, pads, strides, dilations, ceil_mode);
  const out = floats([batch, channels, rows, columns]), from = x.data;
  for (let plane = 0, to = 0; plane < batch * channels; plane++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, to++) {
        let sum = start, pixels = 0;
        for (let ky = 0; ky < kernel[0]; ky++) {
          const y = row * strides[0] - pads[0] + ky * dilations[0], within = y >= 0 && y < height;
          for (let kx = 0; kx < kernel[1]; kx++) {
            const xx = column * strides[1] - pads[1] + kx * dilations[1];
            if (within && xx >= 0 && xx < width) {
              sum = fold(sum, from[(plane * height + y) * width + xx]);
              pixels++;
            } else if (count_include_pad && y < height + pads[2] && xx < width + pads[3]) pixels++;
          }
        }
        out.data[to] = finish(sum, pixels);
      }
    }
  }
  return out;
}
