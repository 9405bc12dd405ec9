"""The join against all pairs compared one by one, on random documents and on real ones."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alike import (
    UNHURRIED,
    assert_same,
    batch_of,
    batches_of,
    brute_force,
    brute_force_on,
    conversations,
    families,
    grams,
    thresholds,
)
from hypothesis import given
from hypothesis import strategies as st

from tokpack.errors import UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.near_dup.kinds import SAME_PROMPT
from tokpack.stages.near_dup.near_dup import find_near_duplicates
from tokpack.stages.selected_tokens import SelectedTokens

WORD = re.compile(r"\w+|\W")


@UNHURRIED
@given(families(), thresholds, st.integers(1, 6))
def test_the_join_equals_comparing_all_pairs(documents, threshold, n):
    assert_same(
        find_near_duplicates([batch_of(documents)], threshold, n), brute_force(documents, threshold, n)
    )


@pytest.mark.slow
@UNHURRIED
@given(families(), thresholds, st.data())
def test_documents_left_out_neither_remove_nor_are_removed(documents, threshold, data):
    eligible = data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
    found = find_near_duplicates([batch_of(documents)], threshold, eligible=np.array(eligible, np.bool_))
    assert_same(found, brute_force(documents, threshold, 5, eligible))


@pytest.mark.slow
@UNHURRIED
@given(families(), thresholds, st.lists(st.integers(0, 25), max_size=6), st.integers(1, 3))
def test_neither_batches_nor_threads_change_the_result(documents, threshold, cuts, threads):
    whole = find_near_duplicates([batch_of(documents)], threshold)
    edges = [0, *sorted(min(cut, len(documents)) for cut in cuts), len(documents)]
    batches = [batch_of(documents[a:b]) for a, b in itertools.pairwise(edges)]
    parts = find_near_duplicates(batches, threshold, threads=threads)
    assert parts.partner.tolist() == whole.partner.tolist()
    assert parts.jaccard.tolist() == whole.jaccard.tolist()


@pytest.mark.slow
@UNHURRIED
@given(families(), st.data())
def test_only_tokens_with_the_bit_count(documents, data):
    noise = data.draw(st.randoms(use_true_random=False))
    tokens, flags, lengths = [], [], []
    for document in documents:
        before = len(tokens)
        for token in document:
            for _ in range(noise.randrange(3)):
                tokens.append(noise.randrange(9))
                flags.append(TRAINED)
            tokens.append(token)
            flags.append(CONTENT | noise.randrange(2))
        lengths.append(len(tokens) - before)
    batch = SelectedTokens(
        np.array(tokens, np.int32), np.cumsum([0, *lengths]), np.array(flags, np.uint8), CONTENT
    )
    assert_same(find_near_duplicates([batch]), brute_force(documents, 0.8, 5))


@pytest.mark.slow
@UNHURRIED
@given(conversations(), thresholds, st.sampled_from(["both", "prompt", "answer"]), st.integers(0, 25))
def test_prompt_and_answer_apart_equal_comparing_all_pairs(conversations, threshold, on, cut):
    documents, flags = conversations
    found = find_near_duplicates(batches_of(conversations, cut), threshold, on=on)
    partner, least, kind = brute_force_on(documents, flags, threshold, on)
    assert found.partner.tolist() == partner
    assert found.jaccard.tolist() == least
    assert found.kind.tolist() == kind
    assert not found.bounded.any()
    for d in np.flatnonzero(found.kind).tolist():
        assert found.partner[found.alike[d]] == -1
        assert found.alike[d] < d


def test_a_long_shared_instruction_does_not_make_other_questions_duplicates():
    instruction = list(range(100, 300))
    documents = [[*instruction, question, reply] for question, reply in [(1, 5), (2, 6), (3, 5)]]
    flags = ([CONTENT] * 201 + [CONTENT | TRAINED]) * 3
    batch = replace(batch_of(documents), flags=np.array(flags, np.uint8), bit=CONTENT)
    both, whole = (find_near_duplicates([batch], on=on) for on in ("both", "all"))
    assert whole.partner.tolist() == [-1, 0, 0]
    assert both.partner.tolist() == [-1, -1, 0]
    assert both.kind.tolist() == [0, SAME_PROMPT, 0]


def test_short_documents_meet_only_their_equals():
    documents = [[1, 2], [1, 2], [2, 1], [1, 2, 3], [1], [1], [0], [0, 0], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    found = find_near_duplicates([batch_of(documents)], threshold=0.1)
    assert found.partner.tolist() == [-1, 0, -1, -1, -1, 4, -1, -1, -1, 8]
    assert found.jaccard[found.removed].tolist() == [1.0, 1.0, 1.0]


def test_empty_documents_are_never_duplicates():
    assert not find_near_duplicates([batch_of([[], [], [7] * 9, [], [7] * 9])]).removed[[0, 1, 3]].any()
    assert len(find_near_duplicates([]).partner) == 0
    assert find_near_duplicates([batch_of([]), batch_of([[]]), batch_of([])]).partner.tolist() == [-1]


def test_a_similarity_equal_to_the_threshold_counts():
    # 8 grams against 10, 8 in common: exactly 0.8.
    documents = [list(range(12)), list(range(14))]
    assert find_near_duplicates([batch_of(documents)], 0.8).jaccard.tolist() == [0.0, 0.8]
    assert not find_near_duplicates([batch_of(documents)], np.nextafter(0.8, 1)).removed.any()


def test_a_removed_document_removes_nothing():
    """b repeats a, c repeats b but not a: c stays."""
    a, b, c = list(range(100)), list(range(10, 110)), list(range(20, 120))
    assert find_near_duplicates([batch_of([a, b, c])], 0.8).partner.tolist() == [-1, 0, -1]


@pytest.mark.slow
def test_one_template_over_three_symbols_is_bounded_and_says_so():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 3, 20_000 * 200, dtype=np.int32)
    batch = SelectedTokens(tokens, np.arange(0, len(tokens) + 1, 200))
    found = find_near_duplicates([batch], candidate_limit=500)
    assert found.bounded.sum() > 15_000
    assert not (found.bounded & found.removed).any()
    again = find_near_duplicates([batch], candidate_limit=500, threads=1)
    assert (again.bounded == found.bounded).all()


def test_a_bounded_search_still_removes_only_what_repeats_a_kept_document():
    random = np.random.default_rng(1)
    documents = [random.integers(0, 2, 40).tolist() for _ in range(300)]
    exact = find_near_duplicates([batch_of(documents)], 0.5)
    found = find_near_duplicates([batch_of(documents)], 0.5, candidate_limit=2)
    assert found.bounded.any()
    assert not exact.bounded.any()
    for d in np.flatnonzero(found.removed):
        other = found.partner[d]
        mine, theirs = grams(documents[d], 5), grams(documents[other], 5)
        assert not found.removed[other]
        assert found.jaccard[d] == len(mine & theirs) / len(mine | theirs) >= 0.5


@pytest.fixture(scope="module")
def real_documents(real_data: Path) -> list[list[int]]:
    """400 documents as word numbers: runs of neighbors in sorted order, put back in the file's order."""
    path = real_data / "mix.jsonl.zst"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with pa.input_stream(path) as file:
        rows = [json.loads(line)["messages"] for line in file.read().splitlines()[:20_000]]
    texts = ["\n".join(message["content"] for message in messages)[:3000] for messages in rows]
    ranks = sorted(range(len(texts)), key=texts.__getitem__)
    starts = np.random.default_rng(2).choice(len(texts) - 20, 20, replace=False)
    sample = sorted({ranks[start + k] for start in starts for k in range(20)})
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(word, len(numbers)) for word in WORD.findall(texts[k])] for k in sample]


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_real_documents_equal_comparing_all_pairs(real_documents, threshold):
    batches = [batch_of(real_documents[:150]), batch_of(real_documents[150:])]
    found = find_near_duplicates(batches, threshold)
    assert_same(found, brute_force(real_documents, threshold, 5))
    assert found.removed.any()
    assert not found.removed[found.partner[found.removed]].any()


def test_settings_out_of_range_are_usage_errors():
    for wrong in ({"threshold": 0.0}, {"threshold": 1.01}, {"n": 0}, {"candidate_limit": 0}):
        with pytest.raises(UsageError):
            find_near_duplicates([batch_of([[1]])], **wrong)
    with pytest.raises(ValueError, match="2 eligible marks for 1 documents"):
        find_near_duplicates([batch_of([[1]])], eligible=np.ones(2, np.bool_))


def test_what_kernels_read_by_address_lies_in_one_piece():
    batch = batch_of([[1, 2, 3]])
    for wrong in (
        replace(batch, tokens=batch.tokens.astype(np.int64)),
        replace(batch, tokens=np.arange(6, dtype=np.int32)[::2]),
        replace(batch, flags=np.zeros(6, np.uint8)[::2]),
    ):
        with pytest.raises(ValueError, match="one after another"):
            find_near_duplicates([wrong])


def test_importing_the_stage_does_not_import_numba():
    stages = "tokpack.stages.decontaminate, tokpack.stages.near_dup.near_dup"
    code = f"import sys, {stages}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
