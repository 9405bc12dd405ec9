"""The examples run, and give the same losses where they do the same work."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import LENGTHS, make_documents, pack_rows, save_tiny_model, write_artefact


@pytest.fixture
def paths(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    digest = save_tiny_model(tmp_path / "model")
    write_artefact(tmp_path / "packed", make_documents(LENGTHS * 3), 64, vocab_sha256=digest)
    return str(tmp_path / "packed"), str(tmp_path / "model"), str(tmp_path / "out")


def losses(trainer):
    return [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]


def run(name, *paths, **options):
    return importlib.import_module(name).main(*paths, **options)


def test_the_plain_trainer_example_trains(paths, capsys):
    trainer = run("train_plain_trainer", *paths, steps=2)
    assert trainer.state.global_step == 2
    assert "first document changed" in capsys.readouterr().out


def test_the_packed_trainer_example_trains_and_evaluates(paths, capsys):
    trainer = run("train_packed_trainer", *paths, steps=2)
    assert trainer.counts()["rows"] == 4
    assert "after" in capsys.readouterr().out


def test_the_trl_example_has_the_losses_of_plain_trainer_on_the_same_rows(paths, tmp_path):
    pytest.importorskip("trl")
    import datasets
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from trainer_plugin import PackedCollator, prepare_model

    rows = datasets.Dataset.from_list(pack_rows(make_documents(LENGTHS * 3), 64))
    rows.save_to_disk(tmp_path / "raw")
    trl = run("train_trl", str(tmp_path / "raw"), *paths[1:], steps=4)
    model = AutoModelForCausalLM.from_pretrained(paths[1])
    prepare_model(model)
    arguments = TrainingArguments(
        paths[2],
        max_steps=4,
        per_device_train_batch_size=1,
        learning_rate=trl.args.learning_rate,
        remove_unused_columns=False,
        report_to="none",
    )
    plain = Trainer(
        model, arguments, PackedCollator(), train_dataset=datasets.load_from_disk(str(tmp_path / "raw"))
    )
    plain.train()
    assert losses(trl) == pytest.approx(losses(plain), rel=1e-5)
