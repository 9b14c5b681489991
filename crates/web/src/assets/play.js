// The page to play with runs: a picture comes from the canvas, a file, the camera or the test images, and the answers of
// the runs are shown as they come.

import { cameraIn } from "/camera.js";
import { drawingOn } from "/drawing.js";
import { galleryOf } from "/gallery.js";
import { drawLooks } from "/looks.js";

const element = (id) => document.getElementById(id);
const make = (tag, kind, ...content) => {
  const one = document.createElement(tag);
  one.className = kind;
  one.append(...content);
  return one;
};
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
/** A share as a length in CSS, which takes no blank. */
const length = (share) => `${100 * share}%`;

/** The most classes that are shown; of more, the most probable ones. */
const MOST = 12;
/** Pixels of the longer side of the canvas. */
const SIDE = 336;
/** Milliseconds for which a picture stays as it is before the slower things are done. */
const REST = 350;

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

/** Asks the server, and returns its JSON; where it refuses, its message is shown, and there is no answer. */
async function ask(address, options) {
  let answer, content;
  try {
    answer = await fetch(address, options);
    content = await answer.json();
  } catch {
    problem("The program that shows this page does not answer; it may have been stopped.");
    return null;
  }
  if (answer.ok) return content;
  problem(content.error);
  return null;
}

/** A function that does `work` with what it was given last, one after the other: what came in between is left out. */
function latest(work) {
  let isBusy = false, next = null;
  return async (...given) => {
    next = given;
    if (isBusy) return;
    isBusy = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      isBusy = false;
    }
  };
}

/** A function that does `work` when it has not been called for a while. */
function rested(work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), REST);
  };
}

/** The answer of a run, and the functions that fill it. */
function answerOf({ facts, width, height, channels }) {
  const { classes } = facts;
  const rows = Array.from({ length: Math.min(MOST, classes.length) }, () => {
    const [name, fill, value] = ["name", "", "number"].map((kind) => make("span", kind));
    return { name, fill, value, row: make("li", "", name, make("div", "bar", fill), value) };
  });
  const seen = new Image(), overlay = make("canvas", "overlay"), legend = make("div", "");
  const said = make("p", "answer", "Draw something"), bars = make("ol", "bars", ...rows.map(({ row }) => row));
  const size = `${width}x${height} pixels, ${channels === 1 ? "grey" : "colour"}`;
  const caption = make("figcaption", "", make("p", "", `What the network sees: ${size}`), legend);
  const sees = make("figure", "sees", make("div", "layers", seen, overlay), caption);
  const accuracy = facts.accuracy === null ? "" : `, test accuracy ${percent(facts.accuracy)}`;
  const about = make("p", "note", `${facts.model} on ${facts.dataset}${accuracy}`);
  const article = make("article", "run", make("h2", "", facts.name), about, said, bars, sees);
  article.setAttribute("aria-label", `Answer of ${facts.name}`);
  bars.setAttribute("aria-label", "Probabilities of the classes");
  seen.alt = "The picture as the network gets it";
  sees.hidden = true;
  const unlook = () => {
    overlay.hidden = true;
    sees.classList.remove("wide");
    legend.replaceChildren();
  };
  unlook();

  const answer = {
    article,
    text: "",
    /** Shows probabilities; `truth` is the name of the true class, where it is known. */
    show(probabilities, truth) {
      const labels = [...classes.keys()], share = (label) => probabilities?.[label] ?? 0;
      const best = labels.reduce((a, b) => (share(b) > share(a) ? b : a));
      // Few classes stay in their places while one draws.
      if (classes.length > MOST) labels.sort((a, b) => share(b) - share(a));
      rows.forEach(({ row, name, fill, value }, place) => {
        const label = labels[place];
        name.textContent = classes[label];
        fill.style.width = length(share(label));
        value.textContent = probabilities ? percent(share(label)) : "";
        row.classList.toggle("most", Boolean(probabilities) && label === best);
        row.classList.toggle("true", classes[label] === truth);
      });
      answer.text = probabilities ? `${classes[best]}, ${percent(share(best))}` : "";
      said.textContent = answer.text || "Draw something";
    },
    /** Shows an answer of the server. */
    take({ error, probabilities, seen: file }, truth) {
      answer.show(probabilities, truth);
      if (error) said.textContent = answer.text = `No answer: ${error}`;
      sees.hidden = Boolean(error);
      if (file) seen.src = file;
    },
    empty() {
      answer.show(null);
      sees.hidden = true;
      unlook();
    },
    look(map) {
      overlay.hidden = false;
      sees.classList.add("wide");
      legend.replaceChildren(drawLooks(overlay, map, { width, height, classes }));
    },
    unlook,
  };
  answer.show(null);
  return answer;
}

