// Where a network looks: the image with a layer that says what covering each part of it does.

const FALLS = [234, 88, 12], RISES = [59, 130, 246];

const points = (share) => `${(100 * share).toFixed(1)}`;

/** The mean drop at each pixel, over all patches that cover it. */
function meanDrops({ patches, patch: [high, wide] }, width, height) {
  const sums = new Float32Array(width * height), counts = new Float32Array(width * height);
  for (const { x, y, drop } of patches) {
    for (let row = y; row < y + high; row++) {
      for (let column = x; column < x + wide; column++) {
        sums[row * width + column] += drop;
        counts[row * width + column] += 1;
      }
    }
  }
  return sums.map((sum, pixel) => sum / counts[pixel]);
}

/** Draws the layer of `map` on `overlay`, and returns its legend. */
export function drawLooks(overlay, map, { width, height, classes }) {
  const drops = meanDrops(map, width, height);
  const least = drops.reduce((a, b) => Math.min(a, b), 0), most = drops.reduce((a, b) => Math.max(a, b), 0);
  // One scale for both directions; below a tenth of a point there is nothing to see.
  const end = Math.max(most, -least, 0.001);
  [overlay.width, overlay.height] = [width, height];
  const context = overlay.getContext("2d"), layer = context.createImageData(width, height);
  drops.forEach((drop, pixel) => {
    const colour = drop > 0 ? FALLS : RISES;
    layer.data.set([...colour, Math.round((230 * Math.abs(drop)) / end)], 4 * pixel);
  });
  context.putImageData(layer, 0, 0);

  const legend = document.createElement("div"), scale = document.createElement("div"), said = document.createElement("p");
  scale.className = "scale";
  scale.append(...[`−${points(end)}`, "", `+${points(end)}`].map((text) => {
    const part = document.createElement("span");
    part.textContent = text;
    return part;
  }));
  const [high, wide] = map.patch, name = classes[map.class];
  said.textContent = `Percentage points. Covering the orange parts lowers the probability of ${name}, ${points(map.probability)}\u00a0%, `
    + `by up to ${points(most)} points; covering the blue ones raises it by up to ${points(-least)}. `
    + `Each point of the image is the mean over covers of ${wide}x${high} pixels.`;
  legend.append(scale, said);
  return legend;
}
