"""Layouts of public sets and services: each is recognized, or refused with the command that reads it."""

from __future__ import annotations

import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_cases import ASKED, CASES, Case

from tokpack.config import SourceConfig
from tokpack.errors import UsageError
from tokpack.stages.normalize.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources

COLUMNS = ("roles", "contents", "extra", "drop_reason")


def read(folder, rows, parquet=False, **config):
    """(documents as rows, shape) of rows in one container."""
    path = folder / ("rows.parquet" if parquet else "rows.jsonl")
    if parquet:
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    parts = [normalize(block, sources[0], shape) for block in read_blocks(sources)]
    assert [q.reason for part in parts for q in part.quarantined] == []
    return pl.concat([part.documents for part in parts]).select(COLUMNS).rows(), shape


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_each_layout_gives_the_documents_that_it_means(case, parquet, tmp_path):
    documents, _ = read(tmp_path, [case.row], parquet, **case.way)
    assert [list(zip(roles, contents, strict=True)) for roles, contents, *_ in documents] == case.documents
    extra = json.loads(documents[0][2] or "{}")
    messages = extra.get("messages", [])
    found = {
        "tools": extra.get("tools"),
        "reasoning": next((m["reasoning_content"] for m in messages if "reasoning_content" in m), None),
        "calls": next((m["tool_calls"] for m in messages if "tool_calls" in m), None),
        "arguments": extra.get("chat_template_kwargs"),
        "dropped": documents[0][3],
    }
    assert {key: value for key, value in found.items() if value is not None} == {
        key: value for key, value in case.more.items() if key != "loose"
    }


@pytest.mark.parametrize("case", ASKED, ids=by_name)
def test_a_layout_that_can_be_meant_in_two_ways_is_refused_with_the_command(case, tmp_path):
    with pytest.raises(UsageError) as error:
        read(tmp_path, [case.row])
    assert case.refused in (error.value.hint or "")
