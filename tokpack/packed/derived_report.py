"""The report of what was made from packed datasets: figures of its own plan, texts from their reports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tokpack import schema
from tokpack.config import CostConfig
from tokpack.corpus import EXAMPLES
from tokpack.errors import DataError
from tokpack.packed.folder import PackedFolder
from tokpack.reasons import HELD_OUT, TRUNCATED
from tokpack.report.figures import DocumentLengths, Report, label_figures, report_figures
from tokpack.stages.plan import Plan
from tokpack.stages.repeat import each_copy
from tokpack.stages.write import Placement

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
    places: dict[str, list[dict[str, str]]] = {}
    counters: Counter[str] = Counter()
    for source in sources:
        if source.report:
            _add_texts(source, examples, places, counters)
    head = {
        "tokpack_version": manifest["tokpack_version"],
        **({"kind": manifest["kind"]} if "kind" in manifest else {}),
        "tokenizer": manifest["tokenizer"]["name"],
        "capacity": plan.capacity,
        "config": manifest["config"],
        "inputs": [{key: entry[key] for key in INPUT} for entry in manifest["inputs"]],
    }
    figures = report_figures(
        manifest["ledger"],
        _lengths(pieces, dropped),
        plan,
        manifest["plan"].get("dealt", {}),
        _recipe([source.report for source in sources]),
        examples,
        dict(counters),
    )
    for drop in figures["drops"]:
        found = places.get(drop["reason"], [])
        drop["places"] = found if len(found) == len(drop["examples"]) and all(found) else []
    if schema.is_unpaired(manifest):
        figures["labels"] = label_figures(pieces)
    return Report(head | figures)


def _add_texts(
    source: PackedFolder,
    examples: dict[str, list[str]],
    places: dict[str, list[dict[str, str]]],
    counters: Counter[str],
) -> None:
    """What only the report of a source holds. Raises DataError where it is not as tokpack writes it."""
    try:
        counters.update({str(name): int(count) for name, count in source.report["counters"].items()})
        for drop in source.report["drops"]:
            reason, texts = str(drop["reason"]), [str(text) for text in drop["examples"]]
            examples[reason] = (examples.get(reason, []) + texts)[:EXAMPLES]
            found = [{str(key): str(text) for key, text in at.items()} for at in drop.get("places", [])]
            found = found if len(found) == len(texts) else [{}] * len(texts)  # stay beside their examples
            places[reason] = (places.get(reason, []) + found)[:EXAMPLES]
    except (KeyError, TypeError, ValueError, AttributeError):
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


def _lengths(pieces: Placement, dropped: Path) -> DocumentLengths:
    """Lengths before truncation and dropping, put together from what is packed and what is on record."""
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
    return DocumentLengths(
        raw=pl.concat([repeated, lost]).sort("doc_id")["tokens"].to_numpy(),
        whole=whole.sort("doc_id")["tokens"].to_numpy(),
        pieces=pieces.length,
    )
