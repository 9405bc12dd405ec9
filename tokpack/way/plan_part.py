"""The plan: the kept pieces, or those held out, into rows, and the rows in order."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import polars as pl

from tokpack.arrays import Int64
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import HELD_OUT
from tokpack.run import Run
from tokpack.schema import COPIES, SEGMENT, SEGMENTS, TRAINED
from tokpack.stages.normalize.documents import DESIRABLE
from tokpack.stages.order import Dealt, order_rows
from tokpack.stages.pairs import pair_groups
from tokpack.stages.plan import Plan, make_plan
from tokpack.stages.planners.mix import Mix
from tokpack.stages.planners.parts import parts_of
from tokpack.stages.repeat import with_copies
from tokpack.stages.tokenize import weighed
from tokpack.stages.write import Placement, RowContents
from tokpack.terminal.activity import counted
from tokpack.way.columns import check_number
from tokpack.way.corpus import Corpus

log = logging.getLogger("tokpack")


@frozen
class Part:
    """One packed dataset to be written: its pieces, their plan, their order."""

    pieces: pl.DataFrame
    plan: Plan
    contents: RowContents
    dealt: Dealt | None = None
    """With `plan.world_size`."""
    part_of_row: Int64 | None = None
    """Of rows in order, with `plan.parts`."""

    @property
    def placement(self) -> Placement:
        names = ("batch", "index", "length", "doc_id", "number", "copy", DESIRABLE)
        return Placement(*(self.pieces[name].to_numpy() for name in names))

    def without_contents(self) -> Part:
        """Once rows are written: a report asks for the plan, not for the order of rows."""
        return replace(self, contents=RowContents(np.empty(0, np.int32), np.zeros(1, np.int64)))

    def has_weights(self, corpus: Corpus) -> bool:
        """Whether a token with a label counts by another weight than 1."""
        batches = corpus.mapped()
        if all(batches(number).weights is None for number in self.pieces["batch"].unique()):
            return False
        for (number,), pieces in self.pieces.group_by("batch"):
            offsets, _, flags, weights = batches(number)
            if weights is not None and weighed(offsets, flags, weights)[pieces["index"].to_numpy()].any():
                return True
        return False

    def segments(self, corpus: Corpus) -> dict[str, dict[str, int]]:
        """Tokens of answers by segment: those that are trained, and those that `loss_mask` took out."""
        trained, masked = (np.zeros(1 + len(SEGMENTS), np.int64) for _ in range(2))
        batches = corpus.mapped()
        for (number,), pieces in self.pieces.group_by("batch"):
            offsets, _, flags, _ = batches(number)
            index = pieces["index"].to_numpy()
            starts, ends = offsets[:-1][index] + 1, offsets[1:][index]  # a first token has no label
            kinds = flags // SEGMENT
            for kind in range(1 + len(SEGMENTS)):
                for sums, has_label in ((trained, True), (masked, False)):
                    if kind or has_label:
                        hit = (kinds == kind) & ((flags & TRAINED > 0) == has_label)
                        running = np.append(0, np.cumsum(hit))
                        sums[kind] += (running[np.maximum(starts, ends)] - running[starts]).sum()
        names = ("answer", *SEGMENTS)
        both = zip(names, trained.tolist(), masked.tolist(), strict=True)
        return {name: {"trained": first, "masked": second} for name, first, second in both}


def plan_part(run: Run, corpus: Corpus, validation: bool = False) -> Part:
    """Plan the kept pieces (or the held-out ones) into rows, and put the rows in order."""
    reason = pl.col("drop_reason")
    wanted = reason == HELD_OUT if validation else reason.is_null()
    pieces = corpus.placed(corpus.docs.select(wanted.fill_null(False)).to_series().to_numpy())
    pieces = pieces.with_columns(
        _of_document(corpus, "doc_id", pieces["document"]),
        _of_document(corpus, DESIRABLE, pieces["document"]),
        copy=pl.lit(0, pl.Int8),
    )
    if COPIES in corpus.docs.columns and not validation:
        times = corpus.docs[COPIES].to_numpy()
        check_number(int(times[pieces["document"].to_numpy()].sum(dtype=np.int64)), "pieces, copies included")
        pieces = with_copies(pieces, times)
    settings, seed = run.config.plan, run.config.seed
    limit = settings.max_docs_per_row or None
    with run.tell.doing(f"planning rows of {counted(len(pieces), 'document')}"):
        plan = make_plan(
            pieces["length"].to_numpy(),
            run.config.truncate.max_length,
            settings.planner,
            seed,
            limit,
            pairs=pair_groups(*(pieces[n].cast(pl.Int64).to_numpy() for n in ("doc_id", "copy")))
            if run.pairs
            else None,
            mix=None if validation else _mix(run, corpus, pieces),
            parts=parts_of(
                pieces["doc_id"].to_numpy() // corpus.width,
                pieces["length"].to_numpy(),
                1 if validation else settings.parts,
                seed,
            ),
        )
        order = replace(settings, world_size=0) if validation else settings
        rows, dealt = order_rows(order, plan, pieces["length"].to_numpy(), seed)
    part_of_row = np.repeat(np.arange(len(plan.part_rows)), plan.part_rows)[rows] if plan.parted else None
    return Part(pieces, plan, RowContents.of(plan.row_of_doc, rows), dealt, part_of_row)


def _of_document(corpus: Corpus, name: str, document: pl.Series) -> pl.Series | pl.Expr:
    """A column of the documents, of each piece; none of its own where that can be known without."""
    docs = corpus.docs
    if name not in docs.columns:
        return pl.lit(True).alias(name)
    if name == "doc_id" and len(docs) and docs["doc_id"][-1] == len(docs) - 1:  # each was read
        return document.alias(name)
    return docs[name].gather(document)


def _mix(run: Run, corpus: Corpus, pieces: pl.DataFrame) -> Mix | None:
    settings = run.config.plan
    if not settings.mix_per_step:
        return None
    if len(run.sources) == 1:
        log.warning("--mix-per-step: there is one source, %s, and nothing to mix", run.sources[0].name)
    tokens = "trained" if run.config.select.weight_by == "trained" else "length"
    return Mix(
        corpus.docs["source"].gather(pieces["document"]).to_numpy().astype(np.int32),
        pieces[tokens].to_numpy().astype(np.int64),
        settings.rows_per_step * max(1, settings.world_size),
    )
