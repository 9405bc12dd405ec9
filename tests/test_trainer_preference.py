"""Packed preference optimization equals the same pair by pair, and TRL's on the same labels.

TRL's own labels also hold what the template writes behind the end of the turn, in ChatML a newline.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from encode_helpers import byte_level, template, tokenizer_folder
from preference_steps import (
    assert_same_gradients,
    gradients_of,
    log_prob,
    make_pairs,
    moved,
    packed_loss,
    padded,
    trainer_for,
    with_adapter,
)
from torch.nn.functional import logsigmoid
from trainer_rows import (
    Said,
    make_documents,
    needs_packed_trainer,
    packed_pairs,
    tiny_chat_model,
    tiny_llama,
    with_few_layers,
    write_packed,
)

import tokpack
from tokpack.errors import DataError, UsageError
from trainer_plugin import (
    PackedCollator,
    PackedDataset,
    PackedDPOTrainer,
    PackedTrainer,
    PreferenceLoss,
    load_model,
    load_recipe,
    pack_pairs,
    prepare_lora,
    prepare_model,
)
from trainer_plugin.recipe import training_arguments
from trainer_plugin.training.preference_run import preference_lines
from trainer_plugin.training.run import run_training

LOSSES = ("dpo", "ipo", "orpo", "simpo")


def test_pairs_are_packed_whole_and_each_once():
    pairs = make_pairs(40)
    rows = pack_pairs(pairs, 64)
    assert sorted(n for row in rows for n in row["doc_ids"]) == list(range(80))
    for row in rows:
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) <= 64
        assert row["pair_ids"] == [doc // 2 for doc in row["doc_ids"]]
        assert row["is_chosen"] == [doc % 2 == 0 for doc in row["doc_ids"]]
        at = 0
        for document, length in zip(row["doc_ids"], row["seq_lengths"], strict=True):
            ids, labels = pairs[document // 2][document % 2]
            assert row["input_ids"][at : at + length] == ids
            assert row["labels"][at : at + length] == labels
            at += length
    with pytest.raises(DataError, match="more than a row of 10"):
        pack_pairs(pairs, 10)


# Loss and gradients


@pytest.mark.slow
def test_the_first_loss_is_ln_2_and_training_widens_the_margin(tmp_path):
    trainer = trainer_for(
        with_adapter(), pack_pairs(make_pairs(), 64), tmp_path, epochs=6.0, learning_rate=2e-2
    )
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before["eval_rewards/margin"] == pytest.approx(0, abs=1e-6)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5
    assert after["eval_rewards/accuracy"] > 0.8
    last = [entry for entry in trainer.state.log_history if "rewards/margin" in entry][-1]
    assert last["rewards/margin"] > 0
    margin = last["rewards/chosen"] - last["rewards/rejected"]
    assert margin == pytest.approx(last["rewards/margin"], abs=1e-4)


def expected_loss(name, policy, reference, tokens):
    """One pair, written out: policy, reference, tokens of the chosen and the rejected document."""
    (good, bad), (good_kept, bad_kept), (good_tokens, bad_tokens) = policy, reference, tokens
    if name == "dpo":
        return -logsigmoid(0.1 * ((good - good_kept) - (bad - bad_kept)))
    if name == "ipo":
        return ((good - good_kept) / good_tokens - (bad - bad_kept) / bad_tokens - 5) ** 2
    good, bad = good / good_tokens, bad / bad_tokens
    if name == "simpo":
        return -logsigmoid(2 * (good - bad) - 1)
    odds = [p / (1 - p) for p in (torch.exp(good), torch.exp(bad))]
    return -good - 0.1 * logsigmoid(torch.log(odds[0] / odds[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_packed_loss_and_gradients_equal_those_pair_by_pair_under_accumulation(name, tmp_path):
    pairs = make_pairs()
    model = moved(with_adapter())
    rows = pack_pairs(pairs, 64)
    packed, items, gradients = packed_loss(trainer_for(model, rows, tmp_path, name), model, rows)
    assert items == len(pairs)
    model.zero_grad()
    losses = []
    for pair in pairs:
        tokens = [sum(label != -100 for label in labels) for _, labels in pair]
        policy = [log_prob(model, *answer) for answer in pair]
        with torch.no_grad(), model.disable_adapter():
            reference = [log_prob(model, *answer) for answer in pair]
        losses.append(expected_loss(name, policy, reference, tokens))
    expected = torch.stack(losses).mean()
    expected.backward()
    assert packed == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(gradients, gradients_of(model), 5e-5)


@pytest.mark.slow
def test_padding_and_rows_that_fill_up_a_rank_weigh_nothing(tmp_path):
    model = moved(with_adapter())
    rows = pack_pairs(make_pairs(), 64)
    trainer = trainer_for(model, rows, tmp_path)
    expected = trainer.evaluate()
    repeat = {**rows[0], "labels": [-100] * len(rows[0]["labels"])}
    trainer.data_collator.capacity = 64
    padded = trainer.evaluate([*rows, repeat])
    assert padded["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    assert padded["eval_weight"] == expected["eval_weight"] == 9
    assert padded["eval_rewards/margin"] == pytest.approx(expected["eval_rewards/margin"], abs=1e-5)


# TRL


@pytest.fixture(scope="module")
def trl_dpo(tmp_path_factory):
    """(model, reference) -> TRL's loss name -> its DPOTrainer."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer

    folder = tokenizer_folder(byte_level(), tmp_path_factory.mktemp("words"), template("qwen2_5"))
    rows = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)

    def make(model, reference, loss):
        config = trl.DPOConfig(
            str(folder / "out"), loss_type=[loss], beta=0.1, report_to="none", use_cpu=True, bf16=False
        )
        return trl.DPOTrainer(
            model,
            reference,
            config,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(folder),
        )

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "theirs"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_loss_and_gradients_equal_those_of_trl_unpacked(ours, theirs, trl_dpo, tmp_path):
    needs_packed_trainer()
    if importlib.metadata.version("trl").startswith("0."):
        pytest.skip("DPOTrainer of TRL 0 takes batches of another form")
    pairs = make_pairs(12, seed=1)
    reference, policy = tiny_llama("sdpa"), moved(tiny_llama("sdpa"), "weight", 0.05)
    trl = trl_dpo(copy.deepcopy(policy), copy.deepcopy(reference), theirs)
    trl.model.eval()
    expected = trl.compute_loss(trl.model, padded(pairs))
    expected.backward()
    for model in (reference, policy):
        model.set_attn_implementation("tokpack")
    rows = pack_pairs(pairs, 64)
    assert len(rows) > 2
    trainer = trainer_for(policy, rows, tmp_path, ours, reference)
    loss, _, gradients = packed_loss(trainer, policy, rows)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert abs(loss - (math.log(2) if ours == "dpo" else 25)) > 1e-3  # the policy has moved
    assert_same_gradients(gradients, gradients_of(trl.model), 1e-5)


