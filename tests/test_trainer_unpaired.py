"""Packed KTO equals TRL's KTOTrainer on the same batch, and answer by answer under accumulation."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from encode_helpers import byte_level, template, tokenizer_folder
from test_trainer_preference import (
    assert_same_gradients,
    gradients_of,
    log_prob,
    moved,
    packed_loss,
    with_adapter,
)
from trainer_rows import Said, needs_packed_trainer, pack_rows, tiny_chat_model, tiny_llama

import tokpack
from tokpack.errors import DataError, UsageError
from trainer_plugin import PackedCollator, PackedDataset, PackedKTOTrainer, PreferenceLoss, load_recipe
from trainer_plugin.recipe import training_arguments
from trainer_plugin.training.run import run_training

LOSSES = ("kto", "apo_zero_unpaired")


def make_answers(count=10, seed=0):
    """(prompt, completion, label) of random ids."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(3, 128, rng.integers(2, 9)).tolist(),
            rng.integers(3, 128, rng.integers(1, 12)).tolist(),
            bool(rng.integers(2)) if number > 1 else number == 0,
        )
        for number in range(count)
    ]


def rows_of(answers, capacity=64):
    documents = [(prompt + answer, [-100] * len(prompt) + answer) for prompt, answer, _ in answers]
    rows = pack_rows(documents, capacity)
    for row in rows:
        row["is_desirable"] = [answers[number][2] for number in row["doc_ids"]]
    return rows


def trainer_for(model, rows, tmp_path, loss="kto", ref_model=None, preference=None, **flags):
    needs_packed_trainer()
    recipe = load_recipe(method="full", trainer={"use_cpu": True}, **flags)
    return PackedKTOTrainer(
        model,
        training_arguments(recipe, tmp_path),
        train_dataset=rows,
        eval_dataset=rows,
        progress=False,
        preference=PreferenceLoss(loss=loss, **(preference or {})),
        ref_model=ref_model,
    )


