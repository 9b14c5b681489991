// The interface: what is drawn or dropped is prepared, the network computes it, and bars show the probabilities.

"use strict";

const element = (id) => document.getElementById(id);

/** The most bars that are shown; of more classes, the most probable ones. */
const BARS = 12;

/** Pixels of a picture that is taken: what a browser can hold and be quick with. */
const LARGEST = 50_000_000;

const { network, images, classes } = JSON.parse(element("network").textContent);

const compute = networkOf(network, bytesOf(element("weights").textContent.trim()));

/** Logits and probabilities of an image's bytes [channels, height, width]. */
function predict(pixels) {
  const { logits, probabilities } = compute(pixels, [1, images.channels, images.height, images.width]);
  return { logits: logits.data, probabilities: (probabilities ?? OPERATIONS.Softmax([logits], {})).data };
}

const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

const isGrey = images.channels === 1;

/** The colours of an empty canvas: the run's own background, and what stands out from it. */
const paper = isGrey ? images.background : 255;

const canvas = element("canvas"), longest = Math.max(images.width, images.height);
canvas.width = Math.round((images.width / longest) * 336);
canvas.height = Math.round((images.height / longest) * 336);
[element("seen").width, element("seen").height] = [images.width, images.height];

/** A picture that was chosen, as an ImageData, until something is drawn. */
let picture = null;

const drawing = drawingOn(canvas, {
  paper: `rgb(${paper}, ${paper}, ${paper})`,
  ink: paper < 128 ? "#ffffff" : "#000000",
  changed() {
    picture = null;
    soon();
  },
  moved(place) {
    const cursor = element("cursor");
    cursor.hidden = !place;
    if (!place) return;
    [cursor.style.left, cursor.style.top] = [`${100 * place.x}%`, `${100 * place.y}%`];
    cursor.classList.toggle("down", place.isDown);
  },
});

const drawn = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);

const bars = Array.from({ length: Math.min(BARS, classes.length) }, () => {
  const row = document.createElement("li"), name = document.createElement("span"), bar = document.createElement("div");
  const fill = document.createElement("span"), value = document.createElement("span");
  [name.className, bar.className, value.className] = ["name", "bar", "number"];
  bar.append(fill);
  row.append(name, bar, value);
  element("bars").append(row);
  return { row, name, fill, value };
});

/** Shows the probabilities, or none. */
function show(probabilities) {
  const labels = range(classes.length), share = (label) => probabilities?.[label] ?? 0;
  // Few classes stay in their places while one draws.
  if (classes.length > BARS) labels.sort((a, b) => share(b) - share(a));
  const best = labels.reduce((a, b) => (share(b) > share(a) ? b : a));
  bars.forEach(({ row, name, fill, value }, place) => {
    const label = labels[place];
    name.textContent = classes[label];
    fill.style.width = `${100 * share(label)}%`;
    value.textContent = probabilities ? percent(share(label)) : "";
    row.classList.toggle("most", Boolean(probabilities) && label === best);
  });
  const answer = probabilities ? `${classes[best]}, ${percent(share(best))}` : "Draw something";
  element("answer").textContent = answer;
  clearTimeout(show.timer);
  show.timer = setTimeout(() => (element("status").textContent = answer), 600);
}

/** Shows the image's bytes as the network gets them. */
function showSeen(pixels) {
  const context = element("seen").getContext("2d"), { width, height, channels } = images, plane = width * height;
  const seen = context.createImageData(width, height);
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < 3; channel++) {
      seen.data[4 * i + channel] = pixels[i + (channels < 3 ? 0 : channel * plane)];
    }
    seen.data[4 * i + 3] = 255;
  }
  context.putImageData(seen, 0, 0);
}

let milliseconds = 0;

function update() {
  const pixels = drawing.isBlank ? null : prepared(picture ?? drawn(), images, !element("trim").checked);
  element("sees").hidden = !pixels;
  problem(!pixels && picture ? "Nothing in this picture stands out from its background." : "");
  if (!pixels) return show(null);
  const start = performance.now(), { probabilities } = predict(pixels);
  milliseconds = performance.now() - start;
  showSeen(pixels);
  const time = milliseconds.toFixed(milliseconds < 10 ? 1 : 0);
  element("timing").textContent = `What the network sees. It took ${time} ms.`;
  return show(probabilities);
}

let waiting = 0;

/** Updates with the next frame, or where the network takes longer, once the pen rests. */
function soon() {
  if (milliseconds > 40) {
    clearTimeout(waiting);
    waiting = setTimeout(() => { waiting = 0; update(); }, 150);
  } else if (!waiting) {
    waiting = requestAnimationFrame(() => { waiting = 0; update(); });
  }
}

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

/** Takes a file that was chosen, dropped or pasted. */
async function take(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    return problem(`${file.name || "This"} is no picture that this browser can read.`);
  }
  const { width, height } = bitmap;
  if (width * height > LARGEST) return problem(`The picture is too large: ${width}x${height} pixels.`);
  const whole = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  whole.drawImage(bitmap, 0, 0);
  picture = whole.getImageData(0, 0, width, height);
  drawing.show(bitmap, [width, height]);
  bitmap.close();
  return update();
}

element("clear").addEventListener("click", () => drawing.clear());
element("undo").addEventListener("click", () => drawing.undo());
element("brush").addEventListener("input", (event) => { drawing.brush = Number(event.target.value); });
element("ink").addEventListener("input", (event) => { drawing.ink = event.target.value; });
element("trim").addEventListener("change", update);
drawing.takesFiles({
  chooser: element("file"), board: element("board"), take, isWanted: ({ type }) => type.startsWith("image/"),
});
element("colour").hidden = isGrey;
element("fitting").hidden = images.fit !== null;
element("try").hidden = false;
update();
