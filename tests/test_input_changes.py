"""Input that is cut, rewritten or taken away while it is read is an error: nothing half-true is written."""

from __future__ import annotations

import gzip
import os
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import DataError
from tokpack.settings.config import SourceConfig
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.items import cut, read_item
from tokpack.stages.read.sources import open_sources
from tokpack.way import pass_one

ROWS = [{"text": f"row {number} of a file that somebody writes to " * 20} for number in range(4000)]


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"text": "one more"}\n')


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def take_away(path: Path) -> None:
    path.unlink()


CHANGES = (shorten, append, rewrite, replace, take_away)


def written(folder: Path, form: str, rows: int = 4000) -> Path:
    path = folder / f"rows.{form}"
    frame = pl.DataFrame(ROWS[:rows])
    if form == "jsonl":
        frame.write_ndjson(path)
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(frame.write_ndjson().encode(), 1))
    else:
        {
            "csv": frame.write_csv,
            "parquet": partial(frame.write_parquet, row_group_size=20),
            "arrow": frame.write_ipc,
        }[form](path)
    return path


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet", "arrow"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_its_first_and_last_row_is_a_data_error(form, change, tmp_path):
    path = written(tmp_path, form)
    sources = open_sources((SourceConfig(path=str(path)),))
    blocks = read_blocks(sources, 1 << 20)
    next(blocks)
    change(path)
    with pytest.raises(DataError, match="changed while it was read"):
        list(blocks)


def test_a_file_that_grew_after_it_was_listed_is_a_data_error(tmp_path):
    path = written(tmp_path, "jsonl")
    sources = open_sources((SourceConfig(path=str(path)),))
    append(path)
    with pytest.raises(DataError, match="changed while it was read"):
        list(read_blocks(sources))


def test_every_way_of_reading_an_item_notices_that_its_file_changed(tmp_path):
    for form, kinds in (("jsonl", {"lines", "files"}), ("parquet", {"groups", "files"}), ("csv", {"files"})):
        for kind in kinds:
            for change in (shorten, append, take_away) if kind == "files" else CHANGES:
                path = written(tmp_path, form, 200)
                sources = open_sources((SourceConfig(path=str(path)),))
                items = cut(sources, 1 << 25 if kind == "files" else 20_000)
                assert {item.kind for item in items} == {kind}
                list(read_item(items[-1], sources, 1 << 25))
                change(path)
                with pytest.raises(DataError, match=r"changed while it was read|cannot open"):
                    list(read_item(items[-1], sources, 1 << 25))
                path.unlink(missing_ok=True)


def test_pack_of_a_file_that_is_rewritten_meanwhile_writes_no_packed_dataset(qwen, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "chats.jsonl", messy_rows(60))

    def meddled(*arguments):
        items = cut(*arguments)
        append(path)
        return items

    monkeypatch.setattr(pass_one, "cut", meddled)
    with pytest.raises(DataError, match="changed while it was read"):
        tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("data-*"))
