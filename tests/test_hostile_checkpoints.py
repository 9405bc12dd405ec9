"""Folders of somebody's training: a checkpoint that cannot be read is said, nothing is written elsewhere."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import make_documents, needs_packed_trainer, save_tiny_model, write_packed

from tokpack.errors import DataError, UsageError
from trainer_plugin import Recipe
from trainer_plugin.output_folder import take_output_folder
from trainer_plugin.training.budget import _seconds_in
from trainer_plugin.training.document_log import DocumentLog
from trainer_plugin.training.guards import check_resumed
from trainer_plugin.training.run import run_training


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    needs_packed_trainer()
    place = tmp_path_factory.mktemp("trained")
    save_tiny_model(place / "model")
    write_packed(place / "packed", make_documents(), 64)
    train(place, place / "run", steps=1)
    return place


def train(place: Path, out: Path, *, steps: int, resume: bool = False):
    recipe = Recipe(method="lora", dtype="float32", max_steps=steps, save_steps=1, probe=False)
    return run_training(place / "packed", place / "model", recipe, out, resume=resume)


class Opened:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("content", ["pickle", "cut", "junk"])
def test_a_checkpoint_that_cannot_be_read_is_said_and_runs_nothing(trained, tmp_path, name, content):
    out = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    path = out / "checkpoint-1" / name
    whole = path.read_bytes()
    mark = tmp_path / "opened"
    path.write_bytes({"pickle": pickle.dumps(Opened(mark)), "cut": whole[:100], "junk": b"?" * 300}[content])
    with pytest.raises(DataError, match="the checkpoint cannot be read") as found:
        train(trained, out, steps=2, resume=True)
    assert found.value.hint
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["result.json", "checkpoint-2", "checkpoint-1/optimizer.pt", "document-losses"]
)
def test_a_link_where_training_writes_is_refused(tmp_path, name):
    pytest.importorskip("transformers")
    out = tmp_path / "run"
    (out / "checkpoint-1").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine") if "." in name else elsewhere.mkdir()
    (out / name).symlink_to(elsewhere)
    for resume, overwrite in ((True, False), (False, True)):
        with pytest.raises(UsageError, match=f"a link or a pipe is where training writes: {name}"):
            take_output_folder(out, resume, overwrite)


def test_the_last_checkpoint_that_was_written_to_its_end_is_taken_and_a_link_of_the_users_own_passes(
    tmp_path,
):
    pytest.importorskip("transformers")
    for number in (9, 10, 11):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}" if number < 11 else "")
    (tmp_path / "latest").symlink_to("checkpoint-10")
    assert take_output_folder(tmp_path, True, False) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"seconds": "x"}', '{"seconds": -1}', '{"seconds": 1e999}', "[" * 9**5]
)
def test_what_a_record_of_seconds_does_not_say_counts_nothing(tmp_path, text):
    (tmp_path / "spent.json").write_text(text)
    assert _seconds_in(tmp_path / "spent.json") == 0.0


def test_a_pipe_as_record_of_seconds_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "spent.json")
    assert _seconds_in(tmp_path / "spent.json") == 0.0


def test_a_log_of_documents_leaves_what_is_not_its_own(tmp_path, caplog):
    parts, elsewhere = tmp_path / "document-losses", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "step-00000009-rank-0.parquet").write_text("mine")
    parts.symlink_to(elsewhere)
    DocumentLog(tmp_path / "log.jsonl", tmp_path).begin(3)
    parts.unlink()
    parts.mkdir()
    (parts / "step-x-rank-0.parquet").write_text("mine")
    (parts / "step-00000009-rank-1.parquet").symlink_to(elsewhere / "step-00000009-rank-0.parquet")
    DocumentLog(tmp_path / "log.jsonl", tmp_path).begin(0)
    assert len(list(parts.iterdir())) == 2
    assert (elsewhere / "step-00000009-rank-0.parquet").read_text() == "mine"
    (parts / "step-00000001-rank-0.parquet").write_text("no table")
    DocumentLog(tmp_path / "log.jsonl", tmp_path).finish()
    assert "a part of the log of documents cannot be read" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda state, group: state.update(exp_avg=state["exp_avg"][:1, :3].clone()),
            "not the shape of its weight",
        ),
        (lambda state, group: state["exp_avg_sq"].fill_(float("nan")), "exp_avg_sq holds what is no number"),
        (lambda state, group: group.update(lr="x"), "lr is 'x'"),
        (lambda state, group: group.update(betas=[0.9]), "betas is"),
    ],
    ids=["shape", "nan", "rate", "betas"],
)
def test_a_state_of_the_optimizer_that_does_not_fit_is_refused(trained, tmp_path, change, what):
    """PyTorch's fused AdamW writes beyond the end of one that is too short: the process dies of it."""
    import torch

    out = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    path = out / "checkpoint-1" / "optimizer.pt"
    saved = torch.load(path, weights_only=True)
    change(next(iter(saved["state"].values())), saved["param_groups"][0])
    torch.save(saved, path)
    with pytest.raises(DataError, match=what):
        train(trained, out, steps=2, resume=True)


def test_a_pipe_in_a_checkpoint_is_not_waited_for(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    os.mkfifo(tmp_path / "checkpoint-1" / "trainer_state.json")
    with pytest.raises(UsageError, match="a pipe is where training writes: checkpoint-1/trainer_state"):
        take_output_folder(tmp_path, True, False)


@pytest.mark.parametrize(
    "entry", [1, "x", {}, {"step": "1"}, {"step": 1, "eval_loss": "x"}, {"eval_loss": 1.0}]
)
def test_a_history_that_no_run_wrote_is_refused(entry):
    optimizer = SimpleNamespace(state={}, param_groups=[], defaults={})
    good = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.0}]
    check_resumed(optimizer, SimpleNamespace(log_history=good), "checkpoint-1")
    with pytest.raises(DataError, match="logging_steps is '0'"):
        check_resumed(optimizer, SimpleNamespace(log_history=good, logging_steps=0), "checkpoint-1")
    with pytest.raises(DataError, match="no entry of a log"):
        check_resumed(optimizer, SimpleNamespace(log_history=[*good, entry]), "checkpoint-1")


def test_what_a_checkpoint_without_its_states_starts_over_is_said(tmp_path, caplog):
    for name in ("scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (tmp_path / name).write_bytes(b"")
    optimizer = SimpleNamespace(state={}, param_groups=[], defaults={})
    check_resumed(optimizer, SimpleNamespace(log_history=[]), str(tmp_path))
    assert "its moments are 0; the learning rate begins anew" in caplog.text
    assert "dropout" not in caplog.text
    caplog.clear()
    (tmp_path / "optimizer.pt").write_bytes(b"")
    check_resumed(optimizer, SimpleNamespace(log_history=[]), str(tmp_path))
    assert not caplog.text


@pytest.mark.slow
def test_a_resumed_run_without_the_state_of_its_optimizer_goes_on_and_says_so(trained, tmp_path, caplog):
    out = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    (out / "checkpoint-1" / "optimizer.pt").unlink()
    shutil.copytree(out / "checkpoint-1", out / "checkpoint-2")
    (out / "checkpoint-2" / "trainer_state.json").unlink()  # cut off: it is no checkpoint yet
    train(trained, out, steps=2, resume=True)
    assert "has not all of its files: the optimizer begins anew" in caplog.text
    assert (out / "checkpoint-2" / "trainer_state.json").is_file()
