// Asks for the parts of the page that have changed and puts them in place, so that scrolling, focus, ticks and what is
// folded open stay as they are.
"use strict";

const list = document.body.dataset.page === "runs";
const run = document.body.dataset.run;
const byId = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Ticked runs with the number of their colour, which they keep.
const ticks = new Map();
let sorted = { column: null, descending: false };

const say = (text) => { byId("said").textContent = text; };

const restore = () => {
  let query = new URLSearchParams(location.search);
  if (!query.has("tick")) query = new URLSearchParams(sessionStorage.getItem("ticks") ?? "");
  const colors = (query.get("colors") ?? "").split(",");
  query.getAll("tick").forEach((id, index) => ticks.set(id, Number.parseInt(colors[index], 10) || (colors[index] === "0" ? 0 : index)));
};

const query = () => {
  const query = new URLSearchParams();
  for (const id of ticks.keys()) query.append("tick", id);
  if (ticks.size) query.set("colors", [...ticks.values()].join(","));
  return query;
};

const keep = () => {
  const text = query().toString();
  sessionStorage.setItem("ticks", text);
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
};

// Makes `old` like `fresh`, and leaves alone what is the same.
const morph = (old, fresh) => {
  if (old.nodeName !== fresh.nodeName || old.nodeType !== fresh.nodeType) return old.replaceWith(fresh);
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
  if (old.nodeName === "svg") return old.replaceWith(fresh);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !own(old, name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value && !own(old, name)) old.setAttribute(name, value);
  const keyed = new Map([...old.children].filter((child) => child.dataset?.key).map((child) => [child.dataset.key, child]));
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = child.dataset?.key ? keyed.get(child.dataset.key) : next?.dataset?.key ? null : next;
    if (!same) { old.insertBefore(child, next); continue; }
    keyed.delete(child.dataset?.key);
    if (same === next) next = next.nextSibling;
    // Rows are put in order afterwards: one that moves would lose the focus.
    morph(same, child);
  }
  for (const left of keyed.values()) { if (left === next) next = next.nextSibling; left.remove(); }
  while (next && !next.dataset?.key) { const after = next.nextSibling; next.remove(); next = after; }
};

// What the user has set, and no answer changes.
const own = (element, name) =>
  name === "open" || name === "hidden" || (name === "aria-sort" && sorted.column !== null) || (name === "checked" && element.name === "tick");

const put = (name, { version, html }) => {
  const part = document.querySelector(`[data-part="${name}"]`);
  if (!part) return;
  const log = byId("log");
  const follows = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  const before = new Map(all("tr[data-status]", part).map((row) => [row.dataset.key, row.dataset.status]));
  const fresh = part.cloneNode(false);
  fresh.dataset.version = version;
  fresh.innerHTML = html;
  morph(part, fresh);
  if (name === "log" && follows) toEnd();
  const ended = all("tr[data-status]", part).filter((row) => before.has(row.dataset.key) && before.get(row.dataset.key) !== row.dataset.status);
  if (ended.length) say(ended.map((row) => `${row.dataset.key} is ${row.dataset.status}`).join(", "));
};

const toEnd = () => { const log = byId("log"); if (log) log.scrollTop = log.scrollHeight; };

const rows = () => all(".runs tbody tr");

// Puts rows in order, hides those that are filtered out, and ticks those that are ticked.
const arrange = () => {
  if (!list) return;
  const there = rows();
  const titles = all(".runs thead .sort");
  const choices = byId("sort");
  if (choices.options.length !== titles.length + 1) {
    choices.replaceChildren(new Option("as they come", ""), ...titles.map((title) => new Option(title.textContent, title.closest("th").cellIndex)));
    choices.value = sorted.column ?? "";
  }
  for (const box of all("input[name=tick]")) box.checked = ticks.has(box.value);
  const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = byId("status").value;
  for (const row of there) {
    const fits = words.every((word) => row.dataset.text.includes(word)) && (!status || row.dataset.status === status);
    row.hidden = !fits;
  }
  const shown = there.filter((row) => !row.hidden).length;
  byId("shown").textContent = there.length ? `${shown} of ${there.length} runs` : "";
  if (sorted.column === null || !there.length) return;
  const value = (row) => row.cells[sorted.column]?.dataset.value ?? "";
  const numbers = there.every((row) => value(row) === "" || Number.isFinite(Number(value(row))));
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    // What has no value stands last either way.
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = numbers ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
    return sorted.descending ? -order : order;
  };
  const ordered = [...there].sort(compare);
  if (ordered.every((row, index) => row === there[index])) return;
  const focused = document.activeElement;
  there[0].parentNode.append(...ordered);
  if (focused !== document.activeElement) focused?.focus({ preventScroll: true });
};

let timer = 0;
let asked = 0;
let lost = 0;

