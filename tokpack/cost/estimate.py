"""From FLOPs to hours, money and energy, with the source of every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import ArrayLike

from tokpack.cost.figure import Figure, weakest
from tokpack.cost.flops import flops
from tokpack.cost.gpus import ApiPrice, Gpu, gpu_price
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.cost.slots import SlotRow
from tokpack.errors import UsageError

MFU_RANGE: Final = (0.25, 0.45)
"""Assumed share of the peak that training reaches: low for small models and short rows, high for large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Speed measured on one GPU of the user's, with this model and method: one of the two figures."""

    tokens_per_second: float | None = None
    """Slots a second, padding included where rows are padded."""
    flops_per_second: float | None = None
    note: str = ""
    """What was measured."""

    def __post_init__(self) -> None:
        given = [v for v in (self.tokens_per_second, self.flops_per_second) if v is not None]
        if len(given) != 1 or given[0] <= 0:
            raise UsageError(
                "a calibration is one positive speed",
                where="--calibrate",
                hint="give tokens_per_second or flops_per_second, not both",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run takes. Ranges have `high` set; `money` is dollars for all GPUs together."""

    tokens: Figure
    flops: Figure
    gpu_hours: Figure
    wall_hours: Figure
    money: Figure
    energy: Figure | None
    """kWh at full board power; None when the GPU's power is unknown."""

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            name: figure.to_dict() if figure else None
            for name, figure in (
                ("tokens", self.tokens),
                ("flops", self.flops),
                ("gpu_hours", self.gpu_hours),
                ("wall_hours", self.wall_hours),
                ("money", self.money),
                ("energy", self.energy),
            )
        }


def estimate(
    shape: ModelShape,
    seq_lengths: ArrayLike,
    gpu: Gpu,
    *,
    method: Method | None = None,
    epochs: float = 1.0,
    checkpointing: bool = False,
    causal: bool = True,
    slots: int | None = None,
    micro_batches: int = 1,
    mfu: tuple[float, float] = MFU_RANGE,
    calibration: Calibration | None = None,
    gpu_count: int = 1,
    price_usd_h: float | None = None,
) -> Estimate:
    """Cost of training on documents of `seq_lengths` tokens for `epochs` epochs.

    GPU-hours = FLOPs / (peak x MFU), a range; a calibration replaces peak and MFU by a measured speed. GPUs
    are taken to scale linearly. Raises UsageError when no price is known, or for numbers that cannot be.
    """
    low, high = mfu
    if not 0 < low <= high <= 1:
        raise UsageError(f"MFU must be a range within 0 to 1, low first, not {mfu}", where="--mfu")
    if epochs <= 0 or gpu_count < 1:
        raise UsageError("epochs and GPUs must be positive", where=f"{epochs=}, {gpu_count=}")
    counted = flops(
        shape,
        seq_lengths,
        method=method,
        checkpointing=checkpointing,
        causal=causal,
        slots=slots,
        micro_batches=micro_batches,
    )
    work = Figure(
        counted.total * epochs,
        "FLOPs",
        "assumed" if counted.overhead else "computed",
        "includes an assumed NF4 overhead" if counted.overhead else "",
    )
    tokens = Figure(counted.tokens * epochs, "tokens", "computed", f"{epochs:g} epochs")
    hours = _hours(work, tokens, gpu, mfu, calibration)
    price = gpu_price(gpu, price_usd_h)
    power = gpu.power_w
    return Estimate(
        tokens=tokens,
        flops=work,
        gpu_hours=hours,
        wall_hours=hours.scaled(1 / gpu_count, "h", f"on {gpu_count} GPUs that scale linearly"),
        money=Figure(
            hours.value * price.value,
            "USD",
            weakest(hours.source, price.source),
            f"at {price.value:g} USD/GPU-hour ({price.note})",
            None if hours.high is None else hours.high * price.value,
        ),
        energy=None if power is None else hours.scaled(power / 1000, "kWh", f"at {power:g} W, board alone"),
    )


def _hours(
    work: Figure, tokens: Figure, gpu: Gpu, mfu: tuple[float, float], calibration: Calibration | None
) -> Figure:
    if calibration is None:
        slow, fast = (work.value / (gpu.flops * share) / 3600 for share in mfu)
        note = f"{gpu.tflops:g} TFLOP/s {gpu.dtype} at {mfu[0]:.0%} to {mfu[1]:.0%} MFU, assumed"
        return Figure(fast, "GPU-hours", "assumed", note, slow)
    if calibration.tokens_per_second is not None:
        hours = tokens.value / calibration.tokens_per_second / 3600
        note = f"{calibration.tokens_per_second:g} tokens/s, measured"
    else:
        speed = calibration.flops_per_second or 0.0
        hours = work.value / speed / 3600
        note = f"{speed / 1e12:.4g} TFLOP/s, measured"
        if gpu.flops:
            note += f" ({speed / gpu.flops:.0%} MFU)"
    if calibration.note:
        note += f" {calibration.note}"
    return Figure(hours, "GPU-hours", "measured", note)


def compare(
    shape: ModelShape, table: Sequence[SlotRow], gpu: Gpu, *, pad_rows: bool = False, **options: Any
) -> list[tuple[SlotRow, Estimate]]:
    """Each row of a slot table with its estimate; `options` are those of `estimate`.

    Packed rows are flattened, not padded, so their free slots cost nothing; `pad_rows` for a trainer that
    pads them to capacity.
    """
    out = []
    for row in table:
        slots = row.slots if pad_rows else None
        run = estimate(shape, row.widths, gpu, **{"slots": slots, "micro_batches": row.steps, **options})
        out.append((row, run))
    return out


def spent(seconds: float, gpu: Gpu, *, gpu_count: int = 1, price_usd_h: float | None = None) -> Figure:
    """Dollars that `seconds` of training on `gpu_count` GPUs have cost: a measured time at a list price.

    Raises UsageError when no price is known.
    """
    price = gpu_price(gpu, price_usd_h)
    return Figure(
        seconds / 3600 * gpu_count * price.value,
        "USD",
        weakest("measured", price.source),
        f"{seconds:.0f} s on {gpu_count} {gpu.key} at {price.value:g} USD/GPU-hour ({price.note})",
    )


def api_cost(tokens: int, epochs: float, price: ApiPrice) -> Figure:
    """Dollars of a managed fine-tuning run: content tokens x epochs x price. Packing does not change it."""
    note = f"{price.provider} {price.model}: {price.usd_per_million:g} USD per million tokens"
    if price.source:
        note += f" ({price.source}, {price.read}{'; ' + price.note if price.note else ''})"
    return Figure(tokens * epochs * price.usd_per_million / 1e6, "USD", "assumed", note)
