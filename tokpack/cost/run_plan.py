"""Optimizer steps before and after packing, and the settings that keep the recipe the same.

A packed row holds several documents. With the old batch size a step then sees more of them, the run takes
fewer steps, and the learning rate no longer fits: small runs have come out worse.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Literal

from tokpack.cost.figure import Figure
from tokpack.errors import UsageError
from tokpack.frozen import frozen

MIN_STEPS: Final = 200
"""Below this many optimizer steps warm-up and decay have no room: warned of. A rule of thumb, assumed."""
HIGH_FILL: Final = 0.90
"""Fill of unpacked batches from which packing is not worth its change of recipe. Assumed."""
CLOSE: Final = 1.25
"""Samples per step within this factor of the old recipe count as equal."""


@frozen(kw_only=True)
class TrainerSettings:
    """Trainer settings and what follows from them. `micro_batch` counts rows (documents when unpacked)."""

    micro_batch: int
    accumulation: int
    gpu_count: int
    samples_per_step: float
    """Documents an optimizer step sees on average."""
    steps: int
    """Optimizer steps over all epochs."""
    learning_rate: float | None


@frozen(kw_only=True)
class RunPlan:
    """Three ways to run: before packing, packed with nothing else changed, packed with an equal recipe."""

    before: TrainerSettings
    unchanged: TrainerSettings
    equal: TrainerSettings
    documents_per_row: Figure
    recommendation: Literal["pack", "do not pack"]
    reason: str
    warnings: tuple[str, ...]


def run_plan(
    *,
    documents: int,
    packed_rows: int,
    batch_size: int,
    accumulation: int = 1,
    gpu_count: int = 1,
    epochs: float = 1.0,
    learning_rate: float | None = None,
    fill_unpacked: float | None = None,
) -> RunPlan:
    """The plan for a recipe of `batch_size` documents a GPU, `accumulation` micro-batches a step.

    `fill_unpacked`: fill of the unpacked batches the user would run otherwise (see `slot_table`).
    The equal recipe runs one row a micro-batch and turns the accumulation down. Where whole rows cannot meet
    the old samples per step within 25 %, the learning rate is scaled by the square root of the ratio (the
    rule for Adam; assumed).
    """
    for name, value in (("documents", documents), ("packed_rows", packed_rows), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}", where=name)
    if accumulation < 1 or gpu_count < 1 or epochs <= 0:
        raise UsageError("accumulation, GPUs and epochs must be positive", where="run plan")
    per_row = documents / packed_rows

    def settings(rows: int, each: float, micro: int, steps_of: int, rate: float | None) -> TrainerSettings:
        row_count = micro * steps_of * gpu_count
        return TrainerSettings(
            micro_batch=micro,
            accumulation=steps_of,
            gpu_count=gpu_count,
            samples_per_step=min(row_count, rows) * each,
            steps=max(1, math.ceil(math.ceil(rows / row_count) * epochs)),
            learning_rate=rate,
        )

    before = settings(documents, 1.0, batch_size, accumulation, learning_rate)
    unchanged = settings(packed_rows, per_row, batch_size, accumulation, learning_rate)
    # One row of packed tokens is about as large as a padded micro-batch was: accumulation takes up the rest.
    steps_of = max(1, round(batch_size * accumulation / per_row))
    equal = settings(packed_rows, per_row, 1, steps_of, learning_rate)
    ratio = equal.samples_per_step / before.samples_per_step
    if learning_rate is not None and not 1 / CLOSE <= ratio <= CLOSE:
        equal = replace(equal, learning_rate=learning_rate * math.sqrt(ratio))
    recommendation, reason = _advice(before, equal, ratio, fill_unpacked)
    return RunPlan(
        before=before,
        unchanged=unchanged,
        equal=equal,
        documents_per_row=Figure(per_row, "documents/row", "computed"),
        recommendation=recommendation,
        reason=reason,
        warnings=_warnings(before, unchanged, equal, ratio),
    )


def _advice(
    before: TrainerSettings, equal: TrainerSettings, ratio: float, fill: float | None
) -> tuple[Literal["pack", "do not pack"], str]:
    if fill is not None and fill >= HIGH_FILL:
        return (
            "do not pack",
            f"batches are {fill:.0%} full without packing: at most {1 / fill - 1:.0%} to gain",
        )
    if equal.steps < MIN_STEPS <= before.steps:
        return (
            "do not pack",
            f"packed, the run has {equal.steps} optimizer steps, below {MIN_STEPS}, and had {before.steps}: "
            "a smaller capacity, or unpacked batches grouped by length, keep more",
        )
    if not 1 / CLOSE <= ratio <= CLOSE:
        return "pack", f"with a scaled learning rate: a step sees {ratio:.1f} times the documents"
    return "pack", f"with accumulation {equal.accumulation}: samples per step and steps stay about the same"


def _warnings(
    before: TrainerSettings, unchanged: TrainerSettings, equal: TrainerSettings, ratio: float
) -> tuple[str, ...]:
    out = []
    grown = unchanged.samples_per_step / before.samples_per_step
    if grown > CLOSE:
        out.append(
            f"unchanged settings: {unchanged.steps:,} optimizer steps instead of {before.steps:,}, "
            f"{grown:.1f} times the documents in each"
        )
    if equal.steps < MIN_STEPS:
        also = " (the unpacked run too)" if before.steps < MIN_STEPS else ""
        out.append(f"{equal.steps} optimizer steps, fewer than {MIN_STEPS}{also}: add epochs or data")
    if ratio > CLOSE:
        out.append("one row a GPU already holds more documents than a step did: the recipe cannot stay equal")
    return tuple(out)
