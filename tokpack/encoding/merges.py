"""Which merges of a BPE vocabulary can ever be applied: a smaller table loads sooner and gives the same ids.

BPE applies, in a text, the first of its merges that fits, leftmost first, until none does. Where a token
came to be over some stretch of text, no merge crossed the stretch's ends before, so that within it the merges
were those that its own text gets alone, in the same order. A token therefore has one last merge, whatever is
around it: that of its own text. Its other merges, and all those of a token that its own text does not lead
to, are never applied. Vocabularies made from tiktoken's ranks list every pair that makes a token, twice the
need.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tokpack.arrays import Int64

Pair = tuple[str, str]


class AppliedMerges(NamedTuple):
    """Of the merges of a vocabulary."""

    merges: list[Pair]
    """Those that can be applied, in their order."""
    by_rank: bool
    """Every token of several characters has one, and it comes after all merges of the token's parts."""


def applied_merges(vocab: dict[str, int], merges: Sequence[Pair]) -> AppliedMerges | None:
    """The merges that can be applied; None for a table that does not say one thing: a pair twice, or parts or
    characters that are no tokens."""
    try:
        left, right, made = (
            np.array([vocab[part] for part in parts], np.int64)
            for parts in ([a for a, _ in merges], [b for _, b in merges], [a + b for a, b in merges])
        )
        tokens = list(dict.fromkeys(a + b for a, b in merges))
        symbols = np.array([vocab[c] for c in chain.from_iterable(tokens)], np.int64)
    except KeyError:
        return None
    table = _Table(left, right, made)
    if not table.unique:
        return None
    last, top = _last_merges(table, symbols, np.array([len(token) for token in tokens], np.int64))
    applied = np.unique(last[last >= 0])
    by_rank = bool((last >= 0).all() and (top < last).all())
    return AppliedMerges([merges[number] for number in applied.tolist()], by_rank)


def all_merges(vocab: dict[str, int]) -> list[Pair]:
    """Every pair of tokens that makes a token, by that token's number: the merges of tiktoken's ranks."""
    return [
        (token[:cut], token[cut:])
        for token, _ in sorted(vocab.items(), key=lambda item: item[1])
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]


class _Table:
    """Pairs of tokens -> number of their merge."""

    def __init__(self, left: Int64, right: Int64, made: Int64) -> None:
        self.made = made
        self._base = int(max(left.max(initial=0), right.max(initial=0))) + 1
        keys = left * self._base + right
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self.none = len(keys)
        self.unique = not (np.diff(self._keys) == 0).any()

    def numbers(self, left: Int64, right: Int64) -> Int64:
        """`none` for a pair without a merge."""
        keys = np.where(np.maximum(left, right) < self._base, left * self._base + right, -1)
        at = np.minimum(np.searchsorted(self._keys, keys), max(self.none - 1, 0))
        if not self.none:
            return np.zeros(len(keys), np.int64)
        return np.where(self._keys[at] == keys, self._order[at], self.none)


def _last_merges(table: _Table, symbols: Int64, lengths: Int64) -> tuple[Int64, Int64]:
    """Of texts of `lengths` symbols: (the merge that made each one, -1 where none does; the last in the table
    of those before). All texts take a step at a time."""
    last, top = np.full(len(lengths), -1, np.int64), np.full(len(lengths), -1, np.int64)
    text = np.repeat(np.arange(len(lengths)), lengths)
    while len(symbols):
        number = np.append(table.numbers(symbols[:-1], symbols[1:]), table.none)
        number[:-1][text[1:] != text[:-1]] = table.none
        starts = np.flatnonzero(np.append(True, text[1:] != text[:-1]))
        sizes = np.diff(np.append(starts, len(text)))
        least = np.minimum.reduceat(number, starts)
        fits = np.flatnonzero(number == np.repeat(np.where(least < table.none, least, -1), sizes))
        first = fits[np.append(True, text[fits[1:]] != text[fits[:-1]])[: len(fits)]]
        names, ended = text[starts], (sizes == 2) & (least < table.none)
        last[names[ended]] = least[ended]
        going = (least < table.none) & ~ended
        top[names[going]] = np.maximum(top[names[going]], least[going])
        symbols[first] = table.made[number[first]]
        stays = np.repeat(going, sizes)
        stays[first + 1] = False
        symbols, text = symbols[stays], text[stays]
    return last, top
