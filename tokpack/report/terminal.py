"""Reports and packed datasets in the terminal: the bill on the first screen, details after it.

No frames and few colors: what is piped into a file or read at 80 columns is the same text. Whatever comes
from data passes `one_line`, and goes into `Text` so that no markup in it counts.
"""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokpack.printable import one_line, snippet
from tokpack.reasons import HELD_OUT, words_of
from tokpack.report.cost_figures import cost_of
from tokpack.report.cost_terminal import cost_bill, cost_details
from tokpack.report.data_terminal import data_details, data_facts
from tokpack.report.data_words import cut_words, dealt_words, rules_without_hits
from tokpack.report.tables import BAD, FACTS, GOOD, QUIET, READABLE, WIDE, facts_grid, plain_table
from tokpack.report.words import (
    SLOT,
    bound_words,
    counted,
    counted_documents,
    counters,
    labels_words,
    left_out,
    make_bill,
    share,
)
from tokpack.schema import KEPT_AFTER_ALL, is_preference

MOST_ROWS = 20
MOST_BAR, LEAST_BAR = 14, 6
BAR = "\N{BLACK SQUARE}"


def report_view(data: dict[str, Any]) -> RenderableType:
    """The bill first, details after."""
    cost = cost_of(data)
    parts = [report_head(data), *([cost_bill(cost)] if cost else []), slots_bill(data)]
    parts += [Constrain(facts_grid(_report_facts(data)), FACTS), drops_table(data), SlotsTable(data)]
    if len(data["ledger"]["sources"]) > 1:
        parts.append(sources_table(data))
    parts += data_details(data)
    parts.append(ledger_table(data["ledger"]))
    parts += cost_details(cost) if cost else []
    if notes := _notes(data):
        parts.append(_listed(notes))
    return _spaced(parts)


def packed_panel(manifest: dict[str, Any]) -> RenderableType:
    """One screen about a finished packed dataset."""
    plan = manifest["plan"]
    held = counted_documents(manifest["documents"], manifest)
    title = Text(f"{held} packed into {counted(manifest['rows'], 'row')}", style=f"bold {GOOD}")
    facts = [
        ("rows", _rows_fact(manifest["rows"], manifest["capacity"], plan)),
        *([("ranks", dealt_words(plan["dealt"]))] if "dealt" in plan else []),
        (
            "tokens",
            f"{manifest['tokens']:,}, {trained_words(manifest['trained_tokens'], manifest['tokens'])}",
        ),
        ("tokenizer", one_line(str(manifest["tokenizer"]["name"]))),
    ]
    return _spaced([title, facts_grid(facts), ledger_table(manifest["ledger"])])


def _spaced(parts: list[RenderableType]) -> Group:
    return Group(*(item for part in parts for item in (part, Text())))


def report_head(data: dict[str, Any]) -> Text:
    """One quiet line: what was looked at, and how."""
    read, files = data["ledger"]["documents"]["read"], len(data["inputs"])
    name = one_line(data["inputs"][0]["name"], 40) if files == 1 else counted(files, "file")
    tokenizer = one_line(data["tokenizer"], 40)
    held = counted_documents(read, data)
    return Text(
        f"{held} in {name}, tokenizer {tokenizer}, rows of {data['capacity']:,} tokens",
        style=QUIET,
    )


def slots_bill(data: dict[str, Any], explained: bool = True) -> RenderableType:
    """Token slots, from the way data usually comes to packed rows."""
    bill = make_bill(data)
    head = Text(bill.headline, style=f"bold {GOOD}" if bill.after < bill.before else "bold")
    parts: list[RenderableType] = [head, Text(bill.explanation)]
    parts += [Text(SLOT, style=QUIET)] if explained else []
    if bill.lines:
        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        grid.add_column(justify="right")
        (first, before), *changes, (last, after) = bill.lines
        grid.add_row(first, f"{before:,}")
        for label, slots in changes:
            grid.add_row(label, Text(f"{slots:+,}", style=GOOD if slots < 0 else ""))
        grid.add_row("", Text("-" * len(f"{before:,}"), style=QUIET))
        grid.add_row(last, Text(f"{after:,}"), style="bold")
        parts += [Text(), Padding(grid, (0, 0, 0, 2))]
    return Constrain(Group(*parts), READABLE)


