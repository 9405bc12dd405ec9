"""The first of equal documents, found a range of hashes at a time, against a dict of all."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tokpack.on_disk.reasons import EXACT_DUPLICATE, OVER_BUDGET
from tokpack.stages import dedup
from tokpack.stages.keep import KeepList
from tokpack.way.columns import GrowingFrame
from tokpack.way.corpus import Corpus, details_of

WORDS = st.sampled_from([0, 1, 2**16, 2**60, 2**63, 2**64 - 1])


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans()), max_size=40), st.sampled_from([1, 3, 1 << 22]))
def test_ranges_of_hashes_find_the_first_of_each(rows, at_once):
    high, low = (np.array([row[k] for row in rows], np.uint64) for k in (0, 1))
    eligible = np.array([row[2] for row in rows], np.bool_)
    first: dict[tuple[int, int], int] = {}
    expected = []
    for place, (a, b, counts) in enumerate(rows):
        found = first.setdefault((a, b), place) if counts else place
        expected.append(-1 if found == place else found)
    with patch.object(dedup, "SORTED", at_once):
        assert dedup.first_of_equal((high, low), eligible).tolist() == expected


def corpus(reasons: list[str | None], details: list[str | None]) -> Corpus:
    docs = pl.DataFrame(
        {"doc_id": range(10, 10 + len(reasons)), "drop_reason": reasons, "drop_detail": details},
        schema={"doc_id": pl.Int64, "drop_reason": pl.String, "drop_detail": pl.String},
    )
    columns = GrowingFrame()
    columns.add(docs.drop("drop_detail"))
    parts = (columns.frame(), pl.DataFrame(), [], {}, {}, None, [], np.zeros(1, np.int64), {}, {})
    return Corpus(*parts, details=details_of(docs))


def told(corpus: Corpus) -> list[tuple[int, str]]:
    return sorted(corpus.details.rows())


def test_details_stay_with_the_documents_that_are_left_out():
    found = corpus(["too_short", None, None, None], ["3 tokens", None, None, None])
    found.drop([2], EXACT_DUPLICATE, pl.Series(["11"]))
    found.drop(np.array([3]), OVER_BUDGET)
    assert found.docs["drop_reason"].to_list() == ["too_short", None, EXACT_DUPLICATE, OVER_BUDGET]
    assert told(found) == [(0, "3 tokens"), (2, "11")]
    assert found.docs["drop_reason"].is_null().sum() == 1


def test_a_document_that_is_wanted_loses_its_detail_with_its_mark():
    found = corpus([None] * 3, [None] * 3)
    found.keep = KeepList(np.array([11]))
    found.drop([1, 2], EXACT_DUPLICATE, pl.Series(["10", "10"]))
    assert found.docs["drop_reason"].to_list() == [None, None, EXACT_DUPLICATE]
    assert told(found) == [(2, "10")]
    assert found.spared == {11: EXACT_DUPLICATE}


def test_of_a_pair_both_leave_and_the_second_names_the_first():
    found = corpus([None] * 4, [None] * 4)
    found.width = 2
    found.drop([3], "contaminated", pl.Series(["text"]))
    found.drop_partners()
    assert found.docs["drop_reason"].to_list() == [None, None, "pair_dropped", "contaminated"]
    assert told(found) == [(2, "13 contaminated"), (3, "text")]
    found.drop_partners()
    assert len(found.details) == 2
