"""Another mix of a packed dataset, by budget and weights: what packing at once gives, without the texts."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack.errors import DataError, SettingError, UsageError

pytestmark = pytest.mark.slow
WEIGHTS = {"chats.jsonl": 1.0, "other.jsonl": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "chats.jsonl", messy_rows(160, seed=5))
    write_rows(folder / "other.jsonl", [b"no json", *messy_rows(90, seed=6), b"", *messy_rows(30, seed=5)])
    return folder


@pytest.fixture(scope="module")
def pack(folder, qwen, tmp_path_factory):
    def packed(weights: dict[str, float] | None = None, repeat: float = 1, **options: Any):
        tables = [
            f'[[source]]\npath = "{name}"\nweight = {(weights or {}).get(name, 0.0)}\nrepeat = {repeat}\n'
            for name in WEIGHTS
        ]
        (folder / "run.toml").write_text("".join(tables))
        out = tmp_path_factory.mktemp("out") / "packed"
        settings = {"tokenizer": str(qwen), "max_length": 256, "val": 0.1} | options
        return tokpack.pack([], out, config=folder / "run.toml", **settings)

    return packed


@pytest.fixture(scope="module")
def recorded(pack):
    return pack(record_choice=True)


def same(made, at_once):
    assert made.manifest["shards"] == at_once.manifest["shards"]
    assert made.ledger == at_once.ledger
    assert made.manifest["config"] == at_once.manifest["config"]
    name = "dropped.parquet"
    assert pq.read_table(made.folder / name).equals(pq.read_table(at_once.folder / name))
    assert tokpack.verify(made.folder).ok
    assert (made.validation is None) == (at_once.validation is None)
    if made.validation is not None:
        held, wanted = made.validation, at_once.validation
        assert held.manifest["shards"] == wanted.manifest["shards"]
        assert held.ledger == wanted.ledger
        assert pq.read_table(held.folder / name).equals(pq.read_table(wanted.folder / name))


@pytest.mark.parametrize("weights", [None, WEIGHTS, {"chats.jsonl": 1.0, "other.jsonl": 0.0}])
@pytest.mark.parametrize("budget", [3000, "6k", "2k-trained", "1B"])
def test_a_budget_leaves_what_packing_at_once_leaves(pack, recorded, tmp_path, weights, budget):
    at_once = pack(weights, budget=budget)
    made = tokpack.repack(recorded, tmp_path / "out", budget=budget, weight=weights)
    same(made, at_once)
    assert made.manifest["derived"]["budget"] == at_once.manifest["config"]["select"]["budget"]
    assert not (made.folder / "choice.parquet").exists()


def test_an_index_is_chosen_from_too(pack, recorded, tmp_path):
    stored = tokpack.repack(recorded, tmp_path / "stored", shard_format="index")
    assert (stored.folder / "choice.parquet").is_file()
    at_once = pack(WEIGHTS, budget=4000, shard_format="index")
    made = tokpack.repack(stored, tmp_path / "out", budget=4000, weight=WEIGHTS)
    whole = tokpack.repack(made, tmp_path / "whole", shard_format="arrow")
    assert whole.manifest["shards"] == pack(WEIGHTS, budget=4000).manifest["shards"]
    assert made.ledger == at_once.ledger
    assert tokpack.verify(made.folder).ok


def test_copies_count_against_the_budget(pack, tmp_path):
    at_once = pack(WEIGHTS, repeat=2, budget=5000, val=0.0)
    recorded = pack(repeat=2, val=0.0, record_choice=True)
    same_shards = tokpack.repack(recorded, tmp_path / "out", budget=5000, weight=WEIGHTS)
    same(same_shards, at_once)
    once = pack(val=0.0, record_choice=True)
    twice = tokpack.repack(once, tmp_path / "twice", repeat=dict.fromkeys(WEIGHTS, 2))
    made = tokpack.repack(twice, tmp_path / "made", budget=5000, weight=WEIGHTS)
    assert made.manifest["shards"] == at_once.manifest["shards"]


def test_pairs_are_chosen_as_one(qwen, tmp_path):
    rows = [
        {"prompt": f"How {n}?", "chosen": f"Like {n} " * (n % 9 + 1), "rejected": "No."} for n in range(60)
    ]
    lines = [json.dumps(row).encode() for row in rows]
    data = write_rows(tmp_path / "pairs.jsonl", [*lines[:20], b"no json", *lines[20:]])
    options: dict[str, Any] = {"tokenizer": str(qwen), "max_length": 256, "val": 0.1, "allow_bad": 0.1}
    recorded = tokpack.pack(data, tmp_path / "packed", record_choice=True, **options)
    at_once = tokpack.pack(data, tmp_path / "at_once", budget=900, **options)
    same(tokpack.repack(recorded, tmp_path / "out", budget=900), at_once)


def test_recording_changes_no_row(pack, recorded):
    plain = pack()
    assert plain.manifest["shards"] == recorded.manifest["shards"]
    assert "recorded" not in plain.manifest["config"]["select"]
    assert tokpack.verify(recorded.folder).ok


def test_what_the_folder_does_not_say_is_refused(pack, recorded, tmp_path):
    plain, limited, weighted = pack(), pack(budget=5000), pack(WEIGHTS, record_choice=True)
    masked = pack(loss_mask="template", record_choice=True)
    out = tmp_path / "out"
    for packed, options, words, hint in (
        (plain, {"budget": 100}, "does not say how good", "--record-choice"),
        (limited, {"budget": 100}, "left documents out already", "pack the raw data again"),
        (weighted, {"budget": 100}, "have weights", "for each source"),
        (masked, {"budget": 100}, "segments of answers apart", "again"),
        (recorded, {"budget": "5usd"}, "dollars", "tokens"),
        (recorded, {"budget": 0}, "no tokens", "20M"),
        (recorded, {"weight": WEIGHTS}, "share a budget", "--budget"),
        (recorded, {"budget": 100, "weight": {"chat.jsonl": 1}}, "no source named", "chats.jsonl"),
        (recorded, {"budget": 100, "weight": {"chats.jsonl": -1}}, "cannot be -1", "0 or more"),
        (recorded, {"budget": 100, "repeat": {"chats.jsonl": 2}}, "at once", "repeat first"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            tokpack.repack(packed, out, **options)
        assert hint in caught.value.hint
    assert not out.exists()
    for options in ({"budget": 100}, {"keep": "numbers.txt"}):
        with pytest.raises(SettingError, match="cannot be") as error:
            pack(record_choice=True, **options)
        assert "choose already" in error.value.hint


def test_a_damaged_record_is_an_error(recorded, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(recorded.folder, copy)
    (copy / "choice.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"choice\.parquet is damaged"):
        tokpack.repack(copy, tmp_path / "out", budget=100)
    pq.write_table(pq.read_table(recorded.folder / "choice.parquet").slice(3), copy / "choice.parquet")
    with pytest.raises(DataError, match="other documents"):
        tokpack.repack(copy, tmp_path / "out", budget=100)


def test_the_command_takes_weights(recorded, tmp_path):
    arguments = ["--budget", "4k", "--weight", "chats.jsonl=1", "--weight", "other.jsonl=3"]
    ran = run("repack", recorded.folder, "-o", tmp_path / "out", *arguments)
    assert ran.returncode == 0, ran.stderr
    assert tokpack.open_packed(tmp_path / "out").manifest["derived"]["weight"] == WEIGHTS
    ran = run("repack", recorded.folder, "-o", tmp_path / "no", "--budget", "4k", "--weight", "chats")
    assert "cannot read the weight 'chats'" in ran.stderr
