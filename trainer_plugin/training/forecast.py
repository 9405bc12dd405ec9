"""What a run will take, told before it starts: rows and tokens exactly, time and money by the cost model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokpack.cost import Figure, Gpu, Method, ModelShape, estimate
from tokpack.errors import UsageError
from trainer_plugin.recipe import Recipe
from trainer_plugin.rows.balance import BalancedSampler
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.training.budget import limit_tokens


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
    compute = 4 if recipe.dtype == "float32" else 2
    rank = int(recipe.lora.get("r", 16))
    run = estimate(
        shape,
        dataset.seq_lengths(),
        gpu,
        method=Method(kind=recipe.method, rank=rank, compute_bytes=compute),
        epochs=plan.tokens_to_train / plan.tokens,
        checkpointing=recipe.gradient_checkpointing,
        slots=dataset.capacity * len(dataset) if recipe.pad_to_capacity else None,
        micro_batches=math.ceil(len(dataset) / recipe.batch_rows),
        price_usd_h=0.0,
    )
    return run.training_hours.scaled(1 / ranks, "h")
