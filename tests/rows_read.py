"""Rows read in every container that holds them: JSON lines, Parquet, a dataset saved by `datasets`."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokpack.errors import UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources

CONTAINERS = ("jsonl", "parquet", "saved")
Rows = list[dict[str, Any]]
with_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the commands are jq's")


def written(folder: Path, rows: Rows, container: str) -> Path:
    """The rows in a file, or a folder, of their own."""
    path = folder / f"rows.{container}"
    if not container.startswith("jsonl"):  # tables have every column in every row
        rows = [dict.fromkeys(name for row in rows for name in row) | row for row in rows]
    if container == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif container == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif container == "csv":
        cells = [
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
            for row in rows
        ]
        pl.DataFrame(cells).write_csv(path)
    elif container == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif container == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        from datasets import Dataset

        Dataset.from_list(rows).save_to_disk(str(path))
    return path


def documents(
    folder: Path, rows: Rows, container: str = "jsonl", **config: Any
) -> tuple[list[tuple[Any, ...]], list[str], Shape]:
    """(roles, contents, extra, reason) of each document, why rows were set aside, and the shape."""
    return documents_of(written(folder, rows, container), **config)


def documents_of(path: Path, **config: Any) -> tuple[list[tuple[Any, ...]], list[str], Shape]:
    """The same of a file."""
    [source] = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(source)
    parts = [normalize(block, source, shape) for block in read_blocks([source])]
    frame = pl.concat([part.documents for part in parts])
    aside = [one.reason for part in parts for one in part.quarantined]
    return frame.select("roles", "contents", "extra", "drop_reason").rows(), aside, shape


def documents_of_hint(
    folder: Path, rows: Rows, *options: str | Path, flags: str = "-c", **config: Any
) -> list[Any]:
    """The documents of the rows that a jq command writes: that in the hint by which `rows` are refused.
    `options` stand before its program, `config` is for what it writes."""
    with pytest.raises(UsageError) as error:
        documents(folder, rows)
    program = re.search(rf"jq {flags} .*?'(.+?)' FILE", str(error.value.hint))
    assert program, error.value.hint
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    made = subprocess.run(
        ["jq", flags, *options, program[1]], input=lines, capture_output=True, text=True, check=True
    )
    (folder / "made").mkdir()
    return documents(folder / "made", [json.loads(line) for line in made.stdout.splitlines()], **config)[0]
