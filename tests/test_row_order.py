"""Order of packed rows: shuffled, or dealt so that the ranks of a step do equal work."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_lengths import many_lengths

from tokpack.errors import UsageError
from tokpack.stages.plan import (
    deal,
    idle_share,
    make_plan,
    row_costs,
    row_order,
)
from tokpack.stages.planners.even import even_out


def test_row_order_is_a_permutation_that_the_seed_decides() -> None:
    assert sorted(row_order(100, 3)) == list(range(100))
    assert (row_order(100, 3) == row_order(100, 3)).all()
    assert (row_order(100, 3) != row_order(100, 4)).any()
    assert row_order(0, 0).shape == (0,)


def test_the_cost_of_a_row_is_linear_in_tokens_and_quadratic_in_documents() -> None:
    lengths, rows = np.array([2, 3, 5]), np.array([1, 0, 1])
    assert row_costs(lengths, rows, linear=10.0).tolist() == [39.0, 99.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), max_size=200),
    st.integers(1, 4),
    st.integers(1, 15),
    st.integers(0, 9),
)
def test_dealt_rows_are_a_permutation_in_full_steps(
    costs: list[float], world_size: int, rows_per_rank: int, seed: int
) -> None:
    rows_per_step = world_size * rows_per_rank
    order, leftover = deal(np.array(costs), world_size, rows_per_step, seed)
    assert sorted([*order, *leftover]) == list(range(len(costs)))
    assert len(order) % rows_per_step == 0
    assert len(leftover) < rows_per_step


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=8, max_size=120),
    st.integers(2, 4),
    st.integers(2, 6),
    st.integers(0, 9),
)
def test_exchanging_rows_keeps_each_row_and_never_lengthens_training(
    costs: list[int], ranks: int, hands: int, seed: int
) -> None:
    kept = len(costs) // (ranks * hands) * ranks * hands
    steps = np.random.default_rng(seed).permutation(kept).reshape(-1, hands, ranks)
    before = steps.copy()
    of_row = np.array(costs, dtype=np.float64)
    even = even_out(steps, of_row)
    assert (steps == before).all()
    assert sorted(even.reshape(-1)) == list(range(kept))
    assert of_row[even].sum(axis=1).max(axis=1).sum() <= of_row[steps].sum(axis=1).max(axis=1).sum()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=6, max_size=6))
def test_with_one_row_a_rank_no_other_steps_wait_less(costs: list[int]) -> None:
    of_row = np.array(costs, dtype=np.float64)
    order, _ = deal(of_row, 2, 2, 0)
    wall = min(
        sum(max(costs[rows[i]], costs[rows[i + 1]]) for i in (0, 2, 4))
        for rows in itertools.permutations(range(6))
    )
    assert of_row[order].reshape(3, 2).max(axis=1).sum() == wall


@pytest.mark.parametrize("rows_per_step", [16, 32, 64, 128])
def test_ranks_wait_under_half_a_percent_where_a_step_has_two_rows_a_rank(rows_per_step: int) -> None:
    lengths = many_lengths("skewed", 60_000, 8192)
    plan = make_plan(lengths, 8192)
    costs = row_costs(lengths, plan.row_of_doc, linear=0.0)
    order, _ = deal(costs, 8, rows_per_step, 0)
    assert idle_share(costs[order], 8, rows_per_step) < 0.005
    assert idle_share(costs[row_order(plan.rows, 0)], 8, rows_per_step) > 0.05


def test_each_rank_gets_as_many_rows_of_like_cost() -> None:
    costs = np.repeat([1.0, 10.0, 100.0], 8)
    order, leftover = deal(costs, 4, 8, seed=0)
    assert len(leftover) == 0
    assert idle_share(costs[order], 4, 8) == 0.0
    by_rank = costs[order].reshape(3, 2, 4).sum(axis=1)
    assert (by_rank == by_rank[:, :1]).all()


def test_idle_share_counts_the_wait_for_the_slowest_rank() -> None:
    assert idle_share(np.array([4.0, 2.0, 1.0, 1.0]), 2, 2) == pytest.approx(1 - 8 / 10)
    assert idle_share(np.array([4.0, 2.0, 1.0, 1.0]), 2, 4) == pytest.approx(1 - 8 / 10)
    assert idle_share(np.array([4.0]), 2, 2) == 0.0
    assert idle_share(np.zeros(4), 2, 2) == 0.0


def test_leftover_rows_are_drawn_at_random_not_by_cost() -> None:
    costs = np.arange(101.0)
    means = [costs[deal(costs, 4, 16, seed)[1]].mean() for seed in range(40)]
    assert 40 < np.mean(means) < 60
    assert len(deal(costs, 4, 16, 0)[1]) == 5


def test_a_step_that_does_not_divide_among_ranks_is_refused() -> None:
    with pytest.raises(UsageError, match="do not divide"):
        deal(np.ones(8), 3, 8, 0)
    with pytest.raises(UsageError, match="do not divide"):
        idle_share(np.ones(8), 3, 8)


@pytest.mark.slow
def test_real_lengths_meet_the_bound_and_deal_evenly(real_data: Path) -> None:
    with pa.input_stream(real_data / "mix.jsonl.zst") as file:
        messages = (json.loads(line)["messages"] for line in file.read().splitlines())
        sizes = [sum(len(turn.get("content") or "") for turn in turns) for turns in messages]
    lengths = np.array(sizes) // 4 + 20  # tokens, near enough
    for capacity in (2048, 4096, 8192):
        fitting = lengths[lengths <= capacity]
        assert make_plan(fitting, capacity, "xfill").gap == 0.0
        assert make_plan(fitting, capacity, "bfd").gap < 0.0005
    plan = make_plan(fitting, 8192)
    costs = row_costs(fitting, plan.row_of_doc, linear=0.0)
    for rows_per_step in (16, 32, 64, 128):
        order, _ = deal(costs, 8, rows_per_step, 0)
        assert idle_share(costs[order], 8, rows_per_step) < 0.005
    assert idle_share(costs[row_order(plan.rows, 0)], 8, 32) > 0.5
