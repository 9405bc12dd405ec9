"""Two processes over gloo train and evaluate like one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import LENGTHS, make_documents, write_artefact

pytestmark = pytest.mark.slow

RUN = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import torch
from trainer_rows import tiny_llama
from trainer_plugin import BalancedSampler, PackedDataset, PackedTrainer, load_recipe
from trainer_plugin.recipe import training_arguments

folder, out = sys.argv[2:4]
ranks = int(os.environ.get("WORLD_SIZE", "1"))
dataset = PackedDataset(folder)
sampler = BalancedSampler(dataset, 2)
for loss in ("token", "document"):
    recipe = load_recipe(
        method="full", loss=loss, epochs=2.0, accumulation=4 // ranks, learning_rate=1e-2,
        trainer={"use_cpu": True, "optim": "sgd", "ddp_backend": "gloo" if ranks > 1 else None},
    )
    trainer = PackedTrainer(
        tiny_llama("tokpack"), training_arguments(recipe, out + ".run"),
        train_dataset=dataset, eval_dataset=dataset.select(range(7)), loss=loss, progress=False,
    )
    if ranks == 1:
        trainer._get_train_sampler = lambda *args: sampler
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        torch.save(weights, f"{out}.{loss}.pt")
        steps = trainer.state.global_step
        predicted = int(dataset.row_tokens()[sampler.rows_of(steps, 2)].sum())
        figures = {"loss": metrics["eval_loss"], "predicted": predicted, **trainer.counts()}
        open(f"{out}.{loss}.json", "w").write(json.dumps(figures))
"""


def test_two_ranks_end_at_the_weights_losses_and_counts_of_one(tmp_path):
    write_artefact(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    args = [str(script), str(Path(__file__).parent), str(tmp_path / "packed")]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, *args, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for loss in ("token", "document"):
        one, two = (torch.load(tmp_path / f"{name}.{loss}.pt") for name in ("one", "two"))
        assert (one - two).abs().max() < 1e-6 * one.abs().max()
        first, second = (
            json.loads((tmp_path / f"{name}.{loss}.json").read_text()) for name in ("one", "two")
        )
        assert first.pop("loss") == pytest.approx(second.pop("loss"), rel=1e-6)
        assert first == second
        assert first["tokens"] == first["predicted"] == 2 * 4 * sum(LENGTHS)
