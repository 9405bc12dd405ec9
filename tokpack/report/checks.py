"""What `tokpack verify` looked at: one table, drawn by the terminal and in a notebook."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType

from tokpack.packed_urls import place_of
from tokpack.report.tables import Cell, Column, Line, Table
from tokpack.report.terminal_tables import DrawnTable
from tokpack.terminal.printable import one_line


def checks_table(verification: Any) -> Table:
    """One line a check, every fault below its check."""
    columns = [Column("result", words=True), Column("check", words=True), Column("found", words=True)]
    lines = []
    for check in verification.checks:
        verdict = Cell("ok", tone="good") if check.ok else Cell("FAULT", tone="bad")
        lines.append(Line([verdict, Cell(check.name), Cell(one_line(check.detail, 400))], not check.ok))
        lines += [
            Line([Cell(""), Cell(""), Cell(one_line(fault, 400), tone="bad")]) for fault in check.faults
        ]
    return Table(f"verify {one_line(place_of(verification.folder))}", columns, lines, named=1)


def checks_view(verification: Any) -> RenderableType:
    """`tokpack verify`: the checks, and what a model's probe found."""
    table = DrawnTable(checks_table(verification), head=False)
    return Group(table, verification.model) if verification.model is not None else table
