"""Two reports side by side: what changed in documents, tokens, reasons, rows and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from tokpack import schema
from tokpack.cost import Figure
from tokpack.errors import UsageError
from tokpack.manifest import read_manifest
from tokpack.plain import from_plain
from tokpack.printable import one_line
from tokpack.reasons import words_of
from tokpack.report.cost_words import flops, hours, money
from tokpack.report.tables import QUIET, plain_table

SUMS = {
    "documents read": ("documents", "read"),
    "documents kept": ("documents", "kept"),
    "unreadable rows": ("documents", "quarantined"),
    "tokens in the data": ("tokens", "tokenized"),
    "tokens packed": ("tokens", "packed"),
    "tokens cut off": ("tokens", "truncated"),
    "tokens trained": ("trained", "trained"),
    "rows": ("slots", "rows"),
    "slots": ("slots", "total"),
    "free slots": ("slots", "free"),
}
"""Name -> where it is in the ledger."""
COSTS = {"GPU time": "gpu_hours", "money": "money", "work": "flops"}


@dataclass(frozen=True)
class Comparison:
    """What differs between two reports. Prints as tables; `data` is plain JSON."""

    data: dict[str, Any]

    def __rich__(self) -> RenderableType:
        return comparison_view(self.data)

    def __repr__(self) -> str:
        return f"Comparison({self.data['a']['name']!r}, {self.data['b']['name']!r})"


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare two reports: report.json files (of `tokpack analyze --json`, too), or packed dataset folders.

    Raises UsageError for anything else.
    """
    reports = load_report(a), load_report(b)
    try:
        return Comparison(comparison_data(*reports, Path(a).name, Path(b).name))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"a report that tokpack did not write so: {type(error).__name__} {str(error)[:80]}",
            where=f"{a}, {b}",
            hint="write it again: tokpack analyze DATA --json > report.json",
        ) from None


def load_report(path: str | Path) -> dict[str, Any]:
    """The data of a report, from its file or the folder of the packed dataset."""
    from tokpack.packed_urls import local_folder

    path = local_folder(path)
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
    return data


def comparison_data(a: dict[str, Any], b: dict[str, Any], name_a: str, name_b: str) -> dict[str, Any]:
    """Settings, sums, reasons and cost of both; `change` is b minus a, `ratio` b over a."""
    ledgers = a["ledger"], b["ledger"]
    sums = [_line(name, *(ledger[part][key] for ledger in ledgers)) for name, (part, key) in SUMS.items()]
    sums.append(_line("fill", *(report["plan"]["fill"] for report in (a, b))))
    return {
        "a": _settings(a, name_a),
        "b": _settings(b, name_b),
        "sums": sums,
        "dropped": _dropped(*ledgers),
        "cost": _costs(a.get("cost"), b.get("cost")),
    }