def test_each_prompt_gets_the_answer_of_the_document_before_it():
    row = {
        "input_ids": [10, 11, 12, 20, 21, 22, 23, 30, 31, 40, 41],
        "labels": [-100, 11, 12, -100, -100, -100, 23, -100, -100, -100, 41],
        "seq_lengths": [3, 4, 2, 2],
        "doc_ids": [0, 1, 2, 3],
        "is_desirable": [True, False, True, False],
    }
    batch = PackedCollator(unpaired=True, mismatched=64)([row])
    assert batch["packed_desirable"].tolist() == [1, 0, -1, 0]
    other = batch["packed_mismatched"]
    assert other["input_ids"].tolist() == [[10, 41, 20, 21, 22, 11, 12, 30, 31, 40, 23]]
    assert other["labels"].tolist() == [[-100, 41, -100, -100, -100, 11, 12, -100, -100, -100, 23]]
    assert other["cu_seq_lens_q"].tolist() == [0, 2, 7, 9, 11]
    assert other["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 4, 0, 1, 0, 1]]
    padded = PackedCollator(16, unpaired=True, mismatched=4)([row])  # documents of at most 4 tokens
    assert padded["packed_desirable"].tolist() == [1, 0, -1, 0, -1]
    assert padded["packed_mismatched"]["input_ids"].shape == padded["input_ids"].shape == (1, 16)
    assert padded["packed_mismatched"]["input_ids"][0, :10].tolist() == [
        10,
        41,
        20,
        21,
        22,
        11,
        30,
        31,
        40,
        23,
    ]


# TRL


@pytest.fixture(scope="module")
def trl_kto(tmp_path_factory):
    """(model, reference, loss, options) -> TRL's KTOTrainer."""
    pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    try:
        from trl import KTOConfig, KTOTrainer
    except ImportError:
        pytest.skip("TRL has no KTOTrainer here")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer

    folder = tokenizer_folder(byte_level(), tmp_path_factory.mktemp("words"), template("qwen2_5"))
    rows = datasets.Dataset.from_list(
        [{"prompt": "a", "completion": "b", "label": label} for label in (True, False)]
    )

    def make(model, reference, loss, **options):
        config = KTOConfig(
            str(folder / "out"),
            loss_type=loss,
            beta=0.1,
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return KTOTrainer(model, reference, config, train_dataset=rows, processing_class=tokenizer)

    return make


def trl_batch(answers, with_kl):
    """As TRL's own preparation and collator make it of one batch."""
    from trl.trainer import kto_trainer

    collator = getattr(kto_trainer, "DataCollatorForUnpairedPreference", None)
    if collator is None:
        pytest.skip("this TRL makes batches of unpaired answers another way")
    completions = [answer for _, answer, _ in answers]
    shifted = [completions[-1], *completions[:-1]]
    examples = [
        {"prompt_ids": prompt, "completion_ids": answer, "label": label}
        | ({"KL_completion_ids": other} if with_kl else {})
        for (prompt, answer, label), other in zip(answers, shifted, strict=True)
    ]
    return collator(pad_token_id=0)(examples)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("padded", [False, True])
def test_loss_divergence_and_gradients_equal_those_of_trl_unpacked(loss, padded, trl_kto, tmp_path):
    answers = make_answers(12, seed=4)
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.75}
    reference, policy = tiny_llama("sdpa"), moved(tiny_llama("sdpa"), "weight", 0.05)
    trl = trl_kto(copy.deepcopy(policy), copy.deepcopy(reference), loss, **weights)
    trl.model.eval()
    rows = rows_of(answers, 512)
    assert len(rows) == 1
    in_order = [answers[number] for number in rows[0]["doc_ids"]]
    expected = trl.compute_loss(trl.model, trl_batch(in_order, loss == "kto"))
    expected.backward()
    for model in (reference, policy):
        model.set_attn_implementation("tokpack")
    trainer = trainer_for(policy, rows, tmp_path, loss, reference, weights)
    trainer.data_collator.capacity = 512 if padded else None
    found, items, gradients = packed_loss(trainer, policy, rows)
    assert items == 12
    assert found == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients, gradients_of(trl.model), 1e-5)
    theirs = trl._metrics["eval"]
    ours = trainer.evaluate()
    if loss == "kto":
        assert ours["eval_kl"] == pytest.approx(theirs["kl"][0], abs=1e-4)
        assert ours["eval_kl"] > 0.1  # it was not cut off at 0
    for name, theirs_name in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
        expected_reward = theirs[f"rewards/{theirs_name}"][0]
        assert ours[f"eval_rewards/{name}"] == pytest.approx(expected_reward, abs=1e-4)
        assert abs(expected_reward) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_packed_loss_and_gradients_equal_those_answer_by_answer_under_accumulation(loss, tmp_path):
    answers = make_answers(11, seed=2)
    model = moved(with_adapter())
    rows = rows_of(answers, 48)
    assert len(rows) > 2
    trainer = trainer_for(model, rows, tmp_path, loss)
    packed, items, gradients = packed_loss(trainer, model, rows)
    assert items == len(answers)
    model.zero_grad()

    def ratio(prompt, answer):
        ids, labels = prompt + answer, [-100] * len(prompt) + answer
        with torch.no_grad(), model.disable_adapter():
            before = log_prob(model, ids, labels)
        return log_prob(model, ids, labels) - before

    losses = []
    for row in rows:
        here = [answers[number] for number in row["doc_ids"]]
        kl = torch.zeros(())
        if loss == "kto":
            others = [(prompt, here[number - 1][1]) for number, (prompt, _, _) in enumerate(here)]
            kl = torch.stack([ratio(*other).detach() for other in others]).mean().clamp(min=0)
        for prompt, answer, good in here:
            moved_by = ratio(prompt, answer) - kl
            losses.append(1 - torch.sigmoid(0.1 * (moved_by if good else -moved_by)))
    expected = torch.stack(losses).mean()
    expected.backward()
    assert packed == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(gradients, gradients_of(model), 5e-5)


@pytest.mark.slow
def test_the_first_loss_is_a_half_and_training_widens_the_margin(tmp_path):
    rows = rows_of(make_answers(10), 64)
    trainer = trainer_for(with_adapter(), rows, tmp_path, epochs=8.0, learning_rate=2e-2)
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(0.5, abs=1e-6)
    assert before["eval_kl"] == 0
    repeat = {**rows[0], "labels": [-100] * len(rows[0]["labels"])}  # as rows that fill up a rank
    assert trainer.evaluate([*rows, repeat])["eval_weight"] == 10
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.45
    assert after["eval_rewards/margin"] > 0.2
    assert any("kl" in entry and "rewards/margin" in entry for entry in trainer.state.log_history)


