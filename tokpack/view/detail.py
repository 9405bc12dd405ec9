"""One document, or one packed row, as the page shows it. Every text is made printable here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tokpack.encoding.trained_runs import trained_runs
from tokpack.on_disk.reasons import UNREADABLE, words_of
from tokpack.packed.differences import same_answer
from tokpack.packed.left_out import REPEATS, detail_words, differing, runs_of
from tokpack.packed.originals import Original
from tokpack.packed.triggers import Mark, find_marks
from tokpack.packed.viewer import MOST_DOCUMENTS, SIDES
from tokpack.packed_urls import name_of
from tokpack.schema import IGNORE_INDEX, IS_DESIRABLE, is_preference, is_unpaired
from tokpack.stages.keep import FACTS
from tokpack.terminal.printable import one_line, printable
from tokpack.view.table import DocumentTable, Query
from tokpack.view.texts import Texts
from tokpack.view.wishes import KeepFile

SNIPPET = 240
SNIPPET_TOKENS = 80
FINEST = 400
"""A block is drawn in so many parts at most: shorter stretches between trained ones are drawn as trained."""
TRAINED, MARKED = "trained", "mark"

Runs = list[tuple[str, str]]
"""Texts, and what each is: `trained`, `mark` or nothing."""


@dataclass(slots=True)
class Shown:
    """What the page can ask about one packed dataset."""

    table: DocumentTable
    texts: Texts
    wishes: KeepFile

    # Rows

    def row(self, number: int, firsts: Any) -> dict[str, Any]:
        """A packed row as blocks: stretches of trained tokens as [start, end, start, end, ...].

        Of a row of very many documents (`count`) the first ones.
        """
        record = self.table.record(number)
        trained = record["labels"] != IGNORE_INDEX
        place, blocks = 0, []
        shown = min(len(record["seq_lengths"]), MOST_DOCUMENTS)
        numbers = self.table.pieces[int(firsts[number]) :][:shown]
        lengths = record["seq_lengths"][:shown].tolist()
        names = numbers.select("doc_id", "piece", "copy").rows()
        for length, (doc_id, piece, copy) in zip(lengths, names, strict=True):
            blocks.append(
                {
                    "doc_id": doc_id,
                    "piece": piece,
                    "copy": copy,
                    "length": length,
                    "runs": _stretches(trained[place : place + length]),
                }
            )
            place += length
        return {
            "row": number,
            "tokens": len(trained),
            "trained": int(trained.sum()),
            "count": len(record["seq_lengths"]),
            "documents": blocks,
        }

    # Lists

    def kept_line(self, at: int) -> dict[str, Any]:
        line = self.table.pieces.row(at, named=True)
        record = self._tokens(line)
        trained = record[1] != IGNORE_INDEX
        text = self.texts.kept_text(at)
        if text is None:
            text = self.table.packed.tokenizer.decode(record[0][:SNIPPET_TOKENS].tolist())
        return self._piece(line) | {"trained": int(trained.sum()), "snippet": _snippet(text)}

    def left_out_line(self, at: int) -> dict[str, Any]:
        line = self.table.left_out.row(at, named=True)
        text = line["detail"] if line["reason"] == UNREADABLE else self.texts.left_out_text(at)
        return {
            "doc_id": line["doc_id"],
            "source": one_line(line["source"]),
            "number": line["row"],
            "reason": one_line(line["reason"]),
            "detail": one_line(detail_words(line["reason"], line["detail"]), SNIPPET),
            "length": line["length"],
            "snippet": _snippet(text or ""),
            "wanted": line["doc_id"] in self.wishes,
        }

    # One document

    def kept(self, doc_id: int, piece: int, copy: int) -> dict[str, Any] | None:
        """A kept piece: its text as rendered, in runs of trained and masked tokens."""
        at = self.table.position(doc_id, piece, copy)
        if at is None:
            return None
        line = self.table.pieces.row(at, named=True)
        ids, labels = self._tokens(line)
        runs = trained_runs(self.table.packed.tokenizer, ids, labels != IGNORE_INDEX)
        pieces = int((self.table.pieces["doc_id"] == doc_id).sum())
        return self._piece(line) | {
            "kind": "kept",
            "pieces": pieces,
            "side": self._side(line),
            "trained": int((labels != IGNORE_INDEX).sum()),
            "runs": [(text, TRAINED if is_trained else "") for text, is_trained in runs],
        }

    def _side(self, line: dict[str, Any]) -> str:
        """What a preference calls the document."""
        packed, doc_id = self.table.packed, line["doc_id"]
        if is_unpaired(packed.manifest):
            record = packed[line["packed_row"]]
            return SIDES[bool(record[IS_DESIRABLE][list(record["doc_ids"]).index(doc_id)])]
        if is_preference(packed.manifest):
            return "rejected" if doc_id % 2 else "chosen"
        return ""

    def left_out(self, doc_id: int) -> dict[str, Any] | None:
        """A document that was left out: messages, what triggered the rule, and what it repeats beside it."""
        rows = self.table.left_out.filter(pl.col("doc_id") == doc_id)
        if rows.is_empty():
            return None
        line = rows.row(0, named=True)
        reason = line["reason"]
        own = None if reason == UNREADABLE else self.texts.find(doc_id)
        twin = self.texts.find(line["twin"]) if line["twin"] is not None else None
        marks: list[Mark] = []
        if own is not None and twin is not None and reason in REPEATS:
            marks = differing(own.messages(), twin.messages())
        elif own is not None:
            special = self.table.packed.tokenizer.special_tokens
            marks = find_marks(reason, line["detail"], own.messages(), special)
        return {
            "kind": "left_out",
            "doc_id": doc_id,
            "source": one_line(line["source"]),
            "number": line["row"],
            "reason": one_line(reason),
            "meaning": words_of(reason),
            "detail": printable(detail_words(reason, str(line["detail"]))),
            "length": line["length"],
            "messages": _messages(own, marks) if own else [],
            "fault": "" if own else self._no_text(doc_id, reason),
            "raw": self._raw(doc_id) if reason == UNREADABLE else "",
            "twin": self._twin(line, own, twin),
            "wanted": doc_id in self.wishes,
            "refused": _refusal(reason),
        }

    def _twin(
        self, line: dict[str, Any], own: Original | None, twin: Original | None
    ) -> dict[str, Any] | None:
        if line["twin"] is None:
            return None
        shown: dict[str, Any] = self._place(line["twin"]) | {
            "doc_id": line["twin"],
            "messages": [],
            "same": None,
        }
        if twin is not None:
            marks = differing(twin.messages(), own.messages()) if own and line["reason"] in REPEATS else []
            shown |= {"messages": _messages(twin, marks), "number": twin.row}
        if own is not None and twin is not None and line["reason"] in REPEATS:
            shown["same"] = same_answer(own.messages(), twin.messages())
        return shown

    def _no_text(self, doc_id: int, reason: str) -> str:
        if reason == UNREADABLE:
            return ""
        return printable(self.texts.originals.fault(doc_id) or "the row gives no text")

    def _raw(self, doc_id: int) -> str:
        from tokpack.packed.left_out import unreadable

        lines = (line for line in self.table.packed.quarantined() if line["doc_id"] == doc_id)
        return printable(next((unreadable(line).raw for line in lines), ""))

    def _tokens(self, line: dict[str, Any]) -> tuple[Any, Any]:
        record = self.table.record(line["packed_row"])
        part = slice(line["start"], line["start"] + line["length"])
        return record["input_ids"][part], record["labels"][part]

    def _piece(self, line: dict[str, Any]) -> dict[str, Any]:
        names = ("doc_id", "piece", "copy", "packed_row", "length", "loss")
        return self._place(line["doc_id"]) | {name: line[name] for name in names}

    def _place(self, doc_id: int) -> dict[str, Any]:
        source, number = self.table.place(doc_id)
        return {"source": one_line(source), "number": number}

    # Languages and counts for the filters

    def summary(self) -> dict[str, Any]:
        packed = self.table.packed
        manifest = packed.manifest
        dropped = self.table.left_out.group_by("reason").len().sort("len", "reason", descending=[True, False])
        languages = self.texts.languages
        counts = languages.value_counts(sort=True).rows() if languages is not None else []
        return {
            "name": one_line(name_of(packed.folder)),
            "capacity": manifest["capacity"],
            "rows": manifest["rows"],
            "documents": manifest["documents"],
            "pieces": manifest["pieces"],
            "tokens": manifest["tokens"],
            "trained": manifest["trained_tokens"],
            "tokenizer": one_line(manifest["tokenizer"]["name"]),
            "sources": self.table.sources,
            "reasons": [
                {"name": reason, "count": count, "meaning": words_of(reason)}
                for reason, count in dropped.rows()
            ],
            "languages": [{"name": name, "count": count} for name, count in counts],
            "losses": self.table.has_losses,
            "wanted": len(self.wishes.doc_ids),
            "keep_file": one_line(str(self.wishes.path)),
            "done": self.texts.done,
            "all_done": self.texts.is_ready("languages"),
            "fault": printable(self.texts.fault),
        }

    def order(self, what: str, query: Query) -> Any:
        """Positions of what a list shows."""
        if what == "rows":
            return self.table.row_order(query)
        hits = self.texts.hits("kept" if what == "kept" else "left_out", query.text) if query.text else None
        if what == "kept":
            return self.table.kept_order(query, hits)
        return self.table.left_out_order(query, hits, self.texts.languages)


def _refusal(reason: str) -> str:
    """Why a wish would not help."""
    if reason == UNREADABLE:
        return "the row cannot be read"
    return (words_of(reason) or "it is a fact about the document") if reason in FACTS else ""


def _messages(document: Original, marks: list[Mark]) -> list[dict[str, Any]]:
    extras = document.extra.get("messages") or []
    shown = []
    if tools := document.extra.get("tools"):
        shown.append({"role": "tools", "runs": [(printable(_json(tools)), "")], "empty": False, "hit": False})
    for number, (role, content) in enumerate(document.messages()):
        own = [mark for mark in marks if mark.message == number]
        more = extras[number] if number < len(extras) else None
        shown.append(
            {
                "role": printable(role or "no role"),
                "runs": _marked(content or "", own) + ([(printable(_json(more)), "")] if more else []),
                "empty": not (content or "").strip() and not more,
                "hit": bool(own),
            }
        )
    return shown


def _marked(content: str, marks: list[Mark]) -> Runs:
    return [(printable(text), MARKED if marked else "") for text, marked in runs_of(content, marks) if text]


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)


def _snippet(text: str) -> str:
    return printable(" ".join(text[: 2 * SNIPPET].split())[:SNIPPET])


def _stretches(trained: Any) -> list[int]:
    """Where trained stretches begin and end, in turn."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained.astype(np.int8), [0]])))
    gap = len(trained) // FINEST
    if gap > 0 and len(edges) > 2:
        starts, ends = edges[::2], edges[1::2]
        apart = np.flatnonzero(starts[1:] - ends[:-1] > gap)
        edges = np.stack([starts[np.append(0, apart + 1)], ends[np.append(apart, len(ends) - 1)]], 1).ravel()
    return [int(edge) for edge in edges]
