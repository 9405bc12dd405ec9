"""From log-probabilities, the server's and ours, to a name for what answers there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CLOSE = 0.3
"""Largest mean difference of what is the same, relative to the effect it is told apart by."""
LEAST_EFFECT = 0.01
"""Nats per token below which an adapter cannot be told from its base."""
BASE = "base"


@dataclass(frozen=True, slots=True)
class ProofFinding:
    """What one comparison found. `name` is stable; differences are mean absolute ones, in nats per token."""

    name: str
    sentence: str
    hint: str = ""
    good: bool = False
    effect: float | None = None
    """Of the adapter on the base; of other templates on the right one."""
    differences: Mapping[str, float] = field(default_factory=dict)
    """Between the server and each of ours."""
    tokens: int = 0


def apart(one: Floats, other: Floats) -> float:
    """Mean absolute difference, in nats per token."""
    return float(np.abs(one - other).mean())


def judge_weights(server: Floats, ours: Mapping[str, Floats], adapter: str) -> ProofFinding:
    """ours: `BASE`, the adapter and any others -> log-probabilities of the same tokens as the server's."""
    base, mine = ours[BASE], ours[adapter]
    effect = apart(mine, base)
    differences = {name: apart(server, values) for name, values in ours.items()}
    facts = {"effect": effect, "differences": differences, "tokens": len(server)}
    if effect < LEAST_EFFECT:
        return ProofFinding(
            "no effect",
            f"the adapter changes {effect:.4f} nats per token here: too little to tell it from its base",
            "give documents of the kind that it was trained on: --data PACKED",
            **facts,  # type: ignore[arg-type]
        )
    nearest = min(differences, key=lambda name: differences[name])
    own = effect if nearest == BASE else apart(ours[nearest], base)
    close = differences[nearest] <= CLOSE * own
    figures = f"off by {differences[nearest]:.4f} nats per token where the adapter changes {effect:.4f}"
    if close and nearest == adapter:
        return ProofFinding("right", f"the adapter answers: {figures}", good=True, **facts)  # type: ignore[arg-type]
    if close and nearest == BASE:
        hint = (
            "the server knows the name and does not apply the adapter: look at its log and its LoRA settings"
        )
        return ProofFinding("base", f"the base answers instead: {figures}", hint, **facts)  # type: ignore[arg-type]
    if close:
        hint = "compare names and folders in the server's start command"
        sentence = f"another adapter answers, {nearest}: {figures}"
        return ProofFinding("another adapter", sentence, hint, **facts)  # type: ignore[arg-type]
    return _unknown(server, base, mine, facts, adapter)


def _unknown(
    server: Floats, base: Floats, mine: Floats, facts: Mapping[str, object], adapter: str
) -> ProofFinding:
    """None of ours: somewhere on the way from base to adapter, or elsewhere."""
    way, moved = mine - base, server - base
    share = float(way @ moved / (way @ way))
    effect = apart(mine, base)
    left = apart(moved, share * way) / effect
    off = facts["differences"][adapter]  # type: ignore[index]
    figures = f"off by {off:.4f} nats per token where the adapter changes {effect:.4f}"
    if left <= CLOSE:
        return ProofFinding(
            "another scale",
            f"the adapter is applied with {share:.2f} of its strength: {figures}",
            "lora_alpha, use_rslora and the ranks are read otherwise there; merge the adapter and serve that",
            **facts,  # type: ignore[arg-type]
        )
    if 0.75 < share < 1.25 and left < 1:
        return ProofFinding(
            "too coarse",
            f"it may be the adapter, and is not proven: {figures}",
            "the server rounds more coarsely than the adapter changes: give --data, or serve in fp32",
            **facts,  # type: ignore[arg-type]
        )
    return ProofFinding(
        "unknown weights",
        f"neither base nor adapter answers: {figures}",
        "another adapter (name candidates with --other), another base, or quantized weights",
        **facts,  # type: ignore[arg-type]
    )


def judge_template(
    server: Floats, ours: Mapping[str, Floats], right: str, counts: Mapping[str, bool]
) -> ProofFinding:
    """ours: template -> log-probabilities of the tokens that the server generated, after its prompt.

    counts: whether the server's numbers of prompt tokens are those of the template.
    """
    differences = {name: apart(server, values) for name, values in ours.items()}
    others = {name: apart(values, ours[right]) for name, values in ours.items() if name != right}
    effect = min((value for value in others.values() if value >= LEAST_EFFECT), default=None)
    facts = {"effect": effect, "differences": differences, "tokens": len(server)}
    nearest = min(differences, key=lambda name: (round(differences[name], 4), not counts[name]))
    limit = CLOSE * effect if effect is not None else 10 * LEAST_EFFECT
    if differences[right] <= max(limit, differences[nearest]) and (
        counts[right] or differences[right] <= limit
    ):
        note = "" if counts[right] else "; it counts its prompt tokens otherwise"
        sentence = f"the chat template is the right one: off by {differences[right]:.4f} nats per token{note}"
        return ProofFinding("right template", sentence, good=True, **facts)  # type: ignore[arg-type]
    known = counts[nearest] and nearest != right
    which = f": {nearest}" if known else ", none that is known here"
    return ProofFinding(
        "another template",
        f"chats are rendered by another template{which} (off by {differences[right]:.4f} nats per token)",
        "give the server the template that the adapter was trained with (vLLM: --chat-template FILE)",
        **facts,  # type: ignore[arg-type]
    )
