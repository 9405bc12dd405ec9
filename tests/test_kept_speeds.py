"""The file of measured speeds: what is read, what is passed over with a word."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from report_samples import LLAMA_8B

from tokpack.cost import Method, ModelShape, find_gpu
from tokpack.cost.kept_speeds import KeptSpeed, keep_speed, kept_speed, speeds_file

SHAPE, GPU, LORA = ModelShape.from_config(LLAMA_8B), find_gpu("A10"), Method(kind="lora")
SPEED = KeptSpeed(
    card="A10",
    model='a "model"\n',
    parameters=SHAPE.total_params,
    layers=SHAPE.num_layers,
    hidden_size=SHAPE.hidden_size,
    method="lora",
    rank=16,
    tokens=2048,
    flops_per_second=5e13,
    note="in 9 steps",
    read=date(2026, 11, 1),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_newest_of_card_model_and_method_is_taken() -> None:
    assert kept_speed(GPU, SHAPE, LORA) is None
    keep_speed(SPEED)
    keep_speed(replace(SPEED, tokens=8192, flops_per_second=7e13, read=date(2026, 11, 2)))
    found = kept_speed(GPU, SHAPE, Method(kind="lora", rank=64))
    assert found is not None
    assert found.flops_per_second == 7e13
    assert "2026-11-02" in found.note
    assert "8,192 tokens" in found.note
    assert kept_speed(find_gpu("L4"), SHAPE, LORA) is None
    assert kept_speed(GPU, SHAPE, Method(kind="qlora")) is None


def test_the_same_measurement_replaces_the_old_one() -> None:
    keep_speed(SPEED)
    keep_speed(replace(SPEED, flops_per_second=6e13))
    assert speeds_file().read_text().count("[[speed]]") == 1
    found = kept_speed(GPU, SHAPE, LORA)
    assert found is not None
    assert found.flops_per_second == 6e13


@pytest.mark.parametrize("text", ["not toml", "[[speed]]\ncard = 1", "speed = 3", "[[speed]]\nother = 1"])
def test_a_damaged_file_is_passed_over_with_a_word(text: str, caplog: pytest.LogCaptureFixture) -> None:
    speeds_file().parent.mkdir()
    speeds_file().write_text(text)
    assert kept_speed(GPU, SHAPE, LORA) is None
    assert str(speeds_file()) in caplog.text


@pytest.mark.parametrize("value", ["0.0", "-1.0", "'fast'", "true"])
def test_a_speed_that_cannot_be_is_no_speed(value: str, caplog: pytest.LogCaptureFixture) -> None:
    path = keep_speed(SPEED)
    assert path is not None
    path.write_text(path.read_text().replace("50000000000000.0", value))
    assert kept_speed(GPU, SHAPE, LORA) is None
    assert "flops_per_second" in caplog.text
