"""Folders, saved datasets, links, and what cannot be opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import CHATS, CONTENTS, LINES, texts_of

from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.read.containers import notes
from tokpack.stages.read.sources import open_sources


def save(rows: list[dict[str, Any]], folder: Path) -> None:
    datasets = pytest.importorskip("datasets")

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(folder)


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "some words"}\n')
    with pytest.raises(UsageError, match="the name of an input is empty"):
        open_sources((SourceConfig(path=""),))
    assert [source.name for source in open_sources((SourceConfig(path="."),))] == ["a.jsonl"]


def test_several_splits_are_read_with_a_word(tmp_path):
    datasets = pytest.importorskip("datasets")

    datasets.disable_progress_bars()
    parts = {name: datasets.Dataset.from_list(CHATS[:2]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    sources = open_sources((SourceConfig(path=str(tmp_path / "saved")),))
    assert [source.name for source in sources] == ["saved/train", "saved/test"]
    [note] = notes(sources)
    assert "all of its splits are read, train, test" in note
    assert str(tmp_path / "saved" / "train") in note


def test_a_saved_dataset_inside_a_folder_is_one_input_without_its_caches(tmp_path):
    save(CHATS, tmp_path / "data" / "saved")
    shard = next((tmp_path / "data" / "saved").glob("*.arrow"))
    shutil.copyfile(shard, shard.with_name("cache-1.arrow"))
    (tmp_path / "data" / "dataset_infos.json").write_text('{"default": {}}')
    sources = open_sources((SourceConfig(path=str(tmp_path / "data")),))
    assert [(source.name, source.container) for source in sources] == [("saved", "dataset")]
    assert texts_of(tmp_path / "data") == CONTENTS


def test_the_folder_of_a_hub_dataset_is_a_folder_of_files(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    pq.write_table(pa.Table.from_pylist(CHATS), tmp_path / "train-0.parquet")
    assert texts_of(tmp_path) == CONTENTS


@pytest.mark.parametrize("damage", ["missing", "cut off", "no state"])
def test_a_damaged_saved_dataset_is_bad_data(tmp_path, damage):
    save(CHATS, tmp_path / "saved")
    shard = next((tmp_path / "saved").glob("*.arrow"))
    if damage == "missing":
        shard.unlink()
    elif damage == "cut off":
        shard.write_bytes(shard.read_bytes()[:300])
    else:
        (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(DataError) as error:
        texts_of(tmp_path / "saved")
    assert str(tmp_path / "saved") in error.value.where


def test_links_are_followed_and_no_folder_is_read_twice(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.jsonl").write_bytes(LINES)
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "a.jsonl").write_bytes(LINES)
    for name, target in (("loop", "."), ("sub/up", ".."), ("one", "../far"), ("two", "../far")):
        (tmp_path / "data" / name).symlink_to(target)
    names = [s.name for s in open_sources((SourceConfig(path=str(tmp_path / "data")),))]
    assert names == ["one/b.jsonl", "sub/a.jsonl"]


@pytest.mark.parametrize("target", ["nowhere.jsonl", "dead.jsonl"])
def test_a_link_that_leads_nowhere_is_an_error_where_it_is_asked_for(tmp_path, target):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "dead.jsonl").symlink_to(target)
    for path in (tmp_path / "dead.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(DataError, match="cannot open: ") as error:
            open_sources((SourceConfig(path=str(path)),))
        assert error.value.where == str(tmp_path / "dead.jsonl")


def test_a_pipe_with_a_name_is_refused_with_the_way_that_works(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    for path in (tmp_path, tmp_path / "a.jsonl"):
        with pytest.raises(UsageError, match="no regular file") as error:
            open_sources((SourceConfig(path=str(path)),))
        assert "-" in error.value.hint


def test_a_glob_that_matches_a_folder_says_so(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="sub is a folder"):
        open_sources((SourceConfig(path=str(tmp_path / "*")),))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
@pytest.mark.parametrize("kept_out", ["a.jsonl", "sub", "saved/state.json"])
def test_what_may_not_be_opened_is_bad_data_with_its_path(tmp_path, kept_out):
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "a.jsonl", tmp_path / "sub" / "b.jsonl"):
        path.write_bytes(LINES)
    save(CHATS, tmp_path / "saved")
    place = tmp_path / kept_out
    place.chmod(0)
    try:
        with pytest.raises(DataError, match="cannot open: Permission denied") as error:
            texts_of(tmp_path)
        assert error.value.where.startswith(str(place))
    finally:
        place.chmod(0o755)