const poll = async () => {
  clearTimeout(timer);
  const turn = ++asked;
  const started = performance.now();
  const what = list ? query() : new URLSearchParams({ id: run });
  for (const part of all("[data-part]")) what.set(part.dataset.part, part.dataset.version);
  let pause = 5000;
  try {
    const answer = await fetch(`/parts?${what}`, { cache: "no-store" });
    if (turn !== asked) return;
    const { live, parts, error } = await answer.json();
    if (!answer.ok) throw new Error(error);
    for (const [name, part] of Object.entries(parts)) put(name, part);
    arrange();
    forget();
    lost = 0;
    byId("connection").hidden = true;
    // A page that is slow to make is asked for less often.
    if (live) pause = Math.max(1000, 10 * (performance.now() - started));
  } catch (error) {
    if (turn !== asked) return;
    lost += 1;
    const reason = error instanceof TypeError ? "the program does not answer" : error.message;
    const text = `Not up to date: ${reason}. Trying again.`;
    const notice = byId("connection");
    if (notice.hidden || notice.textContent !== text) { notice.textContent = text; notice.hidden = false; say(text); }
    pause = Math.min(1000 * 2 ** lost, 15000);
  }
  if (!document.hidden) timer = setTimeout(poll, pause);
};

// Runs that are gone are not ticked any more.
const forget = () => {
  if (!list) return;
  const there = new Set(rows().map((row) => row.dataset.key));
  const gone = [...ticks.keys()].filter((id) => !there.has(id));
  if (gone.length) { gone.forEach((id) => ticks.delete(id)); keep(); }
};

const tick = (box) => {
  if (box.checked) {
    const taken = new Set(ticks.values());
    let color = 0;
    while (taken.has(color)) color += 1;
    if (color > 19) { box.checked = false; say("20 runs can be compared at once"); return; }
    ticks.set(box.value, color);
  } else {
    ticks.delete(box.value);
  }
  keep();
  poll();
};

const confirmed = (question, yes) => new Promise((resolve) => {
  const dialog = byId("confirm");
  byId("question").textContent = question;
  byId("yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  dialog.showModal();
});

const show = (text, failed) => {
  let notice = byId("happened");
  if (!notice) {
    notice = Object.assign(document.createElement("p"), { id: "happened" });
    document.querySelector("header").append(notice);
  }
  notice.className = failed ? "message error" : "message";
  notice.textContent = text;
  say(text);
};

const act = async (action, id, also = false) => {
  show(action === "stop" ? `Stopping ${id} …` : `Resuming ${id} …`, false);
  try {
    const answer = await fetch(`/${action}?${new URLSearchParams(also ? { id, also } : { id })}`, { method: "POST" });
    const { said, error, ask } = await answer.json();
    if (ask) {
      show(`${id} was not resumed: ${error}.`, false);
      if (await confirmed(`${error}. Resume ${id} as well?`, "Resume as well")) await act(action, id, true);
      return;
    }
    show(said ?? `Error: ${error}`, !answer.ok);
  } catch {
    show("The program does not answer; nothing is known of what it did.", true);
  }
  poll();
};

const questions = {
  stop: (id) => `Stop ${id}? It finishes its step and keeps a checkpoint, from which it can be resumed. A sweep that trains it stops as well.`,
  resume: (id) => `Resume ${id} in a process of its own? It goes on after this page is closed.`,
};

// Rows in the order of a column, or in that of the answers.
const sortBy = (column, descending) => {
  sorted = { column, descending };
  all(".runs thead th[aria-sort]").forEach((head) => {
    const here = column !== null && head.cellIndex === column;
    head.setAttribute("aria-sort", here ? (descending ? "descending" : "ascending") : "none");
  });
  byId("sort").value = column ?? "";
  if (column === null) {
    rows().forEach((row) => row.remove());
    document.querySelector('[data-part="runs"]').dataset.version = "";
    poll();
  } else {
    arrange();
  }
};

document.addEventListener("click", async (event) => {
  const head = event.target.closest(".sort")?.closest("th");
  if (head) {
    const state = head.getAttribute("aria-sort");
    if (state === "descending") sortBy(null, false); else sortBy(head.cellIndex, state === "ascending");
    return;
  }
  const button = event.target.closest("[data-action]");
  if (!button) return;
  const { action, run: id } = button.dataset;
  if (action === "clear") { ticks.clear(); keep(); arrange(); poll(); return; }
  if (await confirmed(questions[action](id), button.textContent)) act(action, id);
});

document.addEventListener("change", (event) => { if (event.target.name === "tick") tick(event.target); });
byId("sort")?.addEventListener("change", ({ target }) => sortBy(target.value === "" ? null : Number(target.value), false));
document.addEventListener("input", (event) => { if (event.target.id === "text" || event.target.id === "status") arrange(); });
document.addEventListener("submit", (event) => { if (event.target.id === "filter") event.preventDefault(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select, textarea");
  if (event.key === "/" && list && !typing) { event.preventDefault(); byId("text").focus(); }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

if (list) { restore(); keep(); arrange(); }
toEnd();
if (document.body.dataset.page !== "none") poll();
