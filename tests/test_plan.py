"""Planners: valid plans whatever the lengths, bounds that hold, and plans that never change for a name.

A golden plan that differs means a changed planner, and a changed planner is a new name: goldens are not
renewed. A new name gets its file when the tests run with TOKPACK_WRITE_GOLDEN=1.
"""

from __future__ import annotations

import builtins
import hashlib
import itertools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_lengths import many_lengths

from tokpack.errors import UsageError
from tokpack.stages.plan import (
    BUILT_IN,
    bound,
    deal,
    make_plan,
    resolve,
    row_order,
)
from tokpack.stages.planners import layout
from tokpack.stages.planners.bfd import best_fit_strips
from tokpack.stages.planners.row_by_row import row_by_row_strips

GOLDEN = Path(__file__).parent / "golden" / "plan"
POWERS = [2**n + off for n in (3, 6, 11) for off in (-1, 0, 1)]


def planner_names() -> list[Any]:
    optimal = pytest.mark.skipif(not has_highspy(), reason="highspy is not installed")
    return [pytest.param(name, marks=optimal if name == "optimal" else ()) for name in sorted(BUILT_IN)]


def has_highspy() -> bool:
    try:
        import highspy  # noqa: F401
    except ImportError:
        return False
    return True


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    capacity = draw(st.sampled_from([1, 2, *POWERS]))
    kind = draw(st.sampled_from(["any", "few", "full", "half"]))
    low, high = {"any": (1, capacity), "few": (1, capacity), "full": (capacity, capacity)}.get(
        kind, (max(1, capacity // 2 - 1), min(capacity, capacity // 2 + 2))
    )
    if kind == "few":
        length = st.sampled_from(draw(st.lists(st.integers(low, high), min_size=1, max_size=4)))
    else:
        length = st.integers(low, high)
    return np.array(draw(st.lists(length, max_size=60)), dtype=np.int32), capacity


@pytest.mark.parametrize("name", planner_names())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), seed=st.integers(0, 2**40), max_docs=st.none() | st.integers(1, 5), data=st.data())
def test_every_planner_puts_each_document_in_one_row_that_holds_it(
    name: str, case: tuple[np.ndarray, int], seed: int, max_docs: int | None, data: st.DataObject
) -> None:
    lengths, capacity = case
    plan = make_plan(lengths, capacity, name, seed, max_docs)
    assert plan.row_of_doc.dtype == np.int32
    assert plan.row_of_doc.shape == lengths.shape
    rows = np.bincount(plan.row_of_doc, minlength=1)[: plan.rows]
    loads = np.bincount(plan.row_of_doc, weights=lengths, minlength=1)[: plan.rows]
    assert len(rows) == plan.rows == len(set(plan.row_of_doc.tolist()))
    assert (loads <= capacity).all()
    assert max_docs is None or (rows <= max_docs).all()
    assert plan.bound <= plan.rows
    again = make_plan(lengths, capacity, name, seed, max_docs)
    assert (again.row_of_doc == plan.row_of_doc).all()


@pytest.mark.parametrize("name", planner_names())
def test_no_documents_make_no_rows(name: str) -> None:
    plan = make_plan([], 8, name)
    assert (plan.rows, plan.tokens, plan.bound, plan.gap, plan.fill) == (0, 0, 0, 0.0, 0.0)
    assert plan.row_of_doc.shape == (0,)
    assert resolve(name)(np.empty(0, np.int32), 8).shape == (0,)


@pytest.mark.parametrize("name", planner_names())
@pytest.mark.parametrize("capacity", POWERS)
def test_documents_of_exactly_the_capacity_get_a_row_each(name: str, capacity: int) -> None:
    assert make_plan([capacity], capacity, name).rows == 1
    plan = make_plan([capacity] * 5, capacity, name)
    assert sorted(plan.row_of_doc) == [0, 1, 2, 3, 4]
    assert (plan.fill, plan.gap) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["bfd", "xfill", *(["optimal"] if has_highspy() else [])])
