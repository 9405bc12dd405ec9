"""Caches and packed datasets from anybody: links, digests and unpacked copies lead to nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from foreign_folders import alter, pack_both

import tokpack
from tokpack.errors import DataError
from tokpack.on_disk.sums import file_sha256
from trainer_plugin.rows.dataset import PackedDataset


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> dict[str, Path]:
    return pack_both(tmp_path_factory.mktemp("packed"), qwen)


def test_the_links_of_the_hubs_own_cache_are_followed_and_no_others(packed, tmp_path):
    root = tmp_path / "datasets--someone--packed"
    snapshot, blobs = root / "snapshots" / "0123abc", root / "blobs"
    blobs.mkdir(parents=True)
    for path in packed["arrow"].rglob("*"):
        place = snapshot / path.relative_to(packed["arrow"])
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            blob = blobs / hashlib.sha256(str(place).encode()).hexdigest()
            shutil.copyfile(path, blob)
            place.symlink_to(os.path.relpath(blob, place.parent))
    assert tokpack.verify(snapshot).ok
    merged = tokpack.repack(snapshot, tmp_path / "out")
    assert tokpack.verify(merged.folder).ok
    assert not any(path.is_symlink() for path in merged.folder.rglob("*"))
    (blobs / "outside").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("{}")
    (snapshot / "report.json").unlink()
    (snapshot / "report.json").symlink_to("../../blobs/outside")
    with pytest.raises(DataError, match="link"):
        tokpack.open_packed(snapshot)


def test_the_digest_in_a_manifest_cannot_name_a_copy_of_other_rows(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    theirs = Path(shutil.copytree(packed["parquet"], tmp_path / "theirs"))
    victim = "ab" * 32

    def lie(manifest: dict[str, Any]) -> None:
        manifest["shards"][0]["sha256"] = victim

    alter(theirs, lie)
    sums = (theirs / "SHA256SUMS").read_text()
    real = file_sha256(theirs / "data-00000-of-00001.parquet")
    (theirs / "SHA256SUMS").write_text(sums.replace(real, victim))
    for run in (lambda: PackedDataset(theirs), lambda: tokpack.repack(theirs, tmp_path / "out")):
        with pytest.raises(DataError, match="not those that were packed"):
            run()
    assert not list((tmp_path / "cache").rglob(f"{victim}*"))


def test_unpacked_copies_are_this_users_alone_and_made_again_when_changed(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    theirs = Path(shutil.copytree(packed["parquet"], tmp_path / "theirs"))
    planted = theirs / f"cache-{file_sha256(theirs / 'data-00000-of-00001.parquet')[:32]}.arrow"
    planted.write_bytes(b"planted")
    rows = [row["input_ids"].tolist() for row in PackedDataset(theirs)]
    assert rows == [row["input_ids"].tolist() for row in PackedDataset(packed["arrow"])]
    folder = tmp_path / "cache" / "unpacked"
    assert folder.stat().st_mode & 0o777 == 0o700
    copies = sorted(folder.glob("*.arrow"))
    assert copies
    for damage in (b"", b"\x00" * 4096):
        copies[0].write_bytes(damage)
        assert [row["input_ids"].tolist() for row in PackedDataset(theirs)] == rows
    folder.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere to write"):
        PackedDataset(theirs)
