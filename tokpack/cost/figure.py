"""A number that says where it comes from: every figure of a cost report is one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "computed", "assumed"]


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; with `high` set it is a range and `value` its lower end.

    `source` is the weakest link: hours computed from an assumed utilization are "assumed".
    """

    value: float
    unit: str
    source: Source
    note: str = ""
    high: float | None = None

    def scaled(self, factor: float, unit: str | None = None, note: str | None = None) -> Figure:
        """The same figure times `factor` (more epochs, dollars an hour), its source unchanged."""
        return Figure(
            value=self.value * factor,
            unit=self.unit if unit is None else unit,
            source=self.source,
            note=self.note if note is None else note,
            high=None if self.high is None else self.high * factor,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `high` is left out when the figure is one number."""
        out: dict[str, Any] = {
            "value": self.value,
            "unit": self.unit,
            "source": self.source,
            "note": self.note,
        }
        if self.high is not None:
            out["high"] = self.high
        return out


def weakest(*sources: Source) -> Source:
    """The source a derived figure must carry: assumed over measured over computed."""
    for source in ("assumed", "measured"):
        if source in sources:
            return source
    return "computed"