def _report_facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    documents, tokens, trained = (data["ledger"][key] for key in ("documents", "tokens", "trained"))
    held_out = documents["dropped"].get(HELD_OUT, 0)
    fates = [f"{documents['read']:,} read", f"{documents['kept']:,} kept", f"{left_out(data):,} left out"]
    fates += [f"{held_out:,} held out"] if held_out else []
    fates += [f"{documents['quarantined']:,} unreadable"] if documents["quarantined"] else []
    facts = [
        ("documents", ", ".join(fates)),
        *([("pairs", _pairs(documents))] if is_preference(data) else []),
        *([("labels", labels_words(data))] if "labels" in data else []),
        (
            "tokens",
            f"{tokens['tokenized']:,} in all, {tokens['packed']:,} packed, "
            + trained_words(trained["trained"], trained["packed"]),
        ),
        ("rows", _rows_fact(data["plan"]["rows"], data["capacity"], data["plan"])),
    ]
    if data["lengths"]["documents"]:
        facts.append(("lengths", _lengths(data["lengths"])))
    if cut := cut_words(data):
        facts.append(("cut", cut))
    return facts + data_facts(data)


def _pairs(documents: dict[str, Any]) -> str:
    return f"{documents['read'] // 2:,} read, {documents['kept'] // 2:,} kept; both answers, or neither"


def trained_words(trained: int, packed: int) -> str:
    """`61.2% of them trained`."""
    return f"{share(trained, packed)} of them trained"


def _rows_fact(rows: int, capacity: int, plan: dict[str, Any]) -> str:
    if not rows:
        return "none"
    return f"{rows:,} of {capacity:,} tokens, {share(plan['fill'], 1, 2)} full; {bound_words(plan)}"


def _lengths(lengths: dict[str, Any]) -> str:
    return (
        f"half have up to {lengths['p50']:,} tokens, 90% up to {lengths['p90']:,},"
        f" 99% up to {lengths['p99']:,}, longest {lengths['max']:,}"
    )


class SlotsTable:
    """Token slots of the same training, unpacked and packed; rows, tokens and bars where there is room."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.lines = data["slots"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The longest bars with which no name is broken, if there are any."""
        wide = options.max_width >= WIDE
        unbroken = options.update(max_width=2 * options.max_width)
        for bar in range(MOST_BAR, LEAST_BAR - 1, -1):
            table = self._table(wide, bar)
            if Measurement.get(console, unbroken, table).maximum <= options.max_width:
                break
        else:
            table = self._table(wide, MOST_BAR)
        yield table

    def _table(self, wide: bool, bar_width: int) -> Table:
        columns = ("rows", "tokens", "slots", "full", "steps", "saved", "") if wide else ("slots", "full")
        table = plain_table("Token slots per epoch", "training on", *columns)
        longest = max((line["slots"] for line in self.lines), default=0) or 1
        for line in self.lines:
            cells: list[RenderableType] = [f"{line['slots']:,}", share(line["fill"], 1)]
            if wide:
                bar = Text(BAR * round(bar_width * line["slots"] / longest), style=GOOD)
                saved = share(line["saved"], self.lines[1]["slots"]) if line["saved"] > 0 else ""
                cells = [f"{line['rows']:,}", f"{line['tokens']:,}", *cells]
                cells += [f"{line['steps']:,}", saved, bar]
            table.add_row(Text(line["name"]), *cells, style="bold" if line is self.lines[-1] else "")
        return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """The sums, one line each."""
    documents, tokens, trained = (ledger[key] for key in ("documents", "tokens", "trained"))
    slots = ledger.get("slots")
    kept = "packed" if slots else "kept"
    table = plain_table("Ledger", "", "", words=2)
    dropped = sum(documents["dropped"].values()), sum(tokens["dropped"].values())
    table.add_row(
        "documents",
        f"{documents['read']:,} read = {documents['kept']:,} kept + {dropped[0]:,} dropped"
        f" + {documents['quarantined']:,} quarantined"
        + (f"; {documents['repeated']:,} copies more" if documents.get("repeated") else ""),
    )
    if after_all := documents.get(KEPT_AFTER_ALL):
        told = ", ".join(f"{count:,} {one_line(reason, 60)}" for reason, count in after_all.items())
        table.add_row("", f"{sum(after_all.values()):,} of the kept by --keep, in spite of: {told}")
    again = f" + {tokens['repeated']:,} repeated" if tokens.get("repeated") else ""
    table.add_row(
        "tokens",
        f"{tokens['tokenized']:,} tokenized{again} = {tokens['packed']:,} {kept}"
        f" + {tokens['truncated']:,} truncated + {dropped[1]:,} dropped",
    )
    if slots:
        table.add_row("slots", f"{slots['total']:,} = {slots['packed']:,} packed + {slots['free']:,} free")
    table.add_row(
        "trained",
        f"{trained['packed']:,} {kept} = {trained['trained']:,} trained + {trained['masked']:,} masked",
    )
    for name, of in ledger.get("segments", {}).items():
        masked = f", {of['masked']:,} masked" if of["masked"] else ""
        words = f"{of['trained']:,} trained ({share(of['trained'], trained['trained'])}){masked}"
        table.add_row(f"  {name}", words)
    return table


