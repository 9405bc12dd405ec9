"""Figures by a column of the data, kept documents as rendered, places of what was left out."""

from __future__ import annotations

import io
import json
import logging
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from report_samples import planned, sample

import tokpack
from tokpack.errors import UsageError
from tokpack.report.bill.what_if import what_if
from tokpack.report.data.rows_figures import RUN_ENDS, middle_out
from tokpack.report.values import Figures


def row(number: int, source: str, answer: str) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": answer},
    ]
    return {"source": source, "messages": messages}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve chats of two sources, a duplicate of the second one, an empty answer; line 4 is broken."""
    rows = [row(n, ("wiki", "forum")[n % 3 == 0], f"answer {n} " * (n + 1)) for n in range(12)]
    rows += [rows[1], row(12, "forum", " ")]
    lines = [json.dumps(line) for line in rows]
    path = tmp_path_factory.mktemp("by") / "chats.jsonl"
    path.write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")
    return path


@pytest.fixture(scope="module")
def report(chats: Path, qwen: Path) -> dict[str, Any]:
    found = tokpack.analyze(str(chats), tokenizer=str(qwen), max_length=256, allow_bad=0.2, by="source")
    return found.data


def test_the_values_of_a_column_add_up_to_the_ledger(report: dict[str, Any]) -> None:
    values = {line["name"]: line for line in report["by"]["values"]}
    assert {name: (line["read"], line["documents"]) for name, line in values.items()} == {
        "wiki": (9, 8),
        "forum": (5, 4),
    }
    assert values["wiki"]["dropped"] == {"exact_duplicate": 1}
    assert values["forum"]["dropped"] == {"empty_answer": 1}
    for key, total in (("packed", "packed"), ("trained", "trained")):
        assert sum(line[key] for line in values.values()) == report["ledger"]["trained"][total]


def test_pack_tells_them_as_analyze_does(
    chats: Path, qwen: Path, report: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"tokenizer": str(qwen), "max_length": 256, "allow_bad": 0.2}
    packed = tokpack.pack(str(chats), tmp_path / "packed", by="source", **given)
    assert packed.report["by"] == report["by"]
    caplog.set_level(logging.INFO, "tokpack")
    for same in ({"by": "source"}, {}):
        caplog.clear()
        tokpack.pack(str(chats), tmp_path / "packed", **same, **given)
        assert "already there" in caplog.text
    with pytest.raises(UsageError, match="a finished packed dataset is here"):
        tokpack.pack(str(chats), tmp_path / "packed", by="messages", **given)


def test_a_column_of_what_cannot_be_read_again_is_an_error(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(row(0, "wiki", "yes")).encode())))
    with pytest.raises(UsageError, match="can be read once"):
        tokpack.pack("-", tmp_path / "packed", tokenizer=str(qwen), max_length=256, by="source")
    assert not (tmp_path / "packed").exists()


def test_a_column_of_few_values_is_offered(report: dict[str, Any]) -> None:
    assert report["grouping"] == ["source"]


def test_a_column_that_no_row_has_is_an_error(chats: Path, qwen: Path) -> None:
    with pytest.raises(UsageError, match="no row has a value in 'sorce'") as caught:
        tokpack.analyze(str(chats), tokenizer=str(qwen), max_length=256, allow_bad=0.2, by="sorce")
    assert caught.value.where == "--by"
    assert "'source'" in str(caught.value.hint)


def test_a_path_that_no_row_has_is_an_error_that_names_the_nearest(qwen: Path) -> None:
    rows = [{"text": f"some words {number}", "meta": {"site": "a", "page": number}} for number in range(9)]
    with pytest.raises(UsageError, match=r"no row has a value in 'meta\.sit'") as caught:
        tokpack.analyze(rows, tokenizer=str(qwen), max_length=256, by="meta.sit")
    assert caught.value.hint == "did you mean 'meta.site' or 'meta'?"


def test_a_column_with_a_typo_is_an_error_before_anything_is_tokenized(
    chats: Path, qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Begun(Exception):
        pass

    def begin(*_: Any) -> None:
        raise Begun

    monkeypatch.setattr("tokpack.pipeline.decided", begin)
    given = {"tokenizer": str(qwen), "max_length": 256, "allow_bad": 0.2}
    table = tmp_path / "rows.parquet"
    pl.DataFrame({"text": ["some words"] * 3, "site": ["a", "b", "c"]}).write_parquet(table)
    for data, column in ((chats, "sorce"), (table, "source")):
        with pytest.raises(UsageError, match=f"no row has a value in '{column}'"):
            tokpack.analyze(str(data), by=column, **given)
        with pytest.raises(UsageError, match=f"no row has a value in '{column}'"):
            tokpack.pack(str(data), tmp_path / "packed", by=column, **given)
        assert not (tmp_path / "packed").exists()
    with pytest.raises(Begun):
        tokpack.analyze(str(chats), by="source", **given)
    assert "--by" not in caplog.text
    with pytest.raises(Begun):  # further rows may have it
        tokpack.analyze(str(chats), by="quality", **given)
    assert "--by: none of the first rows has a value in 'quality'; known: messages, " in caplog.text


def test_kept_documents_are_shown_as_rendered(report: dict[str, Any]) -> None:
    assert len(report["kept"]) == 3
    for document in report["kept"]:
        trained = "".join(text for text, is_trained in document["runs"] if is_trained)
        context = "".join(text for text, is_trained in document["runs"] if not is_trained)
        assert trained.startswith("answer")
        assert "question" in context
        assert 0 < document["trained"] < document["tokens"]


def test_what_was_left_out_has_its_place_and_a_duplicate_the_other_one(report: dict[str, Any]) -> None:
    places = {drop["reason"]: drop["places"] for drop in report["drops"]}
    assert places["exact_duplicate"] == [{"place": "chats.jsonl:14", "detail": "", "other": "chats.jsonl:2"}]
    assert [entry["place"] for entry in places["empty_answer"]] == ["chats.jsonl:15"]


def test_a_long_run_keeps_both_ends() -> None:
    text = "a" * 1000 + "b" * 1000
    short = middle_out(text)
    assert short.startswith("a" * RUN_ENDS)
    assert short.endswith("b" * RUN_ENDS)
    assert f"{2000 - 2 * RUN_ENDS:,} characters" in short
    assert middle_out("short") == "short"


def test_inputs_of_the_page_begin_at_the_bill() -> None:
    cost = Figures.read(sample(training=planned())).cost
    assert cost is not None
    assert cost.estimate is not None
    inputs = what_if(cost)
    assert inputs is not None
    now = next(length for length in inputs.lengths if length.capacity == inputs.current)
    money = cost.estimate.money
    assert money is not None
    low, high = inputs.start_hours
    assert (now.low_hours + low) * inputs.price == pytest.approx(money.value)
    assert (now.high_hours + high) * inputs.price == pytest.approx(money.high)
    steps = math.ceil(now.rows / inputs.rows_per_step) * inputs.epochs
    assert steps == cost.run_plan.use.steps.value


def test_a_bill_without_money_has_no_inputs() -> None:
    assert what_if(Figures.read(sample(training=planned(gpu=""))).cost) is None


def test_values_that_are_no_text_are_told_as_text(qwen, tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    values = ["\ud800", 1.5, [None], {"a": "\udfff"}, "", None]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": turns, "kind": value}) + "\n" for value in values))
    by = tokpack.analyze(str(path), tokenizer=str(qwen), max_length=64, by="kind").data["by"]
    assert {line["name"]: line["read"] for line in by["values"]} == {
        **{"?": 1, "1.5": 1, "[None]": 1, "(none)": 2},
        "{'a': '\\udfff'}": 1,
    }
