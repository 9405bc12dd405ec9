"""PackedDataset, PackedCollator and BalancedSampler."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_rows import LENGTHS, make_documents, write_packed

from tokpack.errors import DataError, UsageError
from trainer_plugin import BalancedSampler, PackedCollator, PackedDataset


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "packed"
    return folder, write_packed(folder, make_documents(LENGTHS * 4), 64)


def as_lists(row):
    return {name: list(map(int, values)) for name, values in row.items()}


def test_every_row_is_read_once_in_order_over_shards_and_batches(packed):
    folder, rows = packed
    dataset = PackedDataset(folder)
    assert [as_lists(row) for row in dataset] == rows
    assert dataset[-1]["doc_ids"].tolist() == rows[-1]["doc_ids"]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_row_figures_equal_those_counted_row_by_row(packed):
    folder, rows = packed
    order = [5, 0, 3]
    dataset = PackedDataset(folder).select(order)
    chosen = [rows[i] for i in order]
    assert dataset.row_tokens().tolist() == [len(row["input_ids"]) for row in chosen]
    assert dataset.row_documents().tolist() == [len(row["seq_lengths"]) for row in chosen]
    assert dataset.row_trained().tolist() == [sum(x != -100 for x in row["labels"]) for row in chosen]
    assert dataset.row_pairs().tolist() == [sum(n * n for n in row["seq_lengths"]) for row in chosen]
    assert dataset.seq_lengths().tolist() == [n for row in chosen for n in row["seq_lengths"]]
    assert dataset.row_longest().tolist() == [max(row["seq_lengths"]) for row in chosen]


def test_split_select_and_shuffle_keep_each_row_once(packed):
    dataset = PackedDataset(packed[0])
    train, held_out = dataset.shuffle(7).split(0.25, seed=1)
    assert sorted([*train.indices, *held_out.indices]) == list(range(len(dataset)))
    assert dataset.shuffle(7).indices.tolist() == dataset.shuffle(7).indices.tolist()
    assert dataset.shuffle(7).indices.tolist() != dataset.shuffle(8).indices.tolist()


def test_a_pickled_view_opens_the_same_rows_and_carries_no_data(packed):
    view = PackedDataset(packed[0]).shuffle(3)
    pickled = pickle.dumps(view)
    assert len(pickled) < 20_000
    assert [as_lists(row) for row in pickle.loads(pickled)] == [as_lists(row) for row in view]


def test_reading_and_collating_a_row_takes_as_many_calls_for_many_tokens_as_for_few(tmp_path):
    def calls(length):
        folder = tmp_path / str(length)
        rows = write_packed(folder, make_documents([length] * 400), 8 * length, rows_per_shard=50)
        dataset, collate = PackedDataset(folder), PackedCollator()
        batches, made = [collate([dataset[i]]) for i in range(len(rows))], []  # once, for what is lazy
        sys.setprofile(lambda frame, event, argument: made.append(event))
        try:
            for i in range(len(rows)):
                collate([dataset[i]])
        finally:
            sys.setprofile(None)
        return len(batches), made.count("call") + made.count("c_call")

    rows, few = calls(4)
    assert calls(512) == (rows, few)
    assert few < 200 * rows


def test_the_validation_packed_dataset_is_found(packed):
    folder, _ = packed
    assert PackedDataset(folder).validation() is None
    write_packed(folder / "validation", make_documents([5, 6]), 64)
    assert len(PackedDataset(folder).validation()) == 1


def test_a_missing_shard_and_a_wrong_row_count_are_data_errors(packed):
    folder, _ = packed
    manifest = (folder / "manifest.json").read_text()
    rows = json.loads(manifest)["rows"]
    (folder / "manifest.json").write_text(json.dumps({**json.loads(manifest), "rows": rows + 1}))
    with pytest.raises(DataError, match=f"{rows} rows, the manifest says {rows + 1}"):
        PackedDataset(folder)
    (folder / "manifest.json").write_text(manifest)
    next(iter(sorted(folder.glob("*.arrow")))).unlink()
    with pytest.raises(DataError, match="missing"):
        PackedDataset(folder)


def test_another_tokenizer_is_refused(tmp_path):
    class Tokenizer:
        def __init__(self, vocab):
            self.get_vocab = lambda: vocab

    write_packed(tmp_path / "p", make_documents([5]), 64)
    vocab = json.loads((tmp_path / "p" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    dataset = PackedDataset(tmp_path / "p")
    dataset.check_tokenizer(Tokenizer(dict(reversed(vocab.items()))))
    with pytest.raises(UsageError, match="not the one"):
        dataset.check_tokenizer(Tokenizer({**vocab, "w3": 4, "w4": 3}))


ROWS = [
    {"input_ids": [7, 8, 9, 4, 5], "labels": [-100, 8, 9, 4, 5], "seq_lengths": [3, 2], "doc_ids": [0, 1]},
    {"input_ids": [6, 3], "labels": [-100, 3], "seq_lengths": [2], "doc_ids": [2]},
]


def test_rows_are_flattened_into_the_one_batch_that_is_right_everywhere():
    batch = PackedCollator()(ROWS)
    assert set(batch) == {
        "input_ids",
        "labels",
        "position_ids",
        "seq_idx",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
    }
    assert batch["input_ids"].tolist() == [[7, 8, 9, 4, 5, 6, 3]]
    assert batch["labels"].tolist() == [[-100, 8, 9, -100, 5, -100, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 7]
    assert batch["max_length_q"] == batch["max_length_k"] == 3
    assert batch["input_ids"].dtype == batch["labels"].dtype == batch["position_ids"].dtype == torch.int64
    assert (
        batch["seq_idx"].dtype == batch["cu_seq_lens_q"].dtype == batch["cu_seq_lens_k"].dtype == torch.int32
    )


def test_a_padded_tail_is_documents_of_its_own_with_ascending_positions_and_no_labels():
    batch = PackedCollator(capacity=8, pad_token_id=1)(ROWS)
    assert batch["input_ids"].shape == (1, 16)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 7, 15, 16]
    assert batch["position_ids"][0, 7:].tolist() == [*range(8), 0]
    assert (batch["labels"][0, 7:] == -100).all()
    with pytest.raises(UsageError, match="more than 2 x 3"):
        PackedCollator(capacity=3)(ROWS)


def test_document_weights_of_each_document_add_up_to_one():
    weights = PackedCollator(loss="document")(ROWS)["loss_weights"]
    assert weights.tolist() == [[0, 0.5, 0.5, 0, 1, 0, 1]]


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_give_the_same_batch(convert):
    rows = [{name: convert(values) for name, values in row.items()} for row in ROWS]
    for name, value in PackedCollator()(ROWS).items():
        other = PackedCollator()(rows)[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_rows_of_a_raw_hugging_face_dataset_are_accepted():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    for view in (table, table.with_format("numpy"), table.with_format("torch")):
        assert torch.equal(
            PackedCollator()([view[0], view[1]])["input_ids"], PackedCollator()(ROWS)["input_ids"]
        )


def test_rows_that_are_no_packed_rows_are_refused_with_the_reason():
    with pytest.raises(DataError, match="remove_unused_columns"):
        PackedCollator()([{"input_ids": [1, 2], "labels": [1, 2]}])
    with pytest.raises(DataError, match="do not truncate"):
        PackedCollator()([{**ROWS[0], "seq_lengths": [3, 3]}])
    with pytest.raises(UsageError, match="unknown loss"):
        PackedCollator(loss="tokens")


def test_balanced_order_holds_every_row_once_and_changes_by_epoch(tmp_path):
    rng = np.random.default_rng(0)
    write_packed(tmp_path / "p", make_documents(rng.integers(4, 200, 900)), 256, rows_per_shard=500)
    dataset = PackedDataset(tmp_path / "p")
    assert len(dataset) > 300
    sampler = BalancedSampler(dataset, 4, seed=3, pair_cost=0.01)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(len(dataset)))
    assert first != list(sampler)

    def waiting(order):
        costs = sampler.costs[np.array(order[: len(order) // 4 * 4])].reshape(-1, 4)
        return 1 - costs.sum() / (costs.max(axis=1) * 4).sum()

    plain = np.random.default_rng(1).permutation(len(dataset)).tolist()
    assert waiting(first) < 0.01 < waiting(plain)


@settings(max_examples=50, deadline=None)
@given(
    costs=st.lists(st.floats(0.1, 100), min_size=1, max_size=90),
    ranks=st.integers(1, 4),
    batch_rows=st.integers(1, 3),
    accumulation=st.integers(1, 4),
)
def test_a_balanced_order_holds_every_row_once_for_any_layout(costs, ranks, batch_rows, accumulation):
    sampler = BalancedSampler(
        None, ranks, batch_rows=batch_rows, accumulation=accumulation, costs=np.array(costs)
    )
    assert sorted(sampler.order(3)) == list(range(len(costs)))
    assert sampler.order(3).tolist() == sampler.order(3).tolist()
    sampler.set_epoch(3)
    assert list(sampler) == sampler.order(3).tolist()


def test_costs_that_differ_within_a_hand_even_out_over_a_step():
    costs = np.random.default_rng(0).uniform(1, 2, 8 * 64)
    waiting = {}
    for accumulation in (1, 4):
        order = BalancedSampler(None, 8, accumulation=accumulation, costs=costs).order(0)
        work = costs[order].reshape(-1, 4, 8).sum(1)
        waiting[accumulation] = 1 - work.sum() / (work.max(1) * 8).sum()
    assert waiting[4] < 0.5 * waiting[1]


def test_rows_of_a_run_are_told_beforehand():
    sampler = BalancedSampler(None, batch_rows=2, costs=np.ones(7))
    assert sampler.rows_of(2, 2).tolist() == sampler.order(0).tolist()
    assert sampler.rows_of(3, 2).tolist() == [*sampler.order(0), *sampler.order(1)[:4]]
