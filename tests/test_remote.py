"""Inputs behind URLs: memory:// always, s3:// against a server on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import importlib
import io
import json
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chats import messy_rows

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.read import streams
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources

pytestmark = pytest.mark.slow

ROWS = messy_rows(60, seed=4)
LINES = b"\n".join(ROWS) + b"\n"


def parquet(texts: list[str], row_group_size: int = 2) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=row_group_size)
    return sink.getvalue()


FILES = {
    "data/chats.jsonl": LINES,
    "data/b.parquet": parquet(["three", "four", "five"]),
    "data/a.parquet": parquet(["one", "two"]),
    "data/deep/c.jsonl": b'{"text": "six"}\n',
    "data/notes.md": b"no data",
    "data/deep/chats": LINES,
}


@pytest.fixture
def memory() -> Iterator[str]:
    import fsspec

    fs = fsspec.filesystem("memory")
    for name, data in FILES.items():
        fs.pipe(f"/bucket/{name}", data)
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def s3(s3_bucket) -> str:
    import fsspec

    fs = fsspec.filesystem("s3")
    for name, data in FILES.items():
        fs.pipe(f"{s3_bucket}/{name}", data)
    return s3_bucket


@pytest.fixture(params=["memory", "s3"])
def bucket(request) -> str:
    return request.getfixturevalue(request.param)


def names_and_rows(url: str) -> tuple[list[str], list[Any]]:
    sources = open_sources((SourceConfig(path=url),))
    rows: list[Any] = []
    for block in read_blocks(sources):
        lines = block.data.splitlines() if isinstance(block.data, bytes) else block.data.to_pylist()
        rows += [json.loads(line)["text"] if isinstance(line, bytes) else line["text"] for line in lines]
    assert all(source.sha256 and source.size_bytes for source in sources)
    return [source.name for source in sources], rows


def test_globs_and_folders_are_read_in_a_stable_order(bucket):
    assert names_and_rows(f"{bucket}/data/*.parquet") == (
        ["a.parquet", "b.parquet"],
        ["one", "two", "three", "four", "five"],
    )
    assert names_and_rows(f"{bucket}/data/deep") == (["c.jsonl"], ["six"])
    sources = open_sources((SourceConfig(path=f"{bucket}/data/"),))
    assert [source.name for source in sources] == ["a.parquet", "b.parquet", "chats.jsonl", "deep/c.jsonl"]


def test_a_remote_input_packs_to_the_bytes_of_the_local_one(bucket, qwen, tmp_path):
    (tmp_path / "chats.jsonl").write_bytes(LINES)
    options = {"tokenizer": str(qwen), "max_length": 256}
    remote = tokpack.pack(f"{bucket}/data/chats.jsonl", tmp_path / "remote", **options)
    local = tokpack.pack(tmp_path / "chats.jsonl", tmp_path / "local", **options)
    assert (remote.folder / "SHA256SUMS").read_bytes() == (local.folder / "SHA256SUMS").read_bytes()
    assert tokpack.verify(remote.folder).ok


def test_verify_says_what_it_compares_of_inputs_behind_urls(memory, qwen, tmp_path):
    local = tmp_path / "local.jsonl"
    local.write_bytes(LINES)
    options = {"tokenizer": str(qwen), "max_length": 512}
    packed = tokpack.pack([local, f"{memory}/data/chats.jsonl"], tmp_path / "out", **options)
    details = {check.name: check.detail for check in tokpack.verify(packed.folder).checks}
    assert details["inputs"] == "1 of 1 still there, unchanged; 1 behind URLs, not compared"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("data/chat.jsonl", "no such object"),
        ("nothing/here.jsonl", "no such object"),
        ("data/*.csv", "nothing matches"),
    ],
)
def test_what_is_not_there_is_an_error_with_its_url(bucket, path, what):
    with pytest.raises(UsageError, match=what) as error:
        open_sources((SourceConfig(path=f"{bucket}/{path}"),))
    assert error.value.where == f"{bucket}/{path}"


def test_a_remote_file_is_known_by_its_content_where_its_name_does_not_say(bucket):
    [notes] = open_sources((SourceConfig(path=f"{bucket}/data/notes.md"),))
    with pytest.raises(UsageError, match="cannot tell the file type"):
        detect_shape(notes)
    [chats] = open_sources((SourceConfig(path=f"{bucket}/data/deep/chats"),))
    assert (detect_shape(chats).format, chats.container) == ("messages", "jsonl")


@pytest.fixture
def fetched(memory, monkeypatch) -> list[int]:
    """Sizes of the reads of remote files."""
    import fsspec.implementations.memory as implementation

    sizes: list[int] = []
    read = implementation.MemoryFile.read

    def counted(self, size=-1):
        data = read(self, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(implementation.MemoryFile, "read", counted)
    return sizes


@pytest.mark.parametrize("in_memory", [1 << 10, 64 << 20])
def test_a_remote_table_is_fetched_once_and_hashed_as_it_is(memory, fetched, monkeypatch, in_memory):
    import fsspec

    monkeypatch.setattr(streams, "IN_MEMORY", in_memory)
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=300)) for _ in range(20_000)]
    body = parquet(texts, row_group_size=5000)
    fsspec.filesystem("memory").pipe("/bucket/big.parquet", body)
    [source] = open_sources((SourceConfig(path=f"{memory}/big.parquet"),))
    detect_shape(source)
    assert sum(fetched) < len(body) / 2  # dictionary and first page twice: measured, then decoded
    fetched.clear()
    rows = [row["text"] for block in read_blocks([source]) for row in block.data.to_pylist()]
    assert rows == texts
    assert source.sha256 == hashlib.sha256(body).hexdigest()
    assert sum(fetched) == len(body)


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz", "b.parquet"])
def test_a_connection_that_breaks_is_an_error_with_its_url(memory, monkeypatch, name):
    import fsspec
    import fsspec.implementations.memory as implementation

    fsspec.filesystem("memory").pipe("/bucket/data/chats.jsonl.gz", gzip.compress(LINES))
    [source] = open_sources((SourceConfig(path=f"{memory}/data/{name}"),))

    def broken(self, size=-1):
        raise RuntimeError("connection lost")

    monkeypatch.setattr(implementation.MemoryFile, "read", broken)
    for read in (detect_shape, lambda source: list(read_blocks([source]))):
        with pytest.raises(DataError, match="cannot read: RuntimeError: connection lost") as error:
            read(source)
        assert error.value.where == f"memory:///bucket/data/{name}"


def test_a_missing_library_is_named_with_its_pip_line(monkeypatch):
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(UsageError, match="not installed") as error:
        open_sources((SourceConfig(path="s3://bucket/a.jsonl"),))
    assert error.value.hint == 'pip install "tokpack[s3]"'


def test_a_server_that_does_not_answer_is_an_error_with_its_url(s3, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match="cannot open") as error:
        open_sources((SourceConfig(path="s3://bucket/data/chats.jsonl"),))
    assert "AWS_ENDPOINT_URL" in error.value.hint


def test_keys_in_a_web_address_reach_neither_the_packed_dataset_nor_the_terminal(qwen, tmp_path, capfd):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.jsonl").write_bytes(LINES)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    serve = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:s3cret@127.0.0.1:{server.server_port}"
        packed = tokpack.pack(
            f"{url}/a.jsonl?key=s3cret", tmp_path / "out", tokenizer=str(qwen), max_length=256
        )
        with pytest.raises(UsageError) as error:
            tokpack.pack(f"{url}/b.jsonl?key=s3cret", tmp_path / "none", tokenizer=str(qwen), max_length=256)
        server.shutdown()
    assert packed.manifest["inputs"][0]["name"] == "a.jsonl"
    shared = [path for path in packed.folder.rglob("*") if path.is_file() and path.name != "run.json"]
    assert not [path.name for path in shared if b"s3cret" in path.read_bytes()]
    assert "***@127.0.0.1" in str(error.value)
    assert "s3cret" not in str(error.value) + capfd.readouterr().err
