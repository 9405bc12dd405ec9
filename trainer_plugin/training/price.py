"""The GPU that a recipe names, and what an hour of it costs."""

from __future__ import annotations

from pathlib import Path

from tokpack.cost import Gpu, find_gpu, gpu_price, load_gpus
from tokpack.errors import UsageError
from trainer_plugin.recipe import Recipe


def price_of(recipe: Recipe, gpus: str | Path | None = None) -> tuple[Gpu | None, float | None]:
    """The GPU that the recipe names, and dollars an hour of one: the recipe's, else the table's.

    Raises UsageError for an unknown GPU, one without a price, and for a limit on the cost without either.
    """
    gpu = find_gpu(recipe.gpu, load_gpus(gpus)) if recipe.gpu else None
    price = recipe.gpu_price or (gpu_price(gpu).value if gpu is not None else None)
    if recipe.max_cost and price is None:
        raise no_price()
    return gpu, price


def no_price() -> UsageError:
    """The error of a limit on the cost where nothing says what an hour costs."""
    return UsageError(
        "a limit on the cost needs a price",
        where="--max-cost",
        hint="name the GPU (--gpu) or its price an hour (--gpu-price)",
    )
