"""The fast path of tokenizing: gigatoken on whole batches, with every token's place in the text.

gigatoken gives ids and no offsets. For byte-level BPE the places follow from the ids alone: a token stands
for as many bytes as its entry in the vocabulary has, so places are a running sum. In SentencePiece
vocabularies the word mark U+2581 stands for one space, or for nothing where it was put in front of a text.

Rows are watched one by one: where the tokens' bytes do not add up to the text's, the normalizer changes the
text, a character is newer than a library, or a byte is missing from the vocabulary, the row is left to the
slow path. Where word marks are put in front, sums can be right by chance, a mark too many in one place and
one too few in another: there the bytes themselves are compared. How places are read (`FastPlan`) is found by
trial against `tokenizers`, in `tokpack.encoding.fast_plan`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.arrays import Bools, Int32, Int64, UInt8, UInt32
from tokpack.encoding.id_texts import WORD_MARK
from tokpack.encoding.token_places import Encoded, text_buffers
from tokpack.encoding.unicode import NEW, Wide
from tokpack.errors import InternalError

Joined = tuple[UInt32, Int64, Int32, npt.NDArray[np.integer[Any]]]
"""Ids, offsets of rows, bytes of each token, and where each ends."""
SINGLE_ROWS = 50_000
"""So many are encoded one by one before awkward is loaded: that takes 0.26 s, a row 2 microseconds more."""


@dataclass(frozen=True, kw_only=True)
class FastPlan:
    """How to read a tokenizer's places from its ids; kept with its snapshot."""

    refused: str = ""
    """Why the fast path cannot serve this tokenizer."""
    first_sentinel: int = 0
    """Bytes are missing from the vocabulary, and ids from this one on stand for them; 0 = none is missing."""
    nfc: bool = False
    """The normalizer is Unicode NFC."""
    word_mark: bool = False
    """The vocabulary writes a space as U+2581."""
    mark_in_front: Literal["never", "first", "sections"] = "never"
    """A word mark is put in front of the text, or of every section between added tokens."""
    spares_spaces: bool = False
    """No word mark is put in front of what begins with a space."""
    compares: bool = False
    """The tokenizer puts word marks in front, or has a token for what it does not know: the bytes of tokens
    are compared with the text's."""
    trim: Literal["never", "not_first", "always"] = "never"
    """Spaces at the ends of a token are not part of its place; `not_first` spares a row's first token."""
    scheme: str = ""
    """Where the vocabulary is loaded as ranks: gigatoken's name for how texts are split into words."""


