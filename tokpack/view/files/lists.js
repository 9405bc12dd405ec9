// The lists of the page of `tokpack view`: rows, documents, what was left out.
"use strict";

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
    make("span", {}, counted(row.count, "document")),
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
