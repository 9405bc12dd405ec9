"""`tokpack gpus`: the table of GPUs as a table to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpack.cost.gpus import Gpu, spelled_alike
from tokpack.errors import UsageError, near_matches


def chosen(
    gpus: Mapping[str, Gpu], words: list[str], min_memory: float, max_price: float | None
) -> list[Gpu]:
    """Cards whose key or name has all the `words`, with so much memory, at most so dear.

    They are ordered by memory, then speed. Raises UsageError when there is none.
    """
    found = [
        gpu
        for gpu in gpus.values()
        if all(spelled_alike(word) in spelled_alike(f"{gpu.key} {gpu.name}") for word in words)
        and gpu.memory_gb >= min_memory
        and (max_price is None or (gpu.price_usd_h is not None and gpu.price_usd_h <= max_price))
    ]
    if not found:
        hint = (
            near_matches(" ".join(words).upper(), gpus) if words else "ask for less memory, or a higher price"
        )
        raise UsageError("no such GPU in the table", where=" ".join(words) or None, hint=hint)
    return sorted(found, key=lambda gpu: (gpu.memory_gb, gpu.tflops, gpu.key))


def gpu_table(gpus: list[Gpu]) -> Any:
    """For the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("--gpu", no_wrap=True)
    for column in ("memory", "TFLOP/s", "GB/s", "watts", "$/hour"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("price from", style="dim", overflow="fold")
    for gpu in gpus:
        table.add_row(
            gpu.key.lower(),
            f"{gpu.memory_gb:g} GB",
            f"{gpu.tflops:,.0f} {gpu.dtype}",
            _number(gpu.bandwidth_gb_s),
            _number(gpu.power_w),
            "" if gpu.price_usd_h is None else f"{gpu.price_usd_h:.2f}",
            gpu.price_note.split(": http")[0],
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
