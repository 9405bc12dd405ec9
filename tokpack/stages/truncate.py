"""Truncate: what happens to documents longer than the capacity, exact to the token.

    drop    the document leaves, reason `overlong`
    right   keeps the first tokens      left    keeps the last
    turns   drops the oldest whole exchanges after the system message until the conversation, rendered and
            tokenised again, fits; a tool call stays with its result; ends on a complete assistant turn
    split   cuts into pieces of at most the capacity, in order

Every token left behind is in `cut`. A document without a trained token left is dropped as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.schema import TRAINED
from tokpack.stages.ranges import Int64, copy_ranges, offsets_of
from tokpack.stages.tokenize import TokenBatch

OVERLONG = "overlong"
NO_TRAINED_TOKENS = "no_trained_tokens"

Encode = Callable[[pl.DataFrame], TokenBatch]


@dataclass(frozen=True, slots=True)
class Pieces:
    """What is left of a batch: piece p is document p of `tokens`."""

    documents: pl.DataFrame
    document: Int64
    """Position in the batch of each piece's document."""
    number: npt.NDArray[np.int32]
    """0, 1, ... within a document."""
    tokens: TokenBatch
    trained: Int64
    """Tokens with a label, per piece; the first token of a piece never has one."""
    cut: Int64
    """Tokens left behind, per document; 0 for dropped ones, whose tokens are all lost."""


def mode_of(documents: pl.DataFrame, overlong: str, by_chat_template: bool) -> pl.Series:
    """The truncation of each document: `auto` depends on its kind."""
    if overlong != "auto":
        return pl.Series([overlong], dtype=pl.String).new_from_index(0, len(documents))
    other = "turns" if by_chat_template else "right"
    return documents.select(
        pl.when(pl.col("kind") == "text").then(pl.lit("split")).otherwise(pl.lit(other))
    ).to_series()


