// Makes of a picture an image like those that the network was trained on, as the command `predict` does it.

"use strict";

/** The largest difference from the background that still counts as background: 5 % of the range. */
const CLOSE = 12;

const overWhite = (value, alpha) => Math.floor((value * alpha + 255 * (255 - alpha) + 127) / 255);

/** One plane of bytes: { width, height, data }. */
const planeOf = (width, height, data = new Uint8Array(width * height)) => ({ width, height, data });

/** A plane of `of(red, green, blue, alpha)` of each pixel of an ImageData. */
function planeBy(picture, of) {
  const { width, height, data } = picture, plane = planeOf(width, height);
  for (let i = 0, at = 0; i < plane.data.length; i++, at += 4) {
    plane.data[i] = of(data[at], data[at + 1], data[at + 2], data[at + 3]);
  }
  return plane;
}

/** The median of the pixels at the border. */
function backgroundOf({ width, height, data }) {
  const border = [];
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y + 1 === height ? 1 : Math.max(1, width - 1);
    for (let x = 0; x < width; x += step) border.push(data[y * width + x]);
  }
  return border.sort((a, b) => a - b)[Math.floor(border.length / 2)];
}

/** The smallest part that has every pixel that is not close to the background, or null where there is none. */
function trimmed({ width, height, data }, background) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (Math.abs(data[y * width + x] - background) <= CLOSE) continue;
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
    }
  }
  if (right < 0) return null;
  const part = planeOf(right - left + 1, bottom - top + 1);
  for (let y = top; y <= bottom; y++) {
    part.data.set(data.subarray(y * width + left, y * width + right + 1), (y - top) * part.width);
  }
  return part;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

const LANCZOS = { support: 3, at: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) };

const TRIANGLE = { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) };

/** For each of `out` places over `length` pixels from `start`: the first of `size` pixels that counts, and weights. */
function weightsOf(size, start, length, out, filter) {
  const ratio = length / out, scale = Math.max(1, ratio), support = filter.support * scale;
  return Array.from({ length: out }, (_, place) => {
    const center = start + (place + 0.5) * ratio;
    const first = Math.max(0, Math.min(size - 1, Math.floor(center - support)));
    const end = Math.max(first + 1, Math.min(size, Math.ceil(center + support)));
    const at = (_, index) => filter.at((first + index + 0.5 - center) / scale);
    const weights = Array.from({ length: end - first }, at);
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** `window` ([left, top, width, height]) of a plane, resized to [width, height]. */
function resized(plane, [left, top, across, down], [width, height], filter) {
  const rows = weightsOf(plane.height, top, down, height, filter);
  const columns = weightsOf(plane.width, left, across, width, filter);
  const tall = new Float32Array(plane.width * height), out = planeOf(width, height);
  rows.forEach(({ first, weights }, y) => {
    const line = tall.subarray(y * plane.width, (y + 1) * plane.width);
    weights.forEach((weight, index) => {
      const from = (first + index) * plane.width;
      for (let x = 0; x < plane.width; x++) line[x] += plane.data[from + x] * weight;
    });
  });
  for (let y = 0; y < height; y++) {
    columns.forEach(({ first, weights }, x) => {
      let sum = 0;
      for (let i = 0, at = y * plane.width + first; i < weights.length; i++) sum += tall[at + i] * weights[i];
      out.data[y * width + x] = Math.max(0, Math.min(255, Math.round(sum)));
    });
  }
  return out;
}

const hasSize = (plane, width, height) => plane.width === width && plane.height === height;

/** Scaled until a side fits, its shape kept, in the middle of a canvas of this colour. */
function padded(plane, width, height, background, filter) {
  const scale = Math.min(width / plane.width, height / plane.height);
  const across = Math.max(1, Math.min(width, Math.round(plane.width * scale)));
  const down = Math.max(1, Math.min(height, Math.round(plane.height * scale)));
  const whole = [0, 0, plane.width, plane.height];
  const small = hasSize(plane, across, down) ? plane : resized(plane, whole, [across, down], filter);
  const canvas = planeOf(width, height, new Uint8Array(width * height).fill(background));
  const [left, top] = [Math.floor((width - across) / 2), Math.floor((height - down) / 2)];
  for (let y = 0; y < down; y++) {
    canvas.data.set(small.data.subarray(y * across, (y + 1) * across), (top + y) * width + left);
  }
  return canvas;
}

/** Covers the size; the middle is taken. */
function cropped(plane, width, height) {
  const ratio = Math.max(width / plane.width, height / plane.height);
  const window = [[plane.width, width], [plane.height, height]].map(([from, to]) => {
    const all = Math.max(to, Math.floor(from * ratio + 1e-6));
    return [(roundedToEven((all - to) / 2) * from) / all, (to * from) / all];
  });
  return resized(plane, [window[0][0], window[1][0], window[0][1], window[1][1]], [width, height], TRIANGLE);
}

/**
 * The bytes [channels, height, width] of a picture (an ImageData) for a network on `images`: { channels, height, width,
 * background, fit }, or null where nothing stands out from the background. Where `fit` is null, the images are grey
 * ones of a set's own: pictures are inverted and trimmed to be like them, unless `asIs`.
 */
function prepared(picture, images, asIs = false) {
  const { channels, height, width, background, fit } = images;
  if (fit === null) {
    const luma = (r, g, b) => Math.round((2126 * r + 7152 * g + 722 * b) / 10000);
    let grey = planeBy(picture, (r, g, b, alpha) => overWhite(luma(r, g, b), alpha));
    if (!asIs && Math.abs(backgroundOf(grey) - background) > 127) grey.data = grey.data.map((value) => 255 - value);
    if (hasSize(grey, width, height)) return grey.data;
    const around = backgroundOf(grey);
    if (!asIs) grey = trimmed(grey, around);
    return grey && padded(grey, width, height, around, LANCZOS).data;
  }
  const luma = (r, g, b) => (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  const over = (of) => (r, g, b, alpha) => of(overWhite(r, alpha), overWhite(g, alpha), overWhite(b, alpha));
  const ways = channels === 1 ? [over(luma)] : [over((r) => r), over((_, g) => g), over((_r, _g, b) => b)];
  const planes = ways.map((of) => planeBy(picture, of)).map((plane) => {
    if (hasSize(plane, width, height)) return plane;
    if (fit === "pad") return padded(plane, width, height, backgroundOf(plane), TRIANGLE);
    if (fit === "stretch") return resized(plane, [0, 0, plane.width, plane.height], [width, height], TRIANGLE);
    return cropped(plane, width, height);
  });
  const bytes = new Uint8Array(channels * height * width);
  planes.forEach((plane, channel) => bytes.set(plane.data, channel * height * width));
  return bytes;
}
