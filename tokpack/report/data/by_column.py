"""Figures by the values of a column of the data itself, as `source`: what `--by COLUMN` adds."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from typing import Any

import polars as pl

from tokpack.errors import UsageError, near_matches
from tokpack.report.data.data_figures import quantiles
from tokpack.report.values import ByColumn, ValueFigures
from tokpack.run import Run
from tokpack.stages.normalize.fields import known_paths, root, value_at
from tokpack.stages.normalize.layouts.detect import first_rows
from tokpack.stages.normalize.raw_rows import lines_of, parse_line
from tokpack.stages.read.blocks import Block, read_blocks
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.sources import Source
from tokpack.way.corpus import Corpus

log = logging.getLogger("tokpack")

MOST_VALUES = 50
MOST_LOOKED_AT = 50
"""Inputs whose first rows are looked at before the work begins."""
VARIED = {"jsonl", "json"}
"""Containers whose rows may have other columns further on."""
NONE = "(none)"
"""Name of the documents whose row has no such value."""


def by_column_figures(run: Run, corpus: Corpus, pieces: pl.DataFrame, column: str) -> ByColumn:
    """Documents, lengths, trained share and reasons of each value of `column`, most packed tokens first.

    Reads the inputs again. Raises UsageError where no row has the column.
    """
    docs = corpus.docs.with_columns(value=column_values(run, corpus, column))
    packed = (
        pieces.select("length", "trained", value=docs["value"].gather(pieces["document"]))
        .group_by("value")
        .agg(pl.col("length", "trained").cast(pl.Int64).sum())
    )
    sums = {value: (length, trained) for value, length, trained in packed.rows()}
    lines = []
    values = docs["value"].unique().to_list()
    most = sorted(values, key=lambda value: (-sums.get(value, (0, 0))[0], value))[:MOST_VALUES]
    for (value,), own in docs.filter(pl.col("value").is_in(most)).group_by("value"):
        length, trained = sums.get(value, (0, 0))
        kept = own.filter(pl.col("drop_reason").is_null())
        reasons = own["drop_reason"].drop_nulls().value_counts().sort("count", "drop_reason", descending=True)
        line = ValueFigures(
            name=value,
            read=len(own),
            documents=len(kept),
            packed=length,
            trained=trained,
            trained_share=trained / length if length else 0.0,
            **quantiles(kept["tokens"].to_numpy()),
            dropped=dict(reasons.rows()),
        )
        lines.append(line)
    lines.sort(key=lambda line: (-line.packed, line.name))
    return ByColumn(column=column, values=lines, more=len(values) - len(most))


def check_column(run: Run, column: str) -> None:
    """Before any work: raises UsageError where the first rows of no input have the column and it cannot come
    later, or one has a name like it; warns where rows after the first may have it."""
    names: set[str] = set()
    for source in run.sources[:MOST_LOOKED_AT]:
        names.update(*(row for row in first_rows(source, b"")[0]))
    name = root(column, names)
    if not names or name in names:
        return
    what, hint = f"no row has a value in {column!r}", near_matches(name, names)
    varied = any(source.container in VARIED for source in run.sources) or len(run.sources) > MOST_LOOKED_AT
    if get_close_matches(name, names) or not varied:
        raise UsageError(what, where="--by", hint=hint)
    log.warning("--by: none of the first rows has a value in %r; %s", column, hint)


def column_values(run: Run, corpus: Corpus, column: str) -> pl.Series:
    """The column's value of each document, as text."""
    values: list[str | None] = []
    names: set[str] = set()
    with run.tell.doing(f"reading the column {column}"):
        for block in read_blocks(run.sources, run.config.read.block_mb << 20):
            rows = _rows(block, run.sources[block.source])
            values += [_text(value_at(row, column)) if isinstance(row, dict) else None for row in rows]
            names.update(known_paths(rows[:100]))
    if all(value is None for value in values):
        hint = near_matches(column, names)
        raise UsageError(f"no row has a value in {column!r}", where="--by", hint=hint)
    found = pl.Series(values, dtype=pl.String).fill_null(NONE)
    return found.gather(corpus.docs["doc_id"] // corpus.width)


def _rows(block: Block, source: Source) -> list[Any]:
    if isinstance(block.data, bytes):
        return [parse_line(line, source.container)[0] for line in lines_of(block)[0]]
    return [None if isinstance(row, Unreadable) else row for row in readable_rows(block.data)]


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return (value if isinstance(value, str) else str(value)).encode("utf-8", "replace").decode()
