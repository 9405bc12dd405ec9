"""Rows written to a file, read and normalized."""

from __future__ import annotations

import json

import polars as pl

from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources


def run(tmp_path, rows, name="rows.jsonl", **config):
    path = tmp_path / name
    lines = [
        row
        if isinstance(row, bytes)
        else json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for row in rows
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return run_file(path, **config)


def run_file(path, **config):
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    parts = [normalize(block, sources[0], shape) for block in read_blocks(sources)]
    return pl.concat([p.documents for p in parts]), [q for p in parts for q in p.quarantined], shape
