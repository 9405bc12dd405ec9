"""Finding planners, built in and of one's own, and checking what they return."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tokpack import plugins
from tokpack.errors import InternalError, UsageError
from tokpack.stages.plan import (
    BUILT_IN,
    make_plan,
    resolve,
)


def reversed_rows(lengths: np.ndarray, capacity: int) -> np.ndarray:
    return np.arange(len(lengths))[::-1]


def all_in_one(lengths: np.ndarray, capacity: int, **options: Any) -> np.ndarray:
    return np.zeros(len(lengths), dtype=np.int64)


def with_a_gap(lengths: np.ndarray, capacity: int) -> np.ndarray:
    return np.where(np.arange(len(lengths)) > 0, 2, 0)


def too_short(lengths: np.ndarray, capacity: int) -> np.ndarray:
    return np.zeros(1)


def failing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    raise ValueError("out of luck")


def test_a_planner_may_be_a_callable_or_a_name_in_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_plan([3, 2], 8, reversed_rows).row_of_doc.tolist() == [1, 0]
    monkeypatch.setitem(sys.modules, "my_planners", sys.modules[__name__])
    assert make_plan([3, 2], 8, "my_planners:reversed_rows").row_of_doc.tolist() == [1, 0]
    assert make_plan([3, 2], 8, "my_planners:all_in_one", max_docs_per_row=2).rows == 1


def test_a_planner_may_come_from_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    monkeypatch.setitem(sys.modules, "my_planners", sys.modules[__name__])
    entry = EntryPoint("mine", "my_planners:all_in_one", "tokpack.planners")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    assert make_plan([3, 2], 8, "mine").rows == 1
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        resolve("mines")


@pytest.mark.parametrize(
    ("planner", "fault"),
    [
        (all_in_one, "row 0 has 10 tokens, capacity is 8"),
        (with_a_gap, "row 1 is empty"),
        (too_short, "not one row number each"),
        (failing, "ValueError: out of luck"),
    ],
)
def test_a_bad_plan_of_a_plug_in_names_the_plug_in(planner: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault) as error:
        make_plan([6, 2, 2], 8, planner)
    assert planner.__name__ in str(error.value)


def test_a_bad_plan_of_ours_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "bfd", all_in_one)
    with pytest.raises(InternalError, match="bfd"):
        make_plan([6, 6], 8)


def test_an_option_the_planner_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="max_docs_per_row"):
        make_plan([3, 2], 8, reversed_rows, max_docs_per_row=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [("bdf", "did you mean 'bfd'"), ("no_such_module:plan", "cannot load"), ("json:no_such", "cannot load")],
)
def test_unknown_planners_get_a_hint(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(name)


def test_planning_imports_numba_only_when_asked_to() -> None:
    code = (
        "import sys; from tokpack.stages.plan import make_plan; make_plan([3, 2], 8);"
        "print([m for m in ('numba', 'highspy', 'polars', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_planners_compile_where_no_cache_can_be_written(tmp_path):
    """numba keeps compiled code beside the source or in the home; here both are refused."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from tokpack.stages.plan import make_plan\n"
        "import numpy as np\n"
        "print(make_plan(np.array([3, 5, 2], dtype=np.int32), 8, 'xfill', 0, None).rows)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"
