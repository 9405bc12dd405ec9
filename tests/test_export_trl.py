"""TRL trains on the export as our trainer trains on the packed dataset, loss for loss."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from trainer_rows import needs_packed_trainer

import tokpack
from tokpack.export import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="pip install 'trl==1.16.*'"),
]
STEPS = 3
SETTINGS = {
    "train_sampling_strategy": "sequential",
    "max_steps": STEPS,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "report_to": "none",
    "save_strategy": "no",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> tokpack.PackedFolder:
    folder = tmp_path_factory.mktemp("data")
    data = write_rows(folder / "chats.jsonl", messy_rows(200))
    return tokpack.pack(data, folder / "packed", tokenizer=str(qwen), max_length=256)


@pytest.fixture(scope="module")
def exported(packed, tmp_path_factory) -> Path:
    return export(packed, "trl", tmp_path_factory.mktemp("export") / "trl")


@pytest.fixture(scope="module")
def model(packed, tmp_path_factory) -> Path:
    """A tiny random Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=packed.manifest["tokenizer"]["vocab_size"], num_key_value_heads=2, **size)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def check(exported, model, monkeypatch, capsys) -> Callable[..., str]:
    """Runs the export's check.py with some of its settings changed, in this process: trl is loaded here.
    Gives what it prints; what is wrong must be its exit code too."""
    monkeypatch.syspath_prepend(str(exported))
    monkeypatch.setattr(sys, "argv", ["check.py", "--model", str(model)])
    settings = exported / "settings.json"
    kept = settings.read_text()

    def run(**changed: object) -> str:
        monkeypatch.delitem(sys.modules, "train", raising=False)
        settings.write_text(json.dumps(json.loads(kept) | changed))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(exported / "check.py"), run_name="__main__")
        printed = capsys.readouterr().out
        assert end.value.code == ("right:" not in printed)
        return printed

    yield run
    settings.write_text(kept)


def test_the_check_passes_as_it_is_run_by_hand(exported, model):
    command = [sys.executable, str(exported / "check.py"), "--model", str(model)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout[:6]) == (0, "right:")


def test_the_training_runs_to_its_end_on_a_machine_without_a_gpu(
    exported, model, tmp_path, monkeypatch, capsys
):
    """As the check above is run by hand, and imports this, here in the test's process."""
    folder, out = tmp_path / "for-trl", tmp_path / "trained"
    shutil.copytree(exported, folder)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"max_steps": 1, "report_to": "none"}))
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", str(model), "--output", str(out)])
    runpy.run_path(str(folder / "train.py"), run_name="__main__")
    assert "no GPU with bf16 here" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()


def test_the_check_sees_settings_that_lose_the_documents(check):
    assert "right:" in check()
    printed = check(padding_free=False)
    assert "wrong: the batch has no position_ids" in printed
    assert "wrong: the batch has an attention mask" in printed


def test_the_check_sees_rows_that_trl_packs_or_cuts_again(check):
    assert "wrong: input_ids is not what was packed" in check(packing=True, max_length=100, dataset_kwargs={})


def test_three_steps_of_trl_have_the_losses_of_our_trainer(packed, exported, model, tmp_path, monkeypatch):
    needs_packed_trainer()
    from transformers import AutoModelForCausalLM, TrainingArguments

    from trainer_plugin.rows.dataset import PackedDataset
    from trainer_plugin.training.trainer import PackedTrainer

    monkeypatch.syspath_prepend(str(exported))
    from train import make_trainer

    def fresh():
        return AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa")

    theirs = losses(make_trainer(fresh(), tmp_path / "trl", **SETTINGS))
    arguments = TrainingArguments(output_dir=str(tmp_path / "ours"), remove_unused_columns=False, **SETTINGS)
    ours = losses(
        PackedTrainer(fresh(), arguments, train_dataset=PackedDataset(packed.folder), progress=False)
    )
    assert len(theirs) == STEPS
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert theirs[-1] < theirs[0]
