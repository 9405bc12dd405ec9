"""Truncate: what happens to documents longer than the capacity, exact to the token.

    drop    the document leaves, reason `overlong`
    right   keeps the first tokens      left    keeps the last
    turns   drops the oldest whole exchanges after the system message until the conversation, rendered and
            tokenized again, fits; a tool call stays with its result; ends on a complete assistant turn
    split   cuts into pieces of at most the capacity, in order; those before the first label and
            behind the last one are left behind, as they would train nothing

A preference pair has to fit into one row together: `right` keeps as many first tokens of both, `left` takes
as many tokens from the front of both, `turns` drops the same exchanges of their common prompt.

Every token left behind is in `cut`. A document without a trained token left is dropped as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Bools, Int32, Int64
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import CHOSEN_EQUALS_REJECTED, NO_TRAINED_TOKENS, OVERLONG, PAIR_DROPPED
from tokpack.ranges import copy_ranges, offsets_of
from tokpack.schema import PAIR_WIDTH, TRAINED
from tokpack.stages.normalize.token_rows import LABELED
from tokpack.stages.pairs import drop_equal
from tokpack.stages.tokenize import TokenBatch, weights_of

Encode = Callable[[pl.DataFrame], TokenBatch]


@frozen
class Pieces:
    """What is left of a batch: piece p is document p of `tokens`."""

    documents: pl.DataFrame
    document: Int64
    """Position in the batch of each piece's document."""
    number: Int32
    """0, 1, ... within a document."""
    tokens: TokenBatch
    trained: Int64
    """Tokens with a label, per piece; the first token of a piece never has one."""
    cut: Int64
    """Tokens left behind, per document; 0 for dropped ones, whose tokens are all lost."""


def mode_of(documents: pl.DataFrame, overlong: str, by_chat_template: bool, pairs: bool = False) -> pl.Series:
    """The truncation of each document: `auto` depends on its kind."""
    if overlong == "auto" and pairs:
        overlong = "drop"
    if overlong != "auto":
        return pl.Series([overlong], dtype=pl.String).new_from_index(0, len(documents))
    other = "turns" if by_chat_template else "right"
    return documents.select(
        pl.col("kind").replace_strict({"text": "split", LABELED: "right"}, default=other)
    ).to_series()


