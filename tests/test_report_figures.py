"""The figures that all views are drawn from."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import sample

from tokpack.cost import run_plan
from tokpack.on_disk.reasons import REASONS
from tokpack.report.figures import Report, bin_edges, length_figures
from tokpack.report.values import Figures
from tokpack.report.words import make_bill, share
from tokpack.stages.rules import RULES

lengths = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@given(lengths, st.integers(1, 6000))
def test_the_histogram_holds_every_document_and_no_bin_crosses_the_capacity(
    tokens: list[int], capacity: int
) -> None:
    figures = length_figures(np.array(tokens), capacity)
    bins = figures.histogram
    assert sum(b.documents for b in bins) == len(tokens)
    assert sum(b.tokens for b in bins) == sum(tokens)
    assert all(left.end == right.start for left, right in pairwise(bins))
    assert not any(b.start <= capacity < b.end - 1 for b in bins)
    assert sum(b.documents for b in bins if b.start > capacity) == figures.overlong


def test_bins_are_equal_steps_of_log_length() -> None:
    edges = bin_edges(100, 99_999, 5_000)
    steps = np.diff(np.log(edges))[1:-1]
    assert steps.min() > 0.9 * steps.max()
    assert 38 <= len(edges) <= 43


def test_held_out_documents_are_no_saving() -> None:
    report = sample(documents=100, dropped={"held_out": 60})
    raw, packed = report["slots"][1], report["slots"][-1]
    assert raw["tokens"] == packed["tokens"]
    assert raw["slots"] == report["slots"][3]["slots"]


def test_steps_of_packed_rows_are_those_of_the_equal_recipe() -> None:
    data = sample()
    lines = data["slots"]
    assert [line["steps"] for line in lines[:5]] == [50] * 5
    plan = run_plan(documents=400, packed_rows=data["plan"]["rows"], batch_size=8)
    assert lines[5]["steps"] == plan.equal.steps
    assert lines[5]["saved"] == lines[1]["slots"] - lines[5]["slots"]
    assert lines[1]["saved"] == 0


@pytest.mark.parametrize(
    "data",
    [
        sample(dropped={"empty_answer": 30}),
        sample(overlong=30),
        sample(dropped={"held_out": 100}),
        sample(documents=8),
    ],
    ids=["left out", "shortened", "held out", "few"],
)
def test_the_bill_adds_up(data: dict) -> None:
    bill = make_bill(Figures.read(data))
    (_, before), *changes, (_, after) = bill.lines
    assert before + sum(slots for _, slots in changes) == after
    assert (before, after) == (data["slots"][1]["slots"], data["ledger"]["slots"]["total"])
    assert (bill.before, bill.after) == (before, after)


def test_the_bill_does_not_praise_packing_that_saves_nothing() -> None:
    data = sample(capacity=64, documents=64)
    for line in data["slots"][:5]:
        line["slots"] = data["slots"][-1]["tokens"]
    bill = make_bill(Figures.read(data))
    assert bill.headline == "Packing saves no token slots here"
    assert "10 hours" not in bill.explanation
    data["slots"][1]["slots"] = round(data["slots"][-1]["slots"] * 1.012)
    assert make_bill(Figures.read(data)).headline.startswith("Packing changes little here")


def test_free_slots_of_rows_that_are_not_full_cost_nothing() -> None:
    data = sample(documents=3)
    last, padded = data["slots"][-1], data["slots"][1]
    last["slots"], padded["slots"] = 8 * last["tokens"], 2 * last["tokens"]
    bill = make_bill(Figures.read(data))
    assert bill.headline == "50% less to compute: free slots of packed rows cost nothing"
    assert f"{last['tokens']:,} tokens in packed rows" in bill.explanation
    assert f"would compute {last['slots']:,}" in bill.explanation


def test_a_report_says_its_headline_as_text() -> None:
    data = sample()
    assert make_bill(Figures.read(data)).headline in repr(Report(Figures.read(data)))


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert share(99_999, 100_000) == ">99.9%"
    assert share(1, 100_000) == "<0.1%"
    assert share(0, 5) == "0.0%"
    assert share(5, 5) == "100.0%"
    assert share(1, 0) == "none"
    assert share(0.99946, 1, 2) == "99.95%"


def test_every_built_in_rule_is_explained_in_words() -> None:
    assert set(RULES) <= set(REASONS)
