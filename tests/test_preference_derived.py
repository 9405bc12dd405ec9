"""Preference pairs in what is made from packed datasets: merged, planned anew, exported, verified."""

from __future__ import annotations

import random

import pytest
from encode_helpers import byte_level, template, tokenizer_folder
from preference_pairs import check_pairs, pair, words, write

import tokpack
from tokpack.errors import UsageError
from tokpack.export import export


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small tokenizer with a chat template: it loads at once."""
    return tokenizer_folder(byte_level(), tmp_path_factory.mktemp("tiny"), template("qwen2_5"))


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("two"), random.Random(4)
    made = []
    for name in "ab":
        rows = [pair(words(rng, 9), words(rng, rng.randint(2, 30)), words(rng, 9)) for _ in range(20)]
        path = write(folder / f"{name}.jsonl", [*rows, pair("q", " ", "an answer")])
        made.append(tokpack.pack(path, folder / name, tokenizer=str(tiny), max_length=512, val=0.2))
    return made


def test_merging_and_planning_anew_keep_pairs_together(two, tmp_path):
    merged = tokpack.merge(two, tmp_path / "merged")
    check_pairs(merged, 42)
    assert tokpack.verify(merged.folder).ok
    assert merged.manifest["kind"] == "preference"
    assert dict(merged.dropped.select("doc_id", "detail").rows())[83] == "82 empty_answer"
    again = tokpack.repack(merged, tmp_path / "again", max_length=1024)
    check_pairs(again, 42)
    assert tokpack.verify(again.folder).ok
    with pytest.raises(UsageError, match=r"pair \d+ has \d+ tokens"):
        tokpack.repack(merged, tmp_path / "small", max_length=64)


def test_pairs_and_chats_are_not_merged(two, tiny, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    chats = tokpack.pack(rows, tmp_path / "chats", tokenizer=str(tiny), max_length=512)
    with pytest.raises(UsageError, match="another kind of documents: supervised"):
        tokpack.merge([two[0], chats], tmp_path / "merged")


def test_exports_for_supervised_trainers_refuse_pairs(two, tmp_path):
    with pytest.raises(UsageError, match="would learn the rejected answers"):
        export(two[0], "trl", tmp_path / "out")
    seen = []
    export(two[0], lambda packed, folder: seen.append(packed), tmp_path / "own")
    assert len(seen) == 1


def test_verify_finds_a_torn_pair(two, tmp_path):
    import shutil

    import pyarrow as pa

    folder = tmp_path / "torn"
    shutil.copytree(two[0].folder, folder)
    shard = folder / two[0].manifest["shards"][0]["file"]
    table = pa.ipc.open_stream(shard.read_bytes()).read_all()
    rows = table.to_pylist()
    rows[0]["is_chosen"][0] = False
    rows[1]["doc_ids"][0], rows[2]["doc_ids"][0] = rows[2]["doc_ids"][0], rows[1]["doc_ids"][0]
    rows[1]["pair_ids"][0], rows[2]["pair_ids"][0] = rows[2]["pair_ids"][0], rows[1]["pair_ids"][0]
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    faults = {check.name: check.faults for check in tokpack.verify(folder).checks}
    assert any(fault.startswith("row 0: pair_ids or is_chosen") for fault in faults["pairs"])
    assert any(fault.startswith("row 1: half a pair") for fault in faults["pairs"])
