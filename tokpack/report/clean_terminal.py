"""What `tokpack clean` kept, in a terminal: the bill of services that count tokens, and what was left out."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tokpack.cost import Figure
from tokpack.plain import from_plain
from tokpack.printable import one_line
from tokpack.report.cost_words import money
from tokpack.report.tables import GOOD, QUIET, facts_grid, plain_table
from tokpack.report.terminal import drops_table, ledger_table
from tokpack.report.words import budget_words, counters, share


def clean_view(data: dict[str, Any]) -> RenderableType:
    documents, tokens = data["ledger"]["documents"], data["ledger"]["tokens"]
    title = Text(f"{documents['kept']:,} of {documents['read']:,} documents kept", style=f"bold {GOOD}")
    about = "about " if data["estimated"] else ""
    facts = [
        ("tokens", f"{about}{tokens['packed']:,} of {tokens['tokenized']:,}: {_saved(tokens)} fewer"),
        ("tokenizer", one_line(data["tokenizer"]) + ("; counts are estimates" if data["estimated"] else "")),
        ("shape", data["to"]),
    ]
    if "budget" in data:
        facts.append(("budget", budget_words(data["budget"])))
    parts: list[RenderableType] = [title, facts_grid(facts)]
    if data["bill"]["services"]:
        parts.append(_bill(data["bill"]))
    parts += [drops_table(data), ledger_table(data["ledger"])]
    notes = [f"{n:,} {words}" for n, words in counters(data)]
    parts += [Text("\n".join(notes), style=QUIET)] if notes else []
    return Group(*(item for part in parts for item in (part, Text())))


def _saved(tokens: dict[str, Any]) -> str:
    return share(tokens["tokenized"] - tokens["packed"], tokens["tokenized"])


def _bill(bill: dict[str, Any]) -> RenderableType:
    epochs = f"{bill['epochs']:g} epoch{'' if bill['epochs'] == 1 else 's'}"
    table = plain_table(
        f"Training billed by the token, {epochs}", "service", "$ per million", "as it came", "kept"
    )
    for service in bill["services"]:
        name = " ".join(part for part in (service["provider"], service["model"]) if part)
        prices = (money(from_plain(Figure, service[key], key)) for key in ("as_it_came", "kept"))
        table.add_row(one_line(name, 60), f"{service['usd_per_million']:g}", *prices)
    return table
