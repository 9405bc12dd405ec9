"""Repacked packed datasets hold the same documents, token for token, in other rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack.errors import UsageError
from tokpack.packed.folder import PackedFolder
from tokpack.stages.plan import idle_share

CAPACITY = 256


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> PackedFolder:
    """Chats cut at their turns, some held out."""
    folder = tmp_path_factory.mktemp("data")
    data = write_rows(folder / "chats.jsonl", messy_rows(300))
    return tokpack.pack(data, folder / "packed", tokenizer=str(qwen), max_length=CAPACITY, val=0.1)


@pytest.fixture(scope="module")
def pieces(qwen, tmp_path_factory) -> PackedFolder:
    """Long documents in pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    data = write_rows(folder / "chats.jsonl", messy_rows(100))
    options: dict[str, Any] = {"max_length": 64, "overlong": "split"}
    return tokpack.pack(data, folder / "packed", tokenizer=str(qwen), **options)


def documents_of(packed: PackedFolder) -> dict[tuple[int, int], tuple]:
    """(document, piece) -> its ids and labels."""
    found: dict[tuple[int, int], tuple] = {}
    for number in range(len(packed)):
        row, start = packed[number], 0
        for doc, piece, length in zip(row["doc_ids"], row["pieces"], row["seq_lengths"], strict=True):
            end = start + length
            assert (doc, piece) not in found
            found[int(doc), int(piece)] = tuple(
                tuple(row[name][start:end].tolist()) for name in ("input_ids", "labels")
            )
            start = end
    return found


@pytest.mark.parametrize("capacity", [255, 257, 1000])
def test_another_capacity_keeps_every_document_and_verifies(packed, tmp_path, capacity):
    longest = max(len(ids) for ids, _ in documents_of(packed).values())
    again = tokpack.repack(packed, tmp_path / "out", max_length=max(capacity, longest))
    assert tokpack.verify(again.folder).ok
    assert documents_of(again) == documents_of(packed)
    assert again.validation is not None
    assert packed.validation is not None
    assert documents_of(again.validation) == documents_of(packed.validation)
    assert again.manifest["capacity"] == again.manifest["config"]["truncate"]["max_length"]
    for section in ("documents", "tokens", "trained", "sources"):
        assert again.ledger[section] == packed.ledger[section]
    assert again.ledger["slots"]["rows"] == len(again)


def test_nothing_changed_gives_the_same_shards_byte_for_byte(packed, tmp_path):
    again = tokpack.repack(packed, tmp_path / "out")
    assert again.manifest["shards"] == packed.manifest["shards"]
    assert again.manifest["plan"] == packed.manifest["plan"]
    assert again.validation.manifest["shards"] == packed.validation.manifest["shards"]


def test_the_report_is_that_of_the_new_plan_with_the_texts_of_the_old(packed, tmp_path):
    def report(packed: PackedFolder) -> dict[str, Any]:
        made = json.loads((packed.folder / "report.json").read_text())
        made["inputs"] = [entry["name"] for entry in made["inputs"]]  # what was recognized is told once
        return made

    same, first = report(tokpack.repack(packed, tmp_path / "same")), report(packed)
    assert same == {key: first[key] for key in same}
    assert {"ledger", "lengths", "slots", "plan", "drops", "counters"} <= same.keys()
    wider = tokpack.repack(packed, tmp_path / "wider", max_length=512)
    assert report(wider)["plan"]["rows"] == len(wider) < len(packed)
    assert report(wider)["slots"][-1]["slots"] == 512 * len(wider)
    assert report(wider)["drops"] == report(packed)["drops"]
    assert any(drop["examples"] for drop in report(wider)["drops"])


