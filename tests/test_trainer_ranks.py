"""Several processes, and processes that are killed, train like one that runs through."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow.parquet as pq
import rank_runs
import torch
from rank_processes import start
from test_trainer_unpaired import make_answers, rows_of
from trainer_rows import (
    LENGTHS,
    make_documents,
    needs_packed_trainer,
    packed_pairs,
    save_tiny_model,
    tiny_chat_model,
    tiny_llama,
    trainer_for,
    write_packed,
)

from trainer_plugin import PackedDataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What one process ends at (`one`), two (`two`), and two with a part of the model each (`sharded`)."""
    needs_packed_trainer()
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_model(folder / "model")
    save_tiny_model(folder / "tied", tie_word_embeddings=True)
    write_packed(folder / "rows", make_documents(LENGTHS * 4), 60)  # 12 rows: whole steps for one and for two
    write_packed(folder / "rows" / "validation", make_documents(LENGTHS, seed=9), 64)
    (folder / "answers.json").write_text(json.dumps(rows_of(make_answers(48))[:8]))
    pairs_model = tiny_chat_model(folder / "pairs-model")
    pairs = packed_pairs(pairs_model, folder / "pairs")
    inputs = [folder / "rows", folder / "model", pairs.folder, pairs_model, folder / "answers.json"]
    done = start(Path(rank_runs.__file__), *inputs, folder, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for loss in rank_runs.LOSSES:
        rank_runs.train(folder / "rows", folder / "model", folder / "one", loss)
    rank_runs.prefer(pairs.folder, pairs_model, folder / "one.pairs")
    for loss in rank_runs.ANSWER_LOSSES:
        rank_runs.prefer_answers(folder / "answers.json", folder / "model", folder / f"one.{loss}", loss)
    return folder


def test_two_ranks_with_whole_or_sharded_models_end_at_the_weights_losses_and_counts_of_one(ends):
    for loss in rank_runs.LOSSES:
        weights = {name: torch.load(ends / f"{name}.{loss}.pt") for name in ("one", "two", "sharded")}
        figures = {name: json.loads((ends / f"{name}.{loss}.json").read_text()) for name in weights}
        logs = {name: pq.read_table(ends / f"{name}.{loss}.parquet") for name in weights}
        one = figures.pop("one")
        assert one["tokens"] == one["predicted"] == 2 * 4 * sum(LENGTHS)
        for name, other in figures.items():
            difference = (weights["one"] - weights[name]).abs().max()
            assert difference < 1e-6 * weights["one"].abs().max(), (name, difference)
            assert other.pop("loss") == pytest.approx(one["loss"], rel=1e-6)
            assert other == {key: value for key, value in one.items() if key != "loss"}
            keys = ["epoch", "doc_id", "piece", "tokens", "times"]
            assert logs[name].select(keys).equals(logs["one"].select(keys))
            losses = [logs[one]["loss"].to_numpy() for one in ("one", name)]
            np.testing.assert_allclose(*losses, rtol=1e-4)


def test_two_ranks_that_learn_to_prefer_end_at_the_weights_and_rewards_of_one(ends):
    one, two = (torch.load(ends / f"{name}.pairs") for name in ("one", "two"))
    for name, weight in one["weights"].items():
        assert (weight - two["weights"][name]).abs().max() < 1e-5, name
    assert one["metrics"]["eval_loss"] < math.log(2) - 1e-3
    for key in ("eval_loss", "eval_weight", "eval_rewards/accuracy", "eval_rewards/margin"):
        assert two["metrics"][key] == pytest.approx(one["metrics"][key], rel=1e-4), key
    margins = [[entry["rewards/margin"] for entry in end["rewards"]] for end in (one, two)]
    np.testing.assert_allclose(*margins, rtol=1e-3, atol=1e-5)


def test_two_ranks_learn_from_answers_that_are_good_or_bad(ends):
    """Without a divergence as one process does; KTO's is measured over both, on documents of each."""
    one, two = (torch.load(ends / f"{name}.apo_zero_unpaired") for name in ("one", "two"))
    assert (one["weights"] - two["weights"]).abs().max() < 1e-6
    assert two["metrics"]["eval_loss"] == pytest.approx(one["metrics"]["eval_loss"], rel=1e-5)
    kto = torch.load(ends / "two.kto")
    assert kto["log"][0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert kto["metrics"]["eval_rewards/margin"] > 0


def test_two_ranks_lose_patience_together_and_keep_the_best_adapter(ends):
    result = json.loads((ends / "patience" / "result.json").read_text())
    losses = dict(result["held_out"])
    best = min(losses, key=losses.get)
    assert (result["processes"], result["ended"]) == (2, "no better")
    assert best + 4 == result["steps"] < 40
    assert result["loss_after"] == pytest.approx(losses[best], abs=1e-5)
    assert (ends / "patience" / "adapter_model.safetensors").is_file()


def run_with_dropout(packed, folder, callbacks=(), resume=None):
    """Two epochs that draw random numbers, a checkpoint every third step; weights and counts at the end."""
    trainer = trainer_for(
        tiny_llama("tokpack", attention_dropout=0.1),
        PackedDataset(packed),
        folder,
        **{"accumulation": 2, "epochs": 2.0, "learning_rate": 1e-2, "save_steps": 3},
        options={"document_log": folder / "documents.parquet", "token_budget": 2000},
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return weights, trainer.counts(), pq.read_table(folder / "documents.parquet")


KILLED = """
import os, signal, sys
from pathlib import Path
from test_trainer_ranks import run_with_dropout
from transformers import TrainerCallback

class Kill(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 7:  # in the middle of the eighth step, after the second checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

run_with_dropout(*map(Path, sys.argv[1:]), [Kill()])
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_run_killed_in_mid_epoch_and_mid_step_goes_on_to_the_same_bits(tmp_path):
    packed, cut = tmp_path / "packed", tmp_path / "cut"
    write_packed(packed, make_documents(LENGTHS * 4), 64)
    (script := tmp_path / "run.py").write_text(KILLED)
    done = start(script, packed, cut)
    assert done.returncode == -9, done.stderr[-3000:]
    kept = sorted(path.name for path in cut.glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-6"]
    weights, counts, log = run_with_dropout(packed, tmp_path / "whole")
    resumed_weights, resumed_counts, resumed_log = run_with_dropout(packed, cut, resume=True)
    assert torch.equal(weights, resumed_weights)
    assert counts == resumed_counts
    assert log.equals(resumed_log)
