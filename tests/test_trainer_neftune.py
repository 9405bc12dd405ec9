"""NEFTune's noise on packed rows is that of each document alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import make_documents, pack_rows, tiny_llama, trainer_for, write_packed

from tokpack.errors import UsageError
from trainer_plugin import PackedCollator, PackedDataset
from trainer_plugin.models.neftune import DocumentNoise
from trainer_plugin.training.guards import refuse_arguments

LENGTHS = [9, 31, 4, 20]
ALPHA = 5.0


def largest(noise, lengths, bound):
    """Largest noise of each document over the bound that it has alone."""
    return [float(part.abs().max()) / bound(len(part)) for part in noise.split(lengths)]


@pytest.mark.parametrize("whole", [True, False])
def test_each_document_has_the_noise_of_its_own_length(whole):
    model = tiny_llama("tokpack").train()
    embed = model.get_input_embeddings()
    batch = PackedCollator()(pack_rows(make_documents(LENGTHS), 64))
    calls = [batch["input_ids"]] if whole else batch["input_ids"].split(LENGTHS, dim=1)
    noise = DocumentNoise(ALPHA)
    with torch.no_grad(), noise.on(model):
        noise.begin(batch)
        moved = torch.cat([embed(ids)[0] - embed.weight[ids[0]] for ids in calls])
        model.eval()
        assert torch.equal(embed(batch["input_ids"]), embed.weight[batch["input_ids"]])
    shares = largest(moved, LENGTHS, lambda length: ALPHA / (length * embed.weight.shape[1]) ** 0.5)
    assert all(0.9 < share <= 1.001 for share in shares), shares


@pytest.mark.slow
def test_the_trainer_takes_the_alpha_of_its_arguments_and_leaves_no_hook(tmp_path):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 3), 64)
    dataset, losses = PackedDataset(tmp_path / "packed"), []
    for alpha in (None, 50.0):
        model = tiny_llama("tokpack")
        more = {"neftune_noise_alpha": alpha, "max_steps": 1}
        trainer = trainer_for(model, dataset, tmp_path / str(alpha), trainer=more)
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
        assert not model.get_input_embeddings()._forward_hooks
    assert losses[0] != losses[1]


def test_pairs_take_no_noise():
    none = SimpleNamespace(cp_enabled=False, sp_enabled=False)
    accelerator = SimpleNamespace(parallelism_config=none)
    names = ("use_cache", "label_smoothing_factor")
    args = SimpleNamespace(n_gpu=1, world_size=1, neftune_noise_alpha=5.0, **dict.fromkeys(names, False))
    with pytest.raises(UsageError, match="another than its reference"):
        refuse_arguments(args, accelerator, "token", takes_pairs=True)
