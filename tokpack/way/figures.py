"""What the decisions between the passes leave for the report."""

from __future__ import annotations

from dataclasses import field

from tokpack.frozen import frozen
from tokpack.settings.plain import LEFT_OUT


@frozen(kw_only=True)
class NearPair:
    alike: str
    """What is alike, of prompt and answer; empty where documents are compared as one text."""
    jaccard: float | None
    """None where the document only looks alike and stays."""
    removed: str
    kept: str
    """The starts of both texts."""


@frozen(kw_only=True)
class NearFigures:
    """What the removal of near duplicates takes, or would take."""

    threshold: float
    on: str
    applied: bool
    documents: int
    tokens: int
    bounded: int
    """Documents compared with only some of their candidates."""
    kept: dict[str, int]
    """Documents that look alike and stay, by what is alike."""
    pairs: list[NearPair]


@frozen(kw_only=True)
class MoneyFigures:
    """A budget in dollars, the tokens it became, and what they cost at most."""

    usd: float
    tokens: int
    bill: float
    all: bool
    """Whether it pays for all of the data."""
    counted: str | None = field(default=None, metadata=LEFT_OUT)
    """`trained` where trained tokens alone count."""
