"""The hash by which equal documents are found, against one made document by document in plain Python."""

from __future__ import annotations

import unicodedata
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tokpack.stages.dedup import INDENT, text_hash
from tokpack.stages.render.pieces import Spans
from tokpack.stages.render.render import Rendered

WHITE = " \t\n\x0b\x0c\r\x85\xa0\u2003\u3000"
TEXT = st.text(alphabet=st.sampled_from(f"ab\x1c\0é\u0301\u212b가\u1100\u1161{WHITE}"), max_size=8)
PIECES = st.lists(st.tuples(TEXT, st.booleans(), st.booleans()), max_size=6)
"""Of a document: pieces, whether they are contents, and whether they are trained."""


def as_compared(text: str, key: str) -> str:
    if key == "raw":
        return text
    text = text.strip(WHITE)
    return unicodedata.normalize("NFC", text)


def hash_of(pieces, key: str) -> tuple[int, int]:
    found = [(as_compared(t, key) if content else t, content, by) for t, content, by in pieces]
    runs = [
        (float(content), float(by), float(sum(len(text.encode()) for text, *_ in some)))
        for (content, by), some in groupby((one for one in found if one[0]), lambda one: one[1:])
    ]
    text = "".join(text for text, *_ in found).encode()
    hashes = xxhash.xxh3_128_intdigest(text) ^ xxhash.xxh3_128_intdigest(
        np.array(runs, "<f8").tobytes(), seed=1
    )
    return divmod(hashes, 1 << 64)


def joined(pieces) -> list[tuple[str, bool, bool]]:
    """Without empty pieces, neighbors of one kind as one."""
    return [
        ("".join(text for text, *_ in some), *kind)
        for kind, some in groupby((one for one in pieces if one[0]), lambda one: one[1:])
    ]


def batch(documents) -> Rendered:
    texts = ["".join(text for text, *_ in pieces) for pieces in documents]
    spans = [
        Spans.of_rows([[place for *_, marks, place in placed(pieces) if marks[kind]] for pieces in documents])
        for kind in (0, 1)
    ]
    plain = np.zeros(len(texts), bool)
    text = pa.array(texts, pa.large_string())
    return Rendered(text, trained=spans[1], content=spans[0], plain=plain, eos=True, reference_masks=False)


def placed(pieces):
    ends = np.cumsum([0, *(len(text.encode()) for text, *_ in pieces)]).tolist()
    for (text, *marks), place in zip(pieces, pairwise(ends), strict=True):
        yield text, marks, place


@pytest.mark.parametrize("key", ["nfc", "raw"])
@given(st.lists(PIECES, max_size=5))
def test_hashes_are_those_of_documents_one_by_one(key, documents):
    documents = [joined(pieces) for pieces in documents]
    found = text_hash(batch(documents), key)
    assert [tuple(pair) for pair in found.tolist()] == [hash_of(pieces, key) for pieces in documents]


@pytest.mark.parametrize("many", [INDENT - 1, INDENT, INDENT + 1, 5 * INDENT])
def test_white_space_of_any_length_counts_for_nothing(many):
    documents = [
        [(" " * before + "a b" + "\n" * after, True, True)] for before in (0, many) for after in (0, many)
    ]
    documents.append([("a b", True, True)])
    assert len(np.unique(text_hash(batch(documents)), axis=0)) == 1
