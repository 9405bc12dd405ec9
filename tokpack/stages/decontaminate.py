"""Training documents that contain evaluation text, token for token.

A training document is contaminated when n tokens in a row (13, as for GPT-3) are also in a row in an
evaluation document. An evaluation document of 5 to n - 1 tokens is looked for as a whole; shorter ones
would be found everywhere and are ignored, and counted.

Windows are found by hash, then compared token by token. The hash is a polynomial modulo 2**64: with
prefix sums over a block of training text, the hashes of all its windows cost two operations a token,
whatever their width. A byte table over the upper bits of evaluation hashes stops most windows. The
base of the polynomial is one under which no two different evaluation windows share a hash, so nothing
is missed. Besides the evaluation text's hashes, memory holds one block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from tokpack.arrays import Bools, Int32, Int64, UInt64
from tokpack.errors import InternalError, UsageError
from tokpack.frozen import frozen
from tokpack.ranges import offsets_of
from tokpack.stages.selected_tokens import SelectedTokens

SHORTEST: Final = 5
"""An evaluation document of fewer tokens is ignored."""
BLOCK: Final = 1 << 17
"""Training tokens hashed at a time: a block's arrays stay in the processor's cache."""
_BASES: Final = (0xD6E8FEB86659FD93, 0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD, 0x9FB21C651E98DF25)
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


@frozen
class Contaminated:
    """One entry per contaminated training document, in input order."""

    document: Int64
    """Position over all training batches."""
    eval_document: Int64
    """Position over all evaluation batches: the first one that holds the beginning of the run."""
    start: Int64
    end: Int64
    """The document's first maximal run of matching windows covers its tokens [start, end)."""
    length: Int64
    """Tokens that match; fewer than end - start where tokens that do not count lie among them."""
    ignored: int
    """Evaluation documents with tokens, but too few to look for."""
    seconds: float


@frozen
class _Text:
    """Selected tokens of some documents; `place[k]` is token k's position in its document."""

    tokens: Int32
    offsets: Int64
    place: Int64


@frozen
class _Windows:
    """The distinct windows of one width in the evaluation text, by hash; `at`: where each first begins."""

    width: int
    hashes: UInt64
    at: Int64
    filled: Bools
    """By the upper bits of a hash: whether any window has them."""
    shift: np.uint64


class _Hasher:
    """Hashes of all windows of a text: `prefix` once, then `windows` for each width."""

    def __init__(self, base: int, longest: int) -> None:
        self.powers, self.inverses = (
            np.cumprod(np.full(longest, factor, np.uint64)) for factor in (base, pow(base, -1, 1 << 64))
        )

    def prefix(self, tokens: Int32) -> UInt64:
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _ODD
        mixed ^= mixed >> np.uint64(29)
        mixed *= self.powers[: len(mixed)]
        sums = np.zeros(len(mixed) + 1, np.uint64)
        np.cumsum(mixed, out=sums[1:])
        return sums

    def windows(self, prefix: UInt64, width: int) -> UInt64:
        """One hash for each window, those across documents included."""
        hashes: UInt64 = prefix[width:] - prefix[:-width]
        hashes *= self.inverses[: len(hashes)]
        return hashes


def find_contaminated(
    batches: Sequence[SelectedTokens], eval_docs: Sequence[SelectedTokens], n: int = 13
) -> Contaminated:
    """Every training document that holds n tokens in a row of an evaluation document, and where."""
    if n < 1:
        raise UsageError(f"n = {n} is below 1", where="decontaminate", hint="13 is usual")
    started = time.perf_counter()
    evaluation = _joined(eval_docs)
    lengths = np.diff(evaluation.offsets)
    longest = max((int(np.diff(batch.offsets).max(initial=0)) for batch in batches), default=0)
    hasher, tables = _tables(evaluation, n, longest + BLOCK)
    rows = [np.empty((5, 0), np.int64)]
    first = 0
    for batch in batches:
        for document, text in _blocks(batch):
            hits = _search(text, hasher, tables, evaluation)
            hits[0] += first + document
            rows.append(hits)
        first += len(batch)
    document, at, start, end, length = np.concatenate(rows, axis=1)
    return Contaminated(
        document,
        np.searchsorted(evaluation.offsets, at, side="right") - 1,
        start,
        end,
        length,
        ignored=int(np.count_nonzero((lengths > 0) & (lengths < min(n, SHORTEST)))),
        seconds=time.perf_counter() - started,
    )


def _select(batch: SelectedTokens, first: int, last: int) -> _Text:
    """Documents first to last - 1 of a batch."""
    offsets = batch.offsets[first : last + 1]
    tokens = batch.tokens[offsets[0] : offsets[-1]]
    ends = offsets - offsets[0]
    place = np.arange(len(tokens)) - np.repeat(ends[:-1], np.diff(ends))
    if not batch.bit or batch.flags is None:
        return _Text(tokens, ends, place)
    selected = (batch.flags[offsets[0] : offsets[-1]] & batch.bit) != 0
    before = offsets_of(selected)
    return _Text(tokens[selected], before[ends], place[selected])


