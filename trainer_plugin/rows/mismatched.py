"""Unpaired preferences in a packed batch: which answers are good, and answers to other prompts.

KTO measures how far the policy has moved from its reference on answers that nobody gave to these prompts:
each prompt with the answer of the document before it in the batch, the first with the last one's, as in TRL.

    batch        [x0 y0] [x1 y1] [x2 y2]
    mismatched   [x0 y2] [x1 y0] [x2 y1]

The answers only change places, so the mismatched batch has as many tokens as the batch, and needs no planning
of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokpack.errors import DataError
from tokpack.schema import IGNORE_INDEX, IS_DESIRABLE

NO_ANSWER = -1
"""Instead of a label: a document without trained tokens, as padding is."""


def labels_of(rows: Sequence[Mapping[str, Any]], trained: np.ndarray) -> np.ndarray:
    """1 for each document whose answer is good, 0 where it is bad, NO_ANSWER: int64[D].

    trained: tokens with a label of each document of the batch, padding included.
    """
    if IS_DESIRABLE not in rows[0]:
        raise DataError(
            f"a row has no {IS_DESIRABLE!r}, only {sorted(rows[0])}",
            hint="give rows of unpaired preferences: `tokpack pack --format unpaired`",
        )
    kept = np.concatenate([np.asarray(row["seq_lengths"]) > 0 for row in rows])
    told = np.concatenate([np.asarray(row[IS_DESIRABLE]) for row in rows]).astype(np.int64)
    labels = np.full(len(trained), NO_ANSWER, np.int64)
    labels[: kept.sum()] = told[kept]
    return np.where(trained > 0, labels, NO_ANSWER)


def mismatched(
    input_ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The documents, each with the answer of the one before: `(input_ids, labels, lengths)` as given.

    An answer begins at the first label. Documents without one stay as they are. `most`: tokens of a document,
    which is cut behind them.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    labeled = np.flatnonzero(labels != IGNORE_INDEX)
    first = np.searchsorted(labeled, starts)
    has = np.flatnonzero(np.searchsorted(labeled, ends) > first)
    begins = labeled[first[has]]
    pieces = [(slice(start, end), slice(0, 0)) for start, end in zip(starts, ends, strict=True)]
    for number, other in enumerate(np.roll(np.arange(len(has)), 1)):
        prompt = slice(starts[has[number]], begins[number])
        pieces[has[number]] = prompt, slice(begins[other], ends[has[other]])
    joined = [[np.concatenate([flat[a], flat[b]])[:most] for a, b in pieces] for flat in (input_ids, labels)]
    sizes = np.array([len(ids) for ids in joined[0]], np.int64)
    return np.concatenate(joined[0]), np.concatenate(joined[1]), sizes
