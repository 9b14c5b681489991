// A canvas to draw on with a mouse, a finger, a pen or the keys, and the ways of files to its page.

/** How many changes can be taken back. */
const MOST = 30;

/**
 * Makes `canvas` one to draw on: `paper` and `ink` are CSS colours. `changed` is called after whatever changes it, and
 * `moved` with where the cursor of the keys is, as shares of the sides, and whether its pen is down; or with null.
 */
export function drawingOn(canvas, { paper, ink, changed, moved }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const step = Math.max(canvas.width, canvas.height) / 28;
  const before = [], cursor = { x: canvas.width / 2, y: canvas.height / 2, isDown: false };
  const state = { brush: 2 * step, ink, isErasing: false, isBlank: true };
  let last = null;

  const keep = () => {
    before.push({ pixels: context.getImageData(0, 0, canvas.width, canvas.height), isBlank: state.isBlank });
    if (before.length > MOST) before.shift();
  };
  const fill = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  const line = (from, to, width) => {
    state.isBlank = false;
    context.strokeStyle = state.isErasing ? paper : state.ink;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(from.x, from.y);
    // Some browsers leave out a line that goes nowhere.
    context.lineTo(to.x, to.x === from.x && to.y === from.y ? to.y + 0.01 : to.y);
    context.stroke();
    changed();
  };

  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    const x = ((event.clientX - frame.left) * canvas.width) / frame.width;
    return { x, y: ((event.clientY - frame.top) * canvas.height) / frame.height };
  };
  // The pressure of a pen makes a line thicker.
  const width = (event) => (event.pointerType === "pen" ? state.brush * (0.4 + 1.2 * event.pressure) : state.brush);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || last) return;
    canvas.setPointerCapture(event.pointerId);
    keep();
    last = { ...place(event), pointer: event.pointerId };
    line(last, last, width(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== last?.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) {
      const next = { ...place(one), pointer: last.pointer };
      line(last, next, width(one));
      last = next;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => { if (event.pointerId === last?.pointer) last = null; });
  }

  const drawing = {
    get isBlank() { return state.isBlank; },
    get isErasing() { return state.isErasing; },
    set isErasing(is) { state.isErasing = is; },
    /** Width of the brush in pixels of an image of 28 pixels. */
    set brush(width) { state.brush = width * step; },
    set ink(colour) { state.ink = colour; },
    clear() {
      keep();
      fill(paper);
      state.isBlank = true;
      changed();
    },
    takesFiles,
    undo() {
      const one = before.pop();
      if (!one) return;
      context.putImageData(one.pixels, 0, 0);
      state.isBlank = one.isBlank;
      changed();
    },
    /**
     * Shows a picture, whole or so that it covers the canvas. Does not call `changed`; what was there can be taken back
     * unless `isFrame` says that the picture is one of many.
     */
    show(picture, [width, height], { covers = false, isFrame = false } = {}) {
      if (!isFrame) keep();
      fill(paper);
      const scale = Math[covers ? "max" : "min"](canvas.width / width, canvas.height / height);
      const [across, down] = [width * scale, height * scale];
      context.imageSmoothingEnabled = scale < 1;
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, (canvas.width - across) / 2, (canvas.height - down) / 2, across, down);
      state.isBlank = false;
    },
    /** The canvas as a PNG file. */
    file: () => new Promise((done) => { canvas.toBlob(done, "image/png"); }),
  };

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const within = (at, size) => Math.max(0, Math.min(size, at));
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key], isCommand = event.ctrlKey || event.metaKey;
    if (event.altKey || (isCommand && event.key.toLowerCase() !== "z")) return;
    if (move) {
      const from = { ...cursor };
      [cursor.x, cursor.y] = [within(cursor.x + move[0] * step, canvas.width), within(cursor.y + move[1] * step, canvas.height)];
      if (cursor.isDown) line(from, cursor, state.brush);
    } else if (event.key === " ") {
      cursor.isDown = !cursor.isDown;
      if (cursor.isDown) {
        keep();
        line(cursor, cursor, state.brush);
      }
    } else if (event.key === "Escape") drawing.clear();
    else if (isCommand) drawing.undo();
    else return;
    event.preventDefault();
    moved({ x: cursor.x / canvas.width, y: cursor.y / canvas.height, isDown: cursor.isDown });
  });
  canvas.addEventListener("blur", () => {
    cursor.isDown = false;
    moved(null);
  });
  fill(paper);
  return drawing;
}

/**
 * Hands `take` each file that is chosen by `chooser`, dropped on the page or pasted to it, where `isWanted` says so of
 * what is pasted. `board` is of the class "over" while a file is held over the page.
 */
function takesFiles({ chooser, board, take, isWanted = () => true }) {
  chooser.addEventListener("change", () => {
    if (chooser.files[0]) take(chooser.files[0]);
    chooser.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(isWanted);
    if (file) take(file);
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      board.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  }
}
