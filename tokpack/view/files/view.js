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

// Lists

function fillSorts() {
  const known = SORTS[state.list].filter(([name]) => name !== "loss" || (summary && summary.losses));
  $("sort").replaceChildren(...known.map(([name, label]) => make("option", { value: name }, label)));
}

function showTab() {
  for (const tab of document.querySelectorAll("[role=tab]"))
    tab.setAttribute("aria-selected", tab.dataset.list === state.list);
  for (const label of document.querySelectorAll(".for-texts")) label.hidden = state.list === "rows";
  for (const label of document.querySelectorAll(".for-left-out")) label.hidden = state.list !== "left_out";
  $("language-label").hidden = state.list !== "left_out" || $("language").options.length < 3;
  $("direction").textContent = state.descending ? "↓" : "↑";
}

function choose(list) {
  if (state.list === list) return;
  Object.assign(state, { list, page: 0, descending: false });
  for (const name of FILTERS) if (name !== "text" && name !== "source") $(name).value = "";
  items = [];
  selected = -1;
  $("items").replaceChildren();
  fillSorts();
  showTab();
  close(true);
  load();
  remember();
}

function queryOf() {
  const parts = new URLSearchParams({ page: state.page });
  const used = state.list === "rows" ? ["shortest", "longest", "sort"] : FILTERS;
  for (const name of used)
    if ($(name).value && (state.list === "left_out" || !["reason", "language"].includes(name))) parts.set(name, $(name).value);
  if (state.descending) parts.set("descending", 1);
  return parts;
}

// What is selected stays so where the new list has it: answers come while a person goes on.
async function load(at = -1) {
  const mine = ++asked;
  try {
    const found = await ask(`api/list/${state.list}?${queryOf()}`);
    if (mine !== asked) return;
    if (found.waiting) {
      $("count").textContent = `Reading the texts: ${Math.round(100 * found.done)}%`;
      setTimeout(() => mine === asked && load(at), 300);
      return;
    }
    const same = at === -1 && selected >= 0 && state.list !== "rows" ? nameOf(items[selected]) : null;
    items = found.items;
    pages = found.pages;
    const noun = state.list === "rows" ? "row" : "document";
    $("count").textContent = found.total ? `${counted(found.total, noun)}` : `No ${noun} like this.`;
    $("page").textContent = `${n(found.page + 1)} of ${n(pages)}`;
    $("previous").disabled = !found.page;
    $("next").disabled = found.page + 1 >= pages;
    const draw = { rows: rowItem, kept: keptItem, left_out: leftOutItem }[state.list];
    $("items").replaceChildren(...items.map((item, index) => draw(item, index)));
    $("list").scrollTop = 0;
    selected = -1;
    block = 0;
    const next = same ? items.findIndex((item) => nameOf(item) === same) : at === -2 ? items.length - 1 : at;
    if (next !== -1) select(next, !same);
  } catch (error) {
    if (mine !== asked) return;
    $("count").textContent = `The page cannot be filled: ${error.message}. Is tokpack still running?`;
  }
}

function entry(index, ...children) {
  return make("li", { class: "item", onclick: () => { select(index, false); openSelected(); } }, ...children);
}

function rowItem(row, index) {
  const bar = make("div", { class: "bar" });
  row.documents.forEach((doc, place) => bar.append(blockOf(doc, (event) => {
    event.stopPropagation();
    select(index, false);
    block = place;
    openSelected();
  })));
  const free = make("div", {});
  free.style.flexGrow = Math.max(0, summary.capacity - row.tokens);
  bar.append(free);
  const line = make("p", { class: "line" },
    make("b", {}, `row ${n(row.row)}`),
    make("span", {}, `${n(row.tokens)} of ${n(summary.capacity)} tokens`),
    make("span", {}, counted(row.documents.length, "document")),
    make("span", {}, `${share(row.trained, row.tokens)} trained`));
  return entry(index, line, bar);
}

function blockOf(doc, onclick) {
  const label = `document ${doc.doc_id}, ${n(doc.length)} tokens`;
  const made = make("button", { class: "block", type: "button", title: label, "aria-label": label, tabindex: -1, onclick });
  made.style.flexGrow = doc.length;
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", `0 0 ${doc.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  let drawn = "";
  for (let i = 0; i < doc.runs.length; i += 2) drawn += `M${doc.runs[i]} 0H${doc.runs[i + 1]}V1H${doc.runs[i]}z`;
  path.setAttribute("d", drawn);
  svg.append(path);
  made.append(svg);
  return made;
}

