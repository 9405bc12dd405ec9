"""LISA: layers that are not drawn stand still and hold no state; a resumed run is the uninterrupted one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import make_documents, tiny_llama, trainer_for, write_packed
from transformers import TrainerCallback

from tokpack.errors import UsageError
from trainer_plugin import PackedDataset, Recipe
from trainer_plugin.models.layer_sampling import LayerSampling, decoder_layers

LAYERS = 5


@pytest.fixture
def dataset(tmp_path) -> PackedDataset:
    write_packed(tmp_path / "packed", make_documents([9, 31, 4, 20] * 6), 64)
    return PackedDataset(tmp_path / "packed")


def deep_llama():
    return tiny_llama("tokpack", num_hidden_layers=LAYERS)


class Watch(TrainerCallback):
    """After each optimizer step: which layers have moved, and which parameters have optimizer state."""

    def __init__(self, model) -> None:
        self.model, self.moved, self.held = model, [], []
        self.before = self.weights()

    def weights(self):
        return [
            torch.cat([p.detach().flatten() for p in layer.parameters()]) for layer in self.model.model.layers
        ]

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs) -> None:
        now, names = self.weights(), {p: name for name, p in self.model.named_parameters()}
        self.moved.append([n for n in range(LAYERS) if not torch.equal(now[n], self.before[n])])
        self.held.append({names[p] for p, held in optimizer.state.items() if held})
        self.before = now


@pytest.mark.slow
def test_only_drawn_layers_move_and_hold_state_and_all_else_is_trained(dataset, tmp_path):
    model = deep_llama()
    sampling, watch = LayerSampling(model, 2, 3, seed=1), Watch(model)
    settings = {"max_steps": 7, "learning_rate": 1e-2, "gradient_accumulation_steps": 2, "weight_decay": 0.1}
    trainer_for(
        model,
        dataset,
        tmp_path / "out",
        trainer=settings,
        options={"callbacks": [sampling, watch]},
        warmup_steps=0.0,
    ).train()
    assert watch.moved == [sampling.drawn(step) for step in range(7)]
    assert len({tuple(drawn) for drawn in watch.moved}) > 1
    rest = {name for name, _ in model.named_parameters() if ".layers." not in name}
    for drawn, held in zip(watch.moved, watch.held, strict=True):
        assert rest <= held
        assert {int(name.split(".")[2]) for name in held - rest} == set(drawn)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(dataset, tmp_path):
    ends = []
    for stop in (None, 4):
        out = tmp_path / str(stop)
        settings = {"max_steps": 8, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 4}
        for resumed in (False, True) if stop else (False,):
            model = deep_llama()
            sampling = LayerSampling(model, 1, 3, seed=2)
            callbacks = [sampling, *([StopAfter(stop)] if stop and not resumed else [])]
            trainer = trainer_for(model, dataset, out, trainer=settings, options={"callbacks": callbacks})
            trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{stop}") if resumed else None)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_layers_are_found_beside_lists_of_experts():
    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(9))

    model = deep_llama()
    model.model.embed_tokens.more = Experts()
    assert decoder_layers(model) is model.model.layers


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match="the model has 5"):
        LayerSampling(deep_llama(), LAYERS, 20, seed=0)
    with pytest.raises(UsageError, match="trained whole"):
        Recipe(method="lora", lisa_layers=2)
    with pytest.raises(UsageError, match="must not be negative"):
        Recipe(method="full", lisa_layers=-1)
