"""Two reports side by side: what changed in documents, tokens, reasons, rows and cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tokpack import schema
from tokpack.cost import Figure
from tokpack.errors import DataError, UsageError
from tokpack.frozen import frozen
from tokpack.on_disk.ledger import Ledger
from tokpack.on_disk.manifest import read_manifest
from tokpack.on_disk.reasons import words_of
from tokpack.report.bill.cost_figures import Cost
from tokpack.report.bill.cost_words import flops, hours, money
from tokpack.report.tables import Cell, Column, Line, Table
from tokpack.report.terminal_tables import QUIET, DrawnTable, spaced
from tokpack.report.values import Figures
from tokpack.settings.plain import to_plain
from tokpack.terminal.printable import one_line

Settings = dict[str, Any]
"""Name of a setting -> its value, as a configuration file has it."""


@frozen(kw_only=True)
class Change:
    """A number of both reports. `change` is b minus a, `ratio` b over a."""

    name: str
    a: float
    b: float
    change: float
    ratio: float | None

    @staticmethod
    def of(name: str, a: float, b: float) -> Change:
        return Change(name=name, a=a, b=b, change=b - a, ratio=b / a if a else None)


@frozen(kw_only=True)
class ReasonChange:
    reason: str
    documents: Change
    tokens: Change


@frozen(kw_only=True)
class CostChange:
    """`ratio` is that of the low ends."""

    name: str
    a: Figure
    b: Figure
    ratio: float | None

    @staticmethod
    def of(name: str, a: Figure, b: Figure) -> CostChange:
        return CostChange(name=name, a=a, b=b, ratio=b.value / a.value if a.value else None)


@frozen(kw_only=True)
class Compared:
    """Settings, sums, reasons and cost of two reports."""

    a: Settings
    b: Settings
    sums: list[Change]
    dropped: list[ReasonChange]
    cost: list[CostChange]


@dataclass(frozen=True)
class Comparison:
    """What differs between two reports. Prints as tables; `data` is plain JSON."""

    compared: Compared

    @cached_property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = to_plain(self.compared)
        return data

    def __rich__(self) -> RenderableType:
        return comparison_view(self.compared)

    def __repr__(self) -> str:
        return f"Comparison({self.compared.a['name']!r}, {self.compared.b['name']!r})"


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare two reports: report.json files (of `tokpack analyze --json`, too), or packed dataset folders.

    Raises UsageError for anything else.
    """
    from tokpack.packed_urls import local_folder, name_of

    a, b = local_folder(a), local_folder(b)
    return Comparison(compared(load_report(a), load_report(b), name_of(a), name_of(b)))


def load_report(path: Path) -> Figures:
    """A report, from its file or the folder of the packed dataset."""
    if (path / schema.MANIFEST).is_file():
        read_manifest(path)  # a folder from anybody: refused with its links before anything in it is read
    file = path / schema.REPORT if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"no report here: {error.strerror}",
            where=str(file),
            hint="give a report.json, or the folder that `tokpack pack -o` wrote",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}", where=str(file), hint="give a report.json") from None
    if not isinstance(data, dict) or not {"ledger", "capacity", "plan", "tokenizer"} <= data.keys():
        raise UsageError(
            "JSON, but not a report of tokpack",
            where=str(file),
            hint="tokpack analyze DATA --json > report.json",
        )
    try:
        return Figures.read(data)
    except DataError as error:
        raise UsageError(error.what, where=str(file), hint=error.hint) from None


def compared(a: Figures, b: Figures, name_a: str, name_b: str) -> Compared:
    """The two reports side by side."""
    sums = [Change.of(name, here, _sums(b)[name]) for name, here in _sums(a).items()]
    return Compared(
        a=_settings(a, name_a),
        b=_settings(b, name_b),
        sums=sums,
        dropped=_dropped(a.ledger, b.ledger),
        cost=_costs(a.cost, b.cost),
    )


def _sums(figures: Figures) -> dict[str, float]:
    documents, tokens, slots = figures.ledger.documents, figures.ledger.tokens, figures.ledger.slots
    return {
        "documents read": documents.read,
        "documents kept": documents.kept,
        "unreadable rows": documents.quarantined,
        "tokens in the data": tokens.tokenized,
        "tokens packed": tokens.packed,
        "tokens cut off": tokens.truncated,
        "tokens trained": figures.ledger.trained.trained,
        "rows": slots.rows if slots else 0,
        "slots": slots.total if slots else 0,
        "free slots": slots.free if slots else 0,
        "fill": figures.plan.fill,
    }