def _joined(batches: Sequence[SelectedTokens]) -> _Text:
    texts = [_select(batch, 0, len(batch)) for batch in batches]
    lengths = [np.empty(0, np.int64), *(np.diff(text.offsets) for text in texts)]
    return _Text(
        np.concatenate([np.empty(0, np.int32), *(text.tokens for text in texts)]),
        offsets_of(np.concatenate(lengths)),
        np.concatenate([np.empty(0, np.int64), *(text.place for text in texts)]),
    )


def _blocks(batch: SelectedTokens) -> Iterator[tuple[int, _Text]]:
    """Whole documents, about BLOCK tokens at a time, and the number of the first."""
    first = 0
    while first < len(batch):
        last = int(np.searchsorted(batch.offsets, batch.offsets[first] + BLOCK, side="right")) - 1
        last = max(first + 1, last)
        yield first, _select(batch, first, last)
        first = last


def _tables(evaluation: _Text, n: int, longest: int) -> tuple[_Hasher, list[_Windows]]:
    """Windows of n tokens, and whole documents of each shorter length, free of collisions."""
    lengths = np.diff(evaluation.offsets)
    starts = np.arange(len(evaluation.tokens))
    ends = np.repeat(evaluation.offsets[1:], lengths)
    wanted = {n: starts[starts + n <= ends]}
    for width in range(min(n, SHORTEST), n):
        wanted[width] = evaluation.offsets[:-1][lengths == width]
    for base in _BASES:
        hasher = _Hasher(base, max(longest, len(starts)))
        prefix = hasher.prefix(evaluation.tokens)
        tables = [
            _table(hasher.windows(prefix, width)[at], at, width, evaluation.tokens)
            for width, at in wanted.items()
            if len(at)
        ]
        whole = [table for table in tables if table is not None]
        if len(whole) == len(tables):
            return hasher, whole
    raise InternalError("two evaluation windows share a hash under every base", where="decontaminate")


def _table(hashes: UInt64, at: Int64, width: int, tokens: Int32) -> _Windows | None:
    """None where two different windows share a hash."""
    order = np.argsort(hashes, kind="stable")
    hashes, at = hashes[order], at[order]
    new = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    first = at[np.flatnonzero(new)[np.cumsum(new) - 1]]
    if not _equal(tokens, at, tokens, first, width).all():
        return None
    bits = max(12, (16 * len(at)).bit_length())
    shift = np.uint64(64 - bits)
    filled = np.zeros(1 << bits, np.bool_)
    filled[hashes >> shift] = True
    return _Windows(width, hashes[new], at[new], filled, shift)


def _equal(a: Int32, at_a: Int64, b: Int32, at_b: Int64, width: int) -> Bools:
    same = np.ones(len(at_a), np.bool_)
    for k in range(width):
        same &= a[at_a + k] == b[at_b + k]
    return same


def _search(text: _Text, hasher: _Hasher, tables: Sequence[_Windows], evaluation: _Text) -> Int64:
    """Of each contaminated document: number, place in the evaluation text, start, end, matched tokens."""
    prefix = hasher.prefix(text.tokens)
    runs = [_runs(text, hasher.windows(prefix, table.width), table, evaluation) for table in tables]
    document, at, start, end = np.concatenate([np.empty((4, 0), np.int64), *runs], axis=1)
    order = np.lexsort((-end, start, document))
    order = order[np.diff(document[order], prepend=-1) != 0]
    document, at, start, end = document[order], at[order], start[order], end[order]
    return np.stack([document, at, text.place[start], text.place[end - 1] + 1, end - start])


def _runs(text: _Text, hashes: UInt64, table: _Windows, evaluation: _Text) -> Int64:
    """The first run of each document, int64[4, runs]: document, place in the evaluation text, start, end."""
    at = np.flatnonzero(table.filled[hashes >> table.shift])
    known = np.minimum(np.searchsorted(table.hashes, hashes[at]), len(table.hashes) - 1)
    document = np.searchsorted(text.offsets, at, side="right") - 1
    hit = (table.hashes[known] == hashes[at]) & (at + table.width <= text.offsets[document + 1])
    at, document, match = at[hit], document[hit], table.at[known[hit]]
    hit = _equal(text.tokens, at, evaluation.tokens, match, table.width)
    at, document, match = at[hit], document[hit], match[hit]
    new = (np.diff(at, prepend=-2) != 1) | (np.diff(document, prepend=-1) != 0)
    begin = np.flatnonzero(new)
    last = np.append(begin[1:], len(at)) - 1
    first = np.diff(document[begin], prepend=-1) != 0
    begin, last = begin[first], last[first]
    return np.stack([document[begin], match[begin], at[begin], at[last] + table.width])