def test_dealt_rows_are_dealt_again_by_the_same_costs(packed, tmp_path):
    dealt = tokpack.repack(packed, tmp_path / "dealt", world_size=2, rows_per_step=2)
    figures = dealt.manifest["plan"]["dealt"]
    assert (figures["world_size"], figures["rows_per_step"]) == (2, 2)
    costs = np.array([(dealt[row]["seq_lengths"].astype(float) ** 2).sum() for row in range(len(dealt))])
    assert idle_share(costs, 2, 4) == pytest.approx(figures["idle_share"], abs=1e-6)
    assert figures["idle_share"] < figures["idle_share_shuffled"]
    assert dealt.manifest["shards"] != packed.manifest["shards"]
    assert dealt.validation.manifest["shards"] == packed.validation.manifest["shards"]
    assert tokpack.repack(dealt, tmp_path / "same").manifest["shards"] == dealt.manifest["shards"]
    off = tokpack.repack(dealt, tmp_path / "off", world_size=0)
    assert off.manifest["shards"] == packed.manifest["shards"]
    in_order = tokpack.repack(dealt, tmp_path / "order", planner="sequential")
    assert "dealt" not in in_order.manifest["plan"]
    assert in_order.manifest["config"]["plan"]["rows_per_step"] == 1
    with pytest.raises(UsageError, match="rows per step of no ranks") as caught:
        tokpack.repack(packed, tmp_path / "no_ranks", rows_per_step=2)
    assert "--world-size" in str(caught.value.hint)
    with pytest.raises(UsageError, match="dealing would undo"):
        tokpack.repack(dealt, tmp_path / "both", planner="sequential", world_size=2)


def test_repacking_equals_packing_at_once_where_nothing_was_too_long(qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(100))
    at_once = tokpack.pack(data, tmp_path / "large", tokenizer=str(qwen), max_length=4000, seed=3)
    first = tokpack.pack(data, tmp_path / "larger", tokenizer=str(qwen), max_length=5000)
    assert not first.ledger["tokens"]["truncated"]
    again = tokpack.repack(first, tmp_path / "again", max_length=4000, seed=3)
    assert again.manifest["shards"] == at_once.manifest["shards"]
    assert again.ledger == at_once.ledger


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["sequential", "none", "xfill"])
def test_any_planner_can_be_given(packed, tmp_path, planner):
    again = tokpack.repack(packed, tmp_path / "out", planner=planner, max_length=300)
    assert again.manifest["plan"]["planner"] == planner
    assert documents_of(again) == documents_of(packed)
    if planner == "none":
        assert len(again) == packed.manifest["documents"]


def one_each(lengths, capacity):
    return np.arange(len(lengths), dtype=np.int32)


def test_a_planner_of_ones_own_plans_both_parts(packed, tmp_path):
    again = tokpack.repack(packed, tmp_path / "out", planner=one_each)
    assert len(again) == packed.manifest["documents"]
    assert len(again.validation) == packed.validation.manifest["documents"]
    assert again.manifest["plan"]["planner"] == "one_each"
    assert tokpack.verify(again.folder).ok


def test_pieces_of_split_documents_stay_pieces(pieces, tmp_path):
    assert max(piece for _, piece in documents_of(pieces)) > 1
    again = tokpack.repack(pieces, tmp_path / "out", max_length=500)
    assert documents_of(again) == documents_of(pieces)
    assert tokpack.verify(again.folder).ok


def test_a_capacity_below_the_longest_document_is_refused_with_the_length(packed, tmp_path):
    longest = max(len(ids) for part in (packed, packed.validation) for ids, _ in documents_of(part).values())
    with pytest.raises(UsageError, match=f"has {longest} tokens") as caught:
        tokpack.repack(packed, tmp_path / "out", max_length=longest - 1)
    assert f"--max-length {longest}" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_merged_packed_dataset_is_planned_as_one(packed, tmp_path):
    merged = tokpack.merge([packed, packed], tmp_path / "merged")
    again = tokpack.repack(merged, tmp_path / "out", max_length=2000)
    assert again.manifest["plan"]["planner"] == "bfd"
    assert documents_of(again) == documents_of(merged)
    assert tokpack.verify(again.folder).ok


def test_the_command_says_what_the_first_packing_cut(packed, tmp_path):
    ran = run("repack", packed.folder, "-o", tmp_path / "out", "--max-length", 400)
    assert f"{packed.ledger['tokens']['truncated']:,} tokens cut from long documents" in ran.stderr
    assert "stay out" in ran.stderr
