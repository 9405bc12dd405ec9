"""The figures of a report: what `report.json` holds and every view is drawn from.

No times and no paths: the same input gives the same bytes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.cost import SlotRow, run_plan, slot_table, token_cost
from tokpack.cost.planned_run import planned_rows
from tokpack.cost.slots import PACKED, padded_rows
from tokpack.cost.training import CostedDocuments, Lengths, Training
from tokpack.files.durable import write_page
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.ledger import Ledger
from tokpack.on_disk.reasons import HELD_OUT, OVERLONG
from tokpack.ranges import counted_in
from tokpack.report import values
from tokpack.report.bill.bill import make_cost
from tokpack.report.data.data_figures import (
    longest_documents,
    quantiles,
    rank_figures,
    row_figures,
    source_figures,
    truncation_figures,
)
from tokpack.report.data.rows_figures import drop_places, packing_figures
from tokpack.report.values import (
    Bin,
    DocumentsPerRow,
    Drop,
    DropPlace,
    Figures,
    InputFile,
    Labels,
    PlanFigures,
    Ranks,
    SlotLine,
)
from tokpack.report.words import make_bill
from tokpack.run import Run
from tokpack.schema import COPIES, UNPAIRED
from tokpack.settings.config import CostConfig
from tokpack.settings.plain import to_plain
from tokpack.stages.clean import rules_of
from tokpack.stages.keep import kept_after_all
from tokpack.stages.normalize.layouts.unread import late_unread, recognized
from tokpack.stages.normalize.passed_over import PassedOver
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.order import Dealt
from tokpack.stages.plan import Plan
from tokpack.stages.read.sources import Source
from tokpack.stages.repeat import each_copy
from tokpack.stages.write import Placement
from tokpack.terminal.activity import counted
from tokpack.version import __version__
from tokpack.way.corpus import Corpus
from tokpack.way.plan_part import Part

log = logging.getLogger("tokpack")

BINS = 40


@dataclass(frozen=True)
class Report:
    """What is in the data, what packing makes of it, and what it saves. Prints as one screen."""

    figures: Figures
    model: str = ""
    """What `tokpack train --model` takes on this machine; no figure, as reports travel."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """Plain data, as in report.json."""
        data: dict[str, Any] = to_plain(self.figures)
        return data

    def save_html(self, path: str | Path) -> None:
        """A self-contained page with charts; works offline."""
        from tokpack.report.html import page

        write_page(Path(path), page(self.figures))

    def __rich__(self) -> Any:
        from tokpack.report.first_screen import first_screen

        return first_screen(self.figures, self.model)

    def full(self) -> Any:
        """Everything the report knows, for the terminal: `rich.print(report.full())`."""
        from tokpack.report.terminal import report_view

        return report_view(self.figures, self.model)

    def _repr_html_(self) -> str:
        from tokpack.report.notebook import report_frame

        return report_frame(self.figures)

    def __repr__(self) -> str:
        documents = self.figures.ledger.documents.read
        return f"Report({counted(documents, 'document')}; {make_bill(self.figures).headline})"


def make_report(
    run: Run,
    corpus: Corpus,
    part: Part,
    ledger: dict[str, Any] | None = None,
    planned: Training | None = None,
) -> Figures:
    """Collect the figures of a run. `ledger` is the manifest's; where nothing was written, the plan's own
    sums make one.

    `planned` adds the bill of that training as `cost`.
    """
    whole = selected(corpus.docs["tokens"].to_numpy(), corpus.kept())
    lengths = length_figures(whole, part.plan.capacity)
    del whole
    documents, names = documents_of(run, corpus, part), [source.name for source in run.sources]
    sums = Ledger.read(ledger or planned_ledger(run, corpus, part))
    if planned is not None and run.kind:
        log.warning("no bill: it counts supervised training, and preferences are trained beside a reference")
    return Figures(
        tokpack_version=__version__,
        kind=run.kind or None,
        tokenizer=run.tokenizer.name,
        capacity=part.plan.capacity,
        config=run.config.portable(),
        inputs=[
            _input(source, shape, corpus.passed_over.get(number))
            for number, (source, shape) in enumerate(zip(run.sources, run.shapes, strict=True))
        ],
        ledger=sums,
        lengths=lengths,
        batch_size=run.config.cost.batch_size,
        slots=slot_figures(documents.raw, documents.pieces, part.plan, run.config.cost),
        plan=plan_figures(part.plan, part.dealt),
        rows=row_figures(part.plan, documents.pieces),
        drops=drop_figures(sums, corpus.examples, drop_places(corpus, names)),
        counters=corpus.counters,
        packing=packing_figures(part.plan, part.pieces, corpus.docs, names),
        grouping=sorted({name for shape in run.shapes for name in shape.grouping}),
        sources=source_figures(corpus, part.pieces, names),
        longest=longest_documents(corpus, names),
        truncation=truncation_figures(documents, corpus.width),
        ranks=_ranks(run, part, planned),
        rules=list(rules_of(run.config.clean)),
        budget=corpus.money,
        labels=label_figures(part.placement) if run.kind == UNPAIRED else None,
        cost=make_cost(planned, documents) if planned is not None and not run.kind else None,
    )


def _input(source: Source, shape: Shape, over: PassedOver | None) -> InputFile:
    return InputFile(
        name=source.name,
        size_bytes=source.size_bytes,
        format=shape.format,
        recognized=recognized(shape),
        notes=list(shape.notes),
        unread={**shape.unread, **late_unread(shape, over)},
    )


def _ranks(run: Run, part: Part, planned: Training | None) -> Ranks | None:
    """Of the ranks that were asked for, or of the GPUs of the bill; None without ranks or without a model."""
    settings, capacity = run.config.plan, part.plan.capacity
    ranks = settings.world_size or run.config.cost.gpu_count
    if ranks < 2 or planned is None:
        return None
    weights = settings.token_cost
    if not weights:
        checkpointing = planned.checkpointing(capacity)
        weights = token_cost(planned.shape, capacity, method=planned.method, checkpointing=checkpointing)
    lengths = part.pieces["length"].to_numpy()
    return rank_figures(part.plan, lengths, settings, weights, ranks, run.config.seed)


def selected(values: npt.NDArray[Any], which: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Not copied where it is all of them."""
    return values if which.all() else values[which]


