"""Conditions that an adapter has to meet, for CI: `heldout < -0.02`, `math: gsm8k_local > -1%`.

The unfavorable end of the interval decides, so a difference that may be chance passes no gate.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokpack.errors import UsageError, near_matches
from trainer_plugin.evaluation.statistics import Interval

_FORM = re.compile(r"(?:([^:<>]+):)?\s*([\w./|-]+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(%?)")
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Gate:
    """`[ADAPTER:] FIGURE <|<=|>|>= LIMIT`; without an adapter it is for every one."""

    text: str
    adapter: str
    figure: str
    sign: str
    limit: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a gate for one adapter."""

    gate: str
    adapter: str
    passed: bool
    sentence: str


def parse_gate(text: str) -> Gate:
    """Raises UsageError for what is no gate."""
    found = _FORM.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        adapter, figure, sign, number, percent = found.groups()
        limit = float(number) / (100 if percent else 1)
    except ValueError:
        raise UsageError(
            f"no gate: {text!r}",
            where="--gate",
            hint='as "heldout < -0.02", "gsm8k_local > -1%" or "ADAPTER: heldout < 0"',
        ) from None
    return Gate(text.strip(), (adapter or "").strip(), figure, sign, limit)


def check_gates(gates: Iterable[Gate], figures: Iterable[str], adapters: Iterable[str]) -> None:
    """Before the work: raises UsageError for a figure or an adapter that there will not be."""
    figures, adapters = list(figures), list(adapters)
    for gate in gates:
        if gate.figure not in figures and gate.figure.rpartition("/")[0] not in figures:
            raise UsageError(
                f"nothing called {gate.figure!r} is measured here",
                where=f"--gate {gate.text!r}",
                hint=near_matches(gate.figure, figures),
            )
        if gate.adapter and gate.adapter not in adapters:
            raise UsageError(
                f"no adapter named {gate.adapter!r}",
                where=f"--gate {gate.text!r}",
                hint=near_matches(gate.adapter, adapters),
            )


def judge(gate: Gate, adapter: str, figures: Mapping[str, Interval]) -> Outcome:
    """The gate against the figures of one adapter."""
    found = figures.get(gate.figure)
    asked = gate.text if gate.adapter else f"{adapter}: {gate.text}"
    if found is None:
        return Outcome(gate.text, adapter, False, f"{asked}: the task has no such metric")
    below = gate.sign.startswith("<")
    end = found.high if below else found.low
    if end is None:
        return Outcome(gate.text, adapter, False, f"{asked}: too little data for an interval")
    passed = bool(_COMPARE[gate.sign](end, gate.limit))
    side = "upper" if below else "lower"
    verdict = "passed" if passed else "failed"
    sentence = (
        f"{asked} {verdict}: the {side} end of the interval is {end:+.4f} (measured {found.value:+.4f})"
    )
    return Outcome(gate.text, adapter, passed, sentence)
