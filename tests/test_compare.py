"""Two reports side by side."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, hostile, planned, sample
from rich.console import Console
from typer.testing import CliRunner

from tokpack.cli import app
from tokpack.errors import UsageError
from tokpack.report.compare import Compared, compare, compared, comparison_view, load_report
from tokpack.report.values import Figures
from tokpack.settings.plain import to_plain

DIRTY = sample(dropped={}, training=planned(), capacity=256)
CLEAN = sample(dropped={"empty_answer": 30, "mojibake": 5}, training=planned(gpu="h100-sxm"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A report.json, and a folder as a packed dataset has it."""
    first, folder = tmp_path / "dirty.json", tmp_path / "clean"
    first.write_text(json.dumps(DIRTY))
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(CLEAN))
    return first, folder


def between(a: dict[str, Any], b: dict[str, Any], name_a: str = "a", name_b: str = "b") -> Compared:
    return compared(Figures.read(a), Figures.read(b), name_a, name_b)


def line(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in data["sums"] if entry["name"] == name)


def shown(data: Compared, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(comparison_view(data))
    return console.export_text()


def test_sums_are_those_of_the_two_ledgers(files: tuple[Path, Path]) -> None:
    data = compare(*files).data
    kept, slots, fill = line(data, "documents kept"), line(data, "slots"), line(data, "fill")
    assert (kept["a"], kept["b"], kept["change"]) == (400, 365, -35)
    assert slots["b"] == CLEAN["ledger"]["slots"]["total"]
    assert slots["ratio"] == slots["b"] / slots["a"]
    assert fill["a"] == DIRTY["plan"]["fill"]
    assert (data["a"]["name"], data["b"]["name"]) == ("dirty.json", "clean")


def test_reasons_of_either_report_are_listed_most_tokens_first() -> None:
    data = between(CLEAN, sample(dropped={"empty_answer": 10, "refusal": 3}))
    reasons = {entry.reason: entry.documents.change for entry in data.dropped}
    assert reasons == {"empty_answer": -20, "mojibake": -5, "refusal": 3}
    changes = [abs(entry.tokens.change) for entry in data.dropped]
    assert changes == sorted(changes, reverse=True)


def test_costs_are_compared_where_both_have_them() -> None:
    data = between(DIRTY, CLEAN)
    costs = {entry.name: entry for entry in data.cost}
    assert to_plain(costs["money"].a) == DIRTY["cost"]["estimate"]["money"]
    assert costs["GPU time"].ratio < 1
    assert (data.a["gpu"], data.b["gpu"]) == ("1 A10", "1 H100-SXM")
    no_gpu = between(sample(training=planned(gpu="")), CLEAN)
    assert [entry.name for entry in no_gpu.cost] == ["work"]
    assert between(sample(), CLEAN).cost == []


def test_a_report_compared_with_itself_shows_no_change() -> None:
    data = between(CLEAN, CLEAN)
    assert not any(entry.change for entry in data.sums)
    text = shown(data)
    assert "The settings are the same." in text
    assert "%" not in text.replace(f"{CLEAN['plan']['fill']:.2%}", "")


def test_settings_of_every_stage_that_differ_are_named() -> None:
    other = json.loads(json.dumps(CLEAN))
    other["config"]["clean"]["rules"] = "strict"
    other["config"]["near_dup"]["threshold"] = 0.8
    text = shown(between(CLEAN, other))
    assert "The settings are the same." not in text
    assert re.search(r"clean.rules +default +strict", text)
    assert re.search(r"near_dup.threshold +0.0 +0.8", text)
    assert "truncate" not in text
    del other["config"]["seed"]  # of another version, perhaps
    assert re.search(r"seed +0", shown(between(CLEAN, other)))


def test_the_table_names_settings_that_differ_and_fits_the_screen() -> None:
    text = shown(between(DIRTY, CLEAN, "dirty.json", "clean"))
    assert "capacity" in text
    assert "H100-SXM" in text
    assert "garbled letters" in text
    assert max(map(len, shown(between(DIRTY, CLEAN), 80).splitlines())) <= 80


def test_hostile_names_are_shown_harmless() -> None:
    data = between(hostile(planned(name=HOSTILE)), CLEAN, HOSTILE, "[red]b[/red]")
    text = shown(data)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]b[/red]" in text


def test_what_is_no_report_is_refused_with_the_file_and_the_next_step(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    cases = [
        (None, "no report here"),
        ("{", "not JSON"),
        ("[]", "not a report"),
        ('{"a": 1}', "not a report"),
        (json.dumps(CLEAN | {"plan": []}), "damaged: plan is a list"),
    ]
    for text, message in cases:
        wrong.unlink(missing_ok=True)
        if text is not None:
            wrong.write_text(text)
        with pytest.raises(UsageError, match=message) as error:
            load_report(wrong)
        assert error.value.where == str(wrong)
        assert error.value.hint


def test_the_command_prints_tables_or_json(files: tuple[Path, Path]) -> None:
    paths = [str(path) for path in files]
    assert "Documents, tokens, rows" in CliRunner().invoke(app, ["compare", *paths]).stdout
    printed = CliRunner().invoke(app, ["compare", *paths, "--json"]).stdout
    assert json.loads(printed) == json.loads(json.dumps(compare(*files).data))