def label_figures(pieces: Placement) -> Labels:
    """Of unpaired preferences: documents whose answers are good, and those of bad ones; each once."""
    good = pieces.desirable[pieces.copy == 0]
    return Labels(desirable=int(good.sum()), undesirable=int((~good).sum()))


def documents_of(run: Run, corpus: Corpus, part: Part) -> CostedDocuments:
    """Lengths of all documents, of the kept ones, and of what is packed, for the bill."""
    overlong = run.config.truncate.overlong
    docs = each_copy(corpus.docs.select("source", "tokens", "drop_reason", f"^{COPIES}$"), corpus.width)
    reason = pl.col("drop_reason")
    marks = docs.select(
        raw=reason.ne_missing(HELD_OUT) & (pl.col("tokens") > 0),
        asked=reason.is_null() | (reason == OVERLONG),
        left_out=reason.is_not_null(),
    )
    tokens, asked = docs["tokens"].to_numpy(), marks["asked"].to_numpy()
    in_pieces = [overlong == "split" or (overlong == "auto" and shape.is_text) for shape in run.shapes]
    width = corpus.width  # pairs are as long as both their documents
    whole = selected(tokens, asked)
    columns = docs["source"], marks["left_out"]
    source, left_out = (selected(column.to_numpy(), asked)[::width] for column in columns)
    whole_only = ("auto", "drop") if run.kind else ()
    return CostedDocuments(
        raw=selected(tokens, marks["raw"].to_numpy()),
        whole=whole if width == 1 else whole.reshape(-1, width).sum(axis=1, dtype=np.int32),
        split=np.array(in_pieces)[source],
        uncut=left_out | (overlong in whole_only),
        pieces=part.pieces["length"].to_numpy(),
        rows=part.plan.rows,
        capacity=part.plan.capacity,
        rows_for=partial(planned_rows, run.config),
    )


def planned_ledger(run: Run, corpus: Corpus, part: Part) -> dict[str, Any]:
    """The ledger that the plan comes to where no row is written, as plain data."""
    packed = {
        "rows": part.plan.rows,
        "capacity": part.plan.capacity,
        "tokens": part.plan.tokens,
        "trained": int(part.pieces["trained"].to_numpy().sum(dtype=np.int64)),
        **({"segments": part.segments(corpus)} if run.config.render.loss_mask else {}),
    }
    names = [source.name for source in run.sources]
    after_all = kept_after_all(corpus.docs, corpus.spared)
    return ledgers.build(corpus.docs, names, corpus.quarantined_by_source(), packed, after_all)


