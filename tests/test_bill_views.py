"""The bill as people meet it: beside the packed dataset, in the terminal, on the page, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_samples import HOSTILE, LLAMA_8B, hostile, planned, sample
from rich.console import Console

import tokpack
from tokpack.cost import Figure
from tokpack.report.bill.cost_charts import money_ticks, thinned
from tokpack.report.bill.cost_words import amount, big, hours, money
from tokpack.report.bill.cost_words import flops as flops_words
from tokpack.report.figures import Report
from tokpack.report.html import page
from tokpack.report.values import Figures


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bill") / "chats.jsonl"
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"say {i} " * (i % 40)},
                {"role": "assistant", "content": f"{i}"},
            ]
        }
        for i in range(1, 200)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_without_a_model_the_report_has_no_cost_and_with_one_nothing_else_changes(
    chats: Path, qwen: Path
) -> None:
    options = {"tokenizer": str(qwen), "max_length": 256}
    plain = tokpack.analyze(str(chats), **options).data
    assert "cost" not in plain
    config = chats.parent / "config.json"
    config.write_text(json.dumps(LLAMA_8B))
    priced = tokpack.analyze(str(chats), **options, model=str(config), gpu="a10").data
    assert priced.pop("cost")["estimate"]["money"]["value"] > 0
    assert priced["ranks"] is plain["ranks"] is None
    assert priced == plain


def test_the_bill_is_no_part_of_the_packed_dataset(chats: Path, qwen: Path, tmp_path: Path) -> None:
    config = chats.parent / "config.json"
    config.write_text(json.dumps(LLAMA_8B))
    options = {"tokenizer": str(qwen), "max_length": 256}
    plain = tokpack.pack(str(chats), tmp_path / "plain", **options)
    priced = tokpack.pack(str(chats), tmp_path / "priced", **options, model=str(config), gpu="a10")
    assert plain.manifest == priced.manifest
    report = json.loads((priced.folder / "report.json").read_text())
    assert report["cost"]["gpu"]["key"] == "A10"
    assert "cost" not in json.loads((plain.folder / "report.json").read_text())


def ranged(low: float, high: float | None = None) -> Figure:
    return Figure(low, "", "assumed", "", high)


# Views


@pytest.mark.parametrize("gpu", ["a10", "t4", ""])
@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_shows_the_bill_first(gpu: str, width: int) -> None:
    data = sample(training=planned(gpu=gpu), dropped={"empty_answer": 20}, overlong=5)
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(Report(Figures.read(data)).full())
    text = console.export_text()
    assert text.index("Training ") < text.index("fewer token slots")
    assert "tokpack train packed" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.slow
def test_hostile_names_do_nothing_in_terminal_and_page() -> None:
    data = hostile(planned(name=HOSTILE))
    data["cost"]["gpu"]["key"] = data["cost"]["cards"][0]["key"] = HOSTILE
    data["cost"]["gpu"]["price"]["note"] = data["cost"]["api"][0]["provider"] = HOSTILE
    data["cost"]["memory"]["advice"] = [{"do": HOSTILE, "flag": HOSTILE}]
    data["cost"]["memory"]["fits"] = False
    data["cost"]["model"]["notes"] = data["cost"]["run_plan"]["warnings"] = [HOSTILE]
    drawn = page(Figures.read(data))
    assert "<script>alert" not in drawn
    assert "<img" not in drawn
    assert "\x1b" not in drawn
    assert "{{ 7" in drawn  # shown, not run
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(Report(Figures.read(data)))
    console.print(Report(Figures.read(data)).full())
    text = console.export_text(clear=False)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]bold[/red]" in text  # no markup


@pytest.mark.slow
def test_the_page_has_the_sections_of_the_bill_and_stays_without_them_when_there_is_none() -> None:
    with_bill = page(Figures.read(sample(training=planned())))
    for name in ("cost", "advice", "run", "ways", "capacities", "memory", "prices", "assumptions"):
        assert f'id="{name}"' in with_bill
    assert with_bill.count("<h1>") == 1
    without = page(Figures.read(sample()))
    assert 'id="cost"' not in without
    assert without.count("<h1>") == 1


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (ranged(3.1, 5.6), "$3.10 to $5.60"),
        (ranged(0.00126, 0.00227), "$0.0013 to $0.0023"),
        (ranged(1234.5), "$1,234"),
        (ranged(-2.0, -1.0), "-$2.00 to -$1.00"),
    ],
)
def test_money_in_words(figure: Figure, words: str) -> None:
    assert money(figure) == words


def test_hours_work_and_sizes_in_words() -> None:
    assert hours(ranged(12.2, 21.9)) == "12 to 22 h"
    assert hours(ranged(0.2, 0.36)) == "12 to 22 min"
    assert hours(ranged(0.0001, 0.0002)) == "0.36 to 0.72 s"
    assert flops_words(ranged(1.53e16)) == "15.3 PFLOP"
    assert flops_words(ranged(0)) == "0 GFLOP"
    assert [amount(v) for v in (0, 0.00126, 0.5, 3.456)] == ["0", "0.0013", "0.50", "3.46"]
    assert [big(v) for v in (8.03e9, 135e6, 900)] == ["8.03B", "135M", "900"]


def test_ticks_are_round_and_reach_the_highest() -> None:
    assert money_ticks(18.5) == [0, 5, 10, 15, 20]
    assert money_ticks(0.0023)[-1] >= 0.0023
    assert thinned([1, 2, 3, 4, 5, 6, 7], 4) == [1, 3, 5, 7]
