"""The bill before training in words, for the terminal and the page alike."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokpack.cost.slots import PADDED_LONGEST
from tokpack.printable import one_line
from tokpack.report.words import counted

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
LEAST_GIB = 0.005
"""Parts of the memory below it are not shown."""
TIMES = ((3600, "h", 1.0), (60, "min", 60.0), (0, "s", 3600.0))
"""Seconds from which a unit is used, and how many of it make an hour."""

UNITS = {"money": "money", "hours": "GPU time", "flops": "work"}
"""What a bill counts in, in words."""

Fig = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CostWords:
    """The first screen: what it costs, compared with what, does it fit, how to run it."""

    headline: str
    explanation: str
    setting: str
    fit: str
    service: str
    """What a managed service would bill; empty unless one was asked for."""
    steps: str
    command: str
    warnings: list[str]


def cost_words(cost: dict[str, Any]) -> CostWords:
    plan = cost["run_plan"]
    return CostWords(
        headline=_headline(cost),
        explanation=_explanation(cost),
        setting=_setting(cost),
        fit=fit_words(cost),
        service=_service(cost),
        steps=_steps(plan),
        command=command(cost),
        warnings=[one_line(text, 200) for text in plan["warnings"] + cost["model"]["notes"]],
    )


def timed(cost: dict[str, Any]) -> bool:
    """Whether the bill knows hours: there is a GPU, or the present device was measured."""
    return cost["estimate"] is not None


def priced(cost: dict[str, Any]) -> bool:
    """Whether the bill knows money."""
    return cost["estimate"] is not None and cost["estimate"]["money"] is not None


def measure(cost: dict[str, Any]) -> tuple[str, Callable[[Fig], str]]:
    """What the bill counts in, as a key of its ways and capacities, and how it is written: money where there
    is a price, else hours, else work."""
    if priced(cost):
        return "money", money
    return ("hours", hours) if timed(cost) else ("flops", flops)


def measured(cost: dict[str, Any], line: dict[str, Any]) -> str:
    """A way or a capacity in what the bill counts in."""
    key, words = measure(cost)
    return words(line[key])


def _headline(cost: dict[str, Any]) -> str:
    verb = ("costs", "would cost") if priced(cost) else ("takes", "would take")
    much = measured(cost, cost["comparison"][-1])
    if cost["memory"]["fits"] is not False:
        return f"Training {verb[0]} {much}"
    return f"Training {verb[1]} {much}, but does not fit on {one_line(cost['gpu']['key'], 30)}"


def _explanation(cost: dict[str, Any]) -> str:
    saved, final = cost["saved_share"]["value"], cost["estimate"]
    padded = next(way for way in cost["comparison"] if way["key"] == PADDED_LONGEST)
    batch = cost["recipe"]["batch_size"]
    than = f"than the same data as it came, in padded batches of {batch}"
    much = f"{abs(saved):.0%} {'less' if saved >= 0 else 'more'} {than}"
    if final is None:
        return f"{much} ({flops(padded['flops'])}). Give --gpu for hours and money."
    gpus = one_line(cost["gpu"]["key"], 40)
    where = f"on one {gpus}" if cost["gpu"]["count"] == 1 else f"on {cost['gpu']['count']} {gpus}"
    if not priced(cost):
        return f"On {where[3:]}, as measured. {much} ({hours(padded['wall_hours'])}). --gpu-price adds money."
    return f"{hours(final['wall_hours'])} {where}, {speed(final)}. {much} ({money(padded['money'])})."


def speed(run: dict[str, Any]) -> str:
    """`2,100 to 4,300 tokens/s`, of one GPU."""
    low, high = (f"{float(f'{value:.2g}'):,.0f}" for value in ends(run["tokens_per_second"]))
    return f"{low} tokens/s" if low == high else f"{low} to {high} tokens/s"


def utilization(cost: dict[str, Any]) -> str:
    """`31% to 48%`."""
    low, high = (f"{end:.0%}" for end in ends(cost["estimate"]["utilization"]))
    return low if low == high else f"{low} to {high}"


def _setting(cost: dict[str, Any]) -> str:
    model, method, recipe = cost["model"], cost["method"], cost["recipe"]
    how = METHODS[method["kind"]] + (f" of rank {method['rank']}" if method["rank"] else "")
    text = (
        f"{one_line(model['name'], 60)}, {big(model['parameters']['value'])} parameters, {how}, "
        f"{big(model['trained']['value'])} trained, {counted_float(recipe['epochs'], 'epoch')}"
    )
    if method["checkpointing"]:
        text += ", gradient checkpointing"
    if cost["gpu"] is None:
        return text + "."
    if priced(cost):
        text += f"; ${amount(cost['gpu']['price']['value'])} per GPU-hour"
    if cost["calibrated"]:
        return f"{text}; {cost['estimate']['gpu_hours']['note']}."
    return f"{text}; {utilization(cost)} of the GPU's peak is assumed."


def _service(cost: dict[str, Any]) -> str:
    """`$0.52 at Together AI (open models up to 16B, LoRA), by the token; $0.54 as it came`."""
    chosen = next((service for service in cost["api"] if service["chosen"]), None)
    if chosen is None:
        return ""
    who = f"{one_line(chosen['provider'], 40)} ({one_line(chosen['model'], 60)})"
    return f"{money(chosen['cleaned'])} at {who}, by the token; {money(chosen['as_it_came'])} as it came"


def fit_words(cost: dict[str, Any]) -> str:
    found = cost["memory"]
    needed = found["parts"]["total"]["value"]
    row = f"a row of {cost['curve']['current']:,} tokens"
    if found["fits"] is None:
        return f"{row} needs {needed:.1f} GiB" + "".join(f"; {advice['do']}" for advice in found["advice"])
    usable = found["usable"]["value"]
    if not found["fits"]:
        most = found["micro_batch_tokens"]["value"]
        return f"no: {row} needs {needed:.1f} GiB of {usable:.1f} to use; {most:,} tokens fit"
    rows = counted(found["micro_batch_rows"]["value"], "row")
    padded = (
        "" if found["padded_fits"] else f"; {cost['recipe']['batch_size']} padded to the full row do not fit"
    )
    return f"yes: {row} needs {needed:.1f} of {usable:.1f} GiB, up to {rows} at once{padded}"


def curve_words(curve: dict[str, Any]) -> str:
    """Which capacity to take, and why."""
    if curve["recommended"] is None:
        return "No length of a row fits in memory."
    return f"{curve['recommended']:,} is {curve['reason']}."


def _steps(plan: dict[str, Any]) -> str:
    use, before, unchanged = (plan[name]["steps"]["value"] for name in ("use", "before", "unchanged"))
    each, old = (plan[name]["samples_per_step"]["value"] for name in ("use", "before"))
    return (
        f"{counted(use, 'optimizer step')} of {each:.1f} documents; unpacked {before:,} of {old:.0f}; "
        f"packed with unchanged settings {unchanged:,}"
    )


def command(cost: dict[str, Any]) -> str:
    name = shlex.quote(one_line(cost["model"]["name"], 60))
    return " ".join(["tokpack train packed --model", name, *cost["run_plan"]["flags"]])


def money(figure: Fig | None) -> str:
    """`$3.10 to $5.60`."""
    if figure is None:
        return ""
    low, high = (f"{'-' if v < 0 else ''}${amount(abs(v))}" for v in ends(figure))
    return low if low == high else f"{low} to {high}"


def hours(figure: Fig | None) -> str:
    """A range of hours in the unit that suits its upper end: `12 to 22 min`."""
    if figure is None:
        return ""
    low, high = ends(figure)
    _, unit, factor = next(entry for entry in TIMES if high * 3600 >= entry[0])
    digits = 0 if high * factor >= 10 else 1 if high * factor >= 0.95 else 2
    words = [f"{v * factor:,.{digits}f}" for v in (low, high)]
    return f"{words[0]} {unit}" if words[0] == words[1] else f"{words[0]} to {words[1]} {unit}"


def flops(figure: Fig) -> str:
    value = float(figure["value"])
    units = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))
    size, unit = next((entry for entry in units if value >= entry[0]), units[-1])
    return f"{value / size:,.3g} {unit}" if value / size < 1000 else f"{value / size:,.0f} {unit}"


def ends(figure: Fig) -> tuple[float, float]:
    low = float(figure["value"])
    return low, float(figure.get("high", low))


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
