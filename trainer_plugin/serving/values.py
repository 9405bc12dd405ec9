"""What travels between the HTTP side and the thread of the model."""

from __future__ import annotations

from dataclasses import dataclass, field

MIXED = ""
"""Lane of the base and of all adapters that can share one forward pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one server takes on."""

    rows: int = 16
    """Sequences in one forward pass."""
    queue: int = 64
    """Sequences that wait; more are refused."""
    context: int = 4096
    """Tokens of a prompt and its answer."""
    slots: int = 32768
    """Tokens of the key/value cache, padding included."""
    seconds: float = 600.0
    """From a request to the end of its answer, waiting included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One prompt and what is asked of it."""

    prompt: tuple[int, ...]
    max_tokens: int
    adapter: str | None = None
    """None: the base."""
    temperature: float = 1.0
    """Sampling temperature; 0: the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    """Go on after an end-of-text token."""
    likeliest: int | None = None
    """How many of the likeliest tokens are told at each place, with the token's own log-probability."""
    score_prompt: bool = False
    """Also tell those of the prompt's tokens."""
    after_prompt: bool = False
    """The text continues the prompt, so that a leading space of the first token counts."""


@dataclass(frozen=True, slots=True)
class Score:
    """A token, its log-probability and the likeliest tokens at its place, best first.

    The distribution is the model's own, before temperature and `top_p`. The first token of a prompt has none.
    """

    token: int
    logprob: float | None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt has been read."""

    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What was generated since the last one; the text may lag behind its tokens."""

    text: str
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """`stop` (a stop string or the model's own end) or `length`; `error` where the model failed."""

    reason: str
    tokens: int = 0
    """Generated, the end token included."""


Event = Prompt | Delta | End


@dataclass(slots=True)
class Load:
    """Figures of a running server."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    lanes: dict[str, int] = field(default_factory=dict)
