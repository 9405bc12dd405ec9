"""The values of `tokpack clean`'s report: what `kept.report.json` holds."""

from __future__ import annotations

from dataclasses import field

from tokpack.cost import Figure
from tokpack.frozen import frozen
from tokpack.on_disk.ledger import Ledger
from tokpack.report.values import Drop, Lengths
from tokpack.settings.plain import LEFT_OUT
from tokpack.way.figures import MoneyFigures


@frozen(kw_only=True)
class CleanInput:
    name: str
    size_bytes: int | None
    format: str
    sha256: str | None


@frozen(kw_only=True)
class Price:
    """Of a service that bills by the token."""

    key: str
    provider: str
    model: str
    usd_per_million: float
    as_it_came: Figure
    kept: Figure


@frozen(kw_only=True)
class CleanBill:
    epochs: float
    services: list[Price]


@frozen(kw_only=True)
class CleanFigures:
    """What `kept.report.json` holds."""

    tokpack_version: str
    tokenizer: str
    estimated: bool
    """Whether tokens are counted by a tokenizer that was learned from the data."""
    to: str
    inputs: list[CleanInput]
    ledger: Ledger
    lengths: Lengths
    drops: list[Drop]
    counters: dict[str, int]
    bill: CleanBill
    budget: MoneyFigures | None = field(default=None, metadata=LEFT_OUT)
