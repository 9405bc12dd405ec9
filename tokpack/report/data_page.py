"""What the page shows of the data itself: texts, lengths by file, the longest documents, ranks."""

from __future__ import annotations

from typing import Any

from tokpack.printable import one_line, printable, snippet
from tokpack.reasons import words_of
from tokpack.report import data_charts
from tokpack.report.data_words import (
    cut_words,
    error,
    fit,
    language_name,
    language_words,
    languages_source,
    ranks_words,
    rules_without_hits,
    vocabulary_words,
)
from tokpack.report.groups import by_table, grouping_words, sources_table
from tokpack.report.packing_chart import Packing, packing_chart
from tokpack.report.words import ALIKE, share

MOST_PAIRS, MOST_LANGUAGES = 12, 12


def data_view(data: dict[str, Any]) -> dict[str, Any]:
    """Everything that page_text.html.j2 and page_rows.html.j2 need; parts that the report lacks are None."""
    vocabulary, ranks = data.get("vocabulary"), data.get("ranks")
    return {
        "text": _text(vocabulary, data.get("languages")) if vocabulary and vocabulary["tokens"] else None,
        "sources": sources_table(data) if len(data.get("sources", [])) > 1 else None,
        "by": by_table(data),
        "by_offer": grouping_words(data),
        "cut": cut_words(data),
        "kept": _kept(data.get("kept", [])),
        "packing": _packing(data),
        "longest": _longest(data.get("longest")),
        "truncation": _truncation(data),
        "pairs": _pairs(data.get("near_dup")),
        "not_found": ", ".join(rules_without_hits(data)),
        "files": data_charts.sources_chart(data) if len(data["ledger"]["sources"]) > 1 else None,
        "free": data_charts.free_chart(data["rows"], data["capacity"]) if data.get("rows") else None,
        "ranks": {"words": ranks_words(ranks), "chart": data_charts.ranks_chart(ranks)} if ranks else None,
    }


def _text(vocabulary: dict[str, Any], languages: dict[str, Any] | None) -> dict[str, Any]:
    shares = languages["shares"][:MOST_LANGUAGES] if languages else []
    return {
        "words": vocabulary_words(vocabulary),
        "chart": data_charts.scripts_chart(vocabulary),
        "used": share(vocabulary["used"], vocabulary["size"]),
        "fit": fit(vocabulary),
        "covered": vocabulary["covered"],
        "size": vocabulary["size"],
        "top": [
            {
                "text": one_line(token["text"], 40).replace(" ", "\N{OPEN BOX}"),
                "id": token["id"],
                "count": token["count"],
                "share": share(token["count"], vocabulary["tokens"], 2),
            }
            for token in vocabulary["top"]
        ],
        "languages": [
            {
                "name": language_name(line["language"]),
                "share": share(line["share"], 1) + error(line),
                "value": line["share"],
            }
            for line in shares
        ],
        "about_languages": languages_source(languages) if shares and languages else "",
        "no_languages": language_words(languages) if languages and not shares else "",
    }


def _kept(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Kept documents as rendered, in runs of text that are trained or not."""
    return [
        {
            "place": one_line(document["place"], 80),
            "about": f"{document['tokens']:,} tokens, {document['trained']:,} of them trained",
            "runs": [(printable(text), trained) for text, trained in document["runs"]],
        }
        for document in kept
    ]


def _packing(data: dict[str, Any]) -> dict[str, Any] | None:
    packing = Packing.of(data)
    if packing is None:
        return None
    return {"chart": packing_chart(packing), "batch_size": data["batch_size"]}


def _longest(longest: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if not longest:
        return None
    return [
        line
        | {
            "place": f"{one_line(line['source'], 60)}:{line['row']}",
            "fate": one_line(line["fate"], 40),
            "meaning": words_of(line["fate"]),
        }
        for line in longest
    ]


def _truncation(data: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Where the bill has no table of capacities."""
    if data.get("cost") or not data.get("truncation"):
        return None
    return [
        line | {"share_words": share(line["share"], 1, 2), "current": line["capacity"] == data["capacity"]}
        for line in data["truncation"]
    ]


def _pairs(near: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if not near or not near["pairs"]:
        return None
    return [
        {
            "words": _alike(pair),
            "removed": snippet(pair["removed"]),
            "kept": snippet(pair["kept"]),
        }
        for pair in near["pairs"][:MOST_PAIRS]
    ]


def _alike(pair: dict[str, Any]) -> str:
    if pair["jaccard"] is None:
        return f"{ALIKE[pair['alike']]}; kept beside"
    return f"similar by {pair['jaccard']:.2f} to"