def test_losses_without_a_reference_equal_those_of_trl():
    orpo = pytest.importorskip("trl.experimental.orpo", reason="TRL is not installed: pip install trl")
    cpo = pytest.importorskip("trl.experimental.cpo")
    tokens = torch.tensor([[3, 9], [1, 2], [40, 7], [5, 5]])
    means = torch.tensor([[-0.4, -2.0], [-7.5, -0.01], [-1.1, -1.3], [-3.0, -3.0]])
    device = SimpleNamespace(device=torch.device("cpu"))
    simpo = SimpleNamespace(
        alpha=0.0, beta=1.5, simpo_gamma=0.7, loss_type="simpo", label_smoothing=0.0, accelerator=device
    )
    theirs = cpo.CPOTrainer.cpo_loss(simpo, means[:, 0], means[:, 1])[0]
    ours = PreferenceLoss(loss="simpo", beta=1.5, gamma=0.7)(means * tokens, tokens)
    torch.testing.assert_close(ours.loss, theirs)
    odds = SimpleNamespace(beta=0.3, accelerator=device)
    ratio, chosen, rejected, *_ = orpo.ORPOTrainer.odds_ratio_loss(odds, means[:, 0], means[:, 1])
    found = PreferenceLoss(loss="orpo", beta=0.3)(means * tokens, tokens)
    torch.testing.assert_close(found.loss, -means[:, 0] - ratio)
    torch.testing.assert_close((found.chosen, found.rejected), (chosen, rejected))


