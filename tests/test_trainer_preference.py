"""Packed DPO equals DPO pair by pair."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch.nn.functional import log_softmax, logsigmoid
from trainer_rows import tiny_llama

from tokpack.errors import DataError, UsageError
from trainer_plugin import PackedDPOTrainer, load_recipe, pack_pairs
from trainer_plugin.recipe import training_arguments


def make_pairs(count=9, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = rng.integers(3, 128, rng.integers(2, 9)).tolist()
        answers = [rng.integers(3, 128, rng.integers(1, 12)).tolist() for _ in range(2)]
        pairs.append(tuple((prompt + a, [-100] * len(prompt) + a) for a in answers))
    return pairs


def with_adapter(seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(
        tiny_llama("tokpack"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def trainer_for(model, rows, tmp_path, **flags):
    recipe = load_recipe(method="full", trainer={"use_cpu": True}, **flags)
    arguments = training_arguments(recipe, tmp_path)
    return PackedDPOTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, progress=False)


def log_prob(model, ids, labels):
    model.base_model.model.set_attn_implementation("sdpa")
    scores = log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], -1)
    return sum(scores[t - 1, ids[t]] for t in range(1, len(ids)) if labels[t] != -100)


def test_pairs_are_packed_whole_and_each_once():
    pairs = make_pairs(40)
    rows = pack_pairs(pairs, 64)
    assert sorted(n for row in rows for n in row["doc_ids"][::2]) == list(range(40))
    for row in rows:
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) <= 64
        at = 0
        for document, length in enumerate(row["seq_lengths"]):
            ids, labels = pairs[row["doc_ids"][document]][document % 2]
            assert row["input_ids"][at : at + length] == ids
            assert row["labels"][at : at + length] == labels
            at += length
    with pytest.raises(DataError, match="more than a row of 10"):
        pack_pairs(pairs, 10)


def test_the_first_loss_is_ln_2_and_training_widens_the_margin(tmp_path):
    trainer = trainer_for(
        with_adapter(), pack_pairs(make_pairs(), 64), tmp_path, epochs=6.0, learning_rate=2e-2
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5
    last = [entry for entry in trainer.state.log_history if "rewards/margin" in entry][-1]
    assert last["rewards/margin"] > 0


def test_packed_loss_and_gradients_equal_those_pair_by_pair_under_accumulation(tmp_path):
    pairs = make_pairs()
    model = with_adapter()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    trainer = trainer_for(model, pack_pairs(pairs, 64), tmp_path)
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    batches, items = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    assert items == len(pairs)
    packed = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch, num_items_in_batch=items)
        loss.backward()
        packed += loss.item()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    margins = []
    for chosen, rejected in pairs:
        policy = log_prob(model, *chosen) - log_prob(model, *rejected)
        with torch.no_grad(), model.disable_adapter():
            reference = log_prob(model, *chosen) - log_prob(model, *rejected)
        margins.append(0.1 * (policy - reference))
    expected = -logsigmoid(torch.stack(margins)).mean()
    expected.backward()
    assert packed == pytest.approx(expected.item(), rel=2e-6)
    for name, gradient in gradients.items():
        other = dict(model.named_parameters())[name].grad
        assert (gradient - other).norm() < 5e-5 * other.norm(), name


def test_half_a_pair_and_a_missing_reference_are_refused(tmp_path):
    rows = pack_pairs(make_pairs(), 64)
    trainer = trainer_for(with_adapter(), rows, tmp_path)
    row = {**rows[0], "seq_lengths": [*rows[0]["seq_lengths"][:-1], rows[0]["seq_lengths"][-1] - 1, 1]}
    with pytest.raises(DataError, match="pairs make an even number"):
        trainer.compute_loss(trainer.model, trainer.data_collator([row]))
    with pytest.raises(UsageError, match="reference model"):
        trainer_for(tiny_llama("tokpack"), rows, tmp_path)
