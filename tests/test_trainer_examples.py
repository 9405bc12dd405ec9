"""The examples run on what `tokpack pack` wrote; where they do the same work, losses agree."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import needs_packed_trainer, save_tiny_model

import tokpack


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model, and a packed dataset of texts packed with its tokenizer."""
    root = tmp_path_factory.mktemp("examples")
    save_tiny_model(root / "model")
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(3, 128)}" for _ in range(rng.randrange(8, 50))) for _ in range(60)]
    (root / "texts.txt").write_text("\n".join(texts) + "\n")
    tokpack.pack(root / "texts.txt", root / "packed", tokenizer=str(root / "model"), max_length=64)
    return str(root / "packed"), str(root / "model")


@pytest.fixture
def paths(folders, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return (*folders, str(tmp_path / "out"))


def run(name, *paths, **options):
    return importlib.import_module(name).main(*paths, **options)


def losses(trainer):
    return [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]


def test_three_lines_make_a_plain_trainer_train_on_packed_rows(paths, capsys):
    trainer = run("train_plain_trainer", *paths, steps=2)
    assert trainer.state.global_step == 2
    assert "first document changed" in capsys.readouterr().out


def test_the_packed_trainer_example_trains_and_evaluates(paths, capsys):
    needs_packed_trainer()
    trainer = run("train_packed_trainer", *paths, steps=2)
    assert trainer.counts()["rows"] == 4
    assert "after" in capsys.readouterr().out


def test_a_packed_dataset_opened_by_datasets_trains_like_one_opened_by_packed_dataset(paths):
    raw = run("train_load_from_disk", *paths, steps=4)
    mapped = run("train_plain_trainer", *paths, steps=4)
    assert losses(raw) == losses(mapped)


@pytest.mark.slow
def test_trl_without_padding_has_the_losses_of_a_plain_trainer(paths):
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from trainer_plugin import PackedCollator, prepare_model

    trl = run("train_trl", *paths, steps=4)
    model = AutoModelForCausalLM.from_pretrained(paths[1])
    prepare_model(model, "sdpa")
    arguments = TrainingArguments(
        paths[2],
        max_steps=4,
        per_device_train_batch_size=1,
        learning_rate=trl.args.learning_rate,
        remove_unused_columns=False,
        report_to="none",
    )
    plain = Trainer(model, arguments, PackedCollator(), train_dataset=datasets.load_from_disk(paths[0]))
    plain.train()
    assert losses(trl) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.slow
def test_the_mixin_makes_an_sft_trainer_count_and_weigh_by_tokens(paths):
    needs_packed_trainer()
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer_plugin import PackedCollator, PackedTrainerMixin, prepare_model

    class PackedSFTTrainer(PackedTrainerMixin, trl.SFTTrainer):
        pass

    rows = datasets.load_from_disk(paths[0])
    model = AutoModelForCausalLM.from_pretrained(paths[1])
    prepare_model(model)
    options = {"packing": False, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = PackedSFTTrainer(
        model,
        trl.SFTConfig(paths[2], **options, max_steps=4, per_device_train_batch_size=2, bf16=False),
        PackedCollator(),
        train_dataset=rows,
        eval_dataset=rows.select(range(5)),
        processing_class=AutoTokenizer.from_pretrained(paths[1]),
    )
    before = trainer.evaluate()
    labels = [label for row in rows.select(range(5)) for label in row["labels"]]
    assert before["eval_weight"] == sum(label != -100 for label in labels)
    trainer.train()
    assert trainer.counts()["rows"] == 8
    assert losses(trainer)[0] > 0
