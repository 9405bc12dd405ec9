// One document of the page of `tokpack view`. Texts from data become text nodes and nothing else.
"use strict";

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