class FastTokenizer:
    """A gigatoken tokenizer with the byte length of every token. Safe to share between threads.

    `added` are the ids of added tokens. They stand for their own text, but word marks in it for spaces: that
    of Gemma's `\u2581\u2581` is what two spaces become, and rows with word marks are slow. `texts`: what each
    id stands for in a text, null where nothing is known (`tokpack.encoding.id_texts`).
    """

    def __init__(
        self, encoder: Any, plan: FastPlan, added: dict[str, int], texts: pa.LargeBinaryArray
    ) -> None:
        self.encoder, self.plan = encoder, plan
        self._row_by_row, self._singles, self._joins = Lock(), 0, plan.mark_in_front == "never"
        self.alone = False
        """Whether no other thread of this process encodes: `encode` of gigatoken lets none run."""
        places, data = text_buffers(texts)
        lengths = np.diff(places).astype(np.int32)
        self._added = np.zeros(len(texts), bool)
        self._added[list(added.values())] = True
        own = {
            number: (content.replace(WORD_MARK, " ") if plan.word_mark else content).encode()
            for content, number in added.items()
        }
        lengths[list(own)] = [*map(len, own.values())]
        self._lengths, self._own = pa.array(lengths), tuple(own.values())
        if plan.mark_in_front != "never":
            spaced = pc.fill_null(pc.starts_with(texts, b" "), False)
            self._begins_with_space = spaced.to_numpy(zero_copy_only=False)
        if plan.compares:
            self._written = _with_own_texts(texts, own)
        if plan.trim != "never":
            self._spaces = _spaces_at_ends(places, data)

    def encode(self, text: pa.LargeStringArray) -> tuple[Encoded, Bools]:
        """(ids with their places, rows whose places or ids are not sure)."""
        if not len(text):
            none = np.zeros(0, np.int64)
            return Encoded(np.zeros(1, np.int64), none.astype(np.int32), none, none), np.zeros(0, bool)
        place, _ = text_buffers(text)
        if (joined := self._joined(text)) is not None:
            ids, offsets, lengths, ends = joined
        else:
            ids, offsets = self._ids(text)
            lengths = self._lengths_of(ids)
        odd = fronts = np.zeros(0, np.int64)
        if self.plan.first_sentinel:
            odd = np.flatnonzero(ids >= self.plan.first_sentinel)
        if self.plan.mark_in_front != "never":
            lengths, fronts = self._without_front_marks(lengths.copy(), ids, offsets, text)
            odd = np.concatenate([odd, fronts[lengths[fronts] == 0]])
        if joined is None:
            ends = running_sum(lengths, int(place[-1] - place[0]))
        base = np.where(offsets > 0, ends[offsets - 1], 0) if len(ids) else offsets * 0
        slow = np.diff(base) != np.diff(place)
        slow[np.searchsorted(offsets, odd, "right") - 1] = True
        slow |= self._rewritten(text)
        if self.plan.compares:
            slow |= self._misplaced(text, ids, offsets, fronts, slow)
        starts = None
        if self.plan.trim != "never":
            starts, ends = self._trimmed(ids, offsets, lengths, ends)
        return Encoded(offsets, ids.view(np.int32), base[:-1].astype(np.int64), ends, starts), slow

    def _lengths_of(self, ids: UInt32) -> Int32:
        lengths: Int32 = pc.take(self._lengths, pa.array(ids), boundscheck=False).to_numpy()
        return lengths

    def _joined(self, text: pa.LargeStringArray) -> Joined | None:
        """Of rows that each begin with an added token, which no word reaches across: they are encoded as one
        text, in half the time of row by row. None of others, and where threads would wait for it."""
        few = self._singles + len(text) <= SINGLE_ROWS
        if not (self._joins and (self.alone or few)):
            return None
        place, data = text_buffers(text)
        whole = data[place[0] : place[-1]].tobytes()
        first = max((own for own in self._own if whole.startswith(own)), key=len, default=b"")
        if not (first and pc.all(pc.starts_with(text, first)).as_py()):
            return None
        with suppress(RuntimeError), self._row_by_row:
            ids = self.encoder.encode(whole)
            self._singles += len(text)
            lengths = self._lengths_of(ids)
            ends = running_sum(lengths, len(whole))
            stops = (place[1:] - place[0]).astype(ends.dtype)
            offsets = np.append(0, np.searchsorted(ends, stops, "right"))
            self._joins = bool(
                np.all(ends[offsets[1:] - 1] == stops) and self._added[ids[offsets[:-1]]].all()
            )
            return (ids, offsets, lengths, ends) if self._joins else None
        return None

    def _ids(self, text: pa.LargeStringArray) -> tuple[UInt32, Int64]:
        if self._singles + len(text) <= SINGLE_ROWS:
            # While another thread encodes, gigatoken refuses a single row: then they go as a batch.
            with suppress(RuntimeError), self._row_by_row:
                rows = [self.encoder.encode(row) for row in text.cast(pa.large_binary()).to_pylist()]
                self._singles += len(text)
                return np.concatenate(rows), np.cumsum([0, *map(len, rows)])
        import awkward

        # Several blocks are in work at once: threads inside each would be in one another's way.
        encode = partial(self.encoder.encode_batch, awkward.from_arrow(text), parallel=False)
        try:
            layout = encode().layout
        except RuntimeError:  # a thread is at single rows
            with self._row_by_row:
                layout = encode().layout
        ids, offsets = np.asarray(layout.content.data), np.asarray(layout.offsets.data)
        if ids.dtype != np.uint32 or offsets.dtype != np.int64 or len(offsets) != len(text) + 1 or offsets[0]:
            raise InternalError("gigatoken's result has another layout", hint="install gigatoken 0.10")
        return ids, offsets

    def _without_front_marks(
        self,
        lengths: Int32,
        ids: UInt32,
        offsets: Int64,
        text: pa.LargeStringArray,
    ) -> tuple[Int32, Int64]:
        """Count the mark put in front as no byte: (lengths, the tokens that begin with it)."""
        fronts = offsets[:-1][np.diff(offsets) > 0]
        if self.plan.mark_in_front == "sections":
            after = np.flatnonzero(self._added[ids[:-1]]) + 1
            fronts = np.union1d(fronts, after)
        fronts = fronts[self._begins_with_space[ids[fronts]] & ~self._added[ids[fronts]]]
        if self.plan.spares_spaces:
            fronts = fronts[~_begin_with_space(fronts, lengths, offsets, text)]
        lengths[fronts] -= 1
        return lengths, fronts

    def _misplaced(
        self,
        text: pa.LargeStringArray,
        ids: UInt32,
        offsets: Int64,
        fronts: Int64,
        slow: Bools,
    ) -> Bools:
        """Rows, of those not slow, in which a token's bytes are not the text's where the token is placed."""
        rows = np.flatnonzero(~slow)
        here = np.repeat(~slow, np.diff(offsets))
        in_front = np.zeros(len(ids), bool)
        in_front[fronts] = True
        begins, written = text_buffers(pc.take(self._written, pa.array(ids[here]), boundscheck=False))
        shown = np.ones(len(written), bool)
        shown[begins[:-1][in_front[here]]] = False
        places, data = text_buffers(text.take(pa.array(rows)))
        wrong = np.flatnonzero(written[shown] != data[places[0] : places[-1]])
        misplaced = np.zeros(len(slow), bool)
        misplaced[rows[np.searchsorted(places - places[0], wrong, "right") - 1]] = True
        return misplaced

    def _rewritten(self, text: pa.LargeStringArray) -> Bools:
        """Rows whose text the normalizer changes, or that hold a word mark of their own, or characters that
        are letters to one library alone."""
        wide = Wide(pl.Series(text))
        if self.plan.word_mark:  # then texts are split at spaces
            changed: Bools = pc.match_substring(text, WORD_MARK).to_numpy(zero_copy_only=False)
        else:
            changed = np.zeros(len(text), bool)
            changed[wide.rows_with(NEW)] = True
        if self.plan.nfc:
            changed[wide.nfc()[0]] = True
        return changed

    def _trimmed(
        self,
        ids: UInt32,
        offsets: Int64,
        lengths: Int32,
        ends: npt.NDArray[np.integer[Any]],
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]:
        """Places without the spaces at a token's ends; one that is all spaces is left empty, at its end."""
        lead, tail = self._spaces[ids, 0], self._spaces[ids, 1]
        if self.plan.trim == "not_first":
            lead[offsets[:-1][np.diff(offsets) > 0]] = 0
        starts = np.minimum(ends - lengths + lead, ends)
        return starts, np.maximum(ends - tail, starts)


