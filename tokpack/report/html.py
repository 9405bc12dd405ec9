"""The report as one page: it needs no network, no server and no script to be read.

Text from data is escaped by Jinja after `printable`; a content security policy allows the one script of
ours and nothing else, so that even a hole in the escaping would run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tokpack.printable import one_line, printable, snippet
from tokpack.reasons import HELD_OUT, words_of
from tokpack.report import charts
from tokpack.report.cost_figures import cost_of
from tokpack.report.cost_page import cost_view
from tokpack.report.data_page import data_view
from tokpack.report.words import (
    PROOFS,
    SLOT,
    counted,
    counted_documents,
    counters,
    gap_words,
    labels_words,
    make_bill,
    share,
)
from tokpack.schema import is_preference

HERE = Path(__file__).parent
MOST_FILES, MOST_REASONS, EXAMPLES = 500, 50, 3

Ledger = list[tuple[str, tuple[int, str], list[tuple[str, int, str]]]]


def page(data: dict[str, Any]) -> str:
    """The page of a report's data, under 2 MB whatever the data; equal data gives equal pages."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ledger = data["ledger"]
    return environment().get_template("page.html.j2").render(
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
        version=data["tokpack_version"],
        tokenizer=one_line(data["tokenizer"], 80),
        inputs=_inputs(data),
        capacity=data["capacity"],
        cost=cost_view(cost_of(data)),
        bill=make_bill(data),
        slot=SLOT,
        documents=ledger["documents"],
        read=counted_documents(ledger["documents"]["read"], data),
        kept_about=_kept_about(data),
        tokens=ledger["tokens"],
        trained_share=share(ledger["trained"]["trained"], ledger["trained"]["packed"]),
        fill=share(ledger["slots"]["packed"], ledger["slots"]["total"], 2),
        plan=data["plan"],
        gap=gap_words(data["plan"]["gap"]),
        proof=PROOFS[data["plan"]["bound_kind"]],
        lengths=data["lengths"],
        charts=_charts(data),
        more=data_view(data),
        drops=_drops(data),
        more_drops=max(0, len(data["drops"]) - MOST_REASONS),
        files=_files(data),
        more_files=max(0, len(ledger["sources"]) - MOST_FILES),
        any_held_out=HELD_OUT in ledger["documents"]["dropped"],
        ledger=sums(ledger),
        counters=[(number, one_line(text)) for number, text in counters(data)],
    )  # fmt: skip


@lru_cache(maxsize=1)
def environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"n": number, "change": change, "size": size, "svg": Markup, "trusted": Markup}
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _shown(value: Any) -> Any:
    """Every value on its way into the page; Markup is our own and stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def style() -> str:
    """The page's style sheet."""
    return _asset("page.css")


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def number(value: int) -> str:
    return f"{value:,}"


def change(value: int) -> str:
    """A signed number with a true minus."""
    return f"{value:+,}".replace("-", "\N{MINUS SIGN}")


def size(size_bytes: int) -> str:
    """Bytes in the unit a person would choose; decimal, as file managers count."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def _inputs(data: dict[str, Any]) -> str:
    names = [source["name"] for source in data["inputs"]]
    return one_line(names[0], 80) if len(names) == 1 else counted(len(names), "file")


def _kept_about(data: dict[str, Any]) -> str:
    documents = data["ledger"]["documents"]
    pairs = f", in {counted(documents['kept'] // 2, 'pair')}" if is_preference(data) else ""
    labels = f"; {labels_words(data)}" if "labels" in data else ""
    return f"of {documents['read']:,} read{pairs}{labels}"


def _charts(data: dict[str, Any]) -> dict[str, charts.Chart]:
    trained = data["ledger"]["trained"]
    drawn = {
        "slots": charts.slots_chart(data),
        "tokens": charts.tokens_chart(data),
        "trained": charts.split_chart(
            (trained["trained"], "trained"),
            (trained["masked"], "masked"),
            "Packed tokens: trained and masked",
        ),
    }
    if data["lengths"]["documents"]:
        drawn["lengths"] = charts.lengths_chart(data)
    return drawn


def _drops(data: dict[str, Any]) -> list[dict[str, Any]]:
    tokenized = data["ledger"]["tokens"]["tokenized"]
    return [
        {
            "reason": one_line(drop["reason"]),
            "meaning": words_of(drop["reason"]),
            "documents": drop["documents"],
            "tokens": drop["tokens"],
            "share": share(drop["tokens"], tokenized),
            "examples": [
                {"text": snippet(text), "about": _about(where)}
                for text, where in zip_longest(drop["examples"][:EXAMPLES], drop.get("places", [])[:EXAMPLES])
                if text and text.strip()
            ],
        }
        for drop in data["drops"][:MOST_REASONS]
    ]


def _about(where: dict[str, str] | None) -> str:
    """`chats.jsonl:17, repeats chats.jsonl:3`: where an example stands, what triggered the rule."""
    if not where:
        return ""
    parts = [where["place"], f"repeats {where['other']}" if "other" in where else "", where["detail"]]
    return one_line(", ".join(part for part in parts if part), 200)


def _files(data: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of each file, most packed tokens first."""
    inputs = {source["name"]: source for source in data["inputs"]}
    sources = sorted(data["ledger"]["sources"].items(), key=lambda item: -item[1]["tokens"]["packed"])
    files = []
    for name, sums in sources[:MOST_FILES]:
        documents = sums["documents"]
        held_out = documents["dropped"].get(HELD_OUT, 0)
        files.append(
            {
                "name": one_line(name),
                "format": one_line(inputs[name]["format"]),
                "size_bytes": inputs[name]["size_bytes"],
                "read": documents["read"],
                "kept": documents["kept"],
                "left_out": sum(documents["dropped"].values()) - held_out,
                "held_out": held_out,
                "quarantined": documents["quarantined"],
                "packed": sums["tokens"]["packed"],
            }
        )
    return files


def sums(ledger: dict[str, Any]) -> Ledger:
    """The four sums: name, what is counted, and the terms it is made of."""
    documents, tokens, slots, trained = (ledger[key] for key in ("documents", "tokens", "slots", "trained"))
    return [
        (
            "Documents",
            (documents["read"], "read"),
            [
                ("=", documents["kept"], "kept"),
                ("+", sum(documents["dropped"].values()), "dropped"),
                ("+", documents["quarantined"], "quarantined"),
            ],
        ),
        (
            "Tokens",
            (tokens["tokenized"], "tokenized"),
            [
                *([("+", tokens["repeated"], "repeated")] if tokens.get("repeated") else []),
                ("=", tokens["packed"], "packed"),
                ("+", tokens["truncated"], "truncated"),
                ("+", sum(tokens["dropped"].values()), "dropped"),
            ],
        ),
        (
            "Slots",
            (slots["total"], "in all rows"),
            [("=", slots["packed"], "packed"), ("+", slots["free"], "free")],
        ),
        (
            "Training",
            (trained["packed"], "packed"),
            [("=", trained["trained"], "trained"), ("+", trained["masked"], "masked")],
        ),
        *_segment_sums(ledger),
    ]


def _segment_sums(ledger: dict[str, Any]) -> Ledger:
    """What trained tokens are, and what was taken out of the answers, where that is known."""
    segments = ledger.get("segments", {})
    sums: Ledger = []
    for state in ("trained", "masked"):
        found = [(of[state], name) for name, of in segments.items() if of[state]]
        if found:
            signs = ["=", *["+"] * (len(found) - 1)]
            parts = [(sign, *part) for sign, part in zip(signs, found, strict=True)]
            sums.append(("Answers", (sum(count for count, _ in found), state), parts))
    return sums