def truncate(
    documents: pl.DataFrame,
    tokens: TokenBatch,
    capacity: int,
    overlong: str,
    by_chat_template: bool,
    encode: Encode,
) -> Pieces:
    """Cut a batch to `capacity` tokens a piece. `encode` renders and tokenises shortened conversations."""
    lengths = np.diff(tokens.offsets)
    alive = documents["drop_reason"].is_null().to_numpy()
    long = alive & (lengths > capacity)
    mode = mode_of(documents, overlong, by_chat_template).to_numpy() if long.any() else np.empty(0)
    starts, sizes = tokens.offsets[:-1].copy(), np.where(alive, lengths, 0)
    dropped: dict[int, tuple[str, str]] = {}
    number_of = np.ones(len(lengths), dtype=np.int64)
    short = _Shortened([], tokens)
    if long.any():
        cut_here = long & ((mode == "right") | (mode == "left"))
        sizes[cut_here] = capacity
        starts[long & (mode == "left")] += (lengths - capacity)[long & (mode == "left")]
        split = long & (mode == "split")
        number_of[split] = -(-lengths[split] // capacity)
        turns = np.flatnonzero(long & (mode == "turns"))
        short = _drop_oldest_turns(documents, turns, tokens, capacity, encode)
        for position in [*np.flatnonzero(long & (mode == "drop")), *(set(turns) - set(short.documents))]:
            dropped[int(position)] = (OVERLONG, f"{lengths[position]} tokens, capacity {capacity}")
            sizes[position] = 0
        for position, start, size in short.ranges:
            starts[position], sizes[position] = start, size
    tokens = short.tokens
    number_of[sizes == 0] = 0
    document = np.repeat(np.arange(len(lengths)), number_of)
    number = np.arange(len(document)) - np.repeat(offsets_of(number_of)[:-1], number_of)
    piece_starts = starts[document] + number * capacity
    piece_sizes = (
        np.minimum(sizes[document] - number * capacity, np.int64(capacity)) if len(document) else sizes[:0]
    )
    return _finish(documents, tokens, document, number, piece_starts, piece_sizes, dropped, lengths)


def _finish(
    documents: pl.DataFrame,
    tokens: TokenBatch,
    document: Int64,
    number: Int64,
    starts: Int64,
    sizes: Int64,
    dropped: dict[int, tuple[str, str]],
    lengths: Int64,
) -> Pieces:
    """Count labels, drop documents that have none, gather what stays."""
    labelled = np.flatnonzero(tokens.flags & TRAINED)
    ends = starts + sizes
    trained = np.searchsorted(labelled, ends) - np.searchsorted(labelled, np.minimum(starts + 1, ends))
    per_document = np.bincount(document, weights=trained, minlength=len(lengths))
    present = np.bincount(document, minlength=len(lengths)) > 0
    # An empty document has no piece, and nothing to train either.
    alive = documents["drop_reason"].is_null().to_numpy() & ~np.isin(np.arange(len(lengths)), list(dropped))
    for position in np.flatnonzero(alive & (per_document == 0)):
        dropped[int(position)] = (NO_TRAINED_TOKENS, f"{lengths[position]} tokens, none with a label")
    keep = ~np.isin(document, list(dropped))
    document, number, starts, sizes, trained = (a[keep] for a in (document, number, starts, sizes, trained))
    stored = np.bincount(document, weights=sizes, minlength=len(lengths)).astype(np.int64)
    cut = np.where(present & (stored > 0), lengths - stored, 0)
    return Pieces(
        _mark(documents, dropped),
        document,
        number.astype(np.int32),
        _gather(tokens, starts, sizes),
        trained,
        cut,
    )


def _gather(tokens: TokenBatch, starts: Int64, sizes: Int64) -> TokenBatch:
    if len(starts) == len(tokens.offsets) - 1 and np.array_equal(starts, tokens.offsets[:-1]):
        return tokens  # nothing was left out
    ids, flags = (copy_ranges(values, starts, sizes) for values in (tokens.input_ids, tokens.flags))
    return TokenBatch(offsets_of(sizes), ids, flags)


def _mark(documents: pl.DataFrame, dropped: dict[int, tuple[str, str]]) -> pl.DataFrame:
    if not dropped:
        return documents
    positions = sorted(dropped)
    return documents.with_columns(
        documents["drop_reason"].clone().scatter(positions, [dropped[p][0] for p in positions]),
        documents["drop_detail"].clone().scatter(positions, [dropped[p][1] for p in positions]),
    )


# Turns: row by row, but only over documents that are too long


@dataclass(frozen=True, slots=True)
class _Shortened:
    ranges: list[tuple[int, int, int]]
    """(document, start, tokens) in `tokens`."""
    tokens: TokenBatch
    """The batch's tokens with those of shortened conversations behind them; offsets are not kept up."""

    @property
    def documents(self) -> list[int]:
        return [position for position, _, _ in self.ranges]


def _drop_oldest_turns(
    documents: pl.DataFrame, positions: Int64, tokens: TokenBatch, capacity: int, encode: Encode
) -> _Shortened:
    """Bisect, for all documents at once, how many of the oldest exchanges must go."""
    conversations = {int(p): _Conversation(documents.row(int(p), named=True)) for p in positions}
    low = dict.fromkeys(conversations, 1)
    high = {p: c.exchanges - 1 for p, c in conversations.items()}
    best: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]] = {}
    pending = [p for p in conversations if low[p] <= high[p]]
    while pending:
        # The first try keeps the last exchange only: where that is too long, nothing fits.
        tries = {p: high[p] if p not in best else (low[p] + high[p]) // 2 for p in pending}
        batch = encode(
            pl.DataFrame([conversations[p].without(k) for p, k in tries.items()], schema=documents.schema)
        )
        for (p, k), start, end in zip(tries.items(), batch.offsets[:-1], batch.offsets[1:], strict=True):
            if 0 < end - start <= capacity:
                best[p] = (batch.input_ids[start:end], batch.flags[start:end])
                high[p] = k - 1
            else:
                low[p] = k + 1
        pending = [p for p in pending if low[p] <= high[p]]
    if not best:
        return _Shortened([], tokens)
    starts = len(tokens.input_ids) + offsets_of(np.array([len(ids) for ids, _ in best.values()]))
    ids = np.concatenate([tokens.input_ids, *(ids for ids, _ in best.values())])
    flags = np.concatenate([tokens.flags, *(flags for _, flags in best.values())])
    ranges = [(p, int(a), int(b - a)) for p, a, b in zip(best, starts[:-1], starts[1:], strict=True)]
    return _Shortened(ranges, TokenBatch(tokens.offsets, ids, flags))


class _Conversation:
    """A document's messages cut into exchanges, each from a user message to before the next."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        roles = document["roles"]
        self._head = next(
            (i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles)
        )
        self._starts = [
            i
            for i in range(self._head, len(roles))
            if roles[i] == "user" and (i == 0 or roles[i - 1] != "user")
        ]
        self._end = max((i + 1 for i, role in enumerate(roles) if role == "assistant"), default=0)

    @property
    def exchanges(self) -> int:
        return len([start for start in self._starts if start < self._end])

    def without(self, count: int) -> dict[str, Any]:
        """The document without its `count` oldest exchanges, and without what follows the last answer."""
        keep = [*range(self._head), *range(self._starts[count], self._end)]
        document = dict(self._document)
        document["roles"] = [document["roles"][i] for i in keep]
        document["contents"] = [document["contents"][i] for i in keep]
        if document["extra"]:
            extra = json.loads(document["extra"])
            if "messages" in extra:
                extra["messages"] = [extra["messages"][i] for i in keep]
            document["extra"] = json.dumps(extra, ensure_ascii=False)
        return document
