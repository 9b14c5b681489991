// The test images of a run, by class, with what it makes of them.

const element = (id) => document.getElementById(id);

/** Milliseconds between looks at how many images have been predicted. */
const PAUSE = 1000;

const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

/** Shows the test images of `runs`; `ask` reads JSON from the server, `taken` is called with the image that is chosen. */
export function galleryOf(runs, { ask, taken }) {
  const withTests = runs.map((run, index) => ({ ...run, index })).filter((run) => run.tests);
  if (!withTests.length) return;
  const state = { run: withTests[0], page: 0, pages: 1, chosen: null, timer: 0, shown: "" };
  const option = (text, value) => new Option(text, value);
  element("run").append(...withTests.map((run) => option(run.facts.name, run.index)));
  element("whose").hidden = withTests.length < 2;
  const name = (label) => state.run.facts.classes[label] ?? String(label);

  const classes = () => element("class").replaceChildren(option("all", ""), ...state.run.facts.classes.map(option));

  function button({ index, target, predicted, probability }, isFirst) {
    const one = document.createElement("button"), picture = new Image(), text = document.createElement("span");
    const isRight = predicted === target, isTested = predicted !== null;
    one.type = "button";
    one.className = isTested && !isRight ? "wrong" : "";
    one.tabIndex = isFirst ? 0 : -1;
    one.setAttribute("aria-pressed", state.chosen === `${state.run.index}/${index}`);
    picture.src = `/api/test/${index}.png?run=${state.run.index}`;
    picture.alt = `Image ${index}: `;
    [picture.width, picture.height] = [state.run.width, state.run.height];
    text.textContent = name(target);
    one.append(picture, text);
    if (isTested) {
      const said = document.createElement("span");
      said.className = "taken";
      // A name is not broken at its hyphens.
      const other = document.createElement("span");
      other.className = "other";
      other.textContent = `${name(predicted)},`;
      said.append(...(isRight ? [` ✓ ${percent(probability)}`] : [" taken for ", other, ` ${percent(probability)}`]));
      one.append(said);
    }
    one.addEventListener("click", () => {
      state.chosen = `${state.run.index}/${index}`;
      for (const other of element("images").children) other.setAttribute("aria-pressed", other === one);
      taken({ address: picture.src, index, target: name(target) });
    });
    return one;
  }

  async function show() {
    clearTimeout(state.timer);
    const query = new URLSearchParams({ run: state.run.index, class: element("class").value, show: element("show").value, page: state.page });
    const answer = await ask(`/api/test?${query}`);
    if (!answer) return;
    const { images, total, page, pages, tested, right, count, problem } = answer;
    [state.page, state.pages] = [page, pages];
    element("page").textContent = total ? `${page + 1} of ${pages}` : "none";
    element("before").disabled = page === 0;
    element("after").disabled = page + 1 >= pages;
    const share = tested ? `${percent(right / tested)} of ${tested.toLocaleString("en")} are right` : "";
    const left = tested < count ? `predicted so far: ${tested.toLocaleString("en")} of ${count.toLocaleString("en")}` : "";
    const found = `${total.toLocaleString("en")} ${total === 1 ? "image" : "images"}`;
    element("progress").textContent = [found, problem ?? left, share].filter(Boolean).join("; ");
    // What is there already stays, with its focus.
    const shown = JSON.stringify([state.run.index, images]);
    if (shown !== state.shown) {
      state.shown = shown;
      const focused = [...element("images").children].indexOf(document.activeElement);
      element("images").replaceChildren(...images.map((image, place) => button(image, place === 0)));
      if (focused >= 0) focus(Math.min(focused, images.length - 1));
    }
    if (tested < count && !problem) state.timer = setTimeout(show, PAUSE);
  }

  function focus(place) {
    const buttons = [...element("images").children];
    buttons.forEach((one, at) => { one.tabIndex = at === place ? 0 : -1; });
    buttons[place]?.focus();
  }

  async function turn(by) {
    state.page = Math.max(0, Math.min(state.pages - 1, state.page + by));
    await show();
  }

  element("images").addEventListener("keydown", async (event) => {
    const buttons = [...element("images").children], place = buttons.indexOf(document.activeElement);
    const columns = getComputedStyle(element("images")).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place, End: buttons.length - 1 - place }[event.key];
    if (by === undefined || place < 0) return;
    event.preventDefault();
    const next = place + by;
    if (next >= 0 && next < buttons.length) focus(next);
    else if (Math.abs(by) === 1 && (by < 0 ? state.page > 0 : state.page + 1 < state.pages)) {
      await turn(by);
      focus(by < 0 ? element("images").children.length - 1 : 0);
    }
  });
  element("before").addEventListener("click", () => turn(-1));
  element("after").addEventListener("click", () => turn(1));
  for (const id of ["class", "show"]) {
    element(id).addEventListener("change", () => { state.page = 0; show(); });
  }
  element("run").addEventListener("change", ({ target }) => {
    state.run = withTests.find((run) => run.index === Number(target.value));
    state.page = 0;
    classes();
    show();
  });
  classes();
  element("gallery").hidden = false;
  show();
}
