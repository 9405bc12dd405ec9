"""The bill before training in words, for the terminal and the page alike."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable

from tokpack.cost import Estimate, Figure
from tokpack.cost.slots import PADDED_LONGEST
from tokpack.frozen import frozen
from tokpack.report.bill.cost_figures import Advice, Cost, Curve, Key, LengthFigures, PlannedRun, Way
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

METHODS = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}
PARTS = {
    "weights": "weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "logits": "logits and their gradients",
    "scratch": "restored weights",
    "overhead": "CUDA context and kernels",
}
TIMES = ((3600, "h", 1.0), (60, "min", 60.0), (0, "s", 3600.0))
"""Seconds from which a unit is used, and how many of it make an hour."""

NOTHING = "Nothing to change: these settings are the cheapest of those looked at."
UNITS = {"money": "money", "hours": "GPU time", "flops": "work"}
"""What a bill counts in, in words."""


@frozen
class CostWords:
    """The first screen: what it costs, compared with what, does it fit, how to run it."""

    headline: str
    explanation: str
    setting: str
    fit: str
    room: str
    """The same in a few words, of rows that were named."""
    service: str
    """What a managed service would bill; empty unless one was asked for."""
    steps: str
    command: str
    warnings: list[str]


def cost_words(cost: Cost, model: str = "") -> CostWords:
    """`model`: what `tokpack train --model` takes on this machine; the figures have its name alone."""
    plan = cost.run_plan
    return CostWords(
        headline=_headline(cost),
        explanation=_explanation(cost),
        setting=_setting(cost),
        fit="; ".join(fit_words(cost)),
        room=_room(cost),
        service=_service(cost),
        steps=_steps(plan),
        command=command(cost, model),
        warnings=[one_line(text, 200) for text in plan.warnings + cost.model.notes],
    )


def measured(cost: Cost, line: Way | LengthFigures) -> str:
    """A way or a capacity in what the bill counts in."""
    return WORDS[cost.counts_in](cost.counted(line))


def _headline(cost: Cost) -> str:
    verb = ("costs", "would cost") if cost.priced else ("takes", "would take")
    much = measured(cost, cost.comparison[-1])
    if cost.memory.fits is not False:
        return f"Training {verb[0]} {much}"
    name = one_line(cost.gpu.key if cost.gpu else "", 30)
    return f"Training {verb[1]} {much}, but does not fit on {name}"


def _explanation(cost: Cost) -> str:
    saved, final = cost.saved_share.value, cost.estimate
    padded = next(way for way in cost.comparison if way.key == PADDED_LONGEST)
    batch = cost.recipe.batch_size
    than = f"than the same data as it came, in padded batches of {batch}"
    much = f"{abs(saved):.0%} {'less' if saved >= 0 else 'more'} {than}"
    if final is None or cost.gpu is None:
        return f"{much} ({flops(padded.flops)}). Give --gpu for hours and money."
    gpus = one_line(cost.gpu.key, 40)
    where = f"one {gpus}" if cost.gpu.count == 1 else f"{cost.gpu.count} {gpus}"
    if not cost.priced:
        return f"On {where}, as measured. {much} ({hours(padded.wall_hours)}). --gpu-price adds money."
    return f"{hours(final.wall_hours)} on {where}, {speed(final)}. {much} ({money(padded.money)})."


def speed(run: Estimate) -> str:
    """`2,100 to 4,300 tokens/s`, of one GPU."""
    low, high = (f"{float(f'{value:.2g}'):,.0f}" for value in ends(run.tokens_per_second))
    return f"{low} tokens/s" if low == high else f"{low} to {high} tokens/s"


def utilization(reached: Figure) -> str:
    """`31% to 48%`."""
    low, high = (f"{end:.0%}" for end in ends(reached))
    return low if low == high else f"{low} to {high}"


def _setting(cost: Cost) -> str:
    model, method, recipe = cost.model, cost.method, cost.recipe
    how = METHODS[method.kind] + (f" of rank {method.rank}" if method.rank else "")
    text = (
        f"{one_line(model.name, 60)}, {big(model.parameters.value)} parameters, {how}, "
        f"{big(model.trained.value)} trained, {counted_float(recipe.epochs, 'epoch')}"
    )
    if method.checkpointing:
        text += ", gradient checkpointing"
    if cost.gpu is None or cost.estimate is None:
        return text + "."
    if cost.gpu.price:
        text += f"; ${amount(cost.gpu.price.value)} per GPU-hour"
    reached = cost.estimate.utilization
    if reached is None:
        return f"{text}; {cost.estimate.gpu_hours.note}."
    return f"{text}; {utilization(reached)} of the GPU's peak is assumed."


def _service(cost: Cost) -> str:
    """`$0.52 at Together AI (open models up to 16B, LoRA), by the token; $0.54 as it came`."""
    chosen = next((service for service in cost.api if service.chosen), None)
    if chosen is None:
        return ""
    who = f"{one_line(chosen.provider, 40)} ({one_line(chosen.model, 60)})"
    return f"{money(chosen.cleaned)} at {who}, by the token; {money(chosen.as_it_came)} as it came"


def saves_words(advice: Advice) -> str:
    """Money, or the share of the work where none is known; empty for nothing."""
    if advice.saves is not None:
        return money(advice.saves) if advice.saves.value > 0 else ""
    return f"{advice.saved_share:.0%}" if advice.saved_share > 0 else ""


def fit_words(cost: Cost) -> list[str]:
    """Whether a row fits in memory, then what else to know of it."""
    found = cost.memory
    needed = found.parts.total.value
    row = f"a row of {cost.curve.current:,} tokens"
    if found.usable is None or found.micro_batch_tokens is None or found.micro_batch_rows is None:
        return [f"{row} needs {needed:.1f} GiB", *(advice.do for advice in found.advice)]
    usable, most = found.usable.value, found.micro_batch_tokens.value
    if not found.fits:
        return [f"no: {row} needs {needed:.1f} GiB of {usable:.1f} to use", f"{most:,} tokens fit"]
    rows = counted(found.micro_batch_rows.value, "row")
    padded = [] if found.padded_fits else [f"{cost.recipe.batch_size} padded to the full row do not fit"]
    return [f"yes: {row} needs {needed:.1f} of {usable:.1f} GiB, up to {rows} at once", *padded]


def _room(cost: Cost) -> str:
    found = cost.memory
    needed = found.parts.total.value
    if found.usable is None or found.micro_batch_tokens is None or found.micro_batch_rows is None:
        return f"each needs {needed:.1f} GiB"
    usable = found.usable.value
    if not found.fits:
        return f"one needs {needed:.1f} GiB of {usable:.1f}: {found.micro_batch_tokens.value:,} tokens fit"
    return f"each needs {needed:.1f} of {usable:.1f} GiB, up to {found.micro_batch_rows.value:,} at once"


def curve_words(curve: Curve) -> str:
    """Which capacity to take, and why."""
    if curve.recommended is None:
        return "No length of a row fits in memory."
    return f"{curve.recommended:,} is {curve.reason}."


def _steps(plan: PlannedRun) -> str:
    use, before, unchanged = (of.steps.value for of in (plan.use, plan.before, plan.unchanged))
    each, old = (of.samples_per_step.value for of in (plan.use, plan.before))
    return (
        f"{counted(use, 'optimizer step')} of {each:.1f} documents; unpacked {before:,} of {old:.0f}; "
        f"packed with unchanged settings {unchanged:,}"
    )


def command(cost: Cost, model: str = "") -> str:
    """To be pasted. A model whose place is not known, as in a report that is read again, is in `path/to`."""
    name = model or cost.model.name
    if not model and "/" not in name:
        name = f"path/to/{name}"
    place = shlex.quote(one_line(name, 4096))
    return " ".join(["tokpack train packed --model", place, "-o adapter", *cost.run_plan.flags])


def money(figure: Figure | None) -> str:
    """`$3.10 to $5.60`."""
    if figure is None:
        return ""
    low, high = (f"{'-' if v < 0 else ''}${amount(abs(v))}" for v in ends(figure))
    return low if low == high else f"{low} to {high}"


def hours(figure: Figure | None) -> str:
    """A range of hours in the unit that suits its upper end: `12 to 22 min`."""
    if figure is None:
        return ""
    low, high = ends(figure)
    _, unit, factor = next(entry for entry in TIMES if high * 3600 >= entry[0])
    digits = 0 if high * factor >= 10 else 1 if high * factor >= 0.95 else 2
    words = [f"{v * factor:,.{digits}f}" for v in (low, high)]
    return f"{words[0]} {unit}" if words[0] == words[1] else f"{words[0]} to {words[1]} {unit}"


def flops(figure: Figure) -> str:
    value = float(figure.value)
    units = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))
    size, unit = next((entry for entry in units if value >= entry[0]), units[-1])
    return f"{value / size:,.3g} {unit}" if value / size < 1000 else f"{value / size:,.0f} {unit}"


WORDS: dict[Key, Callable[[Figure], str]] = {"money": money, "hours": hours, "flops": flops}


def ends(figure: Figure) -> tuple[float, float]:
    low = float(figure.value)
    return low, low if figure.high is None else float(figure.high)


def amount(value: float) -> str:
    """Two digits after the point, from 100 none; small ones with two digits that count.

    >>> [amount(v) for v in (0, 0.00126, 0.5, 3.456, 1234.5)]
    ['0', '0.0013', '0.50', '3.46', '1,234']
    """
    if not value:
        return "0"
    if value < 0.1:
        return f"{value:.{min(9, 1 - math.floor(math.log10(value)))}f}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def big(value: float) -> str:
    """`8.03B`, `135M`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def counted_float(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
