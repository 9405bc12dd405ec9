// The page of `tokpack view`. Texts from data become text nodes and nothing else.
"use strict";

const $ = (id) => document.getElementById(id);
const LISTS = ["rows", "kept", "left_out"];
const SORTS = {
  rows: [["", "packed order"], ["length", "tokens"], ["documents", "documents"]],
  kept: [["", "packed order"], ["doc_id", "input order"], ["length", "length"], ["trained", "trained share"], ["loss", "loss"]],
  left_out: [["", "input order"], ["length", "length"], ["reason", "reason"]],
};
const FILTERS = ["text", "source", "reason", "language", "shortest", "longest", "sort"];
const state = { list: "rows", page: 0, descending: false };
let items = [], selected = -1, block = 0, current = null, pages = 1, summary = null, asked = 0, opening = 0;

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

const n = (value) => value.toLocaleString("en-US");
const share = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)}%` : "none");
const counted = (number, noun) => `${n(number)} ${noun}${number === 1 ? "" : "s"}`;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const data = await answer.json().catch(() => ({ error: `no answer to read (${answer.status})` }));
  if (!answer.ok) throw new Error([data.error, data.hint].filter(Boolean).join("; "));
  return data;
}

// State in the address, so that a reload and the back button keep it

function remember(replace) {
  const parts = new URLSearchParams({ list: state.list });
  for (const name of FILTERS) if ($(name).value) parts.set(name, $(name).value);
  if (state.page) parts.set("page", state.page);
  if (state.descending) parts.set("descending", 1);
  if (current) parts.set("open", `${current.kind}/${current.doc_id}/${current.piece || 0}/${current.copy || 0}`);
  history[replace ? "replaceState" : "pushState"](null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const list = parts.get("list");
  state.list = LISTS.includes(list) ? list : "rows";
  state.page = Number(parts.get("page")) || 0;
  state.descending = parts.get("descending") === "1";
  fillSorts();
  for (const name of FILTERS) $(name).value = parts.get(name) || "";
  showTab();
  load();
  const [kind, doc, piece, copy] = (parts.get("open") || "").split("/");
  if (kind === "kept" || kind === "left_out") open(kind, Number(doc), Number(piece), Number(copy), true);
  else close(true);
}

// The head

function showSummary() {
  const left = summary.reasons.reduce((sum, reason) => sum + reason.count, 0);
  const counts = { rows: summary.rows, kept: summary.pieces, left_out: left };
  for (const tab of document.querySelectorAll("[role=tab]")) tab.querySelector("span").textContent = n(counts[tab.dataset.list]);
  const wanted = summary.wanted ? `; ${n(summary.wanted)} to keep in ${summary.keep_file}` : "";
  $("about").textContent = `${summary.name}: ${n(summary.tokens)} tokens, ${share(summary.trained, summary.tokens)} trained, ${summary.tokenizer}${wanted}`;
  $("about").title = $("about").textContent;
  $("work").textContent = summary.fault ? `Search is not complete: ${summary.fault}` : summary.done < 1 ? `Reading texts for the search: ${Math.round(100 * summary.done)}%` : "";
}

function fillChoices() {
  const fill = (id, all, choices) => {
    const was = $(id).value;
    $(id).replaceChildren(make("option", { value: "" }, all), ...choices.map(([value, label]) => make("option", { value }, label)));
    $(id).value = was;
  };
  fill("source", "all", summary.sources.map((name) => [name, name]));
  fill("reason", "all", summary.reasons.map((reason) => [reason.name, `${reason.name} (${n(reason.count)})`]));
  fill("language", "all", summary.languages.map((language) => [language.name, `${language.name} (${n(language.count)})`]));
}

async function watch() {
  if (summary.all_done) return;
  await new Promise((resolve) => setTimeout(resolve, 700));
  try {
    summary = await ask("api/summary");
    showSummary();
    if (summary.all_done) {
      fillChoices();
      showTab();
      if (state.list !== "rows" && selected < 0) load();
    }
    watch();
  } catch {
    $("work").textContent = "tokpack is no longer running";
  }
}

// Events

function typing() {
  const tag = document.activeElement?.tagName;
  return tag === "INPUT" || tag === "SELECT";
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ($("help").open) return;
  if (typing()) {
    if (event.key === "Escape" || (event.key === "Enter" && document.activeElement.tagName === "INPUT")) document.activeElement.blur();
    return;
  }
  const act = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    ArrowRight: () => side(1), ArrowLeft: () => side(-1),
    "/": () => { if (state.list === "rows") choose("kept"); $("text").focus(); $("text").select(); },
    "?": () => $("help").showModal(), Escape: () => close(), a: wish,
    Enter: () => { if (document.activeElement === document.body) openSelected(); },
    1: () => choose("rows"), 2: () => choose("kept"), 3: () => choose("left_out"),
  }[event.key];
  if (!act) return;
  if (event.key !== "Enter") event.preventDefault();
  act();
});

let pause = 0;
function changed(now) {
  clearTimeout(pause);
  pause = setTimeout(() => { state.page = 0; load(); remember(true); }, now ? 0 : 150);
}

$("filters").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["text", "shortest", "longest"]) $(name).addEventListener("input", () => changed(false));
for (const name of ["source", "reason", "language", "sort"]) $(name).addEventListener("change", (event) => {
  if (name === "sort") { state.descending = ["length", "documents", "trained", "loss"].includes(event.target.value); showTab(); }
  event.target.blur();
  changed(true);
});
$("direction").addEventListener("click", () => { state.descending = !state.descending; showTab(); changed(true); });
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("help-button").addEventListener("click", () => $("help").showModal());
for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => choose(tab.dataset.list));
addEventListener("popstate", recall);

(async () => {
  try {
    summary = await ask("api/summary");
    showSummary();
    fillChoices();
    recall();
    watch();
  } catch (error) {
    $("count").textContent = error.message;
  }
})();