def _begin_with_space(fronts: Int64, lengths: Int32, offsets: Int64, text: pa.LargeStringArray) -> Bools:
    """Which of the tokens `fronts` stand for a text that begins with a space of its own.

    Where one stands depends on how many marks before it are no bytes: guessed, looked up, and guessed again.
    """
    places, data = text_buffers(text)
    if not len(data):
        return np.zeros(len(fronts), bool)
    row = np.searchsorted(offsets, fronts, "right") - 1
    before = np.append(0, np.cumsum(lengths, dtype=np.int64))
    start = places[row] + before[fronts] - before[offsets[row]]
    first = np.searchsorted(row, row)
    spaces = np.zeros(len(fronts), bool)
    for _ in range(8):
        marks = np.append(0, np.cumsum(~spaces))
        at = np.minimum(start - marks[:-1] + marks[first], len(data) - 1)
        again = data[at] == ord(" ")
        if np.array_equal(again, spaces):
            break
        spaces = again
    return spaces


def _spaces_at_ends(offsets: Int64, data: UInt8) -> Int64:
    """Leading and trailing spaces of each text; one that is all spaces counts them twice."""
    starts, ends = offsets[:-1], offsets[1:]
    others = np.concatenate([[-1], np.flatnonzero(data != ord(" ")), [len(data)]])
    first = others[np.searchsorted(others, starts)]
    last = others[np.searchsorted(others, ends) - 1]
    return np.stack([np.minimum(first, ends) - starts, ends - np.maximum(last + 1, starts)], axis=1)


def running_sum(lengths: Int32, size: int) -> npt.NDArray[np.integer[Any]]:
    """In 32 bits where the text is small enough: half the memory traffic."""
    return np.cumsum(lengths, dtype=np.int32 if size < 1 << 30 else np.int64)


def _with_own_texts(texts: pa.LargeBinaryArray, own: dict[int, bytes]) -> pa.LargeBinaryArray:
    """Some ids stand for a text of their own."""
    place = np.arange(len(texts))
    place[list(own)] = len(texts) + np.arange(len(own))
    return pa.concat_arrays([texts, pa.array(own.values(), pa.large_binary())]).take(pa.array(place))
