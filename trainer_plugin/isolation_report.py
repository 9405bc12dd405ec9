"""What the isolation probe saw: reports that print as tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True)
class Check:
    """One comparison of logits: `difference` against `limit`, both relative to the largest logit."""

    name: str
    difference: float
    limit: float
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class IsolationReport:
    """What the probe saw. `ok` means that training on packed rows equals training on the documents alone."""

    strategy: str
    attn: str
    dtype: str
    documents: int
    tokens: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def max_difference(self) -> float:
        """Of all checks, relative to the largest logit."""
        return max((check.difference for check in self.checks), default=float("inf"))

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"isolation of packed documents: {self.attn}, {self.dtype}", title_justify="left")
        for heading, justify in (
            ("check", "left"),
            ("difference", "right"),
            ("limit", "right"),
            ("", "left"),
        ):
            table.add_column(heading, justify=justify)
        for check in self.checks:
            verdict = "ok" if check.ok else "FAILED"
            table.add_row(
                check.name, f"{check.difference:.1e}", f"{check.limit:.1e}", f"{verdict} {check.note}".strip()
            )
        table.caption = "\n".join(self.notes) or None
        table.caption_justify = "left"
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        return _render(self)

    def to_dict(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "attn": self.attn,
            "dtype": self.dtype,
            "ok": self.ok,
            "documents": self.documents,
            "tokens": self.tokens,
            "checks": [vars(check) for check in self.checks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ModelVerification:
    """Probe reports of one model, one per attention backend. `ok`: the trainer has a backend that passes."""

    model: str
    reports: Mapping[str, IsolationReport]
    advice: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        return any(report.ok for report in self.reports.values())

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=f"isolation of packed documents in {self.model}", title_justify="left")
        for heading in ("attention", "dtype", "neighbour changed", "against alone", "result"):
            table.add_column(
                heading, justify="right" if heading[0] in "na" and heading != "attention" else "left"
            )
        for name, report in self.reports.items():
            moved = max((c.difference for c in report.checks[:-1]), default=float("inf"))
            alone = report.checks[-1].difference if report.checks else float("inf")
            result = "exact" if report.max_difference == 0 else "equal" if report.ok else "LEAKS"
            if report.max_difference == float("inf"):
                result = "cannot run"
            table.add_row(name, report.dtype, f"{moved:.1e}", f"{alone:.1e}", result)
        return table

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(self.table(), *self.advice)

    def __str__(self) -> str:
        return _render(self)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "ok": self.ok,
            "reports": {name: report.to_dict() for name, report in self.reports.items()},
            "advice": list(self.advice),
        }


def _render(report: IsolationReport | ModelVerification) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=110, no_color=True).print(report)
    return out.getvalue().rstrip()
