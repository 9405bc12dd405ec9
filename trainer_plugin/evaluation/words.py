"""Sentences and figures about an evaluation, for the terminal and the page."""

from __future__ import annotations

import math

from tokpack.terminal.activity import counted
from trainer_plugin.evaluation.held_out import AdapterComparison, Pairs
from trainer_plugin.evaluation.statistics import Interval
from trainer_plugin.evaluation.tasks import TaskComparison

MINUS = "\N{MINUS SIGN}"


def signed(value: float, digits: int = 4) -> str:
    """With a true minus; no sign on what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def ends(interval: Interval, digits: int = 4) -> str:
    """`"-0.81 to -0.68"`; empty where there is no interval."""
    if interval.low is None or interval.high is None:
        return "too few"
    return f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def percent_ends(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "too few"
    return f"{interval.low:.1%} to {interval.high:.1%}"


def factor(value: float) -> str:
    """`"1.56"`, with as many digits as it takes to differ from 1: `"1.005"`."""
    texts = (f"{value:.{digits}f}" for digits in (2, 3, 4, 5))
    return next((text for text in texts if float(text) != 1), f"{value:.6f}")


def verdict(one: AdapterComparison) -> str:
    """What the held-out documents say about an adapter, in a sentence without its name."""
    difference = one.difference
    if not difference.sure:
        return "no difference that these documents show"
    word = "better" if difference.value < 0 else "worse"
    return f"{word}: a trained token is {factor(math.exp(-difference.value))} times as likely as by the base"


def forgetting(one: AdapterComparison) -> str:
    """What the control text says."""
    difference = one.difference
    if not difference.sure:
        return "nothing forgotten that these documents show"
    if difference.value > 0:
        return f"forgets: the loss is {difference.value:.4f} higher"
    return f"better here too: the loss is {-difference.value:.4f} lower"


def pairs_words(pairs: Pairs) -> str:
    """Rewards, and which answer each model finds likelier."""
    rewards = (
        f"the chosen answer has the higher reward in {percent(pairs.accuracy.value)} of "
        f"{counted(pairs.pairs, 'pair')} ({percent_ends(pairs.accuracy)}), by {signed(pairs.margin.value)} "
        f"on average ({ends(pairs.margin)}; {pairs.loss}, beta {pairs.strength:g})"
    )
    likelier = f"likelier per token in {percent(pairs.prefers.value)}"
    return f"{rewards}; {likelier}, by the base in {percent(pairs.base_prefers.value)}"


def task_value(one: TaskComparison, value: float) -> str:
    """A share in percent, other values as they are."""
    return percent(value) if one.p_value is not None else f"{value:.4f}"


def task_difference(one: TaskComparison) -> str:
    if one.p_value is None:
        return signed(one.difference.value)
    return f"{signed(100 * one.difference.value, 1)} points"


def task_ends(one: TaskComparison) -> str:
    """Ends of the difference's interval, of shares in percentage points."""
    found = one.difference
    if one.p_value is None or found.low is None or found.high is None:
        return ends(found)
    return f"{signed(100 * found.low, 1)} to {signed(100 * found.high, 1)}"
