"""Contamination against a search by tuples of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokpack.errors import InternalError, UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages import decontaminate
from tokpack.stages.decontaminate import Contaminated, find_contaminated
from tokpack.stages.selected_tokens import SelectedTokens

UNHURRIED = settings(deadline=None, max_examples=150)

Document = Sequence[int]


def batch_of(documents: Sequence[Document]) -> SelectedTokens:
    tokens = np.array([token for document in documents for token in document], np.int32)
    return SelectedTokens(tokens, np.cumsum([0, *(len(document) for document in documents)]))


def rows_of(found: Contaminated) -> list[tuple[int, ...]]:
    columns = (found.document, found.eval_document, found.start, found.end, found.length)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def brute_force(
    training: Sequence[Document], evaluation: Sequence[Document], n: int
) -> list[tuple[int, ...]]:
    """(document, evaluation document, start, end, length) of each contaminated document."""
    windows: dict[int, dict[tuple[int, ...], int]] = {}
    for e, document in enumerate(evaluation):
        width = min(n, len(document))
        if width >= min(n, 5):
            for i in range(len(document) - width + 1):
                windows.setdefault(width, {}).setdefault(tuple(document[i : i + width]), e)
    rows = []
    for d, document in enumerate(training):
        runs = []
        for width, known in windows.items():
            hits = [i for i in range(len(document)) if tuple(document[i : i + width]) in known]
            if hits:
                last = next(i for i in itertools.count(hits[0]) if i + 1 not in hits)
                runs.append((hits[0], -(last + width), known[tuple(document[hits[0] : hits[0] + width])]))
        if runs:
            start, end, e = min(runs)
            rows.append((d, e, start, -end, -end - start))
    return rows


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Training and evaluation documents of few symbols; some training documents quote."""
    symbols = st.integers(0, draw(st.sampled_from([1, 3, 30])))
    evaluation = draw(st.lists(st.lists(symbols, max_size=25), max_size=8))
    training = draw(st.lists(st.lists(symbols, max_size=30), max_size=12))
    if evaluation:
        for document in training:
            if draw(st.booleans()):
                quoted = draw(st.sampled_from(evaluation))
                at = draw(st.integers(0, len(document)))
                document[at:at] = quoted[draw(st.integers(0, 5)) :]
    return training, evaluation


@pytest.mark.slow
@UNHURRIED
@given(texts(), st.integers(1, 14))
def test_the_search_equals_comparing_tuples(documents, n):
    training, evaluation = documents
    found = find_contaminated([batch_of(training)], [batch_of(evaluation)], n)
    assert rows_of(found) == brute_force(training, evaluation, n)
    assert found.ignored == sum(0 < len(document) < min(n, 5) for document in evaluation)


@pytest.mark.slow
@UNHURRIED
@given(texts(), st.integers(0, 12), st.integers(0, 8), st.integers(1, 40))
def test_neither_batches_nor_blocks_change_the_result(documents, cut, eval_cut, block):
    training, evaluation = documents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decontaminate, "BLOCK", block)
        found = find_contaminated(
            [batch_of(training[:cut]), batch_of(training[cut:]), batch_of([])],
            [batch_of(evaluation[:eval_cut]), batch_of(evaluation[eval_cut:])],
            n=6,
        )
    assert rows_of(found) == brute_force(training, evaluation, 6)


def test_spans_count_all_tokens_and_lengths_the_selected_ones():
    quoted = list(range(100, 120))
    tokens = [1, 2, *quoted[:8], 3, 4, *quoted[8:], 5]
    flags = [TRAINED] * 2 + [CONTENT] * 8 + [TRAINED] * 2 + [CONTENT | TRAINED] * 12 + [TRAINED]
    batch = SelectedTokens(
        np.array([9, 9, *tokens], np.int32),
        np.array([0, 2, 2 + len(tokens)]),
        np.array([CONTENT, 0, *flags], np.uint8),
        CONTENT,
    )
    assert rows_of(find_contaminated([batch], [batch_of([[7] * 30, quoted])])) == [(1, 1, 2, 24, 20)]
    whole = SelectedTokens(batch.tokens, batch.offsets)
    assert rows_of(find_contaminated([whole], [batch_of([quoted])], n=12)) == [(1, 0, 12, 24, 12)]
    assert rows_of(find_contaminated([whole], [batch_of([quoted])], n=13)) == []


def test_short_evaluation_documents_match_whole_or_are_ignored_and_counted():
    evaluation = [[1, 2, 3, 4], [1, 2, 3, 4, 5], [], [6] * 12]
    training = [[1, 2, 3, 4, 9], [0, 1, 2, 3, 4, 5], [6] * 11, [6] * 14, [1, 2, 3, 4]]
    found = find_contaminated([batch_of(training)], [batch_of(evaluation)])
    assert rows_of(found) == [(1, 1, 1, 6, 5), (3, 3, 0, 14, 14)]
    assert found.ignored == 1


def test_windows_do_not_reach_across_documents():
    quoted = list(range(13))
    assert rows_of(find_contaminated([batch_of([quoted[:6], quoted[6:]])], [batch_of([quoted])])) == []
    assert rows_of(find_contaminated([batch_of([quoted])], [batch_of([quoted[:6], quoted[6:]])], 13)) == [
        (0, 0, 0, 6, 6)
    ]


def test_a_base_under_which_windows_collide_is_not_used(monkeypatch):
    """In base 1 the hash of a window is the sum over its tokens, whatever their order."""
    evaluation, training = [[1, 2, 3, 4, 5, 6]], [[5, 4, 3, 2, 1], [2, 3, 4, 5, 6], [6, 5, 4, 3, 2]]
    monkeypatch.setattr(decontaminate, "_BASES", (1,))
    found = find_contaminated([batch_of(training)], [batch_of(evaluation)], 5)
    assert rows_of(found) == [(1, 0, 0, 5, 5)]
    with pytest.raises(InternalError):
        find_contaminated([batch_of(training)], [batch_of([[1, 2, 3, 4, 5, 1, 2]])], 5)
    monkeypatch.setattr(decontaminate, "_BASES", (1, 0xD6E8FEB86659FD93))
    found = find_contaminated([batch_of(training)], [batch_of([[2, 3, 4, 5, 6, 2, 3]])], 5)
    assert rows_of(found) == [(1, 0, 0, 5, 5)]


def test_nothing_to_search_or_to_search_for_finds_nothing():
    for training, evaluation in (([], [[1] * 20]), ([[1] * 20], []), ([[], [1]], [[], [1]])):
        found = find_contaminated([batch_of(training)], [batch_of(evaluation)])
        assert rows_of(found) == []
    assert rows_of(find_contaminated([], [])) == []


def test_a_window_of_no_tokens_is_a_usage_error():
    with pytest.raises(UsageError, match="n = 0"):
        find_contaminated([], [], n=0)
