"""Scores of many texts by py3langid's model, as its `classify` has them, in one compiled loop.

The model is an automaton over bytes, some of whose states name a feature, and a table of weights, feature by
language. Importing this imports numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tokpack.ranges import offsets_of
from tokpack.stages.compiled import jit

TOGETHER = 8


class LanguageScores:
    """`labels`, and for texts their probabilities: `float32[texts, labels]`."""

    def __init__(self, identifier: Any) -> None:
        self.labels: list[str] = identifier.labels
        self._columns = np.array([self.labels.index(name) for name in identifier.nb_classes])
        self._automaton = (
            np.frombuffer(identifier.tk_nextmove, np.dtype(identifier.tk_nextmove.typecode)),
            np.array(identifier.tk_row, np.int64) << 8,
            np.array(identifier.tk_output, np.int32),
        )
        self._weights = np.asarray(identifier.nb_ptc, np.float32), np.asarray(identifier.nb_pc, np.float32)

    def __call__(self, texts: pl.Series) -> Any:
        prepared = _prepared(texts)
        lengths = prepared.str.len_bytes().to_numpy().astype(np.int64)
        data = np.frombuffer("".join(prepared).encode(), np.uint8)
        offsets = offsets_of(lengths)
        raw = scores(visited(data, offsets, *self._automaton), offsets, *self._weights)
        raw /= np.sqrt(np.maximum(lengths, 1), dtype=np.float32)[:, None]
        shares = np.exp(raw - raw.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return summed(shares, self._columns, len(self.labels))


def summed(shares: Any, columns: Any, width: int) -> Any:
    """`shares` with the columns of one number in `columns` added up."""
    whole = np.zeros((len(shares), width), np.float32)
    for old, new in enumerate(columns):
        whole[:, new] += shares[:, old]
    return whole


def _prepared(texts: pl.Series) -> pl.Series:
    """In small letters where all are capitals, in form NFC: as the model was trained."""
    small = texts.str.to_lowercase()
    shouted = (small != texts) & (texts.str.to_uppercase() == texts)
    return small.zip_with(shouted, texts).str.normalize("NFC")


@jit
def visited(data: Any, offsets: Any, moves: Any, rows: Any, features: Any) -> Any:
    """The feature at each byte, -1 for none. Eight texts in step: a walk waits for memory at every byte."""
    found = np.full(len(data), -1, np.int32)
    states = np.zeros(TOGETHER, np.int64)
    for first in range(0, len(offsets) - 1, TOGETHER):
        last = min(first + TOGETHER, len(offsets) - 1)
        states[:] = 0
        longest = 0
        for text in range(first, last):
            longest = max(longest, offsets[text + 1] - offsets[text])
        for step in range(longest):
            for text in range(first, last):
                at = offsets[text] + step
                if at < offsets[text + 1]:
                    states[text - first] = moves[rows[states[text - first]] + data[at]]
                    found[at] = features[states[text - first]]
    return found


@jit
def scores(visits: Any, offsets: Any, weights: Any, prior: Any) -> Any:
    """`float32[texts, classes]`; 0 where a text has no feature."""
    found = np.zeros((len(offsets) - 1, len(prior)), np.float32)
    seen = np.zeros(len(weights), np.int32)
    for text in range(len(offsets) - 1):
        own = visits[offsets[text] : offsets[text + 1]]
        for feature in own:
            if feature >= 0:
                seen[feature] += 1
        line, known = found[text], False
        for feature in own:
            if feature >= 0 and seen[feature] > 0:
                weight = np.log1p(np.float32(seen[feature]))
                seen[feature], known = 0, True
                for label in range(len(prior)):
                    line[label] += weight * weights[feature, label]
        if known:
            line += prior
    return found
