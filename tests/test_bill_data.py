"""The bill as plain data: what report.json holds of it, and how it is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_samples import planned, sample

from tokpack.errors import DataError
from tokpack.report.bill.cost_figures import Cost
from tokpack.report.values import Figures
from tokpack.settings.plain import from_plain, to_plain


@pytest.fixture(scope="module")
def cost() -> Cost:
    found = Figures.read(sample(training=planned())).cost
    assert found is not None
    return found


def figures_in(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        if "unit" in value:
            return [value]
        return [figure for item in value.values() for figure in figures_in(item)]
    return [figure for item in value for figure in figures_in(item)] if isinstance(value, list) else []


def test_every_figure_is_plain_json_and_names_its_source(cost: Cost) -> None:
    data = to_plain(cost)
    assert json.loads(json.dumps(data)) == data
    figures = figures_in(data)
    assert len(figures) > 150
    for figure in figures:
        assert (
            {"value", "unit", "source", "note"} <= set(figure) <= {"value", "unit", "source", "note", "high"}
        )
        assert figure["source"] in ("measured", "computed", "assumed")
        assert figure.get("high", figure["value"]) >= figure["value"] or figure["value"] < 0


def test_a_bill_read_back_is_the_one_that_was_written(cost: Cost) -> None:
    without_gpu = Figures.read(sample(training=planned(gpu=""))).cost
    for bill in (cost, without_gpu):
        assert from_plain(Cost, json.loads(json.dumps(to_plain(bill))), "cost") == bill
    assert Figures.read(sample()).cost is None


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("curve", "points", 1, "rows", "value"), "many", r"cost.curve.points\[1\].rows.value is a str"),
        (("gpu", "count"), True, "cost.gpu.count is a bool"),
        (("estimate",), [], "cost.estimate is a list"),
        (("memory", "parts", "total"), None, "cost.memory.parts.total is missing"),
        (("saved_share", "source"), "guessed", "cost.saved_share.source is a str"),
    ],
)
def test_a_damaged_bill_is_refused_with_the_place(cost: Cost, path: Any, value: Any, told: str) -> None:
    part = data = to_plain(cost)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(DataError, match=told) as error:
        from_plain(Cost, data, "cost")
    assert error.value.hint
