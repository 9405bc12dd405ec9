"""Kept pieces and left-out documents as frames, filtered and sorted a page at a time."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.arrays import Int64, UInt32
from tokpack.errors import DataError, UsageError, reading
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import TRUNCATED, UNREADABLE
from tokpack.on_disk.token_files import Rows
from tokpack.packed.folder import PackedFolder
from tokpack.packed.left_out import NAMES_ANOTHER
from tokpack.packed.stored_pieces import flat
from tokpack.packed.viewer import known_ranges, source_row
from tokpack.ranges import offsets_of
from tokpack.schema import COPIES, IGNORE_INDEX, pair_width

PAGE = 50
Order = UInt32


@frozen
class Query:
    """What the page asks for. Lengths in tokens; `reason` and `language` are for what was left out."""

    text: str = ""
    source: str = ""
    reason: str = ""
    language: str = ""
    shortest: int = 0
    longest: int = 0
    """0: no limit."""
    sort: str = ""
    descending: bool = False
    page: int = 0


class DocumentTable:
    """The documents of one packed dataset. Only a few numbers a document are in memory."""

    def __init__(self, packed: PackedFolder, log: Path | None = None) -> None:
        self.packed = packed
        self._log = log
        self.ranges = known_ranges(packed)
        self.sources = list(self.ranges)

    @cached_property
    def batches(self) -> list[Rows]:
        return self.packed.mapped()

    @cached_property
    def _first_rows(self) -> Int64:
        """The packed row that each batch begins with."""
        return offsets_of(np.array([batch.num_rows for batch in self.batches], np.int64))[:-1]

    def record(self, row: int) -> dict[str, npt.NDArray[Any]]:
        """One packed row, mapped: `schema.packed_schema`."""
        number = int(np.searchsorted(self._first_rows, row, "right")) - 1
        one = self.batches[number].slice(row - int(self._first_rows[number]), 1)
        return {name: flat(one, name) for name in one.schema.names}

    @cached_property
    def pieces(self) -> pl.DataFrame:
        """One row a kept piece, in packed order: `NUMBERS`, number of the source, loss."""
        parts = []
        base = 0
        for batch in self.batches:
            lengths = flat(batch, "seq_lengths")
            counts = np.diff(batch.column("seq_lengths").offsets.to_numpy())
            firsts = offsets_of(counts)[:-1]
            ends = np.cumsum(lengths, dtype=np.int64)
            before = np.append(0, ends)[firsts]
            copies = flat(batch, COPIES) if COPIES in batch.schema.names else np.zeros(len(lengths), np.int32)
            parts.append(
                pl.DataFrame(
                    {
                        "doc_id": flat(batch, "doc_ids"),
                        "piece": flat(batch, "pieces"),
                        "copy": copies,
                        "packed_row": np.repeat(np.arange(len(counts), dtype=np.int32) + base, counts),
                        "start": (ends - lengths - np.repeat(before, counts)).astype(np.int32),
                        "length": lengths,
                    }
                )
            )
            base += batch.num_rows
        table = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(NUMBERS, pl.Int64))
        return table.with_columns(self._source_of(table["doc_id"])).pipe(self._with_losses)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One row a packed row that holds documents: its number, tokens, documents."""
        return (
            self.pieces.group_by("packed_row", maintain_order=True)
            .agg(pl.col("length").cast(pl.Int64).sum(), documents=pl.len())
            .with_row_index("at")
        )

    @cached_property
    def trained(self) -> pl.Series:
        """Trained tokens of each kept piece: one look at all labels."""
        counts = [np.empty(0, np.int64)]
        for batch in self.batches:
            starts = offsets_of(flat(batch, "seq_lengths"))[:-1]
            if len(starts):
                labeled = flat(batch, "labels") != IGNORE_INDEX
                counts.append(np.add.reduceat(labeled, starts, dtype=np.int64))
        return pl.Series("trained", np.concatenate(counts), dtype=pl.Int32)

    @cached_property
    def left_out(self) -> pl.DataFrame:
        """One row a document left out, unreadable rows too: as in dropped.parquet, and its twin."""
        dropped = self.packed.dropped.filter(pl.col("reason") != TRUNCATED).rename({"tokens_lost": "length"})
        lines = [
            (line["doc_id"], line["source"], line.get("row"), UNREADABLE, str(line.get("reason", "")), 0)
            for line in self.packed.quarantined()
        ]
        unreadable = pl.DataFrame(lines, schema=dropped.schema, orient="row", strict=False)
        table = pl.concat([dropped, unreadable]).sort("doc_id")
        twin = pl.col("detail").str.extract(r"^([0-9]{1,11})").cast(pl.Int64)  # as `left_out.twin_of` has it
        named = pl.when(pl.col("reason").is_in(NAMES_ANOTHER)).then(twin)
        return table.with_columns(named.alias("twin"), pl.col("detail").fill_null(""))

    def _source_of(self, doc_ids: pl.Series) -> pl.Series:
        """Number of each document's source; -1 where it is not known."""
        firsts = np.array([first for first, _ in self.ranges.values()], np.int64)
        found = np.searchsorted(firsts, doc_ids.to_numpy(), "right") - 1
        return pl.Series("source", found, dtype=pl.Int32)

    @cached_property
    def has_losses(self) -> bool:
        return self._log is not None

    def _with_losses(self, table: pl.DataFrame) -> pl.DataFrame:
        if self._log is None:
            return table.with_columns(loss=pl.lit(None, pl.Float64))
        losses = read_losses(self._log)
        joined = table.join(losses, on=("doc_id", "piece"), how="left", maintain_order="left")
        if joined["loss"].null_count() == len(joined):
            raise UsageError(
                "no document of the log is in the packed dataset",
                where=f"--document-log {self._log}",
                hint="give the log of a training run on this packed dataset",
            )
        return joined

    # Pages

    def kept_order(self, query: Query, hits: pl.Series | None) -> Order:
        """Positions in `pieces` that the query wants, in its order; `hits`: which hold the text."""
        table = self.pieces.with_row_index("at")
        if query.sort == "trained":
            table = table.with_columns(trained=self.trained / table["length"])
        wanted = _lengths(query)
        if query.source:
            wanted &= pl.col("source") == (
                self.sources.index(query.source) if query.source in self.ranges else -2
            )
        return _order(table, wanted, hits, query, ("doc_id", "length", "trained", "loss"))

    def left_out_order(self, query: Query, hits: pl.Series | None, languages: pl.Series | None) -> Order:
        """Positions in `left_out` that the query wants, in its order."""
        table = self.left_out.with_row_index("at")
        wanted = _lengths(query)
        for column, value in (("source", query.source), ("reason", query.reason)):
            if value:
                wanted &= pl.col(column) == value
        if query.language and languages is not None:
            wanted &= languages == query.language
        return _order(table, wanted, hits, query, ("doc_id", "length", "reason"))

    def row_order(self, query: Query) -> Order:
        """Numbers of packed rows."""
        return _order(self.rows, _lengths(query), None, query, ("length", "documents"))

    def position(self, doc_id: int, piece: int = 0, copy: int = 0) -> int | None:
        """Place in `pieces` of a kept piece."""
        same = (pl.col("doc_id") == doc_id) & (pl.col("piece") == piece) & (pl.col("copy") == copy)
        found = self.pieces.select(pl.arg_where(same)).to_series()
        return int(found[0]) if len(found) else None

    def place(self, doc_id: int) -> tuple[str, int]:
        """Source of a document and its number in it, from 1."""
        return source_row(self.ranges, doc_id, pair_width(self.packed.manifest))


