"""The page and the screen of an evaluation: text from data stays text, and all fits phone and 80 columns."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from report_samples import HOSTILE
from rich.console import Console
from test_report_browser import browser  # noqa: F401

from tokpack.terminal.printable import printable
from trainer_plugin.evaluation.gates import Outcome
from trainer_plugin.evaluation.held_out import AdapterComparison, Extreme, Group, Pairs
from trainer_plugin.evaluation.page import page
from trainer_plugin.evaluation.run import EvaluatedPart, Evaluation
from trainer_plugin.evaluation.statistics import Interval
from trainer_plugin.evaluation.tasks import TaskComparison
from trainer_plugin.evaluation.words import verdict

LESS, UNSURE, MORE = Interval(-0.4, -0.5, -0.3), Interval(0.01, -0.1, 0.12), Interval(0.2, 0.1, 0.3)
TEXT, LONG = HOSTILE.replace("\ud800", ""), "x" * 300


def evaluation(name: str, adapters: int = 1) -> Evaluation:
    """Everything that there can be, with `name` for each name and text of it."""
    shown = Extreme(3, 1, name, name, 40, 20, 2.0, 1.5, name, name)
    groups = [Group(name + str(i), 9, 90, 2.0, 1.6, Interval(-0.4) if i == 1 else LESS) for i in range(9)]
    pairs = Pairs(
        30, "dpo", 0.1, Interval(0.7, 0.5, 0.8), MORE, Interval(0.5, 0.3, 0.7), Interval(0.6, 0.4, 0.8)
    )
    names = [f"{i}{name}" for i in range(adapters)]
    comparisons = [
        AdapterComparison(
            one,
            40,
            900,
            2.0,
            1.6,
            difference,
            Interval(0.9, 0.8, 0.95),
            groups,
            groups,
            [shown],
            [shown],
            pairs,
        )
        for one, difference in zip(names, (LESS, UNSURE, MORE), strict=False)
    ]
    part = EvaluatedPart(name, "validation", 5, 40, 2_000, comparisons)
    task = TaskComparison(
        adapter=names[0], task=name, metric="acc", filter=name, questions=500, limit=0,
        higher_is_better=True, primary=True, base=Interval(0.5, 0.4, 0.6), value=Interval(0.6, 0.5, 0.7),
        difference=MORE, p_value=0.01, only_base=3, only_adapter=9,
    )  # fmt: skip
    texts = TaskComparison(
        adapter=names[0], task=name, metric="word_perplexity", filter="none", questions=5, limit=5,
        higher_is_better=False, primary=True, base=MORE, value=MORE, difference=UNSURE,
    )  # fmt: skip
    return Evaluation(
        model=name[:150], base_weights="as they are", dtype="float32", attn="tokpack",
        adapters=dict.fromkeys(names, name), held_out=part, control=part, tasks=[task, texts],
        notes=[name], versions={"torch": "2"}, gates=[Outcome(name, names[0], False, name)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """By the name that stands everywhere in them."""
    return {name: page(evaluation(name, adapters)) for name, adapters in (("gsm", 2), (TEXT, 3), (LONG, 2))}


@pytest.mark.slow
def test_text_from_data_stays_text_on_the_page(pages):
    html = pages[TEXT]
    assert "<script" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert not [c for c in html if c not in "\n\t" and printable(c) != c]
    assert "script-src" not in html
    assert "default-src 'none'" in html


def test_a_verdict_on_one_adapter_alone_stands_once_on_the_page():
    found = evaluation("gsm")
    words = verdict(found.held_out.comparisons[0])
    assert page(found).lower().count(words) == 1


@pytest.mark.slow
def test_equal_evaluations_give_equal_pages(pages):
    assert page(evaluation("gsm", 2)) == pages["gsm"]
    assert "1 of 3 adapters is better than its base" in pages[TEXT]


@pytest.mark.parametrize("adapters", [1, 3])
def test_the_screen_has_80_columns_and_steers_no_terminal(adapters):
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(evaluation(TEXT, adapters))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [c for c in file.getvalue() if c != "\n" and printable(c) != c]
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(evaluation("gsm", adapters))
    assert len(file.getvalue().splitlines()) <= 60
    assert "0gsm: better: a trained token is 1.49 times as likely as by the base" in file.getvalue()
    assert "acc" in file.getvalue()


@pytest.mark.parametrize(
    ("value", "said"),
    [(-0.4, "better: a trained token is 1.49 times"), (-0.0048, "1.005 times"), (0.0004, "0.9996 times")],
)
def test_better_is_never_one_time_as_likely(value, said):
    one = replace(
        evaluation("gsm").held_out.comparisons[0], difference=Interval(value, value - 1e-5, value + 1e-5)
    )
    assert said in verdict(one)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_screen_and_asks_for_nothing(
    browser,  # noqa: F811
    pages,
    width,
    tmp_path,
):
    for html in pages.values():
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        tab, events = browser.new_page(viewport={"width": width, "height": 900}), []
        tab.on("console", lambda message, events=events: events.append(message.text))
        tab.on("dialog", lambda dialog, events=events: events.append(dialog.message))
        tab.on("request", lambda request, events=events: events.append(request.url))
        tab.goto(path.as_uri())
        for summary in tab.query_selector_all("summary"):
            summary.click()
        assert events == [path.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("svg:visible").count() == tab.locator(".chart").count() > 5
        tab.close()
