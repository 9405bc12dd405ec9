"""The report of an artefact that was made from others: figures of its own plan, texts from their reports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tokpack import schema
from tokpack.artefact.folder import Artefact
from tokpack.config import CostConfig
from tokpack.corpus import EXAMPLES
from tokpack.ledger import HELD_OUT
from tokpack.output import TRUNCATED
from tokpack.report.figures import DocumentLengths, Report, report_figures
from tokpack.stages.plan import Plan
from tokpack.stages.repeat import each_copy
from tokpack.stages.write import Placement


def derived_report(
    manifest: dict[str, Any],
    plan: Plan,
    pieces: Placement,
    dropped: Path,
    sources: list[Artefact],
) -> Report:
    """`pieces` in document order; `dropped` is the new artefact's dropped.parquet. Holds no bill."""
    earlier = [source.report for source in sources if source.report]
    examples: dict[str, list[str]] = {}
    counters: Counter[str] = Counter()
    for report in earlier:
        counters.update(report["counters"])
        for drop in report["drops"]:
            reason = drop["reason"]
            examples[reason] = (examples.get(reason, []) + drop["examples"])[:EXAMPLES]
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
        _recipe(earlier),
        examples,
        dict(counters),
    )
    return Report(head | figures)


INPUT = ("name", "size_bytes", "format")


def _recipe(reports: list[dict[str, Any]]) -> CostConfig:
    """The batches that the first report compares with."""
    known = [report["batch_size"] for report in reports if "batch_size" in report]
    return CostConfig(batch_size=known[0]) if known else CostConfig()


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
