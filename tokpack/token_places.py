"""Token ids together with the bytes of the text that each token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]

_SLOW_CHUNK = 4 << 20
"""Bytes of text that the slow path encodes at once: its result objects are far larger than the text."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of some rows, and each token's byte range.

    `starts` and `ends` count from the first byte of the first row, rows lying end to end with row i's text
    from `base[i]` on; both never decrease. A token may be empty (trimmed away), and tokens that share one
    character have the same range.
    """

    offsets: Ints
    ids: npt.NDArray[np.int32]
    base: Ints
    starts: Ints
    ends: Ints

    def token_at(self, rows: Ints, places: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """(first token that ends after the byte, does it hold the byte), bytes relative to their row.

        A byte that no token of its row ends after gives the row's end.
        """
        key = self.base[rows] + places
        token = np.clip(np.searchsorted(self.ends, key, "right"), self.offsets[rows], self.offsets[rows + 1])
        inside = token < self.offsets[rows + 1]
        hit = np.zeros(len(key), bool)
        hit[inside] = self.starts[token[inside]] <= key[inside]
        return token, hit


def encode_reference(reference: Any, text: pa.LargeStringArray) -> Encoded:
    """Encode with `tokenizers` and take its character offsets. The slow path: a loop over rows."""
    ids: list[npt.NDArray[np.int32]] = []
    places: list[Ints] = []
    counts, sizes = [0], [0]
    for chunk in _chunks(text):
        strings = chunk.to_pylist()
        for string, item in zip(
            strings, reference.encode_batch(strings, add_special_tokens=False), strict=True
        ):
            place = np.array(item.offsets, np.int64).reshape(-1, 2)
            size = len(string)
            if not string.isascii():
                raw = np.frombuffer(string.encode(), np.uint8)
                size = len(raw)
                place = np.append(np.flatnonzero((raw & 0xC0) != 0x80), size)[place]
            ids.append(np.array(item.ids, np.int32))
            places.append(np.maximum.accumulate(place, axis=0) + sizes[-1])
            counts.append(counts[-1] + len(place))
            sizes.append(sizes[-1] + size)
    flat = np.concatenate(places) if places else np.zeros((0, 2), np.int64)
    return Encoded(
        np.array(counts, np.int64),
        np.concatenate(ids) if ids else np.zeros(0, np.int32),
        np.array(sizes[:-1], np.int64),
        np.ascontiguousarray(flat[:, 0]),
        np.ascontiguousarray(flat[:, 1]),
    )


def _chunks(text: pa.LargeStringArray) -> list[pa.LargeStringArray]:
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    group = (offsets[:-1] - offsets[0]) // _SLOW_CHUNK
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(text)]
    return [text.slice(low, high - low) for low, high in pairwise(edges) if low < high]