def test_log_odds_are_finite_and_have_gradients_everywhere():
    from trainer_plugin.losses.preference_loss import log_odds

    logp = torch.tensor([-80.0, -20.0, -1.0, -0.6931, -0.1, -1e-5, 0.0], requires_grad=True)
    odds = log_odds(logp)
    odds.sum().backward()
    exact = logp.detach().double()
    wanted = exact - torch.log(-torch.expm1(exact.clamp(max=-1e-7)))
    torch.testing.assert_close(odds.detach().double(), wanted, rtol=1e-5, atol=1e-4)
    assert torch.isfinite(logp.grad).all()


# Packed datasets


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def packed(model_folder, tmp_path_factory):
    return packed_pairs(model_folder, tmp_path_factory.mktemp("pairs"))


def test_a_packed_dataset_gives_its_pairs_to_the_trainer(packed, tmp_path):
    dataset = PackedDataset(packed.folder)
    assert dataset.is_preference
    assert dataset.validation().is_preference
    batch = PackedCollator(pairs=True, capacity=256)([dataset[0], dataset[1]])
    ids = np.concatenate([dataset[i]["pair_ids"] for i in (0, 1)])
    assert batch["packed_pairs"].tolist() == [[2 * i, 2 * i + 1] for i in range(len(ids) // 2)]
    assert (np.diff(batch["cu_seq_lens_q"]) > 0).all()
    trained = sum(len(PackedCollator(pairs=True)([row])["packed_pairs"]) for row in dataset)
    assert 2 * trained == packed.manifest["documents"]


@pytest.mark.slow
def test_train_picks_the_preference_loss_by_the_packed_dataset(packed, model_folder, tmp_path):
    needs_packed_trainer()
    tell = Said()
    recipe = load_recipe(
        method="lora",
        dtype="float32",
        epochs=3.0,
        learning_rate=1e-2,
        preference={"loss": "dpo", "beta": 0.2},
        trainer={"use_cpu": True},
    )
    result = run_training(packed.folder, model_folder, recipe, tmp_path / "out", tell=tell)
    assert result.loss_before == pytest.approx(math.log(2), abs=1e-5)
    assert result.loss_after < 0.6
    assert result.rewards_before == {"accuracy": 0.0, "margin": 0.0, "chosen": 0.0, "rejected": 0.0}
    assert result.rewards_after["accuracy"] > 0.7
    assert any("dpo on preference pairs, beta 0.2" in line for line in tell.lines)
    assert any("a learning rate of 0.01 is for supervised training" in line for line in tell.lines)
    kept = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert kept["rewards_after"]["margin"] > 0
    assert load_recipe(tmp_path / "out" / "recipe.toml").preference == {"loss": "dpo", "beta": 0.2}


def test_a_learning_rate_for_preferences_is_said_to_be_high_above_the_usual(packed):
    said = [
        preference_lines(PreferenceLoss(), PackedDataset(packed.folder), load_recipe(learning_rate=rate))[1:]
        for rate in (1e-5, 5e-5, 2e-4)
    ]
    assert [len(lines) for lines in said] == [0, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "orpo"])
def test_full_training_takes_the_untrained_model_as_reference(loss, packed, model_folder, tmp_path):
    needs_packed_trainer()
    recipe = load_recipe(
        method="full", max_steps=4, learning_rate=1e-3, preference={"loss": loss}, trainer={"use_cpu": True}
    )
    result = run_training(packed.folder, model_folder, recipe, tmp_path / "out", tell=Said())
    if loss == "dpo":
        assert result.loss_before == pytest.approx(math.log(2), abs=1e-5)
    assert result.loss_after < result.loss_before


def losses_on_real_pairs(folder, real_data, tmp_path, max_length, budget, probe=True, **flags):
    """Training losses by step of a LoRA on a few pairs of the demo data."""
    data = real_data / "dpo_en_demo.json"
    if not data.is_file():
        pytest.skip("no preference data: dpo_en_demo.json")
    options = {"tokenizer": str(folder), "max_length": max_length, "budget": budget}
    packed = tokpack.pack(data, tmp_path / "packed", **options)
    settings = {"method": "lora", "dtype": "float32", "scheduler": "constant", "warmup_steps": 0, **flags}
    recipe = load_recipe(trainer={"use_cpu": True}, **settings)
    network = load_model(folder, recipe)
    dataset = PackedDataset(packed.folder)
    prepare_model(network, "tokpack", dataset=dataset, probe=False)
    arguments = training_arguments(recipe, tmp_path / "out")
    model = prepare_lora(network, recipe)
    trainer = PackedDPOTrainer(model, arguments, train_dataset=dataset, probe=probe, progress=False)
    trainer.train()
    assert trainer.counts()["documents"] == recipe.epochs * packed.manifest["documents"]
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_real_pairs_train_from_ln_2(model_folder, real_data, tmp_path):
    options = {"accumulation": 5, "epochs": 2.0, "learning_rate": 1e-3}
    losses = losses_on_real_pairs(model_folder, real_data, tmp_path, 2048, 10_000, **options)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < math.log(2) - 0.05


@pytest.mark.slow
def test_smollm2_learns_to_prefer(smollm2, real_data, tmp_path):
    """Two steps on a row of short pairs; the probe of this model is in test_trainer_smollm2.py."""
    model = with_few_layers(smollm2, tmp_path / "model")
    options = {"epochs": 2.0, "learning_rate": 1e-3, "probe": False}
    losses = losses_on_real_pairs(model, real_data, tmp_path, 256, 200, **options)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[-1] < 0.6


# What is refused


def test_half_a_pair_and_a_missing_reference_are_refused(tmp_path):
    rows = pack_pairs(make_pairs(), 64)
    trainer = trainer_for(with_adapter(), rows, tmp_path)
    first = rows[0]["seq_lengths"][0]
    names = ("seq_lengths", "doc_ids", "pair_ids", "is_chosen")
    torn = {name: values[1:] for name, values in rows[0].items() if name in names}
    torn |= {name: rows[0][name][first:] for name in ("input_ids", "labels")}
    with pytest.raises(DataError, match="half a pair"):
        trainer.data_collator([torn])
    swapped = {**rows[0], "is_chosen": rows[0]["is_chosen"][::-1]}
    with pytest.raises(DataError, match="half a pair"):
        trainer.data_collator([swapped])
    plain = {name: rows[0][name] for name in ("input_ids", "labels", "seq_lengths")}
    with pytest.raises(DataError, match="no 'pair_ids'"):
        trainer.data_collator([plain])
    with pytest.raises(DataError, match="packed_pairs"):
        trainer.compute_loss(trainer.model, PackedCollator()([rows[0]]))
    with pytest.raises(UsageError, match="dpo needs a reference model"):
        trainer_for(tiny_llama("tokpack"), rows, tmp_path)
    trainer_for(tiny_llama("tokpack"), rows, tmp_path, "simpo")


@pytest.mark.slow
def test_pairs_and_supervised_rows_are_not_mistaken_for_each_other(packed, model_folder, tmp_path):
    needs_packed_trainer()
    write_packed(tmp_path / "rows", make_documents())
    arguments = training_arguments(load_recipe(method="full", trainer={"use_cpu": True}), tmp_path)
    with pytest.raises(UsageError, match="would teach the rejected answers"):
        PackedTrainer(tiny_llama("tokpack"), arguments, train_dataset=PackedDataset(packed.folder))
    with pytest.raises(UsageError, match="holds no preference pairs"):
        trainer_for(with_adapter(), PackedDataset(tmp_path / "rows"), tmp_path)
    recipe = load_recipe(method="full", preference={"beta": 0.1}, trainer={"use_cpu": True})
    with pytest.raises(UsageError, match="holds no preference pairs"):
        run_training(tmp_path / "rows", model_folder, recipe, tmp_path / "out", tell=Said())
    recipe = load_recipe(method="lora", loss="document", trainer={"use_cpu": True})
    with pytest.raises(UsageError, match="pairs all weigh the same"):
        run_training(packed.folder, model_folder, recipe, tmp_path / "out", tell=Said())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"los": "dpo"}, "unknown key 'los'"),
        ({"loss": "ppo"}, "no preference loss 'ppo'"),
        ({"beta": "strong"}, "beta = 'strong' is not a number"),
        ({"beta": -1}, "cannot be negative"),
    ],
)
def test_a_recipe_for_a_loss_that_is_none_is_refused(table, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(preference=table)