function keptItem(doc, index) {
  return entry(index,
    make("p", { class: "line" },
      make("b", {}, nameOf(doc)),
      make("span", {}, `${n(doc.length)} tokens`),
      make("span", {}, `${share(doc.trained, doc.length)} trained`),
      doc.loss == null ? null : make("span", {}, `loss ${doc.loss.toFixed(3)}`),
      make("span", {}, placeOf(doc))),
    make("p", { class: "snippet" }, doc.snippet));
}

function leftOutItem(doc, index) {
  return entry(index,
    make("p", { class: "line" },
      make("b", {}, `document ${doc.doc_id}`),
      make("span", { class: "reason" }, doc.reason),
      make("span", {}, `${n(doc.length)} tokens`),
      make("span", {}, placeOf(doc)),
      doc.wanted ? make("span", { class: "wanted" }, "keep") : null),
    make("p", { class: "snippet" }, doc.snippet || doc.detail));
}

const placeOf = (doc) => (doc.source ? `${doc.source}, row ${n(doc.number)}` : "");
const nameOf = (doc) => `document ${doc.doc_id}${doc.piece ? `, piece ${doc.piece + 1}` : ""}${doc.copy ? `, copy ${doc.copy + 1}` : ""}`;

function select(index, show = true) {
  if (!items.length) return;
  selected = Math.max(0, Math.min(items.length - 1, index));
  block = 0;
  const drawn = $("items").children;
  for (let i = 0; i < drawn.length; i++) drawn[i].classList.toggle("selected", i === selected);
  if (show) {
    drawn[selected].scrollIntoView({ block: "nearest" });
    if (!$("detail").hidden) openSelected();
  }
}

function openSelected() {
  const item = items[selected];
  if (!item) return;
  for (const old of document.querySelectorAll(".block.current")) old.classList.remove("current");
  if (state.list === "rows") {
    const doc = item.documents[block];
    $("items").children[selected].querySelectorAll(".block")[block].classList.add("current");
    open("kept", doc.doc_id, doc.piece, doc.copy);
  } else open(state.list, item.doc_id, item.piece || 0, item.copy || 0);
}

function turn(by) {
  const page = state.page + by;
  if (page < 0 || page >= pages) return;
  state.page = page;
  remember();
  load(0);
}

function step(by) {
  if (selected + by >= items.length && state.page + 1 < pages) return turn(1);
  if (selected + by < 0 && selected >= 0 && state.page > 0) {
    state.page -= 1;
    remember();
    return load(-2);
  }
  select(selected + by);
}

function side(by) {
  if (state.list !== "rows" || selected < 0 || $("detail").hidden) return turn(by);
  const most = items[selected].documents.length;
  block = Math.max(0, Math.min(most - 1, block + by));
  openSelected();
}

// One document

async function open(kind, doc, piece = 0, copy = 0, recalled = false) {
  const mine = ++opening;
  try {
    const path = kind === "kept" ? `api/kept/${doc}?piece=${piece}&copy=${copy}` : `api/left-out/${doc}`;
    const found = await ask(path);
    if (mine !== opening) return;
    current = found;
    showDetail(found.kind === "kept" ? keptDetail(found) : leftOutDetail(found));
  } catch (error) {
    if (mine !== opening) return;
    showDetail([make("p", { class: "why" }, error.message)]);
  }
  if (!recalled) remember(true);
}

function showDetail(parts) {
  const was = $("detail").hidden;
  $("detail").replaceChildren(...parts);
  $("detail").hidden = false;
  document.querySelector("main").classList.add("open");
  $("detail").scrollTop = 0;
  if (was && selected >= 0) $("items").children[selected]?.scrollIntoView({ block: "nearest" });
}

