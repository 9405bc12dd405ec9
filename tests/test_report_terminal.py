"""Reports in a terminal, in a pipe, and in a notebook."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import pytest
from report_samples import hostile, planned, sample
from rich.console import Console, Group

from tokpack.cost import Figure
from tokpack.report.bill.cost_words import money
from tokpack.report.checks import checks_view
from tokpack.report.figures import Report
from tokpack.report.first_screen import first_screen
from tokpack.report.html import page
from tokpack.report.terminal import ledger_table, packed_panel, report_view, share, to_html
from tokpack.report.terminal_tables import Command, FactsGrid
from tokpack.report.values import Figures
from tokpack.report.words import COUNTERS, counters, make_bill
from tokpack.settings.plain import from_plain


def printed(renderable: Any, width: int = 80, terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
    )
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return sample(
        dropped={"exact_duplicate": 40, "empty_answer": 12, "held_out": 20},
        overlong=9,
        examples={"empty_answer": ["What is two and two?"]},
        counters={"special_token_stripped": 400, "special_token_inside": 0},
    )


@pytest.mark.parametrize("training", [None, "a10", "h100-sxm"])
@pytest.mark.parametrize("reasons", [0, 3, 30])
@pytest.mark.parametrize("width", [80, 100])
def test_what_analyze_prints_is_one_screen(training: str | None, reasons: int, width: int) -> None:
    dropped = {f"rule_{n}": n + 1 for n in range(reasons)} | {"overlong": 2}
    run = planned(gpu=training) if training else None
    data = sample(documents=900, dropped=dropped, overlong=9, training=run)
    model = "/home/me/.cache/tokpack/SmolLM2-135M-Instruct"
    screen = printed(Report(Figures.read(data), model), width)
    assert len(screen.splitlines()) <= (24 if width == 80 else 23)
    if run:
        command = screen[screen.index("tokpack train packed") : screen.index("--full prints")]
        assert "\n--" in command or "\n-o" in command  # as wide as the screen, nothing before a flag
        assert model in shlex.split(command.replace("\\\n", ""))
        assert re.search(
            r"^rows +\d+, 9\d\.\d\d% full; each needs [\d.]+ of [\d.]+ GiB, up to \d+ at once$", screen, re.M
        )
    headline = data["cost"]["comparison"][-1]["money"] if run else None
    assert (
        money(from_plain(Figure, headline, "money")) if headline else make_bill(Figures.read(data)).headline
    ) in screen
    assert f"{data['drops'][0]['documents']:,}" in screen
    assert "11 documents too long: 9 shortened by" in screen
    assert "2 left out" in screen
    assert "--full prints the rest" in screen
    if run:
        first = data["cost"]["recommendations"][:3]
        assert all(advice["flag"] in screen for advice in first)
    if reasons == 30:
        assert "28 more reasons" in screen


def test_what_ways_to_train_save_is_told_at_80_columns() -> None:
    text = printed(Report(Figures.read(sample(training=planned()))).full(), 80)
    assert re.search(r"full +GPU time +money +saved", text)


def test_the_report_begins_with_the_bill(data: dict[str, Any]) -> None:
    screen = "\n".join(printed(report_view(Figures.read(data))).splitlines()[:24])
    bill = make_bill(Figures.read(data))
    assert bill.headline in screen
    assert all(f"{bill.lines[n][1]:,}" in screen for n in (0, -1))
    assert f"{bill.lines[1][1]:+,}" in screen
    assert "documents" in screen
    assert "trained" in screen


def test_rows_the_bound_its_proof_and_the_gap_are_told_on_the_terminal_and_the_page(
    data: dict[str, Any],
) -> None:
    plan = data["plan"] | {"rows": 1219, "bound": 1213, "bound_kind": "LP", "gap": 1219 / 1213 - 1}
    for view in (
        printed(report_view(Figures.read(data | {"plan": plan})), 200),
        page(Figures.read(data | {"plan": plan})),
    ):
        text = " ".join(unescape(view).split())
        assert all(part in text for part in ("1,219", "1,213", "a linear program's bound", "0.495%"))
    met = plan | {"rows": 1213, "gap": 0.0}
    assert "fewer are impossible (a linear" in printed(report_view(Figures.read(data | {"plan": met})), 200)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(data: dict[str, Any], width: int) -> None:
    assert max(len(line) for line in printed(report_view(Figures.read(data)), width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 140])
def test_numbers_are_whole_and_true(data: dict[str, Any], width: int) -> None:
    text = printed(report_view(Figures.read(data)), width)
    numbers = [line["slots"] for line in data["slots"]]
    numbers += [drop[key] for drop in data["drops"] for key in ("documents", "tokens")]
    numbers += [data["ledger"]["trained"]["masked"], data["ledger"]["slots"]["free"]]
    assert not [n for n in numbers if not re.search(rf"(?<![\d,]){n:,}(?![\d,])", text)]


@pytest.mark.parametrize("width", range(112, 150, 6))
def test_bars_get_shorter_before_a_name_is_broken(data: dict[str, Any], width: int) -> None:
    slots = [line | {"rows": line["rows"] * 10, "slots": line["slots"] * 100} for line in data["slots"]]
    lines = printed(report_view(Figures.read(data | {"slots": slots})), width).splitlines()
    assert all(any(line["name"] in shown for shown in lines) for line in slots)


def test_figures_stand_in_columns(data: dict[str, Any]) -> None:
    lines = printed(report_view(Figures.read(data))).splitlines()
    names = tuple(line["name"] for line in data["slots"])
    ends = {re.search(r"[\d,]+ +[\d.]+%", line).end() for line in lines if line.startswith(names)}  # type: ignore[union-attr]
    assert len(ends) == 1


def test_a_pipe_gets_plain_text(data: dict[str, Any]) -> None:
    text = printed(report_view(Figures.read(data)), 140)
    assert "\x1b" not in text
    assert not re.search("[─-╿]", text.replace("━", "").replace("╸", "").replace("╺", ""))


def test_a_terminal_gets_few_colors(data: dict[str, Any]) -> None:
    codes = set(re.findall(r"\x1b\[([\d;]+)m", printed(report_view(Figures.read(data)), 140, terminal=True)))
    colors = {part for code in codes for part in code.split(";") if part in map(str, range(30, 38))}
    assert colors == {"32"}


@pytest.mark.parametrize("width", [80, 140])
def test_hostile_text_neither_steers_the_terminal_nor_counts_as_markup(width: int) -> None:
    text = printed(Group(report_view(Figures.read(hostile())), first_screen(Figures.read(hostile()))), width)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "\\u001b" in text
    assert "[bold]b[/bold].jsonl" in text
    assert "[red]no[/red]" in text
    text.encode("utf-8")


def test_hostile_text_gets_no_color_of_its_own() -> None:
    data = sample(dropped={"[red]x[/red]": 5}, sources=("[red]a[/]", "b"), tokenizer="[red]t[/red]")
    text = printed(report_view(Figures.read(data)), terminal=True)
    assert "31" not in set(re.findall(r"\x1b\[([\d;]+)m", text))
    assert text.count("[red]") >= 3


def test_nothing_kept_prints() -> None:
    text = printed(report_view(Figures.read(sample(documents=20, dropped={"empty_answer": 20}))))
    assert "Nothing is left to train on" in text
    assert "Of 20 documents none is kept" in text


def test_nothing_left_out_prints() -> None:
    assert "Nothing was left out." in printed(report_view(Figures.read(sample(documents=3))))


def test_long_tables_are_cut_and_say_so() -> None:
    data = sample(
        documents=90, dropped={f"rule_{n}": 2 for n in range(30)}, sources=tuple(f"{n}" for n in range(45))
    )
    text = printed(report_view(Figures.read(data)))
    assert "10 more reasons" in text
    assert "and 25 files more" in text


def test_the_ledger_is_four_lines(data: dict[str, Any]) -> None:
    lines = printed(ledger_table(Figures.read(data).ledger), 120).splitlines()
    assert [line.split()[0] for line in lines] == ["Ledger", "documents", "tokens", "slots", "trained"]
    for line in lines[1:]:
        total, *parts = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", line))
        assert total == sum(parts)


def manifest_of(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "documents": data["ledger"]["documents"]["kept"],
        "rows": data["plan"]["rows"],
        "capacity": data["capacity"],
        "tokens": data["ledger"]["tokens"]["packed"],
        "trained_tokens": data["ledger"]["trained"]["trained"],
        "plan": data["plan"],
        "ledger": data["ledger"],
        "tokenizer": {"name": "\x1b[31m[red]t[/red]"},
    }


def test_a_packed_dataset_is_one_screen(data: dict[str, Any]) -> None:
    manifest = manifest_of(data)
    text = printed(packed_panel(manifest))
    assert f"{manifest['documents']:,} documents packed into {manifest['rows']:,} rows" in text
    assert "\\u001b[31m[red]t[/red]" in text
    assert len(text.splitlines()) <= 24


def test_dealt_rows_say_how_long_ranks_wait_and_what_is_left_over(data: dict[str, Any]) -> None:
    dealt = {"world_size": 8, "rows_per_step": 2, "token_cost": 0, "steps": 56, "leftover_rows": 14}
    plan = data["plan"] | {"dealt": dealt | {"idle_share": 0.0031, "idle_share_shuffled": 0.3917}}
    text = " ".join(printed(packed_panel(manifest_of(data) | {"plan": plan})).split())
    assert "ranks 8 ranks wait 0.3% of the time, 39.2% with rows shuffled (attention alone counted)" in text
    assert "in 56 steps; the 14 rows that fill no step stand last" in text


@dataclass
class Check:
    name: str
    detail: str
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults


def test_checks_show_every_fault_and_no_markup() -> None:
    @dataclass
    class Verification:
        folder: str = "[red]packed[/red]"
        checks: tuple[Check, ...] = (
            Check("bytes", "3 files"),
            Check("rows", "[b]2[/b]", ["row 1 \x1b[2J", "row 2"]),
        )
        model: None = None

    text = printed(checks_view(Verification()))
    assert "verify [red]packed[/red]" in text
    assert "[b]2[/b]" in text
    assert "row 1 \\u001b[2J" in text
    assert "row 2" in text
    assert re.search(r"ok +bytes", text)
    assert re.search(r"FAULT +rows", text)


def test_a_notebook_gets_escaped_html() -> None:
    html = Report(Figures.read(hostile()))._repr_html_()
    assert html.startswith("<iframe")
    assert html.count("<") == 2  # the frame itself: its document is escaped
    assert to_html("x & y").count("&amp;") == 1


def test_share_is_offered_with_the_views() -> None:
    assert share(1, 4) == "25.0%"


def test_one_of_what_was_counted_is_told_in_the_singular():
    told = [words for _, words in counters(dict.fromkeys(COUNTERS, 1))]
    assert "document holds a special token inside its text" in told
    assert not [words for words in told if re.search(r"\b(are|they|were|have|hold|documents|turns)\b", words)]
    told = [words for _, words in counters(dict.fromkeys(COUNTERS, 2))]
    assert "documents hold a special token inside their text" in told
    assert not re.search(r"[|()]", " ".join(told))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_command_is_one_that_a_shell_takes_however_wide_the_screen_is(width: int) -> None:
    command = (
        "tokpack train packed --model '/models/my llama' -o adapter --method lora --epochs 1 --batch-rows 4"
    )
    text = printed(FactsGrid([("train with", Command(command))]), width)
    assert not re.search(r"\\[^\n]", text)  # a backslash before a space would end the command
    assert shlex.split(text.removeprefix("train with").replace("\\\n", "")) == shlex.split(command)
    assert "--epochs 1" in text  # a flag stays beside its value


def test_the_model_of_a_bill_is_where_it_lies_on_this_machine_and_nowhere_else() -> None:
    figures = Figures.read(sample(training=planned()))
    here, elsewhere = Report(figures, "/models/llama-8b"), Report(figures)
    for shown, place in ((here, "/models/llama-8b"), (elsewhere, "path/to/llama-8b")):
        wanted = f"tokpack train packed --model {place} -o adapter"
        assert wanted in printed(shown, 140)
        assert wanted in printed(shown.full(), 140)
    assert "/models" not in str(here.data)


def test_preferences_have_no_bill_and_are_offered_none() -> None:
    screen = printed(Report(Figures.read(sample() | {"kind": "preference"})))
    assert "says what training costs" not in screen
    assert "says what training costs" in printed(Report(Figures.read(sample())))
