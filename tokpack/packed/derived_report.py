"""The report of what was made from packed datasets: figures of its own plan, texts from their reports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tokpack import schema
from tokpack.cost.training import Lengths
from tokpack.errors import DataError
from tokpack.on_disk.ledger import Ledger
from tokpack.on_disk.reasons import HELD_OUT, TRUNCATED
from tokpack.packed.folder import PackedFolder
from tokpack.report.data.data_figures import row_figures
from tokpack.report.figures import (
    Report,
    drop_figures,
    label_figures,
    length_figures,
    plan_figures,
    slot_figures,
)
from tokpack.report.values import DropPlace, Figures, InputFile
from tokpack.settings.config import CostConfig
from tokpack.settings.plain import from_plain
from tokpack.stages.order import Dealt
from tokpack.stages.plan import Plan
from tokpack.stages.repeat import each_copy
from tokpack.stages.write import Placement
from tokpack.way.corpus import EXAMPLES

MOST_BATCH = 1 << 20


def derived_report(
    manifest: dict[str, Any],
    plan: Plan,
    pieces: Placement,
    dropped: Path,
    sources: list[PackedFolder],
) -> Report:
    """`pieces` in document order; `dropped` is the new packed dataset's dropped.parquet. Holds no bill."""
    examples: dict[str, list[str]] = {}
    places: dict[str, list[DropPlace | None]] = {}
    counters: Counter[str] = Counter()
    for source in sources:
        if source.report:
            _add_texts(source, examples, places, counters)
    whole = {reason: [place for place in of if place] for reason, of in places.items()}
    ledger, (raw, tokens) = Ledger.read(manifest["ledger"]), _lengths(pieces, dropped)
    recipe, dealt = _recipe([source.report for source in sources]), manifest["plan"].get("dealt")
    figures = Figures(
        tokpack_version=manifest["tokpack_version"],
        kind=manifest.get("kind"),
        tokenizer=manifest["tokenizer"]["name"],
        capacity=plan.capacity,
        config=manifest["config"],
        inputs=[InputFile(**{key: entry[key] for key in INPUT}) for entry in manifest["inputs"]],
        ledger=ledger,
        lengths=length_figures(tokens, plan.capacity),
        batch_size=recipe.batch_size,
        slots=slot_figures(raw, pieces.length, plan, recipe),
        plan=plan_figures(plan, from_plain(Dealt, dealt, "plan.dealt") if dealt else None),
        rows=row_figures(plan, pieces.length),
        drops=drop_figures(ledger, examples, whole),
        counters=dict(counters),
        labels=label_figures(pieces) if schema.is_unpaired(manifest) else None,
    )
    return Report(figures)


def _add_texts(
    source: PackedFolder,
    examples: dict[str, list[str]],
    places: dict[str, list[DropPlace | None]],
    counters: Counter[str],
) -> None:
    """What only the report of a source holds. Raises DataError where it is not as tokpack writes it."""
    try:
        counters.update({str(name): int(count) for name, count in source.report["counters"].items()})
        for drop in source.report["drops"]:
            reason, texts = str(drop["reason"]), [str(text) for text in drop["examples"]]
            examples[reason] = (examples.get(reason, []) + texts)[:EXAMPLES]
            found = [from_plain(DropPlace, place, "places") for place in drop.get("places", [])]
            known = found if len(found) == len(texts) else [None] * len(texts)  # stay beside their examples
            places[reason] = (places.get(reason, []) + known)[:EXAMPLES]
    except (KeyError, TypeError, ValueError, AttributeError, DataError):
        raise DataError(
            "report.json is damaged: its counters or drops are not as tokpack writes them",
            where=str(source.folder / schema.REPORT),
            hint="copy the packed dataset again, or take report.json out",
        ) from None


INPUT = ("name", "size_bytes", "format")


def _recipe(reports: list[dict[str, Any]]) -> CostConfig:
    """The batches that the first report compares with."""
    known = [report.get("batch_size") for report in reports]
    sizes = [size for size in known if isinstance(size, int) and 1 <= size <= MOST_BATCH]
    return CostConfig(batch_size=sizes[0]) if sizes else CostConfig()


def _lengths(pieces: Placement, dropped: Path) -> tuple[Lengths, Lengths]:
    """Lengths of all documents but those held out, and of those kept, before truncation; put together from
    what is packed and what is on record."""
    places = {"doc_id": pieces.doc_id, "copy": pieces.copy, "tokens": pieces.length.astype(np.int64)}
    every = pl.DataFrame(places)
    packed = every.filter(pl.col("copy") == 0).drop("copy")
    left_out = pl.DataFrame(pl.from_arrow(pq.read_table(dropped)))
    record = left_out.select("doc_id", "reason", tokens="tokens_lost")
    cut = record.filter(pl.col("reason") == TRUNCATED).drop("reason")
    whole = pl.concat([packed, cut]).group_by("doc_id").agg(pl.col("tokens").sum())
    times = every.group_by("doc_id").agg((pl.col("copy").max() + 1).alias(schema.COPIES))
    repeated = each_copy(whole.join(times, on="doc_id")).drop(schema.COPIES)
    lost = record.filter(~pl.col("reason").is_in([TRUNCATED, HELD_OUT])).drop("reason")
    raw = pl.concat([repeated, lost.filter(pl.col("tokens") > 0)]).sort("doc_id")
    return raw["tokens"].to_numpy(), whole.sort("doc_id")["tokens"].to_numpy()
