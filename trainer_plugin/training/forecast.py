"""What a run will take, told before it starts: rows and tokens exactly, time and money by the cost model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokpack.cost import Figure, Gpu, Method, ModelShape, estimate, fits
from tokpack.cost.run_plan import MIN_STEPS
from tokpack.cost.training import KBIT_HEAD_BYTES
from tokpack.errors import UsageError
from trainer_plugin.recipe import Recipe
from trainer_plugin.rows.balance import BalancedSampler
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.training.budget import limit_tokens

QUICKER = 0.75
"""Share of the time that makes another way to train worth a word."""


@dataclass(frozen=True)
class RunForecast:
    """What a run will do. `order` holds the rows it trains on, all ranks, repeats included: int64[n]."""

    rows: int
    tokens: int
    trained_share: float
    steps: int
    order: np.ndarray
    tokens_to_train: int


def plan_run(
    dataset: PackedDataset, arguments: Any, sampler: BalancedSampler, token_budget: int | None = None
) -> RunForecast:
    """Steps as Trainer counts them: the last step of an epoch may be smaller, no row is left out."""
    if not len(dataset):
        raise UsageError("the packed dataset has no rows", where=str(dataset.folder))
    tokens, trained = dataset.row_tokens(), dataset.row_trained()
    accumulation = arguments.gradient_accumulation_steps
    steps = arguments.max_steps
    if steps <= 0:
        steps = math.ceil(arguments.num_train_epochs * sampler.steps_for(len(dataset), accumulation))
    if token_budget is not None:
        steps = limit_tokens(sampler, tokens, token_budget, accumulation=accumulation, steps=steps)
    order = sampler.rows_of(steps, accumulation)
    return RunForecast(
        rows=len(dataset),
        tokens=int(tokens.sum()),
        trained_share=float(trained.sum() / max(tokens.sum(), 1)),
        steps=steps,
        order=order,
        tokens_to_train=int(tokens[order].sum()),
    )


def predicted_hours(
    config: Mapping[str, Any], dataset: PackedDataset, plan: RunForecast, recipe: Recipe, gpu: Gpu, ranks: int
) -> Figure | None:
    """Hours of the run on `ranks` GPUs, a range; None for a model that the cost model cannot count."""
    try:
        shape = ModelShape.from_config(config)
    except UsageError:
        return None
    run = estimate(
        shape,
        dataset.seq_lengths(),
        gpu,
        method=_method(recipe),
        epochs=plan.tokens_to_train / plan.tokens,
        checkpointing=recipe.gradient_checkpointing,
        slots=dataset.capacity * len(dataset) if recipe.pad_to_capacity else None,
        micro_batches=math.ceil(len(dataset) / recipe.batch_rows),
        price_usd_h=0.0,
    )
    return run.training_hours.scaled(1 / ranks, "h")


def larger_micro_batch(
    config: Mapping[str, Any], dataset: PackedDataset, plan: RunForecast, recipe: Recipe, gpu: Gpu, ranks: int
) -> tuple[Recipe, Figure] | None:
    """The recipe with more rows in a micro-batch, and the hours it takes.

    A step has as many rows as before, or, where it is one micro-batch, more, and enough steps are left.

    None where no more fit the GPU's memory, or it would be little quicker. Of a small model one row leaves a
    large GPU waiting for the host, which launches its kernels one by one.
    """
    now = predicted_hours(config, dataset, plan, recipe, gpu, ranks)
    times = [n for n in range(2, recipe.accumulation + 1) if recipe.accumulation % n == 0]
    if recipe.accumulation == 1 and recipe.max_steps <= 0:
        times = [n for n in (2, 4, 8) if plan.steps >= n * MIN_STEPS]
    if now is None or not times:
        return None
    fit = fits(
        ModelShape.from_config(config),
        gpu,
        dataset.capacity,
        method=_method(recipe),
        checkpointing=recipe.gradient_checkpointing,
        head_bytes=KBIT_HEAD_BYTES if recipe.method == "qlora" else None,
        loss="chunked",
    )
    most = fit.max_tokens // dataset.capacity
    for n in sorted(times, reverse=True):
        if recipe.batch_rows * n <= most:
            accumulation = max(1, recipe.accumulation // n)
            larger = replace(recipe, batch_rows=recipe.batch_rows * n, accumulation=accumulation)
            hours = predicted_hours(config, dataset, plan, larger, gpu, ranks)
            return (larger, hours) if hours and _longest(hours) < QUICKER * _longest(now) else None
    return None


def _longest(hours: Figure) -> float:
    return hours.high or hours.value


def _method(recipe: Recipe) -> Method:
    compute = 4 if recipe.dtype == "float32" else 2
    return Method(kind=recipe.method, rank=int(recipe.lora.get("r", 16)), compute_bytes=compute)
