"""Rows that can be looked at: a few packed ones as lengths, kept documents as rendered, where the examples of
what was left out stand."""

from __future__ import annotations

import numpy as np
import polars as pl

from tokpack.encoding.trained_runs import trained_runs
from tokpack.on_disk.reasons import EXACT_DUPLICATE, NEAR_DUPLICATE
from tokpack.ranges import counted_in
from tokpack.report.values import DropPlace, KeptDocument, PackedPiece
from tokpack.run import Run
from tokpack.schema import IGNORE_INDEX, TRAINED
from tokpack.stages.plan import Plan
from tokpack.way.corpus import EXAMPLES, Corpus

SHOWN_ROWS, SHOWN_DOCUMENTS = 5, 40
"""Most rows in the picture, and most documents in all of them."""
KEPT, KEPT_TOKENS = 3, 4096
"""Kept documents that are shown, and the tokens looked at of each."""
RUN_ENDS = 300
"""Characters that are kept of both ends of a long run."""


def packing_figures(
    plan: Plan, pieces: pl.DataFrame, docs: pl.DataFrame, names: list[str]
) -> list[list[PackedPiece]]:
    """A few rows, drawn evenly from those with few documents to those with many: place and tokens of each
    document."""
    if not plan.rows:
        return []
    counts = counted_in(plan.row_of_doc, plan.rows)
    order = np.argsort(counts, kind="stable")
    chosen = order[np.unique((np.arange(SHOWN_ROWS) * 2 + 1) * plan.rows // (2 * SHOWN_ROWS))]
    most = max(1, int(np.searchsorted(np.cumsum(counts[chosen]), SHOWN_DOCUMENTS, side="right")))
    of = pieces["document"].to_numpy()
    return [
        [
            PackedPiece(place=place(docs, names, int(of[piece])), tokens=int(pieces["length"][int(piece)]))
            for piece in np.flatnonzero(plan.row_of_doc == row)[:SHOWN_DOCUMENTS]
        ]
        for row in sorted(chosen[:most].tolist())
    ]


def place(docs: pl.DataFrame, names: list[str], position: int) -> str:
    """`chats.jsonl:17`: the file of a document, and its row there."""
    source, row = docs.select("source", "row").row(position)
    return f"{names[source]}:{row}"


def kept_figures(run: Run, corpus: Corpus, pieces: pl.DataFrame) -> list[KeptDocument]:
    """Kept documents as they were rendered, in runs of tokens that are trained or not: of each of the largest
    sources the one of middle length, in the order of the input."""
    docs, names = corpus.docs, [source.name for source in run.sources]
    source_of = docs["source"].gather(pieces["document"])
    trained_of = source_of.filter(pieces["trained"] > 0).to_frame()
    largest = trained_of.group_by("source").agg(pl.len()).sort("len", "source", descending=[True, False])
    sources = largest["source"].head(KEPT).to_list()
    if not sources:
        return []
    chosen = []
    for number, source in enumerate(sources):
        own = (source_of == source) & (pieces["trained"] > 0)
        lengths = pieces["length"].filter(own).sort()
        share = KEPT // len(sources) + (number < KEPT % len(sources))
        for place_of in sorted({len(lengths) * (2 * i + 1) // (2 * share) for i in range(share)}):
            length = lengths[place_of]
            alike = pieces.filter(own & (pieces["length"] == length)).sort("document", "number")
            chosen.append(alike.row(place_of - lengths.search_sorted(length, "left"), named=True))
    batches = corpus.mapped()
    out = []
    for piece in sorted(chosen, key=lambda piece: (piece["document"], piece["number"])):
        offsets, ids, flags, _ = batches(piece["batch"])
        start, end = offsets[piece["index"]], offsets[piece["index"] + 1]
        part = slice(start, min(end, start + KEPT_TOKENS))
        trained = flags[part] != IGNORE_INDEX if flags.dtype == np.int32 else (flags[part] & TRAINED) != 0
        runs = trained_runs(run.tokenizer, ids[part], trained)
        document = KeptDocument(
            place=place(docs, names, piece["document"]),
            tokens=piece["length"],
            trained=piece["trained"],
            runs=[(middle_out(text), is_trained) for text, is_trained in runs],
        )
        out.append(document)
    return out


def middle_out(text: str) -> str:
    """Both ends of a long text."""
    if len(text) <= 2 * RUN_ENDS + 20:
        return text
    return f"{text[:RUN_ENDS]} … {len(text) - 2 * RUN_ENDS:,} characters … {text[-RUN_ENDS:]}"


def drop_places(corpus: Corpus, names: list[str]) -> dict[str, list[DropPlace]]:
    """Of each reason's examples, one by one."""
    docs = corpus.docs
    if "row" not in docs.columns:
        return {}
    position = docs["drop_reason"].is_not_null().arg_true()
    first = (
        pl.DataFrame(
            {"position": position.cast(pl.Int32), "drop_reason": docs["drop_reason"].gather(position)}
        )
        .group_by("drop_reason", maintain_order=True)
        .head(EXAMPLES)
        .join(corpus.details, on="position", how="left", maintain_order="left")
        .select("position", "drop_reason", "drop_detail")
    )
    found: dict[str, list[DropPlace]] = {}
    for position, reason, detail in first.rows():
        here, about, other = place(docs, names, position), detail or "", None
        if reason in (EXACT_DUPLICATE, NEAR_DUPLICATE) and detail:
            doc_id, _, about = detail.partition(" ")
            other = place(docs, names, int(docs["doc_id"].search_sorted(int(doc_id))))
        found.setdefault(reason, []).append(DropPlace(place=here, detail=about, other=other))
    return found
