"""The best checkpoint and early stopping by the held-out loss of packed rows; `tokpack train --eval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

from commands import run
from trainer_rows import LENGTHS, Said, make_documents, needs_packed_trainer, save_tiny_model, write_packed

from tokpack.errors import UsageError
from trainer_plugin import load_recipe
from trainer_plugin.evaluation.run import EvalSettings, evaluate
from trainer_plugin.recipe import Recipe
from trainer_plugin.training.run import run_training

OVERFITS = {"method": "lora", "dtype": "float32", "max_steps": 40, "learning_rate": 1e-1, "probe": False}
"""On random tokens: the held-out loss falls towards that of no knowledge, then rises."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    save_tiny_model(folder / "base")
    write_packed(folder / "packed", make_documents(LENGTHS), 64)
    write_packed(folder / "packed" / "validation", make_documents(LENGTHS, seed=9), 64)
    write_packed(folder / "none held out", make_documents(LENGTHS), 64)
    return folder


def held_out_loss(place: Path, adapter: Path) -> float:
    settings = EvalSettings(dtype="float32", probe=False)
    return (
        evaluate(place / "packed", place / "base", [adapter], settings=settings).held_out.comparisons[0].loss
    )


@pytest.mark.slow
@pytest.mark.parametrize(("every", "evaluated"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (3, [0, 3])])
def test_the_last_step_is_evaluated_once(place, tmp_path, every, evaluated):
    needs_packed_trainer()
    recipe = load_recipe(**OVERFITS | {"max_steps": 3}, eval_steps=every)
    said = Said()
    result = run_training(place / "packed", place / "base", recipe, tmp_path / "out", tell=said)
    assert [step for step, _ in result.held_out] == evaluated
    assert result.loss_after == result.held_out[-1][1]
    assert sum(line.startswith("held-out evaluation: ") for line in said.lines) == len(evaluated)


@pytest.mark.slow
def test_patience_ends_the_training_and_keeps_the_best_adapter(place, tmp_path):
    needs_packed_trainer()
    recipe = load_recipe(**OVERFITS, eval_steps=2, patience=2, scheduler="constant")
    result = run_training(place / "packed", place / "base", recipe, tmp_path / "out", tell=Said())
    losses = dict(result.held_out)
    best = min(losses, key=losses.get)
    assert result.ended == "no better"
    assert best + 4 == result.steps < 40
    assert losses[best] < losses[result.steps]
    assert result.loss_after == pytest.approx(losses[best], abs=1e-5)
    assert held_out_loss(place, tmp_path / "out") == pytest.approx(losses[best], abs=1e-4)


@pytest.mark.slow
def test_a_resumed_run_loses_its_patience_where_the_uninterrupted_one_does(place, tmp_path):
    needs_packed_trainer()
    settings = {**OVERFITS, "eval_steps": 2, "patience": 3, "scheduler": "constant"}
    whole = run_training(
        place / "packed", place / "base", load_recipe(**settings), tmp_path / "whole", tell=Said()
    )
    assert whole.ended == "no better"
    for steps, out in ((whole.steps - 2, tmp_path / "cut"), (40, tmp_path / "cut")):
        recipe = load_recipe(**{**settings, "max_steps": steps})
        resumed = run_training(place / "packed", place / "base", recipe, out, resume=steps == 40, tell=Said())
    assert resumed.steps == whole.steps
    assert resumed.ended == "no better"
    assert resumed.loss_after == pytest.approx(whole.loss_after, abs=1e-6)


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_at_the_end_as_trainer_has_it(place, tmp_path):
    needs_packed_trainer()
    recipe = load_recipe(
        **{**OVERFITS, "max_steps": 60},
        eval_steps=20,
        save_steps=20,
        scheduler="constant",
        trainer={"load_best_model_at_end": True},
    )
    result = run_training(place / "packed", place / "base", recipe, tmp_path / "out", tell=Said())
    losses = dict(result.held_out)
    losses.pop(0, None)
    best = min(losses, key=losses.get)
    assert result.steps == 60
    assert best < 60
    assert held_out_loss(place, tmp_path / "out") == pytest.approx(losses[best], abs=1e-4)


def test_patience_without_evaluations_or_held_out_rows_is_refused(place, tmp_path):
    with pytest.raises(UsageError, match="there are none while it trains"):
        Recipe(patience=2)
    recipe = load_recipe(**OVERFITS, eval_steps=2, patience=2)
    with pytest.raises(UsageError, match="nothing is held out"):
        run_training(place / "none held out", place / "base", recipe, tmp_path / "out", tell=Said())


@pytest.mark.slow
def test_train_compares_the_adapter_with_its_base_at_the_end(place, tmp_path):
    needs_packed_trainer()
    out = tmp_path / "out"
    flags = ["--method", "lora", "--dtype", "float32", "--max-steps", 3, "--no-probe", "--eval"]
    ended = run("train", place / "packed", "-m", place / "base", "-o", out, *flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(out)
    assert "Loss per trained token" in ended.stderr
    found = json.loads((out / "evaluation.json").read_text())
    result = json.loads((out / "result.json").read_text())
    one = found["held_out"]["comparisons"][0]
    assert one["base_loss"] == pytest.approx(result["loss_before"], abs=1e-4)
    assert one["loss"] == pytest.approx(result["loss_after"], abs=1e-4)
    assert "<h1>" in (out / "evaluation.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packed", "method", "what"),
    [("none held out", "lora", "nothing is held out"), ("packed", "full", "no base inside")],
)
def test_a_comparison_that_cannot_be_is_said_before_training(place, tmp_path, packed, method, what):
    needs_packed_trainer()
    ended = run(
        "train", place / packed, "-m", place / "base", "-o", tmp_path / "out", "--method", method, "--eval"
    )
    assert ended.returncode == 2
    assert what in ended.stderr
    assert not (tmp_path / "out").exists()
