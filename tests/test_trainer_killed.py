"""A training that is killed while it writes its result leaves none that anything takes for whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

from kill_steps import with_tests
from safetensors import SafetensorError
from trainer_rows import make_documents, needs_packed_trainer, save_tiny_model, write_packed

from tokpack.errors import OutputError
from tokpack.terminal.activity import Activity
from trainer_plugin import load_recipe
from trainer_plugin.checkpoints.adapter_folder import read_adapter
from trainer_plugin.output_folder import last_checkpoint, remove_checkpoints
from trainer_plugin.training.document_log import PARTS
from trainer_plugin.training.run import run_training

CODE = """if True:
    import json, shutil, sys
    from pathlib import Path
    from kill_steps import each_step
    from safetensors.torch import load_file
    from tokpack.errors import UsageError
    from tokpack.terminal.activity import Activity
    from trainer_plugin import load_recipe
    from trainer_plugin.adapters import qlora
    from trainer_plugin.checkpoints.adapter_folder import read_adapter
    from trainer_plugin.training.run import run_training

    place, method = Path(sys.argv[1]), sys.argv[2]
    top, write, taken = place / method, qlora.save_result, {}
    out = top / "out"

    def train(name, **changes):
        recipe = load_recipe(method=method, dtype="float32", max_steps=2, probe=False, **changes)
        run_training(place / "packed", place / "base", recipe, top / name, tell=Activity(quiet=True))

    train("older", lora={"r": 2}, learning_rate=0.01)
    qlora.save_result = lambda *given, **options: taken.update(given=given, options=options)
    train("captured", lora={"r": 4}, learning_rate=0.02)
    trainer, _, *rest = taken["given"]

    def begin():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(top / "older", out)

    def write_new():
        write(trainer, out, *rest, **taken["options"])

    def weights():
        return (out / ("model.safetensors" if method == "full" else "adapter_model.safetensors"))

    def is_whole():
        if method == "full":
            return (out / "config.json").is_file() and weights().is_file()
        try:
            read_adapter(out)
        except UsageError:
            return False
        return True

    begin()
    old = [weights().read_bytes(), (out / "recipe.toml").read_bytes()]
    write_new()
    new = [weights().read_bytes(), (out / "recipe.toml").read_bytes()]
    assert old[0] != new[0] and old[1] != new[1]
    steps = 0
    for step in each_step(write_new, begin, (False,)):
        steps += 1
        if is_whole():
            assert [weights().read_bytes(), (out / "recipe.toml").read_bytes()] in (old, new), step
        write_new()
        assert is_whole()
    print(steps)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    save_tiny_model(folder / "base")
    write_packed(folder / "packed", make_documents(), 64)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_and_recipe_belong_together_at_whatever_step_a_training_is_killed(place, method):
    needs_packed_trainer()
    arguments = [sys.executable, "-c", CODE, str(place), method]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, env=with_tests())
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout.split()[-1]) > 10


def trained(place: Path, out: Path, **changes: Any) -> Any:
    recipe = load_recipe(method="lora", dtype="float32", max_steps=1, probe=False, **changes)
    return run_training(place / "packed", place / "base", recipe, out, tell=Activity(quiet=True))


@pytest.mark.slow
def test_the_adapter_is_there_before_the_last_evaluation(place, tmp_path, monkeypatch):
    needs_packed_trainer()
    monkeypatch.setattr("trainer_plugin.training.run._last_evaluation", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(place, tmp_path / "out")
    assert read_adapter(tmp_path / "out").config["peft_type"] == "LORA"


@pytest.mark.slow
def test_a_log_of_documents_that_cannot_be_written_costs_no_adapter(place, tmp_path, monkeypatch, caplog):
    needs_packed_trainer()
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "log.parquet", tmp_path / "file" / "deep" / "log.jsonl"):
        with pytest.raises(OutputError, match="is no folder"):
            trained(place, tmp_path / "out", document_log=str(wrong))
    (tmp_path / "there.parquet").mkdir()
    with pytest.raises(OutputError, match="a folder is there"):
        trained(place, tmp_path / "out", document_log=str(tmp_path / "there.parquet"))
    assert not (tmp_path / "out").exists()

    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    log = tmp_path / "log.jsonl"
    monkeypatch.setattr("trainer_plugin.training.document_log.document_means", full)
    trained(place, tmp_path / "out", document_log=str(log))
    assert read_adapter(tmp_path / "out").config["peft_type"] == "LORA"
    assert "the losses of documents cannot be written: No space left on device" in caplog.text
    assert any((tmp_path / "out" / PARTS).iterdir())


FULL = (
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError(28, "No space left on device"),
)


@pytest.mark.slow
@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_is_told_with_how_to_go_on(place, tmp_path, monkeypatch, error):
    needs_packed_trainer()

    def full(*given: Any, **options: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_optimizer_and_scheduler", full)
        with pytest.raises(OutputError, match="cannot write: No space left on device") as told:
            trained(place, tmp_path / "out", save_steps=1)
    assert told.value.hint.startswith("free some space; there is no checkpoint yet")
    assert told.value.hint.endswith("; repeat the command with --overwrite")
    monkeypatch.setattr("transformers.Trainer.save_model", full)
    with pytest.raises(OutputError, match="cannot write: No space left on device") as told:
        trained(place, tmp_path / "other")
    assert told.value.hint.startswith("free some space; there is no checkpoint yet")


def test_checkpoints_that_are_half_removed_are_none_to_go_on_from(tmp_path, monkeypatch):
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("adapter_model.safetensors", "trainer_state.json"):
            (folder / name).write_text("{}")
    monkeypatch.setattr("trainer_plugin.output_folder.rmtree", lambda folder: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        remove_checkpoints(tmp_path)
    assert len(list(tmp_path.glob("*/trainer_state.json"))) == 1
    assert last_checkpoint(tmp_path) is not None