@pytest.mark.parametrize("capacity", POWERS)
def test_complements_fill_rows_to_the_last_token(name: str, capacity: int) -> None:
    short = np.arange(1, capacity // 2 + 1)
    plan = make_plan(np.concatenate((short, capacity - short)), capacity, name)
    assert plan.rows == plan.bound


@pytest.mark.parametrize("name", planner_names())
def test_the_plan_of_a_name_never_changes(name: str) -> None:
    found, capacity = {}, 512 if name == "optimal" else 2048
    for kind, seed, max_docs in (("skewed", 0, None), ("skewed", 7, 6), ("hard", 1, None)):
        lengths = many_lengths(kind, 3000, capacity)
        plan = make_plan(lengths, capacity, name, seed, max_docs)
        found[f"{kind}, seed {seed}, max_docs_per_row {max_docs}"] = {
            "rows": plan.rows,
            "bound": plan.bound,
            "sha256": hashlib.sha256(plan.row_of_doc.astype("<i4").tobytes()).hexdigest(),
        }
    if name == "optimal":  # which of several best plans HiGHS comes to is its build's business
        solver = f"HiGHS {version('highspy')} on {platform.machine()}"
        known = json.loads((GOLDEN / f"{name}_by_build.json").read_text(encoding="utf-8"))
        if solver in known:
            assert found == known[solver]
        found = {case: {"bound": figures["bound"]} for case, figures in found.items()}
    compare(name, found)


def test_row_order_and_deal_never_change() -> None:
    costs = (many_lengths("skewed", 500, 2048).astype(float)) ** 2
    order, leftover = deal(costs, 4, 16, 3)
    found = {
        "row_order": hashlib.sha256(row_order(1000, 5).astype("<i8").tobytes()).hexdigest(),
        "deal": hashlib.sha256(np.concatenate((order, leftover)).astype("<i8").tobytes()).hexdigest(),
    }
    compare("order", found)


def compare(name: str, found: dict[str, Any]) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("TOKPACK_WRITE_GOLDEN") and not path.exists():
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def fewest_rows(lengths: list[int], capacity: int) -> int:
    """The optimum, by trying: documents longest first, each into every row that differs."""
    best = len(lengths)

    def place(index: int, loads: list[int]) -> None:
        nonlocal best
        if len(loads) >= best:
            return
        if index == len(lengths):
            best = len(loads)
            return
        length = lengths[index]
        for load in sorted(set(loads)):
            if load + length <= capacity:
                row = loads.index(load)
                place(index + 1, [*loads[:row], load + length, *loads[row + 1 :]])
        place(index + 1, [*loads, length])

    lengths = sorted(lengths, reverse=True)
    place(0, [])
    return best


@settings(max_examples=150, deadline=None)
@given(st.integers(3, 24).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=9))))
def test_the_bound_never_exceeds_the_optimum(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    optimum = fewest_rows(lengths, capacity)
    assert -(-sum(lengths) // capacity) <= bound(lengths, capacity) <= optimum
    for name in ("bfd", "xfill", *(["optimal"] if has_highspy() else [])):
        plan = make_plan(lengths, capacity, name)
        assert plan.bound <= optimum <= plan.rows


def test_the_l2_bound_sees_documents_over_half_the_capacity() -> None:
    assert bound([6, 6, 6], 10) == 3
    assert make_plan([6, 6, 6], 10).bound_kind == "L2"
    # Nothing goes beside a 6, two 5s share a row: 2 + 2, where ceil(27 / 10) says 3.
    assert bound([6, 6, 5, 5, 5], 10) == 4


@pytest.mark.skipif(not has_highspy(), reason="highspy is not installed")
def test_column_generation_beats_the_heuristics_and_proves_it() -> None:
    lengths = many_lengths("hard", 4000, 512)
    best, quick = make_plan(lengths, 512, "optimal"), make_plan(lengths, 512, "xfill")
    assert best.bound_kind == "LP"
    assert best.bound > quick.bound
    assert best.rows - best.bound <= 3 < quick.rows - best.rows


@pytest.mark.skipif(not has_highspy(), reason="highspy is not installed")
def test_rounded_lengths_give_a_valid_plan_and_a_valid_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokpack.stages.planners import optimal

    lengths = many_lengths("hard", 4000, 512)
    exact = make_plan(lengths, 512, "optimal")
    monkeypatch.setattr(optimal, "EXACT_SIZES", 100)
    monkeypatch.setattr(optimal, "ROUNDED_SIZES", 60)
    plan = make_plan(np.append(lengths, 511), 512, "optimal")
    assert plan.bound_kind == "LP"
    assert 0.98 * exact.bound <= plan.bound <= exact.rows + 1
    assert plan.rows <= make_plan(np.append(lengths, 511), 512, "xfill").rows


@pytest.mark.slow
@pytest.mark.skipif(not has_highspy(), reason="highspy is not installed")
def test_a_limit_keeps_the_best_plan_so_far_and_only_that_of_time_is_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tokpack.stages.planners import optimal

    lengths = many_lengths("hard", 4000, 2048)
    whole = optimal.solve(lengths, 2048)
    in_time = optimal.solve(lengths, 2048, time_limit=0.0)
    monkeypatch.setattr(optimal, "ITERATIONS", 2000)
    by_work = [optimal.solve(lengths, 2048) for _ in range(2)]
    assert (by_work[0].row_of_doc == by_work[1].row_of_doc).all()
    for cut_short in (in_time, by_work[0]):
        rows = cut_short.row_of_doc
        assert np.bincount(rows, weights=lengths).max() <= 2048
        assert whole.row_of_doc.max() < rows.max() < make_plan(lengths, 2048, "xfill").rows
        assert cut_short.proven <= whole.row_of_doc.max() + 1
    assert "another machine" in in_time.note
    assert by_work[0].note == whole.note == ""
    monkeypatch.setattr(optimal, "solve", lambda *args, **options: in_time)
    assert make_plan(lengths, 2048, "optimal").note == in_time.note
    assert "another machine" in caplog.text


def test_without_highspy_optimal_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "highspy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(UsageError, match=r"pip install 'tokpack\[optimal\]'"):
        make_plan([3, 2], 8, "optimal")


def test_sequential_keeps_the_order_of_the_input() -> None:
    assert make_plan([5, 3, 1, 7, 2, 2], 8, "sequential").row_of_doc.tolist() == [0, 0, 1, 1, 2, 2]
    assert make_plan([5, 3, 1, 7, 2, 2], 8, "sequential", max_docs_per_row=1).rows == 6
    assert make_plan([5, 3, 1], 8, "none").row_of_doc.tolist() == [0, 1, 2]


def test_sequential_is_next_fit_across_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokpack.stages.planners import in_order

    monkeypatch.setattr(in_order, "BLOCK", 7)
    lengths = many_lengths("skewed", 300, 100)
    row, load, expected = 0, 0, []
    for length in lengths.tolist():
        if load + length > 100:
            row, load = row + 1, 0
        load += length
        expected.append(row)
    assert make_plan(lengths, 100, "sequential").row_of_doc.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(cases())
def test_best_fit_by_classes_is_best_fit_document_by_document(case: tuple[np.ndarray, int]) -> None:
    lengths, capacity = case
    free: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [space for space in free if space >= length]
        space = min(fitting, default=capacity)
        if fitting:
            free.remove(space)
        free.append(space - length)
    sizes, counts = np.unique(lengths, return_counts=True)
    _, rows = best_fit_strips(sizes[::-1].tolist(), counts[::-1].tolist(), capacity)
    assert rows == len(free)


def test_rows_filled_one_by_one_save_what_best_fit_loses_on_short_documents() -> None:
    lengths = np.concatenate((np.full(3400, 60), np.full(2000, 44), np.full(1000, 42)))
    sizes, counts = np.unique(lengths, return_counts=True)
    falling = sizes[::-1].tolist(), counts[::-1].tolist()
    assert row_by_row_strips(*falling, 2048)[1] < best_fit_strips(*falling, 2048)[1]


def test_the_seed_shuffles_documents_of_equal_length_only() -> None:
    lengths = np.repeat([6, 4, 3], 200)
    plans = [make_plan(lengths, 10, seed=seed) for seed in (0, 1)]
    assert (plans[0].row_of_doc != plans[1].row_of_doc).any()
    contents = [
        sorted(sorted(lengths[plan.row_of_doc == row].tolist()) for row in range(plan.rows)) for plan in plans
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["bfd", "xfill"])
def test_the_order_of_files_does_not_leak_into_packs(name: str) -> None:
    lengths = np.full(4000, 10)  # two files, one after the other, all documents of one length
    plan = make_plan(lengths, 100, name)
    second_file = np.bincount(plan.row_of_doc, weights=np.arange(4000) >= 2000)
    assert (second_file % 10 > 0).mean() > 0.9  # most rows hold documents of both files


@pytest.mark.parametrize("name", planner_names())
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(-1, 6)), max_size=40), st.booleans())
def test_documents_of_a_group_go_into_one_row(name: str, case: list[tuple[int, int]], limited: bool) -> None:
    lengths = np.array([length for length, _ in case], dtype=np.int32)
    pairs = np.array([pair for _, pair in case], dtype=np.int32)
    largest = max([1, *np.bincount(pairs[pairs >= 0])]) if len(pairs) else 1
    plan = make_plan(lengths, 800, name, max_docs_per_row=2 * largest if limited else None, pairs=pairs)
    for group in set(pairs[pairs >= 0].tolist()):
        assert len(set(plan.row_of_doc[pairs == group].tolist())) == 1
    assert plan.bound <= plan.rows
    if limited and len(pairs):
        assert np.bincount(plan.row_of_doc).max() <= 2 * largest


