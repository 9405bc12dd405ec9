"""Digests of large files are kept as long as the files are what they were."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from tokpack.files import kept_digests
from tokpack.files.kept_digests import LARGE, kept_sha256

OLD = time.time() - 60


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A large file, old enough, and how often it was read."""
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_digests, "SETTLED", -1.0)
    path = tmp_path / "vocabulary.json"
    path.write_bytes(b"a" * LARGE)
    os.utime(path, (OLD, OLD))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).digest()


def test_a_file_is_read_once(read, monkeypatch, tmp_path):
    first = kept_sha256(read)
    assert first == digest(read)
    monkeypatch.setattr(
        hashlib, "sha256", lambda data=b"": pytest.fail("read") if len(data) > 999 else real(data)
    )
    assert kept_sha256(read) == first


real = hashlib.sha256


def test_another_content_of_the_same_size_and_time_is_seen(read):
    first = kept_sha256(read)
    read.write_bytes(b"b" * LARGE)
    os.utime(read, (OLD, OLD))
    assert kept_sha256(read) == digest(read) != first


def test_another_file_with_the_same_name_is_seen(read, tmp_path):
    first = kept_sha256(read)
    other = tmp_path / "other"
    other.write_bytes(b"c" * LARGE)
    os.utime(other, (OLD, OLD))
    other.replace(read)
    assert kept_sha256(read) == digest(read) != first


def test_what_changed_just_now_is_not_kept(read, monkeypatch, tmp_path):
    monkeypatch.setattr(kept_digests, "SETTLED", 2.0)
    kept_sha256(read)
    assert not list((tmp_path / "cache" / "digests").iterdir())


@pytest.mark.parametrize("data", [b"", b"x" * 31])
def test_a_file_of_the_cache_that_was_cut_is_made_again(read, tmp_path, data):
    kept_sha256(read)
    [kept] = (tmp_path / "cache" / "digests").iterdir()
    kept.write_bytes(data)
    assert kept_sha256(read) == digest(read) == kept.read_bytes()


def test_a_cache_that_others_can_write_is_not_believed(read, tmp_path):
    (tmp_path / "cache" / "digests").mkdir(parents=True)
    (tmp_path / "cache" / "digests").chmod(0o777)
    assert kept_sha256(read) == digest(read)
    assert not list((tmp_path / "cache" / "digests").iterdir())
