"""What tokpack keeps for the next command may be emptied, cut or taken away: it is made again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from chats import messy_rows, write_rows
from encode_helpers import byte_level, template, tokenizer_folder

import tokpack
from tokpack.encoding import fast_plan
from tokpack.encoding.fast_forms import JSON, plan_file
from tokpack.encoding.snapshot import BACKEND, SNAPSHOT
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.files import user_cache
from tokpack.on_disk import shards
from tokpack.packed.push import push
from tokpack.packed_urls import local_folder

TEXT = pa.array(["hello world", "<|im_start|>What is it? 1234"], pa.large_string())
DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tokenizer_folder(byte_level(), tmp_path_factory.mktemp("kept") / "model", template("qwen2_5"))


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [SNAPSHOT, BACKEND, JSON, "plan"])
def test_what_is_kept_of_a_tokenizer_is_made_again_where_it_is_damaged(name, how, model, tmp_path):
    before = load_tokenizer(model, tmp_path)
    assert before.fast is not None
    ids, whole = before.fast.encode(TEXT)[0].ids.tolist(), (before.folder / BACKEND).read_bytes()
    DAMAGE[how](plan_file(before.folder) if name == "plan" else before.folder / name)
    fast_plan._kept.cache_clear()
    after = load_tokenizer(model, tmp_path)
    assert after.fast is not None
    assert after.fast.encode(TEXT)[0].ids.tolist() == ids
    after.save(tmp_path / "saved")
    assert (tmp_path / "saved" / BACKEND).read_bytes() == whole
    assert load_tokenizer(model, tmp_path).folder == before.folder
    assert [path.name for path in (tmp_path / "tokenizers").iterdir()] == [before.folder.name]


def abandoned(path: Path) -> None:
    before = time.time() - 2 * user_cache.ABANDONED
    os.utime(path, (before, before))


def test_what_killed_commands_left_in_the_cache_goes(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    url, fs = "memory://killed/packed", fsspec.filesystem("memory")
    data = write_rows(tmp_path / "rows.jsonl", messy_rows(20))
    options = {"tokenizer": str(model), "max_length": 256, "shard_format": "parquet"}
    push(tokpack.pack(data, tmp_path / "packed", **options).folder, url)
    left = []
    for begun in ("packed/.new-", "tokenizers/.new-", f"unpacked/{'a' * 64}.new-"):
        for number, ending in enumerate(("killed", "running")):
            half = tmp_path / "cache" / f"{begun}{ending}.part"
            half.parent.mkdir(exist_ok=True, mode=0o700)
            half.touch() if begun.startswith("unpacked") else half.mkdir()
            if number:
                left.append(half)
            else:
                abandoned(half)
    try:
        fetched = tokpack.open_packed(local_folder(url))
        shard = fetched.manifest["shards"][0]
        shards.mapped_shard(fetched.folder / shard["file"], shard["sha256"])
        load_tokenizer(tokenizer_folder(byte_level(), tmp_path / "other", template("llama3")))
    finally:
        fs.rm("/killed", recursive=True)
    found = [
        path for path in (tmp_path / "cache").rglob("*") if "killed" in path.name or "running" in path.name
    ]
    assert sorted(found) == sorted(left)


def _shards(packed):
    return [(packed.folder / one["file"], one["sha256"]) for one in packed.manifest["shards"]]
