"""NFC: which characters it may change, and which rows it does."""

from __future__ import annotations

import unicodedata

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tokpack.encoding.unicode import UNSTABLE_IN_NFC, Wide


def test_the_superset_of_unstable_characters_holds_all_that_nfc_changes():
    characters = [chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]
    flagged = pl.Series(characters).str.contains(UNSTABLE_IN_NFC).to_list()
    for character, caught in zip(characters, flagged, strict=True):
        if unicodedata.normalize("NFC", character) != character or unicodedata.combining(character):
            assert caught, f"U+{ord(character):04X}"
    # What may compose with the character before it.
    for first in ("a", "\u1100", "\uac00", "\u09c7"):
        for character in (chr(c) for c in range(0x80, 0x12000) if unicodedata.category(chr(c)) != "Cs"):
            if len(unicodedata.normalize("NFC", first + character)) == 1:
                assert pl.Series([character]).str.contains(UNSTABLE_IN_NFC)[0]


@given(st.lists(st.text(alphabet=st.sampled_from("aé\u0301\u212b가\u1100\u1161\u11a8z’")), max_size=8))
def test_nfc_gives_the_rows_that_it_changes(texts):
    for padding in ("", "plain " * 20):  # many characters beyond ASCII, and few
        padded = [text + padding for text in texts]
        positions, changed = Wide(pl.Series(padded, dtype=pl.String)).nfc()
        want = {i: n for i, text in enumerate(padded) if (n := unicodedata.normalize("NFC", text)) != text}
        assert dict(zip(positions, changed, strict=True)) == want