# Packed datasets


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def packed(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    rows = [
        {"prompt": f"question {n}", "completion": "yes" if n % 3 else f"{n} no", "label": n % 3 > 0}
        for n in range(45)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tokpack.pack(
        path, folder / "packed", tokenizer=str(model_folder), max_length=256, val=0.2, format="unpaired"
    )


@pytest.mark.slow
def test_train_picks_the_loss_by_the_packed_dataset(packed, model_folder, tmp_path):
    needs_packed_trainer()
    tell = Said()
    recipe = load_recipe(
        method="lora",
        dtype="float32",
        epochs=3.0,
        learning_rate=1e-2,
        preference={"beta": 0.2},
        probe=False,
        trainer={"use_cpu": True},
    )
    result = run_training(packed.folder, model_folder, recipe, tmp_path / "out", tell=tell)
    assert result.loss_before == pytest.approx(0.5, abs=1e-5)
    assert result.loss_after < 0.47
    assert result.rewards_before == {"chosen": 0.0, "rejected": 0.0, "margin": 0.0}
    assert result.rewards_after["margin"] > 0.1
    good, bad = PackedDataset(packed.folder).label_counts()
    assert (good + bad, good > bad) == (packed.manifest["documents"], True)
    said = f"kto on {good:,} desirable and {bad:,} undesirable answers, beta 0.2"
    assert any(said in line for line in tell.lines)
    assert any(f"undesirable_weight = {good / bad:.3g} in [preference]" in line for line in tell.lines)


@pytest.mark.slow
def test_kinds_of_preferences_and_their_losses_are_not_mistaken_for_each_other(
    packed, model_folder, tmp_path
):
    from trainer_plugin import PackedDPOTrainer, PackedTrainer

    needs_packed_trainer()
    dataset = PackedDataset(packed.folder)
    arguments = training_arguments(load_recipe(method="full", trainer={"use_cpu": True}), tmp_path)
    with pytest.raises(UsageError, match="would teach the bad answers"):
        PackedTrainer(tiny_llama("tokpack"), arguments, train_dataset=dataset)
    with pytest.raises(UsageError, match="holds no preference pairs"):
        PackedDPOTrainer(with_adapter(), arguments, train_dataset=dataset)
    with pytest.raises(UsageError, match="kto is for unpaired answers"):
        PackedDPOTrainer(with_adapter(), arguments, preference=PreferenceLoss(loss="kto"))
    with pytest.raises(UsageError, match="dpo is not for unpaired answers"):
        trainer_for(with_adapter(), rows_of(make_answers()), tmp_path, "dpo")
    with pytest.raises(UsageError, match="kto needs a reference model"):
        trainer_for(tiny_llama("tokpack"), rows_of(make_answers()), tmp_path)
    with pytest.raises(DataError, match="no 'is_desirable'"):
        PackedCollator(unpaired=True)(pack_rows([([3, 4], [-100, 4])], 8))
    trainer = trainer_for(with_adapter(), rows_of(make_answers()), tmp_path)
    with pytest.raises(DataError, match="packed_desirable"):
        trainer.compute_loss(trainer.model, PackedCollator()(rows_of(make_answers())))
    with pytest.raises(DataError, match="packed_mismatched"):
        trainer.compute_loss(trainer.model, PackedCollator(unpaired=True)(rows_of(make_answers())))
    for flags, message in (
        ({"preference": {"loss": "dpo"}}, "dpo is not for unpaired preferences"),
        ({"loss": "document"}, "unpaired answers weigh by their labels"),
    ):
        recipe = load_recipe(method="lora", trainer={"use_cpu": True}, **flags)
        with pytest.raises(UsageError, match=message):
            run_training(packed.folder, model_folder, recipe, tmp_path / "out", tell=Said())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"loss": "kto", "desirable_weight": -1}, "0 or more"),
        ({"loss": "kto", "desirable_weight": 0, "undesirable_weight": 0}, "0 or more"),
        ({"loss": "kto", "undesirable_weight": float("nan")}, "0 or more"),
        ({"loss": "dpo", "desirable_weight": 2.0}, "whose answers have no weights"),
    ],
)
def test_weights_that_are_none_are_refused(table, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(preference=table)