function close(quietly) {
  opening++;
  current = null;
  $("detail").hidden = true;
  document.querySelector("main").classList.remove("open");
  if (!quietly) remember(true);
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== "" && value != null);
  return make("dl", { class: "facts" }, ...known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function headOf(title) {
  return make("div", { class: "head" }, make("h2", {}, title),
    make("button", { type: "button", onclick: () => close() }, "Close"));
}

function textOf(runs, className) {
  const pre = make("pre", { class: className });
  for (const [text, kind] of runs)
    pre.append(make(kind === "mark" ? "mark" : "span", { class: kind === "mark" ? "" : kind }, ...found(text)));
  return pre;
}

function found(text) {
  const wanted = state.list === "rows" ? "" : $("text").value.toLowerCase();
  const lower = text.toLowerCase();
  if (!wanted || lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0 && parts.length < 2000; at = lower.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), make("span", { class: "found" }, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}

function keptDetail(doc) {
  return [
    headOf(nameOf(doc) + (doc.side ? `, ${doc.side}` : "")),
    facts([
      ["source", placeOf(doc)],
      ["length", `${n(doc.length)} tokens`],
      ["trained", `${n(doc.trained)}, ${share(doc.trained, doc.length)}`],
      ["packed row", n(doc.packed_row)],
      ["pieces", doc.pieces > 1 ? n(doc.pieces) : ""],
      ["loss", doc.loss == null ? "" : doc.loss.toFixed(4)],
    ]),
    make("p", { class: "legend" }, make("span", { class: "trained" }, "trained"), "the rest is read, not learned"),
    textOf(doc.runs, "message rendered"),
  ];
}

function messagesOf(messages) {
  return messages.flatMap((message) => [
    make("h3", {}, message.role + (message.empty ? " (empty)" : "")),
    textOf(message.runs, `message${message.hit ? " hit" : ""}`),
  ]);
}

function leftOutDetail(doc) {
  const parts = [
    headOf(`document ${doc.doc_id}`),
    facts([["left out as", doc.reason], ["source", placeOf(doc)], ["tokens", doc.length ? n(doc.length) : ""]]),
    make("p", { class: "why" }, [doc.meaning, doc.detail].filter(Boolean).join("\n")),
    keepButton(doc),
  ];
  if (doc.fault) parts.push(make("p", { class: "why" }, `No text: ${doc.fault}.`));
  if (doc.raw) parts.push(make("h3", {}, "the row as it is"), textOf([[doc.raw, ""]], "message"));
  if (!doc.twin) return [...parts, ...messagesOf(doc.messages)];
  const same = doc.twin.same == null ? "" : doc.twin.same ? ": same answer" : ": other answer";
  const link = make("button", { type: "button", onclick: () => open("kept", doc.twin.doc_id) }, "Open it");
  const left = [make("p", {}, "This one"), ...messagesOf(doc.messages)];
  const right = [make("p", {}, `Document ${doc.twin.doc_id}${same} `), ...messagesOf(doc.twin.messages)];
  if (!doc.twin.messages.length) right.push(link);
  return [...parts, make("div", { class: "twins" }, make("div", { class: "side" }, ...left), make("div", { class: "side twin" }, ...right))];
}

function keepButton(doc) {
  if (doc.refused) return make("p", { class: "actions quiet" }, `A wish does not help: ${doc.refused}.`);
  const label = doc.wanted ? "Kept after all: take it back" : "Keep this after all";
  const button = make("button", { type: "button", id: "keep", class: doc.wanted ? "on" : "", onclick: wish }, label);
  return make("p", { class: "actions" }, button, make("span", { class: "quiet" },
    doc.wanted ? `in ${summary.keep_file}: pack again with --keep ${summary.keep_file}` : ""));
}

async function wish() {
  if (!current || current.kind !== "left_out" || current.refused) return;
  const doc = current;
  try {
    const answer = await ask(`api/keep/${doc.doc_id}?wanted=${doc.wanted ? 0 : 1}`, { method: "POST" });
    doc.wanted = answer.wanted;
    summary.wanted = answer.all;
    showSummary();
    if (current === doc) $("detail").querySelector(".actions").replaceWith(keepButton(doc));
    const at = items.findIndex((item) => item.doc_id === doc.doc_id);
    if (state.list === "left_out" && at >= 0) {
      items[at].wanted = doc.wanted;
      const drawn = leftOutItem(items[at], at);
      if (at === selected) drawn.classList.add("selected");
      $("items").children[at].replaceWith(drawn);
    }
  } catch (error) {
    $("detail").querySelector(".actions").replaceChildren(error.message);
  }
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
