"""A damaged or altered shard is found before it is merged, exported or trained; a right one is read once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import DataError
from tokpack.export import export
from tokpack.on_disk import checked
from tokpack.on_disk.checked import check_dataset, is_right
from tokpack.on_disk.manifest import read_manifest
from tokpack.on_disk.sums import file_sha256


@pytest.fixture(scope="module")
def original(qwen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    data = write_rows(folder / "chats.jsonl", messy_rows(60))
    return tokpack.pack(data, folder / "out", tokenizer=str(qwen), max_length=256, val=0.2).folder


@pytest.fixture
def packed(original, tmp_path_factory, monkeypatch) -> Path:
    """A copy that nothing has been found out about."""
    folder = tmp_path_factory.mktemp("copy")
    monkeypatch.setenv("TOKPACK_CACHE", str(folder / "cache"))
    return Path(shutil.copytree(original, folder / "out"))


def flip_a_token(shard: Path) -> None:
    """One bit of a label, which no structure of the file notices."""
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize("where", ["", "validation"])
def test_merge_repack_export_and_train_refuse_a_shard_of_other_bytes(where, packed, tmp_path):
    flip_a_token(packed / where / "data-00000-of-00001.arrow")
    for name, run in {
        "merge": lambda **options: tokpack.merge([packed, packed], tmp_path / "m", **options),
        "repack": lambda **options: tokpack.repack(packed, tmp_path / "r", **options),
        "export": lambda **options: export(packed, "trl", tmp_path / "e", **options),
    }.items():
        with pytest.raises(DataError, match="not those that were packed") as error:
            run()
        assert "--no-check" in error.value.hint, name
        assert not list(tmp_path.iterdir())
        run(check=False)
        shutil.rmtree(next(tmp_path.iterdir()))
    with pytest.raises(DataError, match="not those that were packed"):
        check_dataset(packed, read_manifest(packed))


def test_what_was_right_is_read_once_until_anything_about_the_file_changes(packed, monkeypatch):
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(checked, "file_sha256", counted)
    manifest = read_manifest(packed)
    check_dataset(packed, manifest)
    assert len(read) == 2
    check_dataset(packed, manifest)
    assert len(read) == 2
    shard = packed / "data-00000-of-00001.arrow"
    status = shard.stat()
    flip_a_token(shard)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(DataError, match="not those that were packed"):
        check_dataset(packed, manifest)
    flip_a_token(shard)
    check_dataset(packed, manifest)
    assert len(read) == 4


def test_without_a_cache_every_check_reads(packed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    shard = packed / "data-00000-of-00001.arrow"
    assert is_right(shard, file_sha256(shard))
    assert not is_right(shard, "0" * 64)
    with pytest.raises(DataError, match="missing"):
        is_right(packed / "data-00009-of-00010.arrow", "0" * 64)


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "data-00000-of-00001.arrow"])
def test_a_file_that_may_not_be_read_is_named_and_is_not_an_unfinished_run(name, packed, monkeypatch):
    """Root may read everything: the system's refusal is acted."""
    opened, mapped = Path.open, pa.memory_map

    def refuse(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(
        Path, "open", lambda path, *args, **options: refuse(path) or opened(path, *args, **options)
    )
    monkeypatch.setattr(pa, "memory_map", lambda path: refuse(path) or mapped(path))
    for look in (tokpack.verify, lambda folder: tokpack.open_packed(folder)[0]):
        with pytest.raises(DataError, match="cannot open: Permission denied") as error:
            look(packed)
        assert error.value.where == str(packed / name)
