"""What is in memory of each document between the passes, counted to the byte, and where its numbers end."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tokpack import ranges
from tokpack.errors import DataError
from tokpack.report.data import data_figures
from tokpack.report.data.data_figures import source_figures, truncation_figures
from tokpack.report.figures import documents_of, planned_ledger, slot_figures
from tokpack.settings.config import Config
from tokpack.stages import dedup
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.tokenize import TokenBatch
from tokpack.stages.truncate import Pieces
from tokpack.stages.write import Placement, RowContents
from tokpack.terminal.activity import Activity
from tokpack.way import columns
from tokpack.way.columns import GrowingColumn, GrowingFrame, check_number
from tokpack.way.corpus import Corpus, numbers_within
from tokpack.way.decide import decide
from tokpack.way.in_runs import in_runs, run_starts
from tokpack.way.plan_part import plan_part
from tokpack.way.store import TokenStore

OF_BATCH, BATCHES = 8192, 12
DOCUMENTS = OF_BATCH * BATCHES
DOC_BYTES = {
    "doc_id": 4,
    "source": 1,
    "row": 4,
    "drop_reason": 2.125,
    "hash_high": 8,
    "hash_low": 8,
    "tokens": 4,
    "cut": 1,
    "drawn": 0.125,
    "variant": 1,
}
PIECE_BYTES = {"document": 4, "length": 4, "trained": 1}
REST = {"quarantined": [], "counters": {}, "paths": {}, "spared": {}, "examples": {}, "sha256": {}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Documents of ten tokens and fewer."""
    store = TokenStore(tmp_path_factory.mktemp("store"), {}, lasts=False)
    random = np.random.default_rng(0)
    for number in range(BATCHES):
        lengths = random.integers(1, 11, OF_BATCH)
        offsets = np.append(0, np.cumsum(lengths))
        doc_id = np.arange(OF_BATCH)
        docs = pl.DataFrame(
            {
                "doc_id": doc_id,
                "source": np.zeros(OF_BATCH, np.int32),
                "row": doc_id,
                "drop_reason": pl.repeat(None, OF_BATCH, dtype=pl.String, eager=True),
                "drop_detail": pl.repeat(None, OF_BATCH, dtype=pl.String, eager=True),
                "hash_high": random.integers(0, 1 << 63, OF_BATCH, np.uint64),
                "hash_low": random.integers(0, 1 << 63, OF_BATCH, np.uint64),
                "tokens": lengths.astype(np.int32),
                "cut": np.zeros(OF_BATCH, np.int32),
                "drawn": doc_id % 50 == 0,
                "variant": np.zeros(OF_BATCH, np.int32),
            }
        )
        tokens = TokenBatch(offsets, np.arange(offsets[-1], dtype=np.int32), np.ones(offsets[-1], np.uint8))
        pieces = Pieces(docs, doc_id, np.zeros(OF_BATCH, np.int32), tokens, lengths - 1, 0 * lengths)
        rest = REST | {"rows": OF_BATCH, "lines": {0: OF_BATCH}, "last": number == BATCHES - 1}
        store.commit((0, number), "", docs, pieces, rest)
    store.settle()
    return store


def run() -> Any:
    config = Config.from_dict({"source": [{"path": "a.jsonl"}], "truncate": {"max_length": 512}})
    source = SimpleNamespace(config=config.source[0], name="a.jsonl")
    return SimpleNamespace(
        config=config,
        sources=[source],
        shapes=[Shape("text", {}, frozenset())],
        tell=Activity(),
        pairs=False,
        kind="",
    )


def traced(step: Callable[[], Any], times: int = 3) -> tuple[Any, float, float]:
    """What a step returns, and how many bytes a document it leaves in memory, and takes at most: the least of
    some times, as what another thread takes meanwhile is counted too."""
    found = [_traced(step) for _ in range(times)]
    return found[-1][0], min(after for _, after, _ in found), min(most for _, _, most in found)


