"""Token ids together with the bytes of the text that each token stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokpack.arrays import Bools, Int32, Int64, UInt8

_SLOW_CHUNK = 4 << 20
"""Bytes of text that the slow path encodes at once: its result objects are far larger than the text."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of some rows, and each token's byte range.

    `ends` counts from the first byte of the first row, rows lying end to end with row i's text from `base[i]`
    on, and never decreases. `starts` is None when every token begins where the one before it ends. A token
    may be empty (trimmed away), and tokens that share one character have the same range.
    """

    offsets: Int64
    ids: Int32
    base: Int64
    ends: npt.NDArray[np.integer[Any]]
    starts: npt.NDArray[np.integer[Any]] | None = None

    def token_at(self, rows: Int64, places: Int64) -> tuple[Int64, Bools]:
        """(first token that ends after the byte, does it hold the byte), bytes relative to their row.

        A byte that no token of its row ends after gives the row's end.
        """
        key = (self.base[rows] + places).astype(self.ends.dtype)
        low, high = self.offsets[rows], self.offsets[rows + 1]
        token = np.clip(np.searchsorted(self.ends, key, "right"), low, high)
        hit: Bools = token < high
        if self.starts is not None:
            hit[hit] = self.starts[token[hit]] <= key[hit]
        return token, hit

    def tokens_before(self, rows: Int64, places: Int64) -> Int64:
        """One past the last token of the row that begins before the byte."""
        key = (self.base[rows] + places).astype(self.ends.dtype)
        if self.starts is None:
            token = np.searchsorted(self.ends, key, "left") + 1
        else:
            token = np.searchsorted(self.starts, key, "left")
        return np.clip(token, self.offsets[rows], self.offsets[rows + 1])

    def tokens_within(self, rows: Int64, places: Int64) -> Int64:
        """One past the last token of the row that ends before the byte, or at it."""
        key = (self.base[rows] + places).astype(self.ends.dtype)
        token = np.searchsorted(self.ends, key, "right")
        return np.clip(token, self.offsets[rows], self.offsets[rows + 1])


Tokenized = tuple[list[int], list[tuple[int, int]]]
"""Ids of one text as `tokenizers` gives them, and the characters that each stands for."""


def encode_with(encode: Callable[[list[str]], list[Tokenized]], text: pa.LargeStringArray) -> Encoded:
    """Encode with `tokenizers` and take its character offsets. The slow path: a loop over rows."""
    ids: list[Int32] = []
    places: list[Int64] = []
    counts, sizes = [0], [0]
    for chunk in _chunks(text):
        strings = chunk.to_pylist()
        for string, (numbers, characters) in zip(strings, encode(strings), strict=True):
            place, size = _byte_places(string, characters)
            ids.append(np.array(numbers, np.int32))
            places.append(np.maximum.accumulate(place, axis=0) + sizes[-1])
            counts.append(counts[-1] + len(place))
            sizes.append(sizes[-1] + size)
    flat = np.concatenate(places) if places else np.zeros((0, 2), np.int64)
    return Encoded(
        np.array(counts, np.int64),
        np.concatenate(ids) if ids else np.zeros(0, np.int32),
        np.array(sizes[:-1], np.int64),
        np.ascontiguousarray(flat[:, 1]),
        np.ascontiguousarray(flat[:, 0]),
    )


def encode_reference(reference: Any, text: pa.LargeStringArray) -> Encoded:
    """`encode_with` a `tokenizers.Tokenizer`."""

    def encode(strings: list[str]) -> list[Tokenized]:
        items = reference.encode_batch(strings, add_special_tokens=False)
        return [(item.ids, item.offsets) for item in items]

    return encode_with(encode, text)


def _byte_places(string: str, offsets: list[tuple[int, int]]) -> tuple[Int64, int]:
    """(start and end of each token in bytes, size of the text in bytes) from offsets in characters."""
    place = np.array(offsets, np.int64).reshape(-1, 2)
    if string.isascii():
        return place, len(string)
    raw = np.frombuffer(string.encode(), np.uint8)
    characters = np.append(np.flatnonzero((raw & 0xC0) != 0x80), len(raw))
    return characters[place], len(raw)


def _chunks(text: pa.LargeStringArray) -> list[pa.LargeStringArray]:
    offsets, _ = text_buffers(text)
    group = (offsets[:-1] - offsets[0]) // _SLOW_CHUNK
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(text)]
    return [text.slice(low, high - low) for low, high in pairwise(edges) if low < high]


def text_buffers(text: pa.LargeStringArray) -> tuple[Int64, UInt8]:
    """(offsets int64[n + 1], bytes) of a text column, without a copy."""
    _, offsets, data = text.buffers()
    if offsets is None:
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    place = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    return place, np.frombuffer(data if data is not None else b"", np.uint8)
