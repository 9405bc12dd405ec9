"""How fast a card trains, from published points: a range for each card, model and size of a micro-batch.

A micro-batch takes the longer of two times, or at worst their sum: its work at the share of the peak that
large micro-batches reach, and what the host needs to launch its kernels, so many seconds a layer however few
the tokens. Restoring 4-bit weights comes on top, once a micro-batch. `speeds.toml` has figures, the points
that they are from (held to in tests/test_cost_speed.py), and sources.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Final

from tokpack.cost.gpus import Gpu
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape

Range = tuple[float, float]

UNKNOWN_BANDWIDTH: Final = 500.0
"""GB/s of a card whose bandwidth is not in the table."""
STORED_BYTES: Final = 2
"""Bytes of a weight in the files that are loaded."""


def utilization(shape: ModelShape, gpu: Gpu, method: Method, work: float) -> Range:
    """Share of the card's peak that micro-batches of `work` FLOPs reach: low and high."""
    fast, slow = micro_batch_seconds(shape, gpu, method, work)
    return work / gpu.flops / slow, min(1.0, work / gpu.flops / fast)


def micro_batch_seconds(shape: ModelShape, gpu: Gpu, method: Method, work: float) -> Range:
    """Seconds, fast and slow, of forward and backward over a micro-batch of `work` FLOPs."""
    low, high = _reached(shape, gpu)
    launch = [shape.num_layers * each for each in _table()["host"]["layer_seconds"][method.kind]]
    restore = [_restored_bytes(shape, method) * each for each in _table()["host"]["restore_bytes"]]
    bandwidth = 1e9 * (gpu.bandwidth_gb_s or UNKNOWN_BANDWIDTH)
    fast = max(launch[0], work / gpu.flops / high) + restore[0] / bandwidth
    slow = launch[1] + work / gpu.flops / low + restore[1] / bandwidth
    return fast, slow


def start_seconds(shape: ModelShape) -> Range:
    """Seconds, fast and slow, until the first step: imports, loading the weights, compiling. Assumed."""
    start, size = _table()["start"], STORED_BYTES * shape.total_params
    fast, slow = (
        seconds + size / rate
        for seconds, rate in zip(start["seconds"], start["bytes_per_second"], strict=True)
    )
    return fast, slow


def basis(shape: ModelShape, gpu: Gpu) -> str:
    """Where the range of a card and model is from, in words."""
    words = str(_class(gpu)["note"])
    return f"{words}; less for a mixture of experts" if _is_mixture(shape) else words


def _reached(shape: ModelShape, gpu: Gpu) -> Range:
    low, high = _class(gpu)["utilization"]
    if _is_mixture(shape):
        less, least = _table()["mixture"]["utilization"]
        return low * less, high * least
    return low, high


def _class(gpu: Gpu) -> dict[str, Any]:
    classes: dict[str, dict[str, Any]] = _table()["classes"]
    return next((found for found in classes.values() if gpu.key in found["cards"]), classes["other"])


def _is_mixture(shape: ModelShape) -> bool:
    return any(matrix.copies > 1 for matrix in shape.matrices)


def _restored_bytes(shape: ModelShape, method: Method) -> float:
    """Weights that are restored from 4 bits: to be multiplied by the traffic of one."""
    return float(shape.quantized_params) if method.base_weights == "nf4" else 0.0


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("tokpack.cost").joinpath("speeds.toml").read_text(encoding="utf-8"))
