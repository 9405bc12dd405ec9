"""The plan: the kept pieces, or those held out, into rows, and the rows in order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tokpack.corpus import Corpus
from tokpack.reasons import HELD_OUT
from tokpack.run import Run
from tokpack.schema import COPIES
from tokpack.stages.order import order_rows
from tokpack.stages.pairs import pair_groups
from tokpack.stages.plan import Plan, make_plan
from tokpack.stages.repeat import with_copies
from tokpack.stages.write import Layout, Placement


@dataclass(frozen=True, slots=True)
class Part:
    """One packed dataset to be written: its pieces, their plan, their order."""

    pieces: pl.DataFrame
    plan: Plan
    layout: Layout
    dealt: dict[str, Any] = field(default_factory=dict)
    """With `plan.world_size`: steps, rows left over at the end, idle share of a step."""

    @property
    def placement(self) -> Placement:
        names = ("batch", "index", "length", "doc_id", "number", "copy")
        return Placement(*(self.pieces[name].to_numpy() for name in names))


def plan_part(run: Run, corpus: Corpus, validation: bool = False) -> Part:
    """Plan the kept pieces (or the held-out ones) into rows, and put the rows in order."""
    reason = pl.col("drop_reason")
    wanted = reason == HELD_OUT if validation else reason.is_null()
    chosen = corpus.docs.select("doc_id", chosen=wanted.fill_null(False))
    pieces = corpus.pieces.with_columns(
        doc_id=chosen["doc_id"].gather(corpus.pieces["document"]),
    ).filter(chosen["chosen"].gather(corpus.pieces["document"]))
    pieces = pieces.with_columns(copy=pl.lit(0, pl.Int32))
    if COPIES in corpus.docs.columns and not validation:
        pieces = with_copies(pieces, corpus.docs[COPIES].to_numpy())
    settings, seed = run.config.plan, run.config.seed
    limit = settings.max_docs_per_row or None
    with run.tell.doing(f"planning rows of {len(pieces):,} documents"):
        plan = make_plan(
            pieces["length"].to_numpy(),
            run.config.truncate.max_length,
            settings.planner,
            seed,
            limit,
            pairs=pair_groups(pieces["doc_id"].to_numpy(), pieces["copy"].to_numpy()) if run.pairs else None,
        )
        order = replace(settings, world_size=0) if validation else settings
        rows, dealt = order_rows(order, plan, pieces["length"].to_numpy(), seed)
    return Part(pieces, plan, Layout.of(plan.row_of_doc, rows), dealt)
