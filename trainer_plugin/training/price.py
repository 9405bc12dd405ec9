"""The GPU that a recipe names, and what an hour of it costs."""

from __future__ import annotations

import re
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


def card_here(gpus: str | Path | None = None) -> Gpu | None:
    """The CUDA device that trains, as the table has it; None where it has none of this name."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    words = re.split(r"[\W_]+", str(found.name).lower())
    model = {key: re.findall(r"[a-z]*\d\w*", key.lower())[0] for key in load_gpus(gpus)}
    named = [gpu for key, gpu in load_gpus(gpus).items() if model[key] in words]
    return min(named, key=lambda gpu: abs(gpu.reported_bytes - found.total_memory), default=None)


def no_price() -> UsageError:
    """The error of a limit on the cost where nothing says what an hour costs."""
    return UsageError(
        "a limit on the cost needs a price",
        where="--max-cost",
        hint="name the GPU (--gpu) or its price an hour (--gpu-price)",
    )
