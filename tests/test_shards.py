"""Parquet shards: the same rows as Arrow ones, for every reader, at a fraction of the size."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack import schema
from tokpack.errors import DataError, UsageError
from tokpack.export import export
from tokpack.packed.folder import PackedFolder
from tokpack.stages import write

CAPACITY = 250


@pytest.fixture(scope="module")
def both(qwen, tmp_path_factory) -> dict[str, PackedFolder]:
    folder = tmp_path_factory.mktemp("data")
    data = write_rows(folder / "chats.jsonl", messy_rows(300))
    options = {"tokenizer": str(qwen), "max_length": CAPACITY, "val": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "CHUNK_TOKENS", 4000)  # several row groups
        return {
            name: tokpack.pack(data, folder / name, shard_format=name, **options)
            for name in ("arrow", "parquet")
        }


def rows_of(packed: PackedFolder) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in packed[row].items()} for row in range(len(packed))]


@pytest.mark.slow
def test_parquet_shards_hold_the_same_rows_and_verify(both):
    arrow, parquet = both["arrow"], both["parquet"]
    files = [shard["file"] for shard in parquet.manifest["shards"]]
    assert files == ["data-00000-of-00001.parquet"]
    assert not (parquet.folder / "state.json").exists()
    assert tokpack.verify(parquet.folder).ok
    assert rows_of(parquet) == rows_of(arrow)
    assert parquet.ledger == arrow.ledger
    assert parquet.row_of_document(5) == arrow.row_of_document(5)
    assert list(parquet.folder.rglob("cache-*")) == []


def test_a_row_group_is_a_few_rows_and_compressed_with_zstd(both):
    file = pq.ParquetFile(both["parquet"].folder / "data-00000-of-00001.parquet")
    assert file.num_row_groups > 3
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.equals(schema.PACKED_SCHEMA)


def test_datasets_loads_them_as_parquet(both, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = str(both["parquet"].folder / "data-*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert [dict(row) for row in loaded] == rows_of(both["arrow"])


def test_any_flipped_byte_of_a_parquet_shard_is_found(both, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(both["parquet"].folder, folder)
    shard = folder / "data-00000-of-00001.parquet"
    original = shard.read_bytes()
    for position in (0, 1000, len(original) // 2, len(original) - 20, len(original) - 1):
        flipped = bytearray(original)
        flipped[position] ^= 16
        shard.write_bytes(bytes(flipped))
        faults = [fault for check in tokpack.verify(folder).checks for fault in check.faults]
        assert any(shard.name in fault for fault in faults), position


@pytest.mark.slow
def test_repack_turns_one_into_the_other_and_merge_keeps_the_first_ones(both, tmp_path):
    arrow, parquet = both["arrow"], both["parquet"]
    to_arrow = tokpack.repack(parquet, tmp_path / "arrow", shard_format="arrow")
    assert rows_of(to_arrow) == rows_of(arrow)
    again = tokpack.repack(arrow, tmp_path / "parquet", shard_format="parquet")
    assert rows_of(again) == rows_of(arrow)
    assert tokpack.repack(parquet, tmp_path / "kept").manifest["shards"][0]["file"].endswith(".parquet")
    merged = tokpack.merge([parquet, arrow], tmp_path / "merged", keep_order=True)
    assert merged.manifest["shards"][0]["file"].endswith(".parquet")
    assert tokpack.verify(merged.folder).ok
    assert [row["input_ids"] for row in rows_of(merged)] == 2 * [row["input_ids"] for row in rows_of(arrow)]
    with pytest.raises(UsageError, match="parquet"):
        tokpack.repack(arrow, tmp_path / "wrong", shard_format="parqet")


def test_exports_are_the_same_from_both(both, tmp_path):
    for to in ("trl", "megatron-bridge"):
        folders = [export(packed, to, tmp_path / f"{to}-{name}") for name, packed in both.items()]
        names = sorted(
            path.relative_to(folders[0])
            for path in folders[0].rglob("*.*")
            if path.suffix in (".arrow", ".parquet")
        )
        assert names
        for name in names:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_training_maps_an_unpacked_copy_that_lies_in_the_users_cache(both, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    from trainer_plugin import PackedDataset

    folder = tmp_path / "copy"
    shutil.copytree(both["parquet"].folder, folder, ignore=shutil.ignore_patterns("cache-*"))
    dataset = PackedDataset(folder)
    assert [{k: v.tolist() for k, v in row.items()} for row in dataset] == rows_of(both["arrow"])
    held = dataset.validation()
    assert held is not None
    assert len(held) == len(both["arrow"].validation)
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "unpacked").glob("*.arrow")}
    assert len(copies) == 2
    PackedDataset(folder)
    assert {path: path.stat().st_mtime_ns for path in copies} == copies
    assert list(folder.rglob("cache-*")) == []
    assert tokpack.verify(folder).ok


def test_where_no_cache_can_be_written_the_copy_lies_among_this_users_temporary_files(
    both, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parquet = PackedFolder(both["parquet"].folder)
    assert sum(batch.num_rows for batch in parquet.mapped()) == len(both["arrow"])
    (place,) = tmp_path.glob("tokpack-*")
    assert place.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(place)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be unpacked"):
        parquet.mapped()


@pytest.mark.slow
def test_the_command_line_writes_and_shows_them(both, qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(60))

    out = str(tmp_path / "out")
    run("pack", str(data), "-t", str(qwen), "-o", out, "--shard-format", "parquet", "-q")
    row = tokpack.open_packed(out)[0]
    assert f"document {row['doc_ids'][0]}" in run("inspect", out, "--row", "0").stdout
    assert np.all(row["labels"][np.cumsum(row["seq_lengths"])[:-1]] == schema.IGNORE_INDEX)