def length_figures(tokens: Lengths, capacity: int) -> values.Lengths:
    """Quantiles and a histogram over equal steps of log length; tokens of documents before truncation."""
    if not len(tokens):
        return values.Lengths(documents=0, histogram=[])
    low, high = max(1, int(tokens.min())), int(tokens.max())
    edges = bin_edges(low, high, capacity)
    counts, _ = np.histogram(tokens, edges)
    sums, _ = np.histogram(tokens, edges, weights=tokens)
    bins = [
        Bin(start=int(a), end=int(b), documents=int(n), tokens=int(total))
        for a, b, n, total in zip(edges[:-1], edges[1:], counts, sums, strict=True)
    ]
    return values.Lengths(
        documents=len(tokens),
        mean=round(float(tokens.mean()), 1),
        **quantiles(tokens),
        overlong=int((tokens > capacity).sum()),
        histogram=bins,
    )


def bin_edges(low: int, high: int, capacity: int) -> Lengths:
    """Whole numbers in about BINS equal steps of log length over [low, high]; no bin crosses the capacity."""
    anchor = capacity + 1 if low <= capacity < high else low
    step = np.log((high + 1) / low) / BINS
    first, last = np.floor(np.log(np.array([low, high + 1]) / anchor) / step + [1e-9, 1 - 1e-9])
    edges = np.round(anchor * np.exp(step * np.arange(first, last + 1)))
    return np.unique(np.clip(edges, low, high + 1).astype(np.int64))


def slot_figures(raw: Lengths, pieces: Lengths, plan: Plan, recipe: CostConfig) -> list[SlotLine]:
    """Token slots and optimizer steps of an epoch, unpacked and packed.

    `raw`: tokens of the documents as they came, but of those held out; they are cut to the capacity.
    `pieces`: of what is packed. Packed rows are trained with the equal recipe of `run_plan`. `saved` is
    against padded batches of the documents as they came.
    """
    capacity, batch, rows = plan.capacity, recipe.batch_size, plan.rows
    dirty = padded_rows(raw, capacity, batch)
    clean = slot_table(pieces, capacity, batch, rows)
    padded = f"padded to the longest of {batch}"
    table = {
        "nothing cleaned, padded to capacity": dirty[0],
        f"nothing cleaned, {padded}": dirty[1],
        "cleaned, padded to capacity": clean[0],
        f"cleaned, {padded}": clean[1],
        f"cleaned, sorted by length, {padded}": clean[2],
        "cleaned and packed": clean[3],
    }
    return [
        SlotLine(
            name=name,
            rows=row.rows,
            tokens=row.content,
            slots=row.slots,
            fill=row.fill,
            steps=_steps(row, len(pieces), recipe),
            saved=dirty[1].slots - row.slots,
        )
        for name, row in table.items()
    ]


def _steps(row: SlotRow, documents: int, recipe: CostConfig) -> int:
    if not row.rows:
        return 0
    plan = run_plan(
        documents=documents if row.name == PACKED else row.rows,
        packed_rows=row.rows,
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
        gpu_count=recipe.gpu_count,
    )
    return plan.equal.steps if row.name == PACKED else plan.before.steps


def plan_figures(plan: Plan, dealt: Dealt | None) -> PlanFigures:
    """`dealt`: how rows are dealt to ranks; None where they are not."""
    documents = counted_in(plan.row_of_doc, plan.rows) if plan.rows else np.zeros(1, np.int64)
    return PlanFigures(
        rows=plan.rows,
        bound=plan.bound,
        bound_kind=plan.bound_kind,
        gap=plan.gap,
        fill=plan.fill,
        note=plan.note or None,
        dealt=dealt,
        mixed=plan.mixed,
        parted=plan.parted,
        documents_per_row=DocumentsPerRow(mean=round(float(documents.mean()), 2), max=int(documents.max())),
    )


def drop_figures(
    ledger: Ledger, examples: dict[str, list[str]], places: dict[str, list[DropPlace]] | None = None
) -> list[Drop]:
    """What was left out, most tokens first, with shortened examples; places where each has one."""
    documents, tokens = ledger.documents.dropped, ledger.tokens.dropped
    drops = []
    for reason in sorted(documents, key=lambda r: (-tokens[r], r)):
        shown = examples.get(reason, [])
        known = None if places is None else places.get(reason, [])
        drop = Drop(
            reason=reason,
            documents=documents[reason],
            tokens=tokens[reason],
            examples=shown,
            places=known if known is None or len(known) == len(shown) else [],
        )
        drops.append(drop)
    return drops
