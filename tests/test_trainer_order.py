"""The order in which rows are trained on: a curriculum stays one, and the prediction knows the order."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import LENGTHS, make_documents, tiny_llama, trainer_for, write_packed

from tokpack.cost.gpus import find_gpu
from tokpack.errors import UsageError, VerifyError
from trainer_plugin import BalancedSampler, PackedDataset
from trainer_plugin.recipe import Recipe
from trainer_plugin.rows.balance import balanced_sampler
from trainer_plugin.training.forecast import larger_micro_batch, plan_run, predicted_hours
from trainer_plugin.training.price import card_here

CAPACITY = 64


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "packed"
    write_packed(folder, make_documents(LENGTHS * 3), CAPACITY, planner="sequential")
    return PackedDataset(folder)


def rows_seen(trainer):
    """Trains, and returns the doc_ids of the rows in the order in which they were collated."""
    seen, collate = [], trainer.data_collator

    def spy(rows):
        seen.extend(row["doc_ids"].tolist() for row in rows)
        return collate(rows)

    trainer.data_collator = spy
    trainer.train()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1.0, 2.0])
def test_a_curriculum_is_trained_in_the_order_in_which_it_was_packed(curriculum, tmp_path, epochs):
    trainer = trainer_for(tiny_llama("tokpack"), curriculum, tmp_path, epochs=epochs)
    plan = plan_run(curriculum, trainer.args, trainer._get_train_sampler())
    packed = [row["doc_ids"].tolist() for row in curriculum]
    assert rows_seen(trainer) == packed * int(epochs)
    assert trainer.counts()["tokens"] == plan.tokens_to_train


@pytest.mark.slow
def test_a_token_budget_takes_the_first_rows_of_a_curriculum(curriculum, tmp_path):
    lengths = curriculum.row_tokens()
    budget = int(lengths[:3].sum())
    trainer = trainer_for(tiny_llama("tokpack"), curriculum, tmp_path, options={"token_budget": budget})
    assert rows_seen(trainer) == [curriculum[i]["doc_ids"].tolist() for i in range(3)]
    assert trainer.counts()["tokens"] == budget


@pytest.mark.slow
def test_transformers_sequential_strategy_is_the_packed_order_in_training_and_in_the_prediction(
    tmp_path,
):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 3), CAPACITY)
    dataset = PackedDataset(tmp_path / "packed")
    settings = {"train_sampling_strategy": "sequential"}
    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path / "out", trainer=settings, max_steps=4)
    plan = plan_run(dataset, trainer.args, balanced_sampler(dataset, trainer.args, trainer.model))
    assert rows_seen(trainer)[:4] == [dataset[i]["doc_ids"].tolist() for i in range(4)]
    assert trainer.counts()["tokens"] == plan.tokens_to_train == int(dataset.row_tokens()[:4].sum())


def test_the_hours_of_a_run_on_a_named_gpu_are_predicted(curriculum, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), curriculum, tmp_path)
    plan = plan_run(curriculum, trainer.args, trainer._get_train_sampler())
    config, gpu = trainer.model.config.to_dict(), find_gpu("h100-sxm")

    def hours(ranks=1, of=config, **settings):
        return predicted_hours(of, curriculum, plan, Recipe(method="lora", **settings), gpu, ranks)

    assert hours().value > 0
    assert hours(2).value == pytest.approx(hours().value / 2)
    assert curriculum.row_tokens().sum() < CAPACITY * len(curriculum)
    assert hours(pad_to_capacity=True).value > hours().value
    assert hours(of={"model_type": "unheard of"}) is None


def test_micro_batches_that_leave_a_gpu_waiting_for_its_host_are_named(curriculum, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), curriculum, tmp_path)
    plan = plan_run(curriculum, trainer.args, trainer._get_train_sampler())
    small = {**trainer.model.config.to_dict(), "num_hidden_layers": 32}
    large = small | {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128_000}

    def larger(of=small, card="h100-sxm", steps=plan.steps, **settings):
        recipe = Recipe(method="lora", **{"accumulation": 4, **settings})
        return larger_micro_batch(of, curriculum, replace(plan, steps=steps), recipe, find_gpu(card), 1)

    found, hours = larger()
    assert (found.batch_rows, found.accumulation) == (4, 1)
    now = predicted_hours(small, curriculum, plan, Recipe(method="lora"), find_gpu("h100-sxm"), 1)
    assert hours.high < 0.5 * now.high
    assert larger(batch_rows=2, accumulation=6)[0].batch_rows == 12
    assert larger(accumulation=1) is None  # few steps would be left
    assert larger(accumulation=1, steps=1000)[0].batch_rows == 4
    assert larger(accumulation=1, steps=1000, max_steps=1000) is None  # rows would be trained more often
    assert larger(of={"model_type": "unheard of"}) is None
    roomy, tight = larger(large | {"hidden_size": 2048}), larger(large, "t4")
    assert roomy is not None
    assert tight is None  # not even one row fits


@pytest.mark.parametrize(
    ("name", "gib", "key"),
    [
        ("NVIDIA H100 80GB HBM3", 79, "H100-SXM"),
        ("NVIDIA A100-SXM4-40GB", 39, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", 79, "A100-80GB"),
        ("Tesla V100-SXM2-32GB", 32, "V100-32GB"),
        ("NVIDIA GeForce RTX 3090", 24, "RTX-3090"),
        ("Tesla T4", 15, "T4"),
        ("NVIDIA A10G", 22, None),
        ("NVIDIA GeForce GTX 1080", 8, None),
    ],
)
def test_the_card_that_trains_is_found_in_the_table_by_its_name(monkeypatch, name, gib, key):
    assert card_here() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    device = SimpleNamespace(name=name, total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    found = card_here()
    assert (found and found.key) == key


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_order_that_is_asked_for_wins_over_the_manifest(curriculum, ranks):
    def order(name):
        return BalancedSampler(curriculum, ranks, order=name).order(0)

    rows = np.arange(len(curriculum))
    assert (order(None) == rows).all()
    assert (order("packed") == rows).all()
    for name in ("balanced", "random"):
        assert sorted(order(name)) == rows.tolist()
        assert (order(name) != rows).any()


def test_an_unknown_order_is_refused(curriculum):
    with pytest.raises(UsageError, match="packed, balanced, random"):
        BalancedSampler(curriculum, order="sorted")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_documents(curriculum, tmp_path):
    """The weights break after the second step: the third loss is the first that is no number."""
    model = tiny_llama("tokpack")
    trainer = trainer_for(
        model, curriculum, tmp_path, save_steps=1, trainer={"save_only_model": True}, log_steps=10
    )
    steps = []
    step = type(trainer).training_step

    def break_weights(*args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) == 3:
            with torch.no_grad():
                model.model.norm.weight.fill_(float("inf"))
        return step(trainer, *args, **kwargs)

    trainer.training_step = break_weights
    with pytest.raises(VerifyError) as found:
        trainer.train()
    ids = ", ".join(map(str, curriculum[2]["doc_ids"].tolist()))
    assert "in step 3" in found.value.what
    assert f"documents {ids}" in found.value.where
    assert "checkpoint-2" in found.value.hint
    assert trainer.state.global_step == 2


def test_steps_that_are_not_those_of_the_mix_are_told_once(tmp_path, caplog):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 3), CAPACITY)
    dataset = PackedDataset(tmp_path / "packed")
    dataset.manifest["config"]["plan"]["mix_per_step"] = True
    dataset.manifest["plan"]["mixed"] = {"rows_per_step": 2}
    for batch_rows, words in ((1, 1), (2, 0)):
        caplog.clear()
        options = {"trainer": {"per_device_train_batch_size": batch_rows}}
        trainer_for(
            tiny_llama("tokpack"), dataset, tmp_path / f"{batch_rows}", max_steps=1, **options
        ).train()
        assert caplog.text.count("a step trains on 1: tokpack repack") == words
