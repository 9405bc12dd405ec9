"""A number that says where it comes from: every figure of a cost report is one of these."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from tokpack.frozen import frozen
from tokpack.settings.plain import LEFT_OUT

Source = Literal["measured", "computed", "assumed"]


@frozen
class Figure:
    """`value` in `unit`; with `high` set it is a range and `value` its lower end.

    `source` is the weakest link: hours computed from an assumed utilization are "assumed".
    """

    value: float
    unit: str
    source: Source
    note: str = ""
    high: float | None = field(default=None, metadata=LEFT_OUT)

    def scaled(self, factor: float, unit: str | None = None, note: str | None = None) -> Figure:
        """The same figure times `factor` (more epochs, dollars an hour), its source unchanged."""
        return Figure(
            value=self.value * factor,
            unit=self.unit if unit is None else unit,
            source=self.source,
            note=self.note if note is None else note,
            high=None if self.high is None else self.high * factor,
        )


def count(value: float, unit: str, note: str = "") -> Figure:
    """A figure that is computed."""
    return Figure(value, unit, "computed", note)


def weakest(*sources: Source) -> Source:
    """The source a derived figure must carry: assumed over measured over computed."""
    for source in ("assumed", "measured"):
        if source in sources:
            return source
    return "computed"
