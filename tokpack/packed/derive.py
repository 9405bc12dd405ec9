"""Made from packed datasets: the pieces gathered into new rows, the rest of the record carried over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tokpack import schema
from tokpack.errors import DataError, InternalError, UsageError
from tokpack.files.own_files import Own, is_packed_file
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.manifest import is_finished
from tokpack.on_disk.sums import file_sha256
from tokpack.packed.derived_report import derived_report
from tokpack.packed.folder import PackedFolder
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.packed_urls import name_of
from tokpack.settings.config import WriteConfig
from tokpack.stages.order import Dealt, plan_record
from tokpack.stages.plan import Plan
from tokpack.stages.write import RowContents, write_json
from tokpack.stages.write_index import Shared, write_rows
from tokpack.terminal.activity import Activity
from tokpack.way.output import finish

MERGED = "merged"
"""Planner in the manifest of a merged packed dataset: its rows were planned apart."""


def write_derived(
    out: Path,
    stored: StoredPieces,
    contents: RowContents,
    plan: Plan,
    dealt: Dealt | None,
    record: dict[str, Any],
    sources: list[PackedFolder],
    tell: Activity,
    shared: Shared | None = None,
) -> None:
    """Shards, report, manifest, sums. dropped.parquet, quarantine.jsonl and tokenizer are there already.

    `record` is a manifest whose figures of rows are filled in here, from what was written. Raises DataError
    when the ledger does not add up; then nothing is finished. `shared`: token files
    that the pieces are in already.
    """
    settings = WriteConfig(**record["config"]["write"])
    columns = schema.packed_schema(record)
    with tell.doing(f"writing {record['split']} rows", plan.tokens, "M tokens", 1_000_000) as advance:
        written = write_rows(
            out, contents, stored.placement, stored.batches, columns, settings, advance, shared
        )
    ledger, rows = record["ledger"], {"capacity": plan.capacity, "rows": written.rows}
    ledger |= ledgers.of_rows({**rows, "tokens": written.tokens, "trained": written.trained})
    try:
        ledgers.check(ledger)
    except InternalError as error:  # the figures of the sources, which anybody may have written
        raise DataError(
            f"the record and the rows of the packed dataset do not agree: {error.what}",
            where=", ".join(str(source.folder) for source in sources),
            hint="`tokpack verify` names what is wrong",
        ) from None
    figures = {
        **rows,
        "tokens": written.tokens,
        "trained_tokens": written.trained,
        "documents": ledger["documents"]["kept"],
        "pieces": len(stored.placement.length),
        "shards": written.shards,
        "plan": plan_record(record["config"]["plan"]["planner"], plan, dealt),
    }
    manifest = {key: value for key, value in record.items() if key != "token_files"} | figures
    if written.token_files:
        manifest["token_files"] = written.token_files
    if manifest["split"] == "train":
        pieces = stored.by_document().placement
        report = derived_report(manifest, plan, pieces, out / schema.DROPPED, sources)
        write_json(out / schema.REPORT, report.data)
    finish(out, manifest)


def write_dropped_rows(path: Path, rows: pl.DataFrame) -> None:
    """dropped.parquet, of rows with its columns."""
    import pyarrow.parquet as pq

    pq.write_table(rows.to_arrow().cast(schema.DROPPED_SCHEMA), path, compression="zstd")


def origin(packed: PackedFolder) -> dict[str, str]:
    """A packed dataset as the manifest of a derived one names it."""
    return {"name": name_of(packed.folder), "sha256": file_sha256(packed.folder / schema.SUMS)}


def check_out(out: Path, sources: list[PackedFolder]) -> None:
    """Raises UsageError when `out` is, lies in, or holds one of the packed datasets that are read."""
    place = out.resolve()
    for source in sources:
        folder = source.folder.resolve()
        if folder == place or folder in place.parents or place in folder.parents:
            raise UsageError(
                "the output is, or lies in, a packed dataset that is read",
                where=str(out),
                hint="give -o another folder",
            )


def packed_files(folder: Path) -> Own:
    """What tokpack wrote into the folder of a finished packed dataset; nothing for any other folder."""
    return is_packed_file if is_finished(folder) else lambda name: False


def write_inputs(out: Path, sources: list[PackedFolder]) -> None:
    """`run.json` with the places of the inputs, as far as they are known: what `verify` compares."""
    paths: list[str] = []
    for source in sources:
        paths += source.input_paths or [""] * len(source.manifest["inputs"])
    write_json(out / schema.RUN, {"inputs": paths, "made_from": [str(s.folder.resolve()) for s in sources]})