def test_groups_that_cannot_fit_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="group of 11 tokens") as error:
        make_plan([6, 1, 5], 10, pairs=[4, -1, 4])
    assert error.value.where == "group 4, first document 0"
    with pytest.raises(UsageError, match="group of 2 documents"):
        make_plan([1, 1], 10, max_docs_per_row=1, pairs=[0, 0])
    with pytest.raises(UsageError, match="name the group of each document"):
        make_plan([1, 1], 10, pairs=[0])


@pytest.mark.parametrize(
    ("lengths", "capacity", "options", "message"),
    [
        ([3, 9], 8, {}, "9 tokens does not fit rows of 8"),
        ([3, 0], 8, {}, "0 tokens"),
        ([3, -2], 8, {}, "-2 tokens"),
        ([3.0], 8, {}, "integers"),
        ([[3]], 8, {}, "flat"),
        ([3], 0, {}, "capacity"),
        ([3], 8, {"seed": -1}, "seed"),
        ([3], 8, {"max_docs_per_row": 0}, "at least 1 document"),
    ],
)
def test_input_that_cannot_be_planned_is_refused(
    lengths: Any, capacity: int, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(lengths, capacity, **options)


def test_lengths_may_be_slices_and_other_integer_types() -> None:
    lengths = np.array([5, 9, 3, 9, 3, 9, 2, 9, 2], dtype=np.int64)[::2]
    assert make_plan(lengths, 8).rows == 2
    assert make_plan(lengths.astype(np.uint16), 8).rows == 2


def test_brute_force_agrees_on_a_case_worked_by_hand() -> None:
    assert fewest_rows([4, 4, 4, 3, 3, 3, 3], 12) == 2
    assert all(fewest_rows(list(order), 10) == 2 for order in itertools.permutations([6, 5, 4, 5]))


def test_documents_are_sorted_by_length_whatever_is_looked_at_at_once(monkeypatch):
    lengths = np.array([5, 3, 3, 9, 2, 2, 9, 5, 5, 1], np.int32)
    whole = layout.histogram(lengths, 0)
    monkeypatch.setattr(layout, "BLOCK", 3)
    assert all(np.array_equal(a, b) for a, b in zip(layout.histogram(lengths, 0), whole, strict=True))
    assert whole.sizes.tolist() == [9, 5, 3, 2, 1]
    assert whole.counts.tolist() == [2, 3, 2, 2, 1]
