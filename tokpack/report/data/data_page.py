"""What the page shows of the data itself: texts, lengths by file, the longest documents, ranks."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from tokpack.report.data import data_charts
from tokpack.report.data.data_tables import (
    by_table,
    drops_table,
    files_table,
    languages_table,
    ledger_sums,
    longest_table,
    sources_table,
    tokens_table,
    truncation_table,
)
from tokpack.report.data.data_words import (
    cut_words,
    fit,
    grouping_flag,
    language_words,
    ranks_words,
    rules_without_hits,
)
from tokpack.report.data.packing_chart import Packing, packing_chart
from tokpack.report.values import Drop, DropPlace, Figures, KeptDocument, Languages, Ranks, Vocabulary
from tokpack.report.words import ALIKE, counters, share
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line, printable, snippet
from tokpack.way.figures import NearFigures, NearPair

MOST_FILES, MOST_REASONS, MOST_PAIRS, EXAMPLES = 500, 50, 12, 3


def data_view(figures: Figures) -> dict[str, Any]:
    """Everything that the page needs of the data; parts that the report lacks are None."""
    sources, vocabulary, ranks = figures.ledger.sources, figures.vocabulary, figures.ranks
    by, lengths = by_table(figures), sources_table(figures)
    drops = figures.drops
    return {
        "text": _text(vocabulary, figures.languages) if vocabulary and vocabulary.tokens else None,
        "files": files_table(figures).first(MOST_FILES),
        "sources": lengths.first(MOST_FILES) if lengths else None,
        "by": by.first(MOST_FILES) if by else None,
        "by_offer": grouping_flag(figures.grouping) if figures.grouping and not by else "",
        "cut": cut_words(figures),
        "kept": [_kept(document) for document in figures.kept or []],
        "packing": _packing(figures),
        "drops": drops_table(drops, figures.ledger.tokens.tokenized, MOST_REASONS) if drops else None,
        "examples": [(one_line(drop.reason), texts) for drop in drops if (texts := _examples(drop))],
        "longest": longest_table(figures.longest) if figures.longest else None,
        "truncation": _truncation(figures),
        "pairs": _pairs(figures.near_dup),
        "not_found": ", ".join(rules_without_hits(figures)),
        "files_chart": data_charts.sources_chart(sources) if len(sources) > 1 else None,
        "free": data_charts.free_chart(figures.rows, figures.capacity) if figures.rows else None,
        "ranks": _ranks(ranks) if ranks else None,
        "sums": ledger_sums(figures.ledger),
        "counters": [(n, one_line(text)) for n, text in counters(figures.counters, figures.near_dup)],
    }


def _text(vocabulary: Vocabulary, languages: Languages | None) -> dict[str, Any]:
    told = languages is not None and bool(languages.shares)
    return {
        "chart": data_charts.scripts_chart(vocabulary),
        "used": share(vocabulary.used, vocabulary.size),
        "fit": fit(vocabulary),
        "covered": vocabulary.covered,
        "size": vocabulary.size,
        "top": tokens_table(vocabulary),
        "languages": languages_table(languages) if languages and told else None,
        "no_languages": language_words(languages) if languages and not told else "",
    }


def _kept(document: KeptDocument) -> dict[str, Any]:
    """A kept document as rendered, in runs of text that are trained or not."""
    return {
        "place": one_line(document.place, 80),
        "about": f"{counted(document.tokens, 'token')}, {document.trained:,} of them trained",
        "runs": [(printable(text), trained) for text, trained in document.runs],
    }


def _packing(figures: Figures) -> dict[str, Any] | None:
    packing = Packing.of(figures)
    if packing is None:
        return None
    return {"chart": packing_chart(packing), "batch_size": figures.batch_size}


def _examples(drop: Drop) -> list[tuple[str, str]]:
    """The starts of documents that were left out, each with what is known of it."""
    pairs = zip_longest(drop.examples[:EXAMPLES], (drop.places or [])[:EXAMPLES])
    return [(snippet(text), _about(place)) for text, place in pairs if text and text.strip()]


def _about(place: DropPlace | None) -> str:
    """`chats.jsonl:17, repeats chats.jsonl:3`: where an example stands, what triggered the rule."""
    if place is None:
        return ""
    parts = [place.place, f"repeats {place.other}" if place.other else "", place.detail]
    return one_line(", ".join(part for part in parts if part), 200)


def _truncation(figures: Figures) -> Any:
    """Where the bill has no table of lengths."""
    if figures.cost or not figures.truncation:
        return None
    return truncation_table(figures.truncation, figures.capacity)


def _ranks(ranks: Ranks) -> dict[str, Any]:
    return {"words": ranks_words(ranks), "chart": data_charts.ranks_chart(ranks)}


def _pairs(near: NearFigures | None) -> list[tuple[str, str, str]]:
    """The removed text, how it is alike, the kept one."""
    pairs = near.pairs[:MOST_PAIRS] if near else []
    return [(snippet(pair.removed), _alike(pair), snippet(pair.kept)) for pair in pairs]


def _alike(pair: NearPair) -> str:
    if pair.jaccard is None:
        return f"{ALIKE[pair.alike]}; kept beside"
    return f"similar by {pair.jaccard:.2f} to"
