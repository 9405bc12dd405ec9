"""Which number format to hold and compute weights in on the device at hand.

bfloat16 pays only where the device multiplies it natively. A CPU without bf16 units (AVX2, and AVX-512 before
Cooper Lake and Zen 4) takes 10 to 60 times as long for a bf16 product as for an fp32 one; GPUs before Ampere
(T4, V100) emulate it, but have fp16 units. CUDA devices are asked; any other is measured by a small matrix
product, once a process, a few milliseconds; an x86 processor must list the instructions as well.

    lora, qlora   bfloat16 where it is fast, else float16 on CUDA (with a loss scaler), else float32
    full          float32 when the model is stored so, else bfloat16 where it is fast, else float32: weights
                  trained in float16 lose their updates
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from trainer_plugin.recipe import Recipe

SLOWER = 1.25
"""How much longer than fp32 a 16-bit product may take on a device that is fast at it."""
X86_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2")
PRODUCT = (64, 256, 256)
"""Rows, inputs and outputs of the linear layer that is timed: 1.4 ms in bf16 on a core with AVX2."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Whether a device is fast at a 16-bit dtype, and how that is known."""

    fast: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    """A dtype for the weights, and why this one."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def training_device() -> str:
    """The kind of device that `tokpack train` takes."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def speed(dtype: torch.dtype, device: str | None = None) -> Speed:
    """Whether `device` (a kind such as "cpu", or None for the one that trains) is fast at a 16-bit dtype."""
    kind = (device or training_device()).partition(":")[0]
    name = str(dtype).removeprefix("torch.")
    if kind == "cuda":
        return _cuda_speed(dtype, name)
    ratio = _slowness(dtype, kind)
    named = "CPU" if kind == "cpu" else f"device ({kind})"
    if ratio > SLOWER:
        return Speed(False, f"{name} takes {ratio:.1f} times as long as float32 on this {named}")
    if kind == "cpu" and dtype == torch.bfloat16 and not _has_units():
        return Speed(False, f"this CPU has no units for {name}")
    return Speed(True, f"this {named} is fast at {name}")


def _cuda_speed(dtype: torch.dtype, name: str) -> Speed:
    gpu = torch.cuda.get_device_name()
    units = torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == torch.float16:
        units = torch.cuda.get_device_capability() >= (7, 0)
    return Speed(units, f"{gpu} {'has' if units else 'has no'} {name} units")


@cache
def _slowness(dtype: torch.dtype, kind: str) -> float:
    """Time of a product in `dtype` over its time in fp32: the best of five, taken in turns."""
    rows, inputs, outputs = PRODUCT
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, inputs, generator=generator).to(kind)
    weight = torch.randn(outputs, inputs, generator=generator).to(kind)
    best = {torch.float32: float("inf"), dtype: float("inf")}
    operands = {one: (states.to(one), weight.to(one)) for one in best}
    with torch.no_grad():
        for turn in range(6):
            for one, (a, b) in operands.items():
                _wait(kind)
                started = time.perf_counter()
                torch.nn.functional.linear(a, b)
                _wait(kind)
                if turn:  # the first warms up
                    best[one] = min(best[one], time.perf_counter() - started)
    return best[dtype] / best[torch.float32]


def _wait(kind: str) -> None:
    if kind != "cpu":
        torch.accelerator.synchronize()


def _has_units() -> bool:
    """Whether the processor lists bf16 instructions; true where nothing is listed, and off x86."""
    listed: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if platform.machine().lower() not in ("x86_64", "amd64") or not listed:
        return True
    return any(listed.get(name, False) for name in X86_UNITS)


def frozen_dtype(device: str | None = None) -> DtypeChoice:
    """For weights that are computed with but not trained."""
    bf16 = speed(torch.bfloat16, device)
    if bf16.fast:
        return DtypeChoice(torch.bfloat16, bf16.reason)
    kind = (device or training_device()).partition(":")[0]
    if kind == "cuda" and speed(torch.float16, device).fast:
        return DtypeChoice(torch.float16, bf16.reason)
    return DtypeChoice(torch.float32, bf16.reason)


def trained_dtype(own: torch.dtype | None) -> DtypeChoice:
    """For weights that are trained themselves, stored as `own` (None: not known)."""
    if own == torch.float32:
        return DtypeChoice(own, "as the model is stored")
    if own is None:
        return DtypeChoice(torch.float32, "the model's configuration names no dtype")
    bf16 = speed(torch.bfloat16)
    return DtypeChoice(torch.bfloat16 if bf16.fast else torch.float32, bf16.reason)


def probed_dtype(own: torch.dtype | None, device: str | None = None) -> DtypeChoice:
    """For a model that is only run: its own dtype where the device is fast at that."""
    if own is None:
        return frozen_dtype(device)
    if own in (torch.bfloat16, torch.float16) and not speed(own, device).fast:
        return frozen_dtype(device)
    return DtypeChoice(own, "as the model is stored")


def stored_dtype(model: str | Path) -> torch.dtype | None:
    """The dtype that the model's config.json names; None when it names none, or cannot be read."""
    from tokpack.errors import UsageError
    from trainer_plugin.checkpoints.model_files import load_config

    try:
        config = load_config(model)
    except UsageError:
        return None  # loading the weights reports it
    for one in (config, config.get_text_config(decoder=True)):
        if isinstance(one.dtype, torch.dtype):
            return one.dtype
    return None


def settle_dtype(recipe: Recipe, model: str | Path) -> tuple[Recipe, DtypeChoice]:
    """The recipe with the dtype that `auto` means here, and why it is that one.

    A dtype that was asked for stays, with the reason where it is slow.
    """
    if recipe.dtype == "auto":
        choice = trained_dtype(stored_dtype(model)) if recipe.method == "full" else frozen_dtype()
        return replace(recipe, dtype=choice.name), choice  # type: ignore[arg-type]
    return recipe, DtypeChoice(getattr(torch, recipe.dtype), f"as asked for{slow_note(recipe.dtype)}")


def slow_note(name: str) -> str:
    """ "; slow here, ..." for a dtype that the device that trains is slow at, else nothing."""
    found = None if name == "float32" else speed(getattr(torch, name))
    return "" if found is None or found.fast else f"; slow here: {found.reason}"
