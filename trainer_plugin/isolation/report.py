"""What the isolation probe saw: reports that print as tables."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


CHANGED_FIRST, CHANGED_LAST = "first document changed", "last document changed"
ALONE, GRADIENTS = "packed against alone", "gradients of another document"
AHEAD = "later tokens changed"
_SHORT = {
    CHANGED_FIRST: "first\nchanged",
    CHANGED_LAST: "last\nchanged",
    ALONE: "against\nalone",
    GRADIENTS: "gradients",
    AHEAD: "later\nchanged",
}


@dataclass(frozen=True)
class ProbeCheck:
    """One comparison of logits: `difference` against `limit`, both relative to the largest logit."""

    name: str
    difference: float
    limit: float
    ok: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON has no infinity: a check that could not run has no difference."""
        return {**vars(self), "difference": self.difference if isfinite(self.difference) else None}


@dataclass(frozen=True)
class IsolationReport:
    """What the probe saw. `ok` means that training on packed rows equals training on the documents alone.

    `attn` is what `prepare_model` takes to set another model up alike.
    """

    strategy: str
    attn: str
    dtype: str
    documents: int
    tokens: int
    checks: tuple[ProbeCheck, ...]
    notes: tuple[str, ...] = ()
    mixers: tuple[str, ...] = ()
    """Layers that run document by document, as "MambaMixer x 2"."""

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def sees_ahead(self) -> bool:
        """Documents are apart, and a token's logits depend on later tokens of its own document."""
        return any(check.name == AHEAD and not check.ok for check in self.checks)

    @property
    def max_difference(self) -> float:
        """Of all checks, relative to the largest logit."""
        return max((check.difference for check in self.checks), default=float("inf"))

    @property
    def verdict(self) -> str:
        if self.ok:
            return "exact" if self.max_difference == 0 else "equal"
        if self.max_difference == float("inf"):
            return "cannot run"
        return "SEES AHEAD" if self.sees_ahead else "LEAKS"

    @property
    def problem(self) -> str:
        """Why the first check that failed did, in one line; empty when all passed."""
        failed = next((check for check in self.checks if not check.ok), None)
        if failed is None:
            return ""
        if failed.difference == float("inf"):
            return " ".join([*self.notes[-1:]]) or failed.note
        moved = f"{failed.name}: {failed.difference:.1e}, where {failed.limit:.1e} is allowed"
        return f"it sees the tokens that it is to predict; {moved}" if failed.name == AHEAD else moved

    def table(self) -> Table:
        setup = ", ".join(filter(None, [self.attn, self.dtype]))
        table = _plain_table(f"isolation of packed documents: {setup}")
        table.add_column("check")
        table.add_column("difference", justify="right")
        table.add_column("limit", justify="right")
        table.add_column("")
        for check in self.checks:
            verdict = "ok" if check.ok else "FAILED"
            table.add_row(
                check.name, f"{check.difference:.1e}", f"{check.limit:.1e}", f"{verdict} {check.note}".strip()
            )
        table.caption = "\n".join(self._lines()) or None
        table.caption_justify = "left"
        return table

    def _lines(self) -> list[str]:
        return [*([f"document by document: {', '.join(self.mixers)}"] if self.mixers else []), *self.notes]

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
            "checks": [check.to_dict() for check in self.checks],
            "notes": list(self.notes),
            "mixers": list(self.mixers),
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
        table = _plain_table(f"isolation of packed documents in {self.model}")
        for heading in ("attention", "dtype", *_SHORT.values(), "result"):
            table.add_column(
                heading, overflow="fold", justify="right" if heading in _SHORT.values() else "left"
            )
        for name, report in self.reports.items():
            found = {check.name: check.difference for check in report.checks}
            figures = [f"{found[check]:.1e}" if check in found else "-" for check in _SHORT]
            table.add_row(name, report.dtype, *figures, report.verdict)
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


def _plain_table(title: str) -> Table:
    """Without a frame, like all tables of the commands: every column fits into 80 characters."""
    from rich.table import Table

    table = Table(title=title, title_style="bold", title_justify="left", header_style="dim", box=None)
    table.pad_edge, table.padding = False, (0, 2, 0, 0)
    return table


def _render(report: IsolationReport | ModelVerification) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=110, no_color=True).print(report)
    return out.getvalue().rstrip()