def drops_table(data: dict[str, Any]) -> RenderableType:
    """Reason, how much, what it means; then the start of one such document each."""
    if not data["drops"]:
        return Text("Nothing was left out.")
    table = plain_table("Left out, and why", "reason", "documents", "tokens")
    table.add_column("")
    examples = plain_table("Such as", "", "", words=2)
    examples.expand, examples.columns[1].ratio = True, 1
    for drop in data["drops"][:MOST_ROWS]:
        reason = Text(one_line(drop["reason"], 60))
        meaning = Text(words_of(drop["reason"]), style=QUIET)
        table.add_row(reason, f"{drop['documents']:,}", f"{drop['tokens']:,}", meaning)
        for text in drop["examples"][:1]:
            where = drop["places"][0]["place"] if drop.get("places") else ""
            words = one_line(f"{where} {snippet(text)}".strip(), 400)
            start = Text(words, style=QUIET, no_wrap=True, overflow="ellipsis")
            examples.add_row(Text(one_line(drop["reason"], 24)), start)
    parts = [_cut(table, len(data["drops"]), "reason")]
    if missed := rules_without_hits(data):
        parts.append(Constrain(Text(f"looked for, not found: {', '.join(missed)}", style=QUIET), READABLE))
    return Group(*parts, Text(), examples) if examples.row_count else Group(*parts)


def sources_table(data: dict[str, Any]) -> RenderableType:
    """Per file: what became of its documents, and the tokens that were packed; most tokens first."""
    table = plain_table("Files", "file", "read", "kept", "not kept", "tokens packed")
    sources = sorted(data["ledger"]["sources"].items(), key=lambda item: -item[1]["tokens"]["packed"])
    for name, sums in sources[:MOST_ROWS]:
        documents = sums["documents"]
        gone = documents["read"] - documents["kept"]
        table.add_row(
            Text(one_line(name, 60)),
            f"{documents['read']:,}",
            f"{documents['kept']:,}",
            f"{gone:,}",
            f"{sums['tokens']['packed']:,}",
        )
    return _cut(table, len(sources), "file")


def _cut(table: Table, rows: int, noun: str) -> RenderableType:
    if rows <= MOST_ROWS:
        return table
    return Group(table, Text(f"and {counted(rows - MOST_ROWS, noun)} more; --json has all", style=QUIET))


def _notes(data: dict[str, Any]) -> list[str]:
    return make_bill(data).notes + [f"{number:,} {one_line(text)}" for number, text in counters(data)]


def _listed(notes: list[str]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for note in notes:
        grid.add_row("-", Text(note))
    return Constrain(Group(Text("Notes", style="bold"), grid), READABLE)


def to_html(renderable: Any, width: int = 110) -> str:
    """A rich renderable as HTML, for notebooks."""
    console = Console(record=True, width=width, file=io.StringIO(), force_jupyter=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')


def checks_table(verification: Any) -> RenderableType:
    """`tokpack verify`: one line a check, every fault below its check."""
    table = plain_table(f"verify {one_line(str(verification.folder))}", "", "", "", words=3)
    for check in verification.checks:
        verdict = Text("ok", style=GOOD) if check.ok else Text("FAULT", style=f"bold {BAD}")
        table.add_row(verdict, Text(check.name), Text(one_line(check.detail, 400)))
        for fault in check.faults:
            table.add_row("", "", Text(one_line(fault, 400), style=BAD))
    return Group(table, verification.model) if verification.model is not None else table