NUMBERS = ("doc_id", "piece", "copy", "packed_row", "start", "length")


def _lengths(query: Query) -> pl.Expr:
    wanted = pl.col("length") >= query.shortest
    return wanted & (pl.col("length") <= query.longest) if query.longest else wanted


def _order(
    table: pl.DataFrame, wanted: pl.Expr, hits: pl.Series | None, query: Query, known: tuple[str, ...]
) -> Order:
    if hits is not None:
        wanted &= hits
    found = table.filter(wanted)
    if query.sort in known:
        found = found.sort(query.sort, descending=query.descending, nulls_last=True, maintain_order=True)
    elif query.descending:
        found = found.reverse()
    return found["at"].to_numpy()


def read_losses(path: Path) -> pl.DataFrame:
    """doc_id, piece and loss of the last epoch of a document log. Raises for what is none."""
    names = ["epoch", "doc_id", "piece", "loss"]
    try:
        with reading(path, hint="check --document-log"):
            if path.suffix == ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                table = pl.DataFrame([json.loads(line) for line in lines], infer_schema_length=None).select(
                    names
                )
            else:
                import pyarrow.parquet as pq

                table = pl.DataFrame(pl.from_arrow(pq.read_table(path, columns=names)))
        typed = table.cast({"epoch": pl.Int64, "doc_id": pl.Int64, "piece": pl.Int32, "loss": pl.Float64})
    except (ValueError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"not a log of documents: {first}",
            where=str(path),
            hint="give the file that `tokpack train --document-log` wrote",
        ) from None
    last = typed.filter(pl.col("epoch") == pl.col("epoch").max())
    return last.select("doc_id", "piece", "loss").unique(("doc_id", "piece"), keep="last")
