"""Many token sequences in one row, each shared beginning once.

Questions of a benchmark begin alike (instructions, examples), and the choices of a question share all but
their ends. Sorted, such sequences are neighbors; a row holds their tree:

    a b c d e     row        a b c | d e | x y | z        one segment each
    a b c x y     position   0 1 2   3 4   3 4   3
    a b c z       sees       own     abc+  abc+  abc+     what leads to it from the root, and itself so far

A segment of fewer than `LEAST_SHARED` tokens is not shared but written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Tokens = tuple[int, ...]
LEAST_SHARED = 8
SHORT, MOST_TOGETHER = 64, 512
"""Ends of one beginning that are shorter than `SHORT` tokens are attended together, up to so many tokens."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `end` of the row; they follow those of `parent` (-1: none)."""

    start: int
    end: int
    parent: int
    first_position: int


@dataclass(slots=True)
class Tree:
    """A row: `ids` and `positions` int64[T]; `chains`: for each sequence the segments that it is made of."""

    ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    chains: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def positions(self) -> Ints:
        places = [np.arange(s.end - s.start) + s.first_position for s in self.segments]
        return np.concatenate([np.zeros(0, np.int64), *places])

    def indices(self, sequence: int) -> Ints:
        """Where in the row the tokens of a sequence are: int64[length]."""
        segments = [self.segments[i] for i in self.chains[sequence]]
        return np.concatenate([np.arange(s.start, s.end) for s in segments])

    def chain(self, segment: int) -> list[int]:
        """The segments that lead to this one, the root first."""
        found: list[int] = []
        while (segment := self.segments[segment].parent) >= 0:
            found.insert(0, segment)
        return found

    def families(self) -> Iterator[list[int]]:
        """Segments to attend at once, in row order: short neighbors without children under one parent."""
        parents = {segment.parent for segment in self.segments}
        family: list[int] = []
        for number, segment in enumerate(self.segments):
            short = number not in parents and segment.parent >= 0 and segment.end - segment.start < SHORT
            joins = (
                bool(family)
                and short
                and self.segments[family[0]].parent == segment.parent
                and family[0] not in parents
                and self.segments[family[0]].end - self.segments[family[0]].start < SHORT
                and segment.end - self.segments[family[0]].start <= MOST_TOGETHER
            )
            if family and not joins:
                yield family
                family = []
            family.append(number)
        if family:
            yield family


def shared_length(a: Tokens, b: Tokens) -> int:
    """Tokens with which both begin."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def grow(sequences: Sequence[Tokens]) -> Tree:
    """The tree of sorted, distinct sequences, none of them empty."""
    tree = Tree()
    shared = [shared_length(a, b) for a, b in pairwise(sequences)]
    tree.chains = [()] * len(sequences)
    # Work to do, last first: sequences low to high, tokens that their chain has, that chain.
    todo: list[tuple[int, int, int, tuple[int, ...]]] = _runs(shared, 0, len(sequences), 0, 0, ())
    while todo:
        low, high, depth, chain = todo.pop()
        common = len(sequences[low]) if high - low == 1 else min(shared[low : high - 1])
        if common - depth >= LEAST_SHARED or high - low == 1:
            if common > depth:
                chain = (*chain, _add(tree, sequences[low][depth:common], depth, chain))
            depth = common
        if high - low == 1 or (depth == common and len(sequences[low]) == common):
            tree.chains[low] = chain
            low += 1
        todo += _runs(shared, low, high, common, depth, chain)
    return tree


def _add(tree: Tree, tokens: Tokens, position: int, chain: tuple[int, ...]) -> int:
    start = len(tree.ids)
    tree.ids += tokens
    tree.segments.append(Segment(start, len(tree.ids), chain[-1] if chain else -1, position))
    return len(tree.segments) - 1


def _runs(
    shared: list[int], low: int, high: int, common: int, depth: int, chain: tuple[int, ...]
) -> list[tuple[int, int, int, tuple[int, ...]]]:
    """Neighbors that share more than `common` tokens, the first run last."""
    runs, start = [], low
    for i in range(low, high):
        if i == high - 1 or shared[i] <= common:
            runs.append((start, i + 1, depth, chain))
            start = i + 1
    return runs[::-1]


def rows_of(
    sequences: Sequence[Tokens], scored: Sequence[int], most_tokens: int, most_scored: int
) -> Iterator[tuple[int, int]]:
    """`(low, high)` of sorted sequences whose tree has about `most_tokens` tokens at most, of which no more
    than `most_scored` are asked for; one sequence at least."""
    low, tokens, asked = 0, 0, 0
    for i, sequence in enumerate(sequences):
        shared = shared_length(sequences[i - 1], sequence) if i > low else 0
        new = len(sequence) - (shared if shared >= LEAST_SHARED else 0)
        if i > low and (tokens + new > most_tokens or asked + scored[i] > most_scored):
            yield low, i
            low, tokens, asked, new = i, 0, 0, len(sequence)
        tokens, asked = tokens + new, asked + scored[i]
    if low < len(sequences):
        yield low, len(sequences)