def _settings(figures: Figures, name: str) -> Settings:
    cost = figures.cost
    gpu, recipe = cost.gpu if cost else None, to_plain(cost.recipe) if cost else {}
    return {
        "name": name,
        "tokpack": figures.tokpack_version,
        "tokenizer": figures.tokenizer,
        "capacity": figures.capacity,
        "inputs": ", ".join(source.name for source in figures.inputs),
        "model": cost.model.name if cost else None,
        "method": cost.method.kind if cost else None,
        "gpu": f"{gpu.count} {gpu.key}" if gpu else None,
        "dollars per GPU-hour": gpu.price.value if gpu and gpu.price else None,
        **{key.replace("_", " "): value for key, value in recipe.items()},
        **{key: value for key, value in flat(figures.config) if key not in NAMED},
    }


NAMED = ("source", "tokenize.tokenizer", "truncate.max_length")
"""Settings that are listed by other names: inputs, tokenizer, capacity."""


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`clean.rules` and its value, for each key of nested tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _dropped(a: Ledger, b: Ledger) -> list[ReasonChange]:
    """Reasons of either report, largest change of tokens first."""
    changes = [
        ReasonChange(
            reason=reason,
            documents=Change.of(reason, *(of.documents.dropped.get(reason, 0) for of in (a, b))),
            tokens=Change.of(reason, *(of.tokens.dropped.get(reason, 0) for of in (a, b))),
        )
        for reason in sorted({*a.documents.dropped, *b.documents.dropped})
    ]
    return sorted(changes, key=lambda line: (-abs(line.tokens.change), line.reason))


def _costs(a: Cost | None, b: Cost | None) -> list[CostChange]:
    """Figures of both bills; only the work where one has no GPU."""
    if a is None or b is None:
        return []
    changes, runs = [], (a.estimate, b.estimate)
    if runs[0] and runs[1]:
        changes.append(CostChange.of("GPU time", runs[0].gpu_hours, runs[1].gpu_hours))
        if runs[0].money and runs[1].money:
            changes.append(CostChange.of("money", runs[0].money, runs[1].money))
    return [*changes, CostChange.of("work", a.comparison[-1].flops, b.comparison[-1].flops)]


def comparison_view(compared: Compared) -> RenderableType:
    """Settings that differ, then sums, reasons and cost."""
    names = tuple(one_line(side["name"], 30) for side in (compared.a, compared.b))
    parts = [settings_view(compared, names), DrawnTable(sums_table(compared.sums, names))]
    if compared.dropped:
        parts.append(DrawnTable(dropped_table(compared.dropped, names)))
    if compared.cost:
        parts.append(DrawnTable(cost_table(compared.cost, names)))
    return spaced(parts)


def settings_view(compared: Compared, names: tuple[str, ...]) -> RenderableType:
    a, b = compared.a, compared.b
    differing = [key for key in {**a, **b} if key != "name" and a.get(key) != b.get(key)]
    if not differing:
        return Text("The settings are the same.", style=QUIET)
    lines = [
        Line([Cell(key), *(Cell("" if of.get(key) is None else one_line(str(of[key]), 60)) for of in (a, b))])
        for key in differing
    ]
    columns = [Column(name, words=True) for name in ("", *names)]
    return DrawnTable(Table("Settings that differ", columns, lines))


def sums_table(sums: list[Change], names: tuple[str, ...]) -> Table:
    columns = [Column("", words=True), *map(Column, (*names, "change", ""))]
    return Table("Documents, tokens, rows", columns, [_sum(line) for line in sums])


def _sum(line: Change) -> Line:
    if line.name == "fill":
        return Line([Cell(text) for text in (line.name, f"{line.a:.2%}", f"{line.b:.2%}", "", "")])
    texts = f"{line.a:,}", f"{line.b:,}", _signed(line.change), _percent(line.ratio)
    return Line([Cell(text) for text in (line.name, *texts)])


def dropped_table(dropped: list[ReasonChange], names: tuple[str, ...]) -> Table:
    columns = [Column("reason", words=True), *map(Column, (*names, "change", "tokens"))]
    lines = []
    for line in dropped:
        documents = line.documents
        texts = f"{documents.a:,}", f"{documents.b:,}", _signed(documents.change), _signed(line.tokens.change)
        name = Cell(one_line(line.reason, 60), about=words_of(line.reason))
        lines.append(Line([name, *map(Cell, texts)]))
    return Table("Documents left out, and their tokens", columns, lines)


def cost_table(cost: list[CostChange], names: tuple[str, ...]) -> Table:
    words: dict[str, Callable[[Figure], str]] = {"GPU time": hours, "money": money, "work": flops}
    lines = [
        Line(
            [
                Cell(text)
                for text in (line.name, *map(words[line.name], (line.a, line.b)), _percent(line.ratio))
            ]
        )
        for line in cost
    ]
    return Table("Cost of training", [Column("", words=True), *map(Column, (*names, "change"))], lines)


def _signed(change: float) -> str:
    return f"{change:+,}" if change else ""


def _percent(ratio: float | None) -> str:
    return "" if ratio is None or ratio == 1 else f"{ratio - 1:+.1%}"
