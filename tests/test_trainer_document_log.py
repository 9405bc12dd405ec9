"""The training loss of every document, whatever the batching, over epochs, ranks and a resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch.nn.functional import cross_entropy
from trainer_rows import LENGTHS, make_documents, tiny_llama, trainer_for, write_packed

from tokpack.errors import DataError, UsageError
from trainer_plugin import PackedCollator, PackedDataset
from trainer_plugin.training.document_log import PARTS, DocumentLog

DOCUMENTS = make_documents(LENGTHS * 2)
FROZEN = {"learning_rate": 1e-30, "epochs": 2.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "packed"
    write_packed(folder, DOCUMENTS, 64)
    return PackedDataset(folder)


def alone(ids, labels):
    """Trained tokens and mean loss of a document in the plain call."""
    target = torch.tensor(labels[1:], dtype=torch.int64)
    trained = int((target != -100).sum())
    with torch.no_grad():
        logits = tiny_llama()(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return trained, float(cross_entropy(logits, target, ignore_index=-100))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "loss"), [("parquet", "token"), ("jsonl", "document")])
def test_each_document_has_its_own_loss_in_each_epoch(dataset, tmp_path, ending, loss):
    path = tmp_path / "logs" / f"documents.{ending}"
    trainer = trainer_for(
        tiny_llama("tokpack"),
        dataset,
        tmp_path,
        options={"document_log": path},
        loss=loss,
        accumulation=2,
        batch_rows=2,
        **FROZEN,
    )
    trainer.data_collator.capacity = 64
    trainer.train()
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    keys = [(row["epoch"], row["doc_id"], row["piece"]) for row in rows]
    assert keys == [(epoch, number, 0) for epoch in (0, 1) for number in range(len(DOCUMENTS))]
    for row in rows:
        tokens, expected = alone(*DOCUMENTS[row["doc_id"]])
        assert (row["tokens"], row["times"]) == (tokens, 1)
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert not (tmp_path / PARTS).exists()


@pytest.mark.slow
def test_the_log_leaves_the_training_as_it_is(dataset, tmp_path):
    weights = []
    for log in (None, tmp_path / "documents.parquet"):
        trainer = trainer_for(
            tiny_llama("tokpack"), dataset, tmp_path, options={"document_log": log}, learning_rate=1e-2
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 1e-6


@pytest.mark.slow
def test_evaluation_is_not_logged(dataset, tmp_path):
    path = tmp_path / "documents.parquet"
    held_out = dataset.select(range(3))
    trainer = trainer_for(
        tiny_llama("tokpack"),
        dataset.select(range(3, 6)),
        tmp_path,
        options={"document_log": path},
        eval_dataset=held_out,
        eval_steps=1,
    )
    trainer.train()
    logged = set(pq.read_table(path)["doc_id"].to_pylist())
    assert logged == {int(n) for i in range(3, 6) for n in dataset[i]["doc_ids"]}


@pytest.mark.slow
def test_a_resumed_run_has_the_log_of_a_whole_one(dataset, tmp_path):
    def run(folder, resume=None, crash=None):
        trainer = trainer_for(
            tiny_llama("tokpack"),
            dataset,
            folder,
            options={"document_log": folder / "documents.parquet"},
            epochs=2.0,
            learning_rate=1e-2,
            save_steps=3,
        )
        if crash:
            trainer.add_callback(stop_at(crash))
        trainer.train(resume_from_checkpoint=resume)
        return pq.read_table(folder / "documents.parquet")

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", crash=8)
    cut = run(tmp_path / "cut", resume=str(tmp_path / "cut" / "checkpoint-6"))
    assert cut.equals(whole)
    assert run(tmp_path / "cut").equals(whole)


def stop_at(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step

    return Stop()


def test_copies_and_the_parts_of_other_processes_are_joined(tmp_path):
    for rank, losses in enumerate(([2.0, 6.0, 0.0], [10.0])):
        log = DocumentLog(tmp_path / "d.parquet", tmp_path, rank)
        table = np.array([[7, 0, 2], [7, 1, 3], [7, 2, 0]], np.int64)[: len(losses)]
        log.add(0, table, torch.tensor(losses))
        log.flush(1)
    DocumentLog(tmp_path / "d.parquet", tmp_path).finish()
    assert pq.read_table(tmp_path / "d.parquet").to_pylist() == [
        {"epoch": 0, "doc_id": 7, "piece": 0, "tokens": 2, "times": 2, "loss": 3.0},
        {"epoch": 0, "doc_id": 7, "piece": 1, "tokens": 3, "times": 1, "loss": 2.0},
        {"epoch": 0, "doc_id": 7, "piece": 2, "tokens": 0, "times": 1, "loss": None},
    ]


@pytest.mark.slow
def test_what_cannot_be_logged_is_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match=r"cannot be a \.csv"):
        trainer_for(tiny_llama(), dataset, tmp_path, options={"document_log": tmp_path / "d.csv"})
    with pytest.raises(DataError, match="without doc_ids"):
        PackedCollator(documents=True)([{"input_ids": [1], "labels": [1], "seq_lengths": [1]}])
