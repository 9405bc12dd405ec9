"""Slots, hours, money, the run plan and the capacity curve."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokpack.cost import (
    Calibration,
    Figure,
    ModelShape,
    api_cost,
    capacity_curve,
    compare,
    estimate,
    find_gpu,
    flops,
    load_apis,
    run_plan,
    slot_table,
)
from tokpack.cost.figure import weakest
from tokpack.cost.speed import start_seconds
from tokpack.errors import UsageError
from tokpack.settings.plain import to_plain

SHAPE = ModelShape.from_config(
    {
        "model_type": "llama",
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
)
A100 = find_gpu("A100-80GB")


def bound(lengths: np.ndarray, capacity: int) -> int:
    """Rows of a perfect plan."""
    return math.ceil(int(np.minimum(lengths, capacity).sum()) / capacity)


def test_importing_the_cost_model_loads_neither_torch_nor_transformers_nor_polars() -> None:
    code = "import sys, tokpack.cost; print({'torch','transformers','polars','pyarrow'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_hundred_thousand_samples_of_800_tokens_fill_39_percent_of_2048_slots() -> None:
    lengths = np.random.default_rng(0).integers(0, 1601, 100_000)
    padded, longest, by_length, packed = slot_table(lengths, 2048, 8, bound(lengths, 2048))
    assert padded.slots == 204_800_000
    assert padded.fill == pytest.approx(0.39, abs=0.005)
    assert padded.steps == longest.steps == 12_500
    assert padded.fill < longest.fill < by_length.fill
    assert packed.fill > 0.999
    assert packed.steps < padded.steps / 2


@given(
    st.lists(st.integers(0, 300), max_size=60),
    st.integers(1, 256),
    st.integers(1, 9),
)
def test_packing_shrinks_slots_and_never_content(lengths: list[int], capacity: int, batch: int) -> None:
    rows = len(lengths)  # one document a row always fits
    table = slot_table(lengths, capacity, batch, rows)
    content = sum(min(n, capacity) for n in lengths)
    for row in table:
        assert row.content == content
        assert row.truncated == sum(lengths) - content
        assert row.slots >= content
        assert int(row.widths.sum()) <= row.slots
    padded, longest, by_length, _ = table
    assert max(by_length.slots, longest.slots) <= padded.slots
    if len(lengths) % batch == 0:  # a last batch that is not full may fall well for the given order
        assert by_length.slots <= longest.slots


def test_batches_are_padded_to_their_own_longest() -> None:
    _, longest, by_length, _ = slot_table([1, 9, 2, 3, 8], 10, 2, 3)
    assert longest.widths.tolist() == [9, 9, 3, 3, 8]
    assert by_length.widths.tolist() == [9, 9, 3, 3, 1]


def test_the_cleaned_row_comes_last_and_holds_fewer_tokens() -> None:
    table = slot_table([5, 5, 5], 10, 1, 2, cleaned_lengths=[5, 5], cleaned_rows=1)
    assert [row.name for row in table][-2:] == ["packed", "packed and cleaned"]
    assert (table[-1].content, table[-1].slots, table[-1].fill) == (10, 10, 1.0)


def test_a_plan_that_cannot_hold_the_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot hold 20 tokens"):
        slot_table([10, 10], 10, 1, 1)
    with pytest.raises(UsageError, match="flat list"):
        slot_table([-1], 10, 1, 1)


def test_hours_are_flops_over_peak_times_utilization_and_the_start() -> None:
    run = estimate(SHAPE, [1000] * 10, A100, epochs=3, mfu=(0.2, 0.4))
    work = 3 * flops(SHAPE, [1000] * 10).total
    assert run.flops == Figure(work, "FLOPs", "computed")
    fast, slow = (seconds / 3600 for seconds in start_seconds(SHAPE))
    assert run.gpu_hours.value == pytest.approx(work / (312e12 * 0.4) / 3600 + fast)
    assert run.gpu_hours.high == pytest.approx(work / (312e12 * 0.2) / 3600 + slow)
    assert run.money.value == pytest.approx(run.gpu_hours.value * 1.79)
    assert run.energy is not None
    assert run.energy.value == pytest.approx(run.gpu_hours.value * 0.4)
    assert run.gpu_hours.source == run.money.source == "assumed"
    assert run.tokens.value == 30_000
    assert run.tokens_per_second.value == pytest.approx(30_000 / (work / (312e12 * 0.2)))
    assert run.utilization is not None
    assert (run.utilization.value, run.utilization.high) == (0.2, 0.4)
    assert set(to_plain(run)["money"]) == {"value", "unit", "source", "note", "high"}


def test_a_calibration_replaces_the_assumed_utilization() -> None:
    run = estimate(SHAPE, [360_000], A100, calibration=Calibration(tokens_per_second=10), gpu_count=2)
    assert run.gpu_hours.value == pytest.approx(10, rel=0.01)
    assert run.gpu_hours.high is None
    assert run.gpu_hours.source == "measured"
    assert run.wall_hours.value == pytest.approx(5, rel=0.01)
    assert run.money.source == "assumed"  # its price is
    assert run.utilization is None
    assert (run.tokens_per_second.value, run.tokens_per_second.high) == (10, None)
    fast = estimate(SHAPE, [3600], A100, calibration=Calibration(flops_per_second=312e11))
    assert "10% MFU" in fast.gpu_hours.note
    assert fast.gpu_hours.source == "assumed"  # a run of seconds is mostly its start
    assert fast.gpu_hours.high is not None
    with pytest.raises(UsageError, match="one positive speed"):
        Calibration()


def test_a_run_of_seconds_costs_its_start_and_more_epochs_cost_more() -> None:
    once, twice = (estimate(SHAPE, [100], A100, epochs=epochs) for epochs in (1, 2))
    assert once.money.value > 20 / 3600 * 1.79
    assert twice.money.value > once.money.value
    start = once.startup.value
    assert twice.gpu_hours.value - start == pytest.approx(2 * (once.gpu_hours.value - start))


def test_packed_training_is_cheaper_in_the_comparison() -> None:
    lengths = np.random.default_rng(1).integers(1, 1600, 2000)
    table = slot_table(lengths, 2048, 8, bound(lengths, 2048))
    mfu = (0.3, 0.4)
    cost = {row.name: run.money.value for row, run in compare(SHAPE, table, A100, epochs=2, mfu=mfu)}
    assert cost["packed"] < cost["padded to longest"] < cost["padded to max"]


def test_free_slots_of_flattened_rows_cost_nothing() -> None:
    (*_, tight), (*_, loose) = (slot_table([10] * 100, 100, 1, rows) for rows in (10, 50))
    (_, cheap), (_, same) = compare(SHAPE, [tight, loose], A100, mfu=(0.3, 0.4))
    assert cheap.money == same.money


def test_wrong_utilization_and_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="MFU"):
        estimate(SHAPE, [1], A100, mfu=(0.5, 0.4))
    with pytest.raises(UsageError, match="positive"):
        estimate(SHAPE, [1], A100, epochs=0)


def test_an_api_bills_content_tokens_times_epochs() -> None:
    cost = api_cost(2_000_000, 3, load_apis()["fireworks-lora-16b"])
    assert cost.value == pytest.approx(3.0)
    assert "https://fireworks.ai/pricing" in cost.note


def test_the_weakest_source_wins() -> None:
    assert weakest("computed", "measured") == "measured"
    assert weakest("measured", "assumed", "computed") == "assumed"
    assert weakest("computed") == "computed"


def test_the_equal_recipe_keeps_samples_per_step_and_steps() -> None:
    plan = run_plan(documents=100_000, packed_rows=25_000, batch_size=8, accumulation=4, learning_rate=1e-4)
    assert plan.before.samples_per_step == 32
    assert plan.before.steps == 3125
    assert plan.unchanged.steps == 782
    assert plan.unchanged.samples_per_step == 128
    assert (plan.equal.micro_batch, plan.equal.accumulation) == (1, 8)
    assert (plan.equal.samples_per_step, plan.equal.steps) == (32, 3125)
    assert plan.equal.learning_rate == 1e-4
    assert plan.recommendation == "pack"
    assert "782 optimizer steps instead of 3,125" in plan.warnings[0]


def test_a_row_that_holds_more_than_a_step_scales_the_learning_rate() -> None:
    plan = run_plan(documents=160_000, packed_rows=10_000, batch_size=1, accumulation=4, learning_rate=1e-4)
    assert plan.equal.samples_per_step == 16
    assert plan.equal.learning_rate == pytest.approx(2e-4)
    assert any("cannot stay equal" in words for words in plan.warnings)


def test_too_few_steps_or_full_batches_mean_do_not_pack() -> None:
    few = run_plan(documents=2000, packed_rows=100, batch_size=1, accumulation=4)
    assert few.recommendation == "do not pack"
    assert "below 200" in few.reason
    full = run_plan(documents=2000, packed_rows=1900, batch_size=1, fill_unpacked=0.96)
    assert full.recommendation == "do not pack"
    assert "96% full" in full.reason


def test_a_run_short_in_any_case_is_packed_with_a_warning() -> None:
    plan = run_plan(documents=400, packed_rows=100, batch_size=8, fill_unpacked=0.4)
    assert plan.recommendation == "pack"
    assert any("the unpacked run too" in words for words in plan.warnings)


@given(
    st.integers(1, 50_000),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 8),
    st.floats(0.5, 5),
)
def test_a_plan_stays_within_its_bounds(
    rows: int, per_row: int, batch: int, accumulation: int, gpus: int, epochs: float
) -> None:
    plan = run_plan(
        documents=rows * per_row,
        packed_rows=rows,
        batch_size=batch,
        accumulation=accumulation,
        gpu_count=gpus,
        epochs=epochs,
        learning_rate=1e-4,
    )
    assert plan.documents_per_row.value == per_row
    assert 1 <= plan.unchanged.steps <= plan.before.steps
    assert plan.unchanged.steps <= plan.equal.steps
    assert plan.equal.learning_rate is not None
    assert plan.equal.learning_rate > 0


def test_run_plan_refuses_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="packed_rows must be at least 1"):
        run_plan(documents=10, packed_rows=0, batch_size=1)
    with pytest.raises(UsageError, match="positive"):
        run_plan(documents=10, packed_rows=1, batch_size=1, epochs=0)


def test_the_recommended_capacity_is_the_smallest_that_cuts_little() -> None:
    lengths = np.random.default_rng(2).integers(100, 1800, 3000)
    curve = capacity_curve(lengths, lambda c: bound(lengths, c), SHAPE)
    assert [p.capacity for p in curve.points] == [512, 1024, 2048, 4096, 8192, 16384, 32768]
    assert curve.recommended == 2048
    assert "0.00%" in curve.reason
    first = curve.points[0]
    assert first.truncated == int(np.maximum(lengths - 512, 0).sum())
    assert first.truncated_documents == int((lengths > 512).sum())


def test_memory_limits_the_recommended_capacity() -> None:
    lengths = np.full(100, 3000)
    rows = {512: 100, 1024: 100, 4096: 100}
    curve = capacity_curve(lengths, rows.__getitem__, SHAPE, capacities=list(rows), max_tokens=2000)
    assert curve.recommended == 1024
    assert "still cuts 65.9%" in curve.reason
    small = capacity_curve(lengths, rows.__getitem__, SHAPE, capacities=list(rows), max_tokens=100)
    assert "none fits" in small.reason


def test_a_capacity_that_wastes_slots_is_not_recommended() -> None:
    lengths = np.full(100, 600)
    curve = capacity_curve(lengths, lambda c: math.ceil(100 / (c // 600)), SHAPE, capacities=[1024, 1200])
    assert curve.recommended == 1200


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "docs" / "cost-model.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})  # type: ignore[index]
    assert "packed" in capsys.readouterr().out