def truncate(
    documents: pl.DataFrame,
    tokens: TokenBatch,
    capacity: int,
    overlong: str,
    by_chat_template: bool,
    encode: Encode,
    pairs: bool = False,
) -> Pieces:
    """Cut a batch to `capacity` tokens a piece, or a pair. `encode` renders and tokenizes shortened
    conversations."""
    width = PAIR_WIDTH if pairs else 1
    lengths = np.diff(tokens.offsets)
    alive = documents["drop_reason"].is_null().to_numpy()
    together = np.repeat(np.where(alive, lengths, 0).reshape(-1, width).sum(axis=1), width)
    long = alive & (together > capacity)
    mode = mode_of(documents, overlong, by_chat_template, pairs).to_numpy() if long.any() else np.empty(0)
    starts, sizes = tokens.offsets[:-1].copy(), np.where(alive, lengths, 0)
    dropped: dict[int, tuple[str, str]] = {}
    number_of = np.ones(len(lengths), dtype=np.int64)
    short = _Shortened([], tokens)
    if long.any():
        right, left, split = (long & (mode == name) for name in ("right", "left", "split"))
        sizes[right] = np.minimum(lengths, _limit(lengths, capacity, width))[right]
        over = -((capacity - together) // width)  # tokens too many, shared out and rounded up
        starts[left], sizes[left] = (starts + over)[left], (lengths - over)[left]
        lost = left & (np.repeat(sizes.reshape(-1, width).min(axis=1), width) <= 0)
        _split(tokens, np.flatnonzero(split), capacity, starts, sizes, number_of)
        turns = np.flatnonzero(long & (mode == "turns"))
        short = _drop_oldest_turns(documents, turns.reshape(-1, width), tokens, capacity, encode)
        gone = set(np.flatnonzero(lost | (long & (mode == "drop"))).tolist())
        what = "a pair of " if pairs else ""
        for position in gone | set(turns.tolist()) - set(short.documents):
            dropped[position] = (OVERLONG, f"{what}{together[position]} tokens, capacity {capacity}")
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
    return _finish(documents, tokens, document, number, piece_starts, piece_sizes, dropped, lengths, pairs)


def _split(
    tokens: TokenBatch, documents: Int64, capacity: int, starts: Int64, sizes: Int64, number_of: Int64
) -> None:
    """Where the pieces of these documents begin, their tokens and their number, in place."""
    if not len(documents):
        return
    labeled = np.flatnonzero(tokens.flags & TRAINED)
    begin, end = tokens.offsets[documents], tokens.offsets[documents + 1]
    low, high = np.searchsorted(labeled, begin), np.searchsorted(labeled, end)
    some = high > low
    documents, begin, end, low, high = (a[some] for a in (documents, begin, end, low, high))
    first, last = ((labeled[at] - begin) // capacity for at in (low, high - 1))
    starts[documents] = begin + first * capacity
    sizes[documents] = np.minimum(end, begin + (last + 1) * capacity) - starts[documents]
    number_of[documents] = last - first + 1


def _limit(lengths: Int64, capacity: int, width: int) -> Int64:
    """Most first tokens that both of a pair may keep, so that they fit together; of a document alone, all."""
    if width == 1:
        return np.full(len(lengths), capacity)
    shorter = lengths.reshape(-1, width).min(axis=1)
    return np.repeat(np.maximum(capacity // 2, capacity - shorter), width)


def _finish(
    documents: pl.DataFrame,
    tokens: TokenBatch,
    document: Int64,
    number: Int64,
    starts: Int64,
    sizes: Int64,
    dropped: dict[int, tuple[str, str]],
    lengths: Int64,
    pairs: bool,
) -> Pieces:
    """Count labels, drop documents that have none, gather what stays."""
    trained = _labels(tokens, starts, starts + sizes)
    per_document = np.bincount(document, weights=trained, minlength=len(lengths))
    present = np.bincount(document, minlength=len(lengths)) > 0
    # An empty document has no piece, and nothing to train either.
    alive = documents["drop_reason"].is_null().to_numpy() & ~np.isin(np.arange(len(lengths)), list(dropped))
    for position in np.flatnonzero(alive & (per_document == 0)):
        roles = ", ".join(dict.fromkeys(str(role) for role in documents["roles"][int(position)]))
        said = f"; its roles: {roles}" if roles else ""
        dropped[int(position)] = (NO_TRAINED_TOKENS, f"{lengths[position]} tokens, none with a label{said}")
    for torn in [p for p in dropped if pairs and p ^ 1 not in dropped]:
        dropped[torn ^ 1] = (PAIR_DROPPED, f"{documents['doc_id'][torn]} {dropped[torn][0]}")
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


def _labels(tokens: TokenBatch, starts: Int64, ends: Int64) -> Int64:
    """How many tokens from each start to its end have a label; a first one has none."""
    flags = np.append(tokens.flags & TRAINED, np.uint8(0))  # an end may be the last token's
    behind = starts + 1
    found = np.add.reduceat(flags, np.stack([np.minimum(behind, ends), ends], axis=1).ravel(), dtype=np.int64)
    return np.where(behind < ends, found[::2], 0)


def drop_cut_alike(pieces: Pieces, wanted: Bools) -> Pieces:
    """Without the pairs whose documents are the same once they are cut: reason `chosen_equals_rejected`.
    Those that are wanted, bool[documents], stay."""
    tokens, sizes = pieces.tokens, np.diff(pieces.tokens.offsets)
    told = drop_equal(pieces.documents[pieces.document], tokens.input_ids, tokens.offsets)["drop_reason"]
    stays = told.is_null().to_numpy() | wanted[pieces.document]
    if stays.all():
        return pieces
    gone = pieces.document[~stays]
    dropped = {
        position: (CHOSEN_EQUALS_REJECTED, f"both are the same {size} tokens once they are cut")
        for position, size in zip(gone.tolist(), sizes[~stays].tolist(), strict=True)
    }
    cut = pieces.cut.copy()
    cut[gone] = 0
    return Pieces(
        _mark(pieces.documents, dropped),
        pieces.document[stays],
        pieces.number[stays],
        _gather(tokens, tokens.offsets[:-1][stays], sizes[stays]),
        pieces.trained[stays],
        cut,
    )


def _gather(tokens: TokenBatch, starts: Int64, sizes: Int64) -> TokenBatch:
    whole = np.array_equal(starts, tokens.offsets[:-1]) and np.array_equal(starts + sizes, tokens.offsets[1:])
    if whole:
        return tokens
    ids, flags = (copy_ranges(values, starts, sizes) for values in (tokens.input_ids, tokens.flags))
    weights = None if tokens.weights is None else copy_ranges(tokens.weights, starts, sizes)
    return TokenBatch(offsets_of(sizes), ids, flags, weights)


def _mark(documents: pl.DataFrame, dropped: dict[int, tuple[str, str]]) -> pl.DataFrame:
    if not dropped:
        return documents
    positions = sorted(dropped)
    return documents.with_columns(
        documents["drop_reason"].clone().scatter(positions, [dropped[p][0] for p in positions]),
        documents["drop_detail"].clone().scatter(positions, [dropped[p][1] for p in positions]),
    )


# Turns: row by row, but only over documents that are too long


@frozen
class _Shortened:
    ranges: list[tuple[int, int, int]]
    """(document, start, tokens) in `tokens`."""
    tokens: TokenBatch
    """The batch's tokens with those of shortened conversations behind them; offsets are not kept up."""

    @property
    def documents(self) -> list[int]:
        return [position for position, _, _ in self.ranges]


def _drop_oldest_turns(
    documents: pl.DataFrame, groups: Int64, tokens: TokenBatch, capacity: int, encode: Encode
) -> _Shortened:
    """Bisect, for all documents at once, how many of the oldest exchanges must go.

    groups: int64[n, 1 or 2], the positions of documents that must fit together.
    """
    width = groups.shape[1]
    conversations = {int(g[0]): [_Conversation(documents.row(int(p), named=True)) for p in g] for g in groups}
    low = dict.fromkeys(conversations, 1)
    high = {p: _droppable(members) for p, members in conversations.items()}
    best: dict[int, list[TokenBatch]] = {}
    pending = [p for p in conversations if low[p] <= high[p]]
    while pending:
        # The first try keeps the last exchange only: where that is too long, nothing fits.
        tries = {p: high[p] if p not in best else (low[p] + high[p]) // 2 for p in pending}
        shortened = [member.without(k) for p, k in tries.items() for member in conversations[p]]
        batch = encode(pl.DataFrame(shortened, schema=documents.schema))
        for number, (p, k) in enumerate(tries.items()):
            bounds = batch.offsets[number * width : (number + 1) * width + 1]
            if bounds[-1] - bounds[0] <= capacity and np.diff(bounds).min() > 0:
                best[p] = [_part(batch, start, end) for start, end in pairwise(bounds.tolist())]
                high[p] = k - 1
            else:
                low[p] = k + 1
        pending = [p for p in pending if low[p] <= high[p]]
    if not best:
        return _Shortened([], tokens)
    found = {p + i: pieces for p, members in best.items() for i, pieces in enumerate(members)}
    starts = len(tokens.input_ids) + offsets_of(np.array([len(part.input_ids) for part in found.values()]))
    every = [tokens, *found.values()]
    ids = np.concatenate([part.input_ids for part in every])
    flags = np.concatenate([part.flags for part in every])
    weights = None
    if any(part.weights is not None for part in every):
        weights = np.concatenate([weights_of(part) for part in every])
    ranges = [(p, int(a), int(b - a)) for p, a, b in zip(found, starts[:-1], starts[1:], strict=True)]
    return _Shortened(ranges, TokenBatch(tokens.offsets, ids, flags, weights))


def _part(batch: TokenBatch, start: int, end: int) -> TokenBatch:
    weights = None if batch.weights is None else batch.weights[start:end]
    offsets = np.array([0, end - start], np.int64)
    return TokenBatch(offsets, batch.input_ids[start:end], batch.flags[start:end], weights)


def _droppable(members: list[_Conversation]) -> int:
    """Exchanges that may go: all but the last, and of a pair only those that lie in the common prompt."""
    most = min(member.exchanges for member in members) - 1
    if len(members) == 1:
        return most
    chosen, rejected = members
    turns = enumerate(zip(chosen.turns, rejected.turns, strict=False))
    shared = next((i for i, (a, b) in turns if a != b), 0)
    return min(most, chosen.exchanges_within(shared) - 1)


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

    @property
    def turns(self) -> list[tuple[str, str]]:
        return list(zip(self._document["roles"], self._document["contents"], strict=True))

    def exchanges_within(self, turns: int) -> int:
        """Exchanges that begin in the first `turns` messages."""
        return len([start for start in self._starts if start < turns])

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
