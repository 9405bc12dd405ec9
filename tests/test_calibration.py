"""The speed of this machine in the bill: what is measured, who measures it, and how well it predicts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_samples import LLAMA_8B, planned
from trainer_rows import LENGTHS, make_documents, needs_packed_trainer, pack_rows, save_tiny_model
from typer.testing import CliRunner

import tokpack
from tokpack import calibration
from tokpack.calibration import find_calibrator, on_this_machine, speed_of
from tokpack.cli import app
from tokpack.cost import Method, ModelShape, flops
from tokpack.errors import UsageError
from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_words import cost_words
from tokpack.settings.plain import from_plain

pytestmark = pytest.mark.slow

GIB = 1 << 30
CPU = SimpleNamespace(kind="cpu", name="CPU, 2 threads", memory_bytes=64 * GIB)


class Calibrator:
    """Stands for the plug-in: a speed of 0.01 TFLOP/s, and a note of what it was asked for."""

    def __init__(self, here: Any = CPU) -> None:
        self.here, self.asked = here, {}

    def device(self) -> Any:
        return self.here

    def precision(self, model: str, method: str) -> str:
        return "bfloat16: this CPU is fast at bfloat16"

    def measure(self, model: str, rows: list[dict[str, Any]], **options: Any) -> list[Any]:
        self.asked = {"model": model, "rows": rows, **options}
        shape, method = ModelShape.from_config(LLAMA_8B), Method(kind=options["method"])
        checkpointing = options["checkpointing"]
        taken = [row["seq_lengths"].tolist() for row in rows[:5]]
        work = [flops(shape, lengths, method=method, checkpointing=checkpointing).total for lengths in taken]
        return [(lengths, flop / 1e10) for lengths, flop in zip(taken, work, strict=True)]


@pytest.fixture
def calibrator(monkeypatch: pytest.MonkeyPatch) -> Calibrator:
    plugin = Calibrator()
    monkeypatch.setattr(calibration, "find_calibrator", lambda: plugin)
    return plugin


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    words = ["one", "two", "three", "four"]
    lines = [
        [
            {"role": "user", "content": " ".join(words * (i % 9 + 1)) + f" {i}"},
            {"role": "assistant", "content": f"number {i}"},
        ]
        for i in range(300)
    ]
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return path


def analyzed(chats: Path, qwen: Path, **options: Any) -> dict[str, Any]:
    model = str(chats.parent / "config.json")
    settings = {"max_length": 256, "model": model, "method": "lora", "calibrate": True, **options}
    report = tokpack.analyze(str(chats), tokenizer=str(qwen), **settings)
    return report.data["cost"]


def test_tokpack_finds_the_plug_in_and_does_not_import_it_before() -> None:
    code = (
        "import sys, tokpack.cli, tokpack.api, tokpack.calibration\n"
        "print({'torch', 'trainer_plugin'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_without_the_plug_in_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "entry_points", lambda group: [])
    with pytest.raises(UsageError, match="needs torch") as error:
        find_calibrator()
    assert "tokpack[train]" in str(error.value.hint)


def test_a_measured_machine_has_hours_without_a_range_and_no_money(
    calibrator: Calibrator, chats: Path, qwen: Path
) -> None:
    cost = analyzed(chats, qwen)
    assert (cost["gpu"]["key"], cost["gpu"]["price"], cost["gpu"]["peak"]) == ("CPU", None, None)
    hours = cost["estimate"]["gpu_hours"]
    assert hours["source"] == "measured"
    assert "high" not in hours
    assert hours["value"] == pytest.approx(cost["estimate"]["flops"]["value"] / 1e10 / 3600, rel=0.02)
    assert cost["estimate"]["money"] is None
    assert all(way["money"] is None and way["hours"] for way in cost["comparison"])
    words = cost_words(from_plain(Cost, cost, "cost"))
    assert words.headline.startswith("Training takes")
    assert "on one CPU" in words.explanation.replace("On", "on")
    assert "measured" in words.setting


def test_a_price_turns_measured_hours_into_money(calibrator: Calibrator, chats: Path, qwen: Path) -> None:
    cost = analyzed(chats, qwen, gpu_price=2.0)
    estimate = cost["estimate"]
    assert estimate["money"]["value"] == pytest.approx(2 * estimate["gpu_hours"]["value"])
    assert cost_words(from_plain(Cost, cost, "cost")).headline.startswith("Training costs")


def test_rows_are_measured_as_training_will_read_them(
    calibrator: Calibrator, chats: Path, qwen: Path, tmp_path: Path
) -> None:
    cost = analyzed(chats, qwen)
    packed = tokpack.pack(str(chats), tmp_path / "packed", tokenizer=str(qwen), max_length=256)
    for row, wanted in zip(calibrator.asked["rows"], packed.table.to_pylist(), strict=False):
        for column in ("input_ids", "labels", "seq_lengths"):
            assert row[column].tolist() == wanted[column]
    assert calibrator.asked["batch_rows"] == cost["run_plan"]["use"]["micro_batch"]


def test_nothing_left_to_train_on_is_not_measured(calibrator: Calibrator, qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    empty = {"messages": [{"role": "user", "content": "hm"}, {"role": "assistant", "content": " "}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(empty) + "\n")
    options = {"tokenizer": str(qwen), "model": str(tmp_path), "calibrate": True}
    report = tokpack.analyze(str(tmp_path / "chats.jsonl"), **options)
    assert report.figures.cost is None
    assert not calibrator.asked


def test_the_cpu_of_this_machine_says_nothing_about_another_card(calibrator: Calibrator) -> None:
    with pytest.raises(UsageError, match="says nothing about A10") as error:
        on_this_machine(planned(gpu="a10"))
    assert "--gpu" in str(error.value.hint)


def test_another_card_than_the_one_asked_for_is_warned_of(
    calibrator: Calibrator, caplog: pytest.LogCaptureFixture
) -> None:
    calibrator.here = SimpleNamespace(kind="cuda", name="NVIDIA A10", memory_bytes=24 * GIB)
    training = planned(gpu="a10")
    assert on_this_machine(training) == training
    assert not caplog.records
    on_this_machine(planned(gpu="h100-sxm"))
    assert "measured on NVIDIA A10" in caplog.text


def test_the_speed_is_the_median_and_says_how_far_steps_differ() -> None:
    training = planned(method="lora")
    work = flops(training.shape, [100], method=training.method).total
    found = speed_of(training, [([100], 1.0), ([100], 2.0), ([100], 4.0)], False, "float32: a reason")
    assert found.flops_per_second == pytest.approx(work / 2)
    assert "3 steps of 300 tokens" in found.note
    assert "100%" in found.note
    assert "weights in float32: a reason" in found.note


def test_calibrate_without_a_model_asks_for_it(chats: Path, qwen: Path) -> None:
    run = CliRunner().invoke(app, ["analyze", str(chats), "--tokenizer", str(qwen), "--calibrate"])
    assert isinstance(run.exception, UsageError)
    assert run.exception.where == "--calibrate"


# What a step of the calibration does


class FlopsOfSteps:
    """The FLOPs that torch counts in each optimizer step of a run."""

    def __init__(self, counter: Any, transformers: Any) -> None:
        steps = self.steps = []

        class Callback(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                self.before = counter.get_total_flops()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                steps.append(counter.get_total_flops() - self.before)
                self.before = counter.get_total_flops()

        self.callback = Callback()


@pytest.mark.parametrize(
    ("method", "checkpointing", "chunk_bytes"),
    [("lora", False, 1 << 28), ("qlora", False, 1 << 28), ("full", True, 1 << 28), ("lora", False, 1 << 12)],
)
def test_a_step_of_the_calibration_is_the_arithmetic_of_a_step_of_the_run(
    tmp_path: Path, method: str, checkpointing: bool, chunk_bytes: int
) -> None:
    """The benchmark `benchmarks/calibration.py` takes the times; this says why they agree."""
    needs_packed_trainer()
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    from trainer_plugin import PackedTrainer, load_model, load_recipe, prepare_lora, prepare_model
    from trainer_plugin.recipe import training_arguments
    from trainer_plugin.training.calibration import Trial

    save_tiny_model(tmp_path / "model")
    rows = pack_rows(make_documents(LENGTHS * 2), 64)
    model = str(tmp_path / "model")
    trial = Trial(model, method=method, checkpointing=checkpointing)
    trial.chunked.chunk_bytes = chunk_bytes
    calibrated = []
    for row in rows:
        with FlopCounterMode(display=False) as counter:
            trial.step([row])
        calibrated.append(counter.get_total_flops())
    recipe = load_recipe(method=method, gradient_checkpointing=checkpointing, trainer={"use_cpu": True})
    network = load_model(model, recipe)
    prepare_model(network, recipe.attn)
    network = network if method == "full" else prepare_lora(network, recipe)
    arguments = training_arguments(recipe, tmp_path / "out", train_sampling_strategy="sequential")
    run = PackedTrainer(network, arguments, train_dataset=rows, probe=False, progress=False)
    run.chunked_loss.chunk_bytes = chunk_bytes
    with FlopCounterMode(display=False) as counter:
        steps = FlopsOfSteps(counter, transformers)
        run.add_callback(steps.callback)
        run.train()
    assert len(set(calibrated)) > 1
    assert steps.steps == calibrated


def test_the_plug_in_measures_each_step_after_one_that_warms_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from trainer_plugin.training import calibration as steps
    from trainer_plugin.training.calibration import LEAST_STEPS, measure

    monkeypatch.setattr(steps, "SECONDS", 0.0)
    save_tiny_model(tmp_path / "model")
    rows = pack_rows(make_documents(LENGTHS), 64)
    told: list[int] = []
    options: dict[str, Any] = {"method": "lora", "rank": 4, "checkpointing": False}
    taken = measure(str(tmp_path / "model"), rows[:2], **options, progress=told.append)
    assert len(taken) == LEAST_STEPS
    assert [lengths for lengths, _ in taken] == [rows[number]["seq_lengths"] for number in (0, 1, 0)]
    assert told == [sum(lengths) for lengths, _ in taken]
    assert all(seconds > 0 for _, seconds in taken)


def test_a_measured_speed_is_kept_and_taken_the_next_time(
    chats: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    card = SimpleNamespace(kind="cuda", name="NVIDIA A10, 22.5 GiB", memory_bytes=22 * GIB)
    monkeypatch.setattr(calibration, "find_calibrator", lambda: Calibrator(card))
    first = analyzed(chats, qwen, gpu="A10")
    text = (tmp_path / "tokpack" / "speeds.toml").read_text()
    assert 'card = "A10"' in text
    again = analyzed(chats, qwen, gpu="A10", calibrate=False)
    assert again["calibrated"]
    assert again["estimate"]["gpu_hours"]["value"] == pytest.approx(first["estimate"]["gpu_hours"]["value"])
    assert str(tmp_path) in again["estimate"]["gpu_hours"]["note"]
    assert not analyzed(chats, qwen, gpu="L4", calibrate=False)["calibrated"]
    assert not analyzed(chats, qwen, gpu="A10", calibrate=False, mfu=(0.3, 0.4))["calibrated"]
    analyzed(chats, qwen, gpu="A10")
    assert (tmp_path / "tokpack" / "speeds.toml").read_text().count("[[speed]]") == 1
