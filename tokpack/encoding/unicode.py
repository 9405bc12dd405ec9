"""Unicode of a column: its NFC, where only rows that hold a character which NFC may change are worked on, and
rows that hold characters which one library knows, another does not."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack.encoding.token_places import text_buffers

FEW = 8
"""One byte in so many."""
# Marks, Hangul jamo, and characters whose canonical form is another. A superset is enough.
UNSTABLE_IN_NFC = (
    r"[\p{M}\x{374}\x{37e}\x{387}\x{958}-\x{95f}\x{9dc}-\x{9df}\x{a33}-\x{a36}\x{a59}-\x{a5e}\x{b5c}\x{b5d}"
    r"\x{f43}-\x{f69}\x{1100}-\x{11ff}\x{1f71}-\x{1fff}\x{2000}\x{2001}\x{2126}\x{212a}\x{212b}\x{2329}\x{232a}"
    r"\x{2adc}\x{f900}-\x{faff}\x{fb1d}-\x{fb4e}\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1f}]"
)
NEW = r"[^\p{age=16.0}]"
"""Characters of Unicode 17 and later: gigatoken 0.10 knows those of 17, `tokenizers` 0.23 does not, so that
they see other words."""


class Wide:
    """The rows of a text column, which has no nulls, that are not ASCII alone."""

    def __init__(self, text: pl.Series) -> None:
        self.text = text

    @cached_property
    def positions(self) -> pl.Series:
        return (self.text.str.len_bytes() != self.text.str.len_chars()).arg_true()

    @cached_property
    def _rest(self) -> pl.Series:
        return beyond_ascii(self.text.gather(self.positions))

    def rows_with(self, characters: str) -> pl.Series:
        """Positions of the rows that hold one of them, none of which is ASCII."""
        return self.positions.filter(self._rest.str.contains(characters))

    def nfc(self) -> tuple[pl.Series, pl.Series]:
        """(positions of the rows that NFC changes, their new text)."""
        positions = self.rows_with(UNSTABLE_IN_NFC)
        before = self.text.gather(positions)
        normal = before.str.normalize("NFC")
        changed = normal != before
        return positions.filter(changed), normal.filter(changed)


def beyond_ascii(texts: pl.Series) -> pl.Series:
    """Of each text at least the characters that are not ASCII: where they are few, these alone, which a
    pattern takes less time to go over."""
    places, data = text_buffers(texts.to_arrow(compat_level=pl.CompatLevel.oldest()))
    beyond = data.view(np.int8) < 0
    if FEW * np.count_nonzero(beyond) > len(data):
        return texts
    kept = np.flatnonzero(beyond)
    ends = pa.py_buffer(np.searchsorted(kept, places))
    return pl.Series(
        pl.from_arrow(pa.LargeStringArray.from_buffers(len(texts), ends, pa.py_buffer(data[kept])))
    )
