"""Reports and artefacts in the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


def report_view(data: dict[str, Any]) -> RenderableType:
    """The bill first, details after."""
    return Group(_bill(data), slots_table(data), ledger_table(data["ledger"]), drops_table(data))


def artefact_panel(manifest: dict[str, Any]) -> RenderableType:
    """One screen about a finished artefact."""
    plan, ledger = manifest["plan"], manifest["ledger"]
    lines = Table.grid(padding=(0, 2))
    for name, value in (
        ("rows", f"{manifest['rows']:,} of {manifest['capacity']:,} tokens, fill {plan['fill']:.2%}"),
        ("bound", f"{plan['bound']:,} rows ({plan['bound_kind']}), gap {plan['gap']:.3%}"),
        (
            "tokens",
            f"{manifest['tokens']:,}, trained {share(manifest['trained_tokens'], manifest['tokens'])}",
        ),
        ("tokenizer", manifest["tokenizer"]["name"]),
    ):
        lines.add_row(Text(name, style="dim"), Text(str(value)))
    title = f"{manifest['documents']:,} documents packed"
    return Group(Panel(lines, title=title, title_align="left", expand=False), ledger_table(ledger))


def _bill(data: dict[str, Any]) -> RenderableType:
    first, packed = data["slots"][0], data["slots"][-1]
    ledger, plan = data["ledger"], data["plan"]
    grid = Table.grid(padding=(0, 2))
    grid.add_row("documents", f"{ledger['documents']['read']:,} read, {ledger['documents']['kept']:,} kept")
    grid.add_row(
        "tokens", f"{ledger['tokens']['tokenized']:,} tokenised, {ledger['tokens']['packed']:,} packed"
    )
    grid.add_row(
        "trained", f"{share(ledger['trained']['trained'], ledger['trained']['packed'])} of packed tokens"
    )
    grid.add_row(
        "rows", f"{plan['rows']:,} of {data['capacity']:,}, fill {plan['fill']:.2%}, bound {plan['bound']:,}"
    )
    lengths = data["lengths"]
    if lengths["documents"]:
        grid.add_row("lengths", "  ".join(f"{key} {lengths[key]:,}" for key in ("p50", "p90", "p99", "max")))
    saved = f"{1 - packed['slots'] / max(1, first['slots']):.1%} fewer slots than padding to capacity"
    return Panel(grid, title=f"tokpack: {saved}", title_align="left", expand=False)


def slots_table(data: dict[str, Any]) -> Table:
    table = Table(title="Token slots", title_justify="left")
    table.add_column("training on")
    for column in ("rows", "tokens", "slots", "fill"):
        table.add_column(column, justify="right")
    for line in data["slots"]:
        table.add_row(
            line["name"],
            f"{line['rows']:,}",
            f"{line['tokens']:,}",
            f"{line['slots']:,}",
            f"{line['fill']:.1%}",
        )
    return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """The four sums, one line each."""
    documents, tokens, slots, trained = (ledger[key] for key in ("documents", "tokens", "slots", "trained"))
    table = Table(title="Ledger", title_justify="left", show_header=False)
    dropped = sum(documents["dropped"].values()), sum(tokens["dropped"].values())
    table.add_row(
        "documents",
        f"{documents['read']:,} read = {documents['kept']:,} kept + {dropped[0]:,} dropped"
        f" + {documents['quarantined']:,} quarantined",
    )
    table.add_row(
        "tokens",
        f"{tokens['tokenized']:,} tokenised = {tokens['packed']:,} packed + {tokens['truncated']:,} truncated"
        f" + {dropped[1]:,} dropped",
    )
    table.add_row("slots", f"{slots['total']:,} = {slots['packed']:,} packed + {slots['free']:,} free")
    table.add_row(
        "trained",
        f"{trained['packed']:,} packed = {trained['trained']:,} trained + {trained['masked']:,} masked",
    )
    return table


def drops_table(data: dict[str, Any]) -> Table:
    table = Table(title="Left out", title_justify="left")
    table.add_column("reason")
    table.add_column("documents", justify="right")
    table.add_column("tokens", justify="right")
    for drop in data["drops"]:
        table.add_row(Text(drop["reason"]), f"{drop['documents']:,}", f"{drop['tokens']:,}")
    return table


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def to_html(renderable: Any, width: int = 110) -> str:
    """A rich renderable as HTML, for notebooks."""
    console = Console(record=True, width=width, file=io.StringIO(), force_jupyter=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')


def checks_table(verification: Any) -> RenderableType:
    """`tokpack verify`: one line a check, every fault below its check."""
    table = Table(title=f"verify {verification.folder}", title_justify="left", show_header=False)
    for check in verification.checks:
        table.add_row("[green]ok[/]" if check.ok else "[red]FAULT[/]", check.name, Text(check.detail))
        for fault in check.faults:
            table.add_row("", "", Text(fault, style="red"))
    return Group(table, verification.model) if verification.model is not None else table
