"""Several processes, and processes that are killed, train like one that runs through."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow.parquet as pq
import torch
from rank_processes import start
from trainer_rows import LENGTHS, make_documents, save_tiny_model, write_packed

pytestmark = pytest.mark.slow

RANKS = """
import json, os, sys
import torch
from rank_processes import gloo_threads
from transformers import AutoModelForCausalLM
from trainer_plugin import (
    BalancedSampler, PackedDataset, PackedTrainer, leave_processes, load_recipe, prepare_model
)
from trainer_plugin.qlora import load_model
from trainer_plugin.recipe import training_arguments

packed, model, out, shard = *sys.argv[1:4], sys.argv[4] == "shard"
ranks = int(os.environ.get("WORLD_SIZE", "1"))

def run(loss):
    dataset = PackedDataset(packed)
    sampler = BalancedSampler(dataset, 2, accumulation=2)
    recipe = load_recipe(
        method="full", dtype="float32", loss=loss, epochs=2.0, accumulation=4 // ranks, learning_rate=1e-2,
        shard=shard, trainer={"optim": "sgd"},
    )
    arguments = training_arguments(recipe, out + ".run")
    network = load_model(model, recipe)
    prepare_model(network, "tokpack")
    trainer = PackedTrainer(
        network, arguments, train_dataset=dataset, eval_dataset=dataset.select(range(7)), loss=loss,
        progress=False, document_log=f"{out}.{loss}.parquet",
    )
    if ranks == 1:
        trainer._get_train_sampler = lambda *args: sampler
    trainer.evaluate()  # must not leave the processes to train alone
    trainer.train()
    if shard:
        from torch.distributed.tensor import DTensor
        for name, weight in trainer.model.named_parameters():
            assert isinstance(weight, DTensor), name
            assert weight.to_local().numel() * ranks == weight.numel(), name
            for state in trainer.optimizer.state[weight].values():
                assert state is None or isinstance(state, DTensor), name
    full = [p.detach().full_tensor() if shard else p.detach() for p in trainer.model.parameters()]
    names = [name for name, _ in trainer.model.named_parameters()]
    metrics = trainer.evaluate()
    trainer.save_model(f"{out}.{loss}.model")
    if trainer.is_world_process_zero():
        torch.save(torch.cat([p.flatten() for p in full]), f"{out}.{loss}.pt")
        steps = trainer.state.global_step
        predicted = int(dataset.row_tokens()[sampler.rows_of(steps, 2)].sum())
        figures = {"loss": metrics["eval_loss"], "predicted": predicted, **trainer.counts()}
        open(f"{out}.{loss}.json", "w").write(json.dumps(figures))
        saved = AutoModelForCausalLM.from_pretrained(f"{out}.{loss}.model").state_dict()
        for name, weight in zip(names, full, strict=True):
            assert torch.equal(saved[name], weight), name

for loss in ("token", "document"):
    run(loss)
leave_processes()
assert shard or not gloo_threads()  # one that meets the end of the interpreter aborts it
"""


def test_two_ranks_with_whole_or_sharded_models_end_at_the_weights_losses_and_counts_of_one(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    script = tmp_path / "run.py"
    script.write_text(RANKS)
    for name, ranks, shard in (("one", 1, "-"), ("two", 2, "-"), ("sharded", 2, "shard")):
        done = start(script, tmp_path / "packed", tmp_path / "model", tmp_path / name, shard, ranks=ranks)
        assert done.returncode == 0, done.stderr[-3000:]
    for loss in ("token", "document"):
        weights = {name: torch.load(tmp_path / f"{name}.{loss}.pt") for name in ("one", "two", "sharded")}
        figures = {name: json.loads((tmp_path / f"{name}.{loss}.json").read_text()) for name in weights}
        logs = {name: pq.read_table(tmp_path / f"{name}.{loss}.parquet") for name in weights}
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


KILLED = """
import os, signal, sys
import torch
from transformers import TrainerCallback
from trainer_plugin import PackedDataset
from trainer_rows import tiny_llama, trainer_for
from pathlib import Path

class Kill(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 7:  # in the middle of the eighth step, after the second checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

def run(folder, *, kill=False, resume=None):
    trainer = trainer_for(
        tiny_llama("tokpack", attention_dropout=0.1), PackedDataset(sys.argv[1]), folder,
        accumulation=2, epochs=2.0, learning_rate=1e-2, save_steps=3,
        options={"document_log": folder / "documents.parquet", "token_budget": 2000},
    )
    if kill:
        trainer.add_callback(Kill())
    trainer.train(resume_from_checkpoint=resume)
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    torch.save({"weights": weights, "counts": trainer.counts()}, folder / "end.pt")

out = Path(sys.argv[2])
if sys.argv[3] == "kill":
    run(out / "cut", kill=True)
run(out / "whole")
run(out / "cut", resume=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_run_killed_in_mid_epoch_and_mid_step_goes_on_to_the_same_bits(tmp_path):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    done = start(script, tmp_path / "packed", tmp_path, "kill")
    assert done.returncode == -9, done.stderr[-3000:]
    kept = sorted(path.name for path in (tmp_path / "cut").glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-6"]
    done = start(script, tmp_path / "packed", tmp_path, "resume")
    assert done.returncode == 0, done.stderr[-3000:]
    whole, cut = (torch.load(tmp_path / name / "end.pt") for name in ("whole", "cut"))
    assert torch.equal(whole["weights"], cut["weights"])
    assert whole["counts"] == cut["counts"]
    logs = [pq.read_table(tmp_path / name / "documents.parquet") for name in ("whole", "cut")]
    assert logs[0].equals(logs[1])
