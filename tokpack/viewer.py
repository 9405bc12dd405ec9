"""Show packed rows as a person reads them: document boundaries, trained tokens in colour."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from tokpack.artefact import Artefact
from tokpack.errors import UsageError
from tokpack.report.safe import printable
from tokpack.schema import IGNORE_INDEX

TRAINED_STYLE = "bold green"
MASKED_STYLE = "dim"


def choose_row(artefact: Artefact, row: int | None, doc: int | None) -> int:
    """The row to show. Raises UsageError for one that is not there, with what became of the document."""
    if doc is not None:
        found = artefact.row_of_document(doc)
        if found is None:
            raise UsageError(f"document {doc} is in no row", where="--doc", hint=_fate(artefact, doc))
        return found
    row = row or 0
    if not 0 <= row < len(artefact):
        raise UsageError(f"no row {row}", where="--row", hint=f"rows are 0 to {len(artefact) - 1}")
    return row


def _fate(artefact: Artefact, doc: int) -> str:
    record = artefact.dropped.filter(artefact.dropped["doc_id"] == doc)
    if record.is_empty():
        return "it is in the validation part, in quarantine.jsonl, or was never read"
    reason, detail, source, line = record.select("reason", "detail", "source", "row").row(0)
    return f"left out: {reason}" + (f" ({detail})" if detail else "") + f"; {source}, row {line}"


def row_view(artefact: Artefact, row: int, max_tokens: int = 0) -> RenderableType:
    """One row: each document under a rule, trained tokens green, masked ones dim, white space as it is."""
    record = artefact[row]
    capacity = artefact.manifest["capacity"]
    used, documents = len(record["input_ids"]), len(record["doc_ids"])
    head = Text.assemble(
        (f"row {row}", "bold"),
        f"  {used:,} of {capacity:,} tokens, {documents} documents  ",
        ("trained", TRAINED_STYLE),
        " ",
        ("masked", MASKED_STYLE),
    )
    parts: list[RenderableType] = [head]
    for doc_id, ids, labels in _documents(record):
        title = f"document {doc_id}: {len(ids):,} tokens, {int((labels != IGNORE_INDEX).sum()):,} trained"
        parts.append(Rule(Text(title), align="left", style="cyan"))
        limit = max_tokens or len(ids)
        parts.append(_coloured(artefact.tokenizer, ids[:limit], labels[:limit] != IGNORE_INDEX))
        if limit < len(ids):
            parts.append(Text(f"... {len(ids) - limit:,} more tokens", style="italic"))
    return Group(*parts)


def _documents(record: dict[str, Any]) -> Iterator[tuple[int, Any, Any]]:
    ends = np.cumsum(record["seq_lengths"])
    for doc_id, start, end in zip(record["doc_ids"], ends - record["seq_lengths"], ends, strict=True):
        yield int(doc_id), record["input_ids"][start:end], record["labels"][start:end]


def _coloured(tokenizer: Any, ids: Any, trained: Any) -> Text:
    """Runs of equal colour are decoded together, so that characters split between tokens come out whole."""
    text = Text()
    if not len(ids):
        return text
    edges = [0, *(np.flatnonzero(np.diff(trained.astype(np.int8))) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        style = TRAINED_STYLE if trained[start] else MASKED_STYLE
        text.append(printable(tokenizer.decode(ids[start:end].tolist())), style=style)
    return text
