"""The same finished `pack` again is left as it is; whatever differs is an error as before."""

from __future__ import annotations

import json
import logging
import os

import pyarrow as pa
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack import pipeline
from tokpack.cli import app
from tokpack.errors import DataError, UsageError

SAME = "already there, unchanged"


def state_of(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "chats.jsonl", messy_rows(60))


def test_the_same_command_reads_no_row_and_writes_nothing(data, qwen, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tokpack")
    out = tmp_path / "out"
    tokpack.pack(data, out, tokenizer=str(qwen), max_length=256, val=0.1, allow_bad=0.2)
    assert SAME not in caplog.text
    before = state_of(out)
    monkeypatch.setattr(pipeline, "pass_one", None)  # would be an error
    arguments = ["pack", str(data), "-o", str(out), "-t", str(qwen), "--max-length", "256", "--val", "0.1"]
    assert app([*arguments, "--allow-bad", "0.2", "--quiet"], standalone_mode=False) in (0, None)
    assert caplog.text.count(SAME) == 1
    assert state_of(out) == before


@pytest.mark.slow
def test_other_settings_inputs_or_wishes_are_not_the_same(data, qwen, smollm2, tmp_path):
    out, given = tmp_path / "out", {"tokenizer": str(qwen), "max_length": 256}
    tokpack.pack(data, out, **given)
    before = state_of(out)
    for name, value, told in (
        ("max_length", 255, r"different: truncate.max_length \(256 then, 255 now\)"),
        ("seed", 1, r"seed \(0 then, 1 now\)"),
        ("allow_bad", 0.3, "allow_bad"),
        ("html", True, "--html"),
        ("against", [str(data)], "decontaminate.against"),
        ("model", str(smollm2), "a bill, which its report has none of"),
    ):
        with pytest.raises(UsageError, match=f"a finished packed dataset is here; .*{told}"):
            tokpack.pack(data, out, **(given | {name: value}))
    text = data.read_bytes()
    changes = {"size_bytes": text + text[: text.index(b"\n") + 1], "what is in": text.replace(b"fox", b"ox ")}
    for told, changed in changes.items():
        data.write_bytes(changed)
        with pytest.raises(UsageError, match=f"a finished packed dataset is here; different: .*{told}"):
            tokpack.pack(data, out, **given)
    data.write_bytes(text)
    os.utime(data, (1, 1))
    tokpack.pack(data, out, **given)
    assert state_of(out) == before


@pytest.mark.slow
def test_a_bill_is_the_same_where_its_report_says_so(data, qwen, smollm2, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tokpack")
    out = tmp_path / "out"
    given = {"tokenizer": str(qwen), "max_length": 256, "model": str(smollm2), "gpu": "a10", "method": "lora"}
    tokpack.pack(data, out, **given)
    before = state_of(out)
    tokpack.pack(data, out, **given)
    assert caplog.text.count(SAME) == 1
    for name, value, told in (
        ("gpu", "l4", "the bill, of another gpu"),
        ("gpu_price", 2.0, "the bill, of another gpu"),
        ("method", "qlora", "the bill, of another method"),
        ("epochs", 2, "the bill, of another recipe"),
        ("mfu", [0.1, 0.2], "a bill, of which no record is kept"),
    ):
        with pytest.raises(UsageError, match=f"a finished packed dataset is here; .*{told}"):
            tokpack.pack(data, out, **(given | {name: value}))
    assert state_of(out) == before


def test_a_damaged_shard_is_not_called_unchanged(data, qwen, tmp_path):
    out = tmp_path / "out"
    tokpack.pack(data, out, tokenizer=str(qwen), max_length=256)
    (shard,) = out.glob("data-*")
    bytes_of_shard = bytearray(shard.read_bytes())
    bytes_of_shard[len(bytes_of_shard) // 2] ^= 1
    shard.write_bytes(bytes_of_shard)
    with pytest.raises(DataError, match="bytes of a shard") as error:
        tokpack.pack(data, out, tokenizer=str(qwen), max_length=256)
    assert "--overwrite" in error.value.hint


def test_a_saved_dataset_is_compared_by_all_its_shards(qwen, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tokpack")
    saved, out = tmp_path / "saved", tmp_path / "out"
    saved.mkdir()
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (saved / "dataset_info.json").write_text("{}")

    def write(name, text):
        table = pa.table({"text": [f"{text} {number}" for number in range(20)]})
        with pa.ipc.new_stream(str(saved / name), table.schema) as writer:
            writer.write_table(table)

    for name in names:
        write(name, name)
    tokpack.pack(saved, out, tokenizer=str(qwen))
    tokpack.pack(saved, out, tokenizer=str(qwen))
    assert caplog.text.count(SAME) == 1
    write(names[1], "data-00001-of-00003.arrow")
    with pytest.raises(UsageError, match="a finished packed dataset is here"):
        tokpack.pack(saved, out, tokenizer=str(qwen))