def _settings(report: dict[str, Any], name: str) -> dict[str, Any]:
    cost = report.get("cost") or {}
    gpu = cost.get("gpu") or {}
    return {
        "name": name,
        "tokpack": report.get("tokpack_version"),
        "tokenizer": report["tokenizer"],
        "capacity": report["capacity"],
        "inputs": ", ".join(source["name"] for source in report.get("inputs", [])),
        "model": cost.get("model", {}).get("name"),
        "method": cost.get("method", {}).get("kind"),
        "gpu": f"{gpu['count']} {gpu['key']}" if gpu else None,
        "dollars per GPU-hour": (gpu.get("price") or {}).get("value"),
        **{key.replace("_", " "): value for key, value in cost.get("recipe", {}).items()},
        **{key: value for key, value in flat(report.get("config", {})) if key not in NAMED},
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


def _line(name: str, a: float, b: float) -> dict[str, Any]:
    return {"name": name, "a": a, "b": b, "change": b - a, "ratio": b / a if a else None}


def _dropped(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Reasons of either report, largest change of tokens first."""
    reasons = sorted({*a["documents"]["dropped"], *b["documents"]["dropped"]})
    lines = [
        {
            "reason": reason,
            "documents": _line(reason, *(x["documents"]["dropped"].get(reason, 0) for x in (a, b))),
            "tokens": _line(reason, *(x["tokens"]["dropped"].get(reason, 0) for x in (a, b))),
        }
        for reason in reasons
    ]
    return sorted(lines, key=lambda line: (-abs(line["tokens"]["change"]), line["reason"]))


def _costs(a: dict[str, Any] | None, b: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Figures of both bills; only the work where one has no GPU. `ratio` is that of the low ends."""
    if not a or not b:
        return []
    lines = []
    for name, key in COSTS.items():
        figures = [(cost["estimate"] or {}).get(key) for cost in (a, b)]
        if key == "flops":
            figures = [cost["comparison"][-1]["flops"] for cost in (a, b)]
        if None not in figures:
            low, other = (figure["value"] for figure in figures if figure)
            lines.append(
                {"name": name, "a": figures[0], "b": figures[1], "ratio": other / low if low else None}
            )
    return lines


def comparison_view(data: dict[str, Any]) -> RenderableType:
    """Settings that differ, then sums, reasons and cost."""
    names = tuple(escape(one_line(data[side]["name"], 30)) for side in "ab")
    parts: list[RenderableType] = [settings_table(data, names), sums_table(data, names)]
    if data["dropped"]:
        parts.append(dropped_table(data, names))
    if data["cost"]:
        parts.append(cost_table(data, names))
    return Group(*(item for part in parts for item in (part, Text())))


def settings_table(data: dict[str, Any], names: tuple[str, ...]) -> RenderableType:
    a, b = data["a"], data["b"]
    differing = [key for key in {**a, **b} if key != "name" and a.get(key) != b.get(key)]
    if not differing:
        return Text("The settings are the same.", style=QUIET)
    table = plain_table("Settings that differ", "", *names, words=3)
    for key in differing:
        cells = (data[side].get(key) for side in "ab")
        table.add_row(key, *(Text("" if cell is None else one_line(str(cell), 60)) for cell in cells))
    return table


def sums_table(data: dict[str, Any], names: tuple[str, ...]) -> RenderableType:
    table = plain_table("Documents, tokens, rows", "", *names, "change", "")
    for line in data["sums"]:
        table.add_row(line["name"], *_numbers(line))
    return table


def dropped_table(data: dict[str, Any], names: tuple[str, ...]) -> RenderableType:
    table = plain_table("Documents left out, and their tokens", "reason", *names, "change", "tokens", "")
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for line in data["dropped"]:
        documents = line["documents"]
        table.add_row(
            Text(one_line(line["reason"], 60)),
            f"{documents['a']:,}",
            f"{documents['b']:,}",
            f"{documents['change']:+,}" if documents["change"] else "",
            f"{line['tokens']['change']:+,}" if line["tokens"]["change"] else "",
            Text(words_of(line["reason"]), style=QUIET),
        )
    return table


def cost_table(data: dict[str, Any], names: tuple[str, ...]) -> RenderableType:
    words = {"GPU time": hours, "money": money, "work": flops}
    table = plain_table("Cost of training", "", *names, "change")
    for line in data["cost"]:
        shown = words[line["name"]]
        table.add_row(
            line["name"],
            *(shown(from_plain(Figure, line[side], line["name"])) for side in "ab"),
            _percent(line["ratio"]),
        )
    return table


def _numbers(line: dict[str, Any]) -> tuple[str, str, str, str]:
    if line["name"] == "fill":
        return f"{line['a']:.2%}", f"{line['b']:.2%}", "", ""
    change = f"{line['change']:+,}" if line["change"] else ""
    return f"{line['a']:,}", f"{line['b']:,}", change, _percent(line["ratio"])


def _percent(ratio: float | None) -> str:
    return "" if ratio is None or ratio == 1 else f"{ratio - 1:+.1%}"
