"""From FLOPs to hours, money and energy, with the source of every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import ArrayLike

from tokpack.cost.figure import Figure, weakest
from tokpack.cost.flops import flops
from tokpack.cost.gpus import ApiPrice, Gpu, gpu_price
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.cost.slots import SlotRow
from tokpack.cost.speed import basis, start_seconds, utilization
from tokpack.errors import UsageError
from tokpack.frozen import frozen

NEGLIGIBLE: Final = 0.02
"""A start-up below this share of the hours says nothing about how sure they are."""


@frozen(kw_only=True)
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


@frozen(kw_only=True)
class Estimate:
    """What a run takes. Ranges have `high` set; `money` is dollars for all GPUs together."""

    tokens: Figure
    flops: Figure
    utilization: Figure | None
    """Share of the peak; None where the speed was measured."""
    tokens_per_second: Figure
    """Of one GPU, once it trains."""
    startup: Figure
    """Hours of one GPU until the first step; `gpu_hours` and what follows from them hold it."""
    training_hours: Figure
    """GPU-hours without the start."""
    gpu_hours: Figure
    wall_hours: Figure
    money: Figure | None
    """None where no price is known."""
    energy: Figure | None
    """kWh at full board power; None when the GPU's power is unknown."""


def estimate(
    shape: ModelShape,
    seq_lengths: ArrayLike,
    gpu: Gpu,
    *,
    method: Method | None = None,
    epochs: float = 1.0,
    checkpointing: bool = False,
    slots: int | None = None,
    micro_batches: int = 1,
    mfu: tuple[float, float] | None = None,
    calibration: Calibration | None = None,
    gpu_count: int = 1,
    price_usd_h: float | None = None,
) -> Estimate:
    """Cost of training on documents of `seq_lengths` tokens for `epochs` epochs.

    GPU-hours = FLOPs / (peak x MFU) + the start, a range; a calibration replaces peak and MFU by a measured
    speed. `mfu`: low and high; None takes what published speeds say of this card, model and size of a
    micro-batch (`speed.utilization`), so `micro_batches`, of one epoch, matters. GPUs are taken to scale
    linearly. Raises UsageError when no price is known, or for numbers that cannot be.
    """
    if mfu is not None and not 0 < mfu[0] <= mfu[1] <= 1:
        raise UsageError(f"MFU must be a range within 0 to 1, low first, not {mfu}", where="--mfu")
    if epochs <= 0 or gpu_count < 1:
        raise UsageError("epochs and GPUs must be positive", where=f"{epochs=}, {gpu_count=}")
    method = method or Method()
    counted = flops(
        shape,
        seq_lengths,
        method=method,
        checkpointing=checkpointing,
        slots=slots,
        micro_batches=micro_batches,
    )
    work = Figure(counted.total * epochs, "FLOPs", "computed")
    tokens = Figure(counted.tokens * epochs, "tokens", "computed", f"{epochs:g} epochs")
    reached = None
    if calibration is None:
        reached = _reached(shape, gpu, method, mfu, counted.total / max(1, micro_batches))
    training = _hours(work, tokens, gpu, reached, calibration)
    startup = _startup(shape)
    hours = _with_start(training, startup.scaled(gpu_count))
    price = gpu_price(gpu, price_usd_h)
    power = gpu.power_w
    return Estimate(
        tokens=tokens,
        flops=work,
        utilization=reached,
        tokens_per_second=_speed(tokens, training),
        startup=startup,
        training_hours=training,
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


def _reached(
    shape: ModelShape, gpu: Gpu, method: Method, mfu: tuple[float, float] | None, work: float
) -> Figure:
    if mfu is not None:
        return Figure(mfu[0], "share of peak", "assumed", "given by the user", mfu[1])
    if not work:
        return Figure(0.0, "share of peak", "assumed", "nothing to train", 1.0)
    low, high = utilization(shape, gpu, method, work)
    return Figure(low, "share of peak", "assumed", basis(shape, gpu), high)


def _hours(
    work: Figure, tokens: Figure, gpu: Gpu, reached: Figure | None, calibration: Calibration | None
) -> Figure:
    """Hours of training without the start."""
    if calibration is None:
        assert reached is not None
        assert reached.high is not None
        if not work.value:
            return Figure(0.0, "GPU-hours", "computed", "nothing to train")
        slow, fast = (work.value / (gpu.flops * share) / 3600 for share in (reached.value, reached.high))
        note = f"{gpu.tflops:g} TFLOP/s {gpu.dtype} at {reached.value:.0%} to {reached.high:.0%} MFU, assumed"
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


def _startup(shape: ModelShape) -> Figure:
    fast, slow = (seconds / 3600 for seconds in start_seconds(shape))
    return Figure(fast, "h", "assumed", "loading, until the first step", slow)


def _with_start(training: Figure, start: Figure) -> Figure:
    """The hours with the start; measured hours become a range only where it matters."""
    assert start.high is not None
    low, most = training.value + start.value, training.high or training.value
    small = start.high <= NEGLIGIBLE * training.value
    if small and training.high is None:
        return Figure(low, training.unit, training.source, training.note)
    source = training.source if small else weakest(training.source, "assumed")
    return Figure(low, training.unit, source, training.note, most + start.high)


def _speed(tokens: Figure, training: Figure) -> Figure:
    fast, slow = (
        tokens.value / (hours * 3600) if hours else 0.0
        for hours in (training.value, training.high or training.value)
    )
    high = None if training.high is None else fast
    return Figure(slow, "tokens/s", training.source, "one GPU", high)


def compare(
    shape: ModelShape, table: Sequence[SlotRow], gpu: Gpu, **options: Any
) -> list[tuple[SlotRow, Estimate]]:
    """Each row of a slot table with its estimate; `options` are those of `estimate`.

    Packed rows are flattened, not padded, so their free slots cost nothing.
    """
    return [
        (row, estimate(shape, row.widths, gpu, **{"micro_batches": row.steps, **options})) for row in table
    ]


def api_cost(tokens: int, epochs: float, price: ApiPrice) -> Figure:
    """Dollars of a managed fine-tuning run: content tokens x epochs x price. Packing does not change it."""
    note = f"{price.provider} {price.model}: {price.usd_per_million:g} USD per million tokens"
    if price.source:
        note += f" ({price.source}, {price.read}{'; ' + price.note if price.note else ''})"
    return Figure(tokens * epochs * price.usd_per_million / 1e6, "USD", "assumed", note)