def _traced(step: Callable[[], Any]) -> tuple[Any, float, float]:
    gc.collect()
    tracemalloc.start()
    try:
        found = step()
        gc.collect()
        return found, *(size / DOCUMENTS for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()


def test_each_document_takes_so_many_bytes_in_memory(store):
    """A column more, or a wider one, is memory that every document of every corpus takes: count it here."""
    Corpus.load(store, 1)  # what is imported for it is imported now
    corpus, after, most = traced(lambda: Corpus.load(store, 1))
    for frame, expected in ((corpus.docs, DOC_BYTES), (corpus.pieces, PIECE_BYTES)):
        assert {name: frame[name].estimated_size() / DOCUMENTS for name in frame.columns} == expected
    room = 16 * OF_BATCH / DOCUMENTS  # columns are doubled
    assert after < room * (sum(DOC_BYTES.values()) + sum(PIECE_BYTES.values()))
    assert most < after + 24


def test_each_step_takes_so_many_bytes_a_document(store, tmp_path, monkeypatch):
    monkeypatch.setattr(dedup, "SORTED", OF_BATCH // 4)
    corpus = Corpus.load(store, 1)
    assert (
        traced(lambda: decide(run(), corpus), times=1)[2] < 50
    )  # most of it does not grow: they are hashed a million at a time
    plan_part(run(), corpus)  # what is imported for it is imported now
    part, after, most = traced(lambda: plan_part(run(), corpus))
    assert after < 12
    assert most < 28
    corpus.forget_pieces()
    (pieces, source), after, most = traced(
        lambda: in_runs(part.contents, part.placement, corpus.batch, False, tmp_path, 100_000)
    )
    assert after < 7
    assert most < 28
    assert len(np.unique(pieces.batch)) > 20
    last = int(pieces.batch.max())
    mine = np.flatnonzero(pieces.batch == last)
    assert np.array_equal(np.diff(source(last).offsets), pieces.length[mine])


def test_what_a_report_counts_takes_so_many_bytes_a_document(store, monkeypatch):
    monkeypatch.setattr(data_figures, "SLICE", 1024)
    monkeypatch.setattr(ranges, "BLOCK", 1024)
    corpus, started = Corpus.load(store, 1), run()
    corpus.drop(np.arange(0, DOCUMENTS, 7), "too_short")  # so that what is kept is a copy
    part = plan_part(started, corpus)
    assert traced(lambda: corpus.forget_pieces() or part.without_contents())[1] < 0.1
    documents = documents_of(started, corpus, part)
    cost = started.config.cost
    slots = traced(lambda: slot_figures(documents.raw, documents.pieces, part.plan, cost))
    assert slots[2] < 3
    shorter = replace(documents, capacity=5)  # half of them are longer
    assert traced(lambda: truncation_figures(shorter))[2] < 2
    sources = traced(lambda: source_figures(corpus, part.pieces, ["a.jsonl"]))
    assert sources[2] < 1
    kept = corpus.docs.filter(pl.col("drop_reason").is_null())
    assert sources[0][0].documents == len(kept)
    assert sources[0][0].packed == int(kept["tokens"].sum())
    longest_first = np.sort(kept["tokens"].to_numpy())[::-1]
    batches = np.split(longest_first, range(8, len(longest_first), 8))
    assert slots[0][4].slots == sum(int(batch[0]) * len(batch) for batch in batches)


def test_a_column_is_as_wide_as_its_largest_number():
    small, wide = GrowingColumn(np.int64, small=True), GrowingColumn(np.int32)
    expected: list[int] = []
    for some in ([], [3, 127], [0], [128], [40_000, 5], [7] * 5):
        for column in (small, wide):
            column.add(np.array(some, np.int64))
        expected += some
        assert small.values.tolist() == wide.values.tolist() == expected
    assert (small.values.dtype, wide.values.dtype) == (np.int32, np.int32)


def test_batches_are_joined_whatever_their_columns_hold():
    names = ("doc_id", "drop_reason", "quality", "good")
    rows = [(0, "a", 0.5, True), (1, None, None, None), (2, "b", 1.0, False)]
    batches = [pl.DataFrame(some, schema=names, orient="row") for some in (rows[:2], rows[2:])]
    joined = GrowingFrame()
    for batch in (*batches, batches[0].clear()):
        joined.add(batch)
    assert joined.frame().cast({"doc_id": pl.Int64, "drop_reason": pl.String}).equals(pl.concat(batches))


def test_more_documents_than_numbers_is_an_error_that_says_what_to_do(store, monkeypatch):
    check_number((1 << 31) - 1, "documents")
    with pytest.raises(DataError, match="more than 2,147,483,647 documents") as error:
        check_number(1 << 31, "documents")
    assert "tokpack merge" in error.value.hint
    monkeypatch.setattr(columns, "MOST", DOCUMENTS - 1)
    with pytest.raises(DataError, match="98,303 documents"):
        Corpus.load(store, 1)


def test_there_may_be_more_runs_than_16_bits_tell_apart(tmp_path):
    count = 33_000
    contents = RowContents(np.arange(count, dtype=np.int32)[::-1].copy(), np.arange(count + 1))
    zeros = np.zeros(count, np.int8)
    length = np.ones(count, np.int32)
    ids = np.arange(count, dtype=np.int32)
    pieces = Placement(zeros, ids, length, ids, zeros, zeros, zeros == 0)
    flat = SimpleNamespace(
        offsets=np.arange(count + 1), ids=ids, marks=np.ones(count, np.uint8), weights=None
    )
    moved, source = in_runs(contents, pieces, lambda number: flat, False, tmp_path, 5)
    assert moved.batch.tolist() == list(range(count))[::-1]
    assert [int(source(number).ids[0]) for number in (0, 32_900, count - 1)] == [count - 1, 99, 0]


def test_a_row_is_in_the_run_where_it_begins():
    contents = RowContents(np.array([2, 0, 1, 3], np.int32), np.array([0, 2, 3, 4]))
    length = np.array([5, 9, 2, 1], np.int32)  # rows of 7, 9 and 1 tokens
    assert run_starts(contents, length, 8).tolist() == [0, 3, 3, 4]
    assert run_starts(contents, length, 100).tolist() == [0, 4]
    assert run_starts(RowContents(length[:0], np.zeros(1, np.int64)), length[:0], 8).tolist() == [0]


def test_numbers_of_pieces():
    assert numbers_within(np.array([4, 4, 4, 7, 9, 9], np.int32)).tolist() == [0, 1, 2, 0, 0, 1]
    assert numbers_within(np.empty(0, np.int32)).tolist() == []


def test_a_ledger_of_more_tokens_than_32_bits_tell_adds_up():
    tokens = np.full(3, 1 << 30, np.int32)
    docs = pl.DataFrame({"doc_id": [0, 1, 2], "source": 0, "tokens": tokens, "cut": np.zeros(3, np.int8)})
    docs = docs.with_columns(drop_reason=pl.lit(None, columns.REASON))
    corpus: Any = SimpleNamespace(docs=docs, spared={}, quarantined_by_source=dict)
    plan = SimpleNamespace(rows=3, capacity=1 << 30, tokens=3 << 30)
    part: Any = SimpleNamespace(pieces=pl.DataFrame({"length": tokens, "trained": tokens}), plan=plan)
    assert planned_ledger(run(), corpus, part)["trained"]["trained"] == 3 << 30