async function start() {
  const runs = await ask("/api/runs");
  if (!runs) return;
  const names = runs.map(({ facts }) => facts.name).join(" and ");
  element("title").textContent = document.title = `Play with ${names}`;
  const answers = runs.map(answerOf);
  element("answers").append(...answers.map(({ article }) => article));

  const [{ width, height, channels, background }] = runs, canvas = element("canvas"), longest = Math.max(width, height);
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round((side / longest) * SIDE)));
  canvas.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
  // An empty canvas is like the background of the run's images.
  const paper = channels === 1 ? background : 255, ink = paper < 128 ? "#ffffff" : "#000000";
  element("colour").hidden = channels === 1;
  element("ink").value = ink;
  element("adapting").hidden = !runs.some((run) => run.adapts);

  /** A picture from elsewhere, until something is drawn on it: its file, whether it is a test image, and its class. */
  let other = null;
  const drawing = drawingOn(canvas, {
    paper: `rgb(${paper}, ${paper}, ${paper})`,
    ink,
    changed() {
      other = null;
      update();
    },
    moved(cursor) {
      element("cursor").hidden = !cursor;
      if (!cursor) return;
      [element("cursor").style.left, element("cursor").style.top] = [cursor.x, cursor.y].map(length);
      element("cursor").classList.toggle("down", cursor.isDown);
    },
  });

  /** Where to send the picture that is shown, and the picture. */
  const picture = async () => {
    const asIs = element("as-is").checked || other?.isTest;
    return [`as_is=${asIs ? 1 : 0}`, { method: "POST", body: other?.file ?? (await drawing.file()) }];
  };
  const look = latest(async () => {
    for (const [run, answer] of answers.entries()) {
      if (!element("looking").checked || (!other && drawing.isBlank)) return answers.forEach((one) => one.unlook());
      const [query, options] = await picture();
      const map = await ask(`/api/occlusion?run=${run}&${query}`, options);
      if (map) answer.look(map);
    }
    return undefined;
  });
  const lookSoon = rested(look);
  const saySoon = rested(() => {
    element("status").textContent = answers.map(({ text }, run) => (runs.length > 1 ? `${runs[run].facts.name}: ${text}` : text)).join("; ");
  });
  const update = latest(async () => {
    problem("");
    if (!other && drawing.isBlank) return answers.forEach((answer) => answer.empty());
    element("answers").ariaBusy = "true";
    const truth = other?.truth, [query, options] = await picture();
    const all = await ask(`/api/predict?${query}`, options);
    element("answers").ariaBusy = "false";
    if (!all) return answers.forEach((answer) => answer.empty());
    all.forEach((one, run) => {
      answers[run].take(one, truth);
      // The map on the screen is that of another picture.
      answers[run].unlook();
    });
    saySoon();
    if (element("looking").checked) lookSoon();
    return undefined;
  });

  /** Takes a file that was chosen, dropped or pasted. What the browser cannot show, the program may still read. */
  async function take(file, more = {}) {
    other = { file, ...more };
    try {
      const bitmap = await createImageBitmap(file);
      drawing.show(bitmap, [bitmap.width, bitmap.height]);
      bitmap.close();
    } catch {
      drawing.show(canvas, [canvas.width, canvas.height]);
    }
    return update();
  }

  const camera = cameraIn(element("video"), (video, size, isFrame) => {
    other = null;
    drawing.show(video, size, { covers: true, isFrame });
    update();
    if (!isFrame) film(false);
  });
  async function film(isOn) {
    if (isOn) {
      try {
        await camera.start();
      } catch (error) {
        return problem(error.message);
      }
    } else camera.stop();
    element("live").checked = false;
    element("filming").hidden = !isOn;
    return element("camera").setAttribute("aria-pressed", isOn);
  }

  const erase = (is) => {
    drawing.isErasing = is;
    element("erase").setAttribute("aria-pressed", is);
  };
  const brush = (width) => {
    element("brush").value = width;
    drawing.brush = Number(element("brush").value);
  };
  element("clear").addEventListener("click", () => drawing.clear());
  element("undo").addEventListener("click", () => drawing.undo());
  element("erase").addEventListener("click", () => erase(!drawing.isErasing));
  element("brush").addEventListener("input", ({ target }) => brush(target.value));
  element("ink").addEventListener("input", ({ target }) => { drawing.ink = target.value; });
  element("as-is").addEventListener("change", update);
  element("looking").addEventListener("change", look);
  canvas.addEventListener("keydown", ({ key, ctrlKey, metaKey, altKey }) => {
    if (ctrlKey || metaKey || altKey) return;
    if (key.toLowerCase() === "e") erase(!drawing.isErasing);
    if (key === "[" || key === "]") brush(Number(element("brush").value) + (key === "]" ? 0.5 : -0.5));
  });
  drawing.takesFiles({ chooser: element("file"), board: element("board"), take });
  element("camera").addEventListener("click", () => film(!camera.isOn));
  element("shoot").addEventListener("click", () => camera.take());
  element("live").addEventListener("change", ({ target }) => { camera.isLive = target.checked; });
  galleryOf(runs, {
    ask,
    async taken({ address, target }) {
      const file = await fetch(address).then((answer) => answer.blob(), () => null);
      if (!file) return problem("The test image cannot be read; the program may have been stopped.");
      // What is shown of it stands above.
      const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
      element("try").scrollIntoView({ behavior: isStill ? "instant" : "smooth" });
      return take(file, { isTest: true, truth: target });
    },
  });
}

start();
