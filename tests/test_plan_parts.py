"""Rows that draw from one part of the corpus each."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from chats import messy_rows, write_rows
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

import tokpack
from tokpack.errors import SettingError, UsageError
from tokpack.stages.order import order_rows
from tokpack.stages.plan import make_plan
from tokpack.stages.planners.parts import ZONES, parts_of
from tokpack.way import in_order, in_runs, pass_two

OPTIONS = {"max_length": 256, "parts": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(300))


@pytest.fixture(scope="module")
def packed(data, qwen, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    return tokpack.pack(data, out, tokenizer=str(qwen), val=0.1, **OPTIONS)


def shards(packed):
    return packed.manifest["shards"]


def documents_of(packed):
    return [document for row in range(len(packed)) for document in packed[row]["doc_ids"].tolist()]


# The parts


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=300),
    st.integers(2, 9),
    st.integers(0, 5),
    st.data(),
)
def test_parts_are_equal_in_tokens_but_for_the_documents_at_their_cuts(lengths, count, seed, data):
    sizes = np.array(lengths, np.int32)
    number = np.arange(len(sizes), dtype=np.int64)
    parts = parts_of(number, sizes, count, seed)
    tokens = np.bincount(parts.of_doc, weights=sizes, minlength=count)
    assert abs(tokens - sizes.sum() / count).max() <= ZONES * sizes.max()
    again = data.draw(st.permutations(range(len(sizes))))
    shuffled = parts_of(number[again], sizes[again], count, seed)
    assert np.array_equal(shuffled.of_doc, parts.of_doc[again])


def test_a_part_lies_in_each_stretch_of_the_corpus():
    sizes = np.full(4800, 10, np.int32)
    parts = parts_of(np.arange(4800), sizes, 3, seed=1)
    zones = parts.of_doc.reshape(ZONES, -1)
    assert all(np.bincount(zone, minlength=3).tolist() == [100, 100, 100] for zone in zones)
    cuts = [int((np.diff(zone) != 0).sum()) for zone in zones]
    assert cuts == [2] * ZONES
    other = parts_of(np.arange(4800), sizes, 3, seed=2)
    assert (parts.of_doc != other.of_doc).any()
    assert parts_of(np.arange(4800), sizes, 1, seed=1) is None


def test_pieces_and_copies_of_a_document_stay_together():
    number = np.array([0, 0, 1, 2, 2, 2, 3, 0, 0, 3])
    parts = parts_of(number, np.full(10, 7, np.int32), 4, 0)
    assert all(len(set(parts.of_doc[number == one])) == 1 for one in range(4))


@pytest.mark.parametrize("planner", ["bfd", pytest.param("xfill", marks=pytest.mark.slow), "optimal", "none"])
@pytest.mark.parametrize("paired", [False, True])
def test_every_planner_fills_rows_part_by_part(planner, paired):
    if planner == "optimal":
        pytest.importorskip("highspy")
    lengths = np.random.default_rng(0).integers(5, 60, 400).astype(np.int32)
    pairs = np.arange(400) // 2
    parts = parts_of(pairs if paired else np.arange(400), lengths, 3, 0)
    plan = make_plan(lengths, 128, planner, pairs=pairs if paired else None, parts=parts)
    of_row = [set(parts.of_doc[plan.row_of_doc == row]) for row in range(plan.rows)]
    assert all(len(found) == 1 for found in of_row)
    assert [found.pop() for found in of_row] == np.repeat(range(3), plan.part_rows).tolist()
    assert np.bincount(plan.row_of_doc, weights=lengths).max() <= 128
    whole = make_plan(lengths, 128, planner, pairs=pairs if paired else None)
    assert plan.parted.rows_undivided == (0 if planner == "optimal" else whole.rows)
    assert plan.rows >= plan.bound
    assert plan.bound_kind != "LP"


def test_more_parts_than_documents_are_no_error():
    parts = parts_of(np.arange(2), np.array([5, 6], np.int32), 7, 0)
    plan = make_plan(np.array([5, 6]), 16, parts=parts)
    assert sum(plan.part_rows) == plan.rows == 2
    assert plan.parted.fewest_tokens == 0


def test_rows_are_shuffled_or_dealt_within_their_part():
    lengths = np.random.default_rng(0).integers(5, 60, 900).astype(np.int32)
    parts = parts_of(np.arange(900), lengths, 3, 0)
    plan = make_plan(lengths, 128, parts=parts)
    part_of_row = np.repeat(range(3), plan.part_rows)
    from tokpack.settings.config import PlanConfig

    order, dealt = order_rows(PlanConfig(parts=3), plan, lengths, 0)
    assert dealt is None
    assert np.array_equal(part_of_row[order], part_of_row)
    assert not np.array_equal(order, np.arange(plan.rows))
    order, dealt = order_rows(PlanConfig(parts=3, world_size=2, rows_per_step=2), plan, lengths, 0)
    assert sorted(order.tolist()) == list(range(plan.rows))
    assert dealt.idle_share < dealt.idle_share_shuffled
    assert dealt.leftover_rows == plan.rows % 4
    alone = sum(rows // 4 * 4 for rows in plan.part_rows)
    assert (np.diff(part_of_row[order[:alone]]) >= 0).all()


# The packed dataset


@pytest.mark.slow
def test_rows_draw_from_one_part_whatever_the_blocks(data, packed, qwen, tmp_path, monkeypatch):
    assert tokpack.verify(packed.folder).ok
    monkeypatch.setattr("tokpack.run.Run.block_bytes", 20_000)
    small = tokpack.pack(data, tmp_path / "small", tokenizer=str(qwen), val=0.1, workers=1, **OPTIONS)
    assert (small.folder / "SHA256SUMS").read_bytes() == (packed.folder / "SHA256SUMS").read_bytes()
    whole = tokpack.pack(data, tmp_path / "whole", tokenizer=str(qwen), val=0.1, max_length=256)
    figures = packed.manifest["plan"]["parted"]
    assert figures["parts"] == 3
    assert figures["rows_undivided"] == len(whole) <= len(packed)
    assert "parts" not in whole.manifest["config"]["plan"]
    assert whole.validation.manifest["shards"] == packed.validation.manifest["shards"]
    documents = sorted(documents_of(packed))
    assert documents == sorted(documents_of(whole))
    assert json.loads((packed.folder / "report.json").read_text())["plan"]["parted"] == figures


@pytest.mark.slow
def test_a_part_reads_its_blocks_once_and_in_order(data, qwen, tmp_path, monkeypatch):
    monkeypatch.setattr("tokpack.run.Run.block_bytes", 8_000)
    found: list[tuple[int, int, int]] = []
    read = in_order.read

    def noted(values, start, stop):
        found.append((id(values), start, stop))
        read(values, start, stop)

    monkeypatch.setattr(in_order, "read", noted)
    tokpack.pack(data, tmp_path / "a", tokenizer=str(qwen), max_length=256)
    assert not found
    packed = tokpack.pack(data, tmp_path / "b", tokenizer=str(qwen), **OPTIONS)
    assert len(set(found)) == len(found)
    tokens = sum(stop - start for _, start, stop in found) // 2
    most = 1.3 * packed.manifest["tokens"]  # what was left out lies between what is packed
    assert packed.manifest["tokens"] <= tokens < most
    assert tokpack.verify(packed.folder).ok


@pytest.mark.slow
def test_repacking_keeps_makes_and_takes_away_parts(data, packed, qwen, tmp_path):
    assert shards(tokpack.repack(packed, tmp_path / "same")) == shards(packed)
    whole = tokpack.repack(packed, tmp_path / "whole", parts=1)
    at_once = tokpack.pack(data, tmp_path / "at_once", tokenizer=str(qwen), val=0.1, max_length=256)
    assert shards(whole) == shards(at_once)
    assert whole.manifest["config"] == at_once.manifest["config"]
    assert shards(tokpack.repack(whole, tmp_path / "again", parts=3)) == shards(packed)
    stored = tokpack.repack(packed, tmp_path / "stored", shard_format="index")
    assert shards(tokpack.repack(stored, tmp_path / "back", shard_format="arrow")) == shards(packed)
    merged = tokpack.merge([packed, packed], tmp_path / "merged")
    assert "parts" not in merged.manifest["config"]["plan"]
    assert tokpack.verify(tokpack.repack(merged, tmp_path / "parted", parts=2).folder).ok
    for options in ({"planner": "sequential"}, {"mix_per_step": True, "rows_per_step": 4}, {"parts": 0}):
        with pytest.raises(UsageError, match="part") as caught:
            tokpack.repack(packed, tmp_path / "none", **options)
        assert caught.value.where == "--parts"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"planner": "sequential"}, "in its order already"),
        ({"mix_per_step": True, "rows_per_step": 4}, "draw from the whole"),
        ({"parts": 0}, "1 to 4,096"),
    ],
)
def test_what_parts_cannot_go_with_is_refused(data, qwen, tmp_path, options, hint):
    with pytest.raises(SettingError, match="cannot be") as caught:
        tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), **{"parts": 2} | options)
    assert hint in caught.value.hint
    assert "parts" in caught.value.where


@pytest.mark.slow
def test_copies_lie_with_their_documents(data, qwen, tmp_path):
    (tmp_path / "run.toml").write_text(f'[plan]\nparts = 3\n[[source]]\npath = "{data}"\nrepeat = 2\n')
    packed = tokpack.pack(
        [], tmp_path / "out", config=tmp_path / "run.toml", tokenizer=str(qwen), max_length=256
    )
    assert packed.manifest["plan"]["parted"]["parts"] == 3
    assert tokpack.verify(packed.folder).ok
    once = tokpack.repack(packed, tmp_path / "once", repeat={"chats.jsonl": 1})
    again = tokpack.repack(once, tmp_path / "again", repeat={"chats.jsonl": 2})
    assert shards(again) == shards(packed)


@pytest.mark.slow
def test_the_command_and_the_report_say_what_parts_cost(data, qwen, tmp_path):
    options = ("-t", qwen, "--max-length", 256, "--parts", 3)
    packed = run("pack", data, "-o", tmp_path / "out", "--report", *options)
    analyzed = run("analyze", data, "--full", *options)
    page = (tmp_path / "out" / "report.html").read_text()
    for said in (packed.stdout + packed.stderr, analyzed.stdout, page):
        assert "3 parts of " in said
        assert "without parts" in " ".join(said.split())


# Runs: a store larger than what may be mapped


@pytest.mark.parametrize("options", [{}, {"config": "run.toml"}])
def test_rows_come_from_runs_of_the_store_as_from_the_store(options, data, qwen, tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text(f'[[source]]\npath = "{data}"\nrepeat = 1.5\nweight = 2\n')
    options = {name: tmp_path / value for name, value in options.items()}
    rows, made = [] if options else data, []

    def packed(name):
        return tokpack.pack(rows, tmp_path / name, tokenizer=str(qwen), max_length=256, workers=2, **options)

    whole = packed("whole")

    def runs(contents, pieces, batches, weighted, folder, size):
        made.append(in_runs.in_runs(contents, pieces, batches, weighted, folder, size))
        return made[-1]

    monkeypatch.setattr("tokpack.run.Run.block_bytes", 30_000)
    monkeypatch.setattr(pass_two, "run_bytes", lambda tokens, free: 20_000)
    monkeypatch.setattr(pass_two, "in_runs", runs)
    assert shards(packed("in_runs")) == shards(whole)
    assert len(np.unique(made[0][0].batch)) > 3
    assert list((tmp_path / "in_runs").glob("**/tmp*")) == []


def test_without_room_for_runs_rows_come_from_the_store(data, qwen, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pass_two, "run_bytes", lambda tokens, free: 20_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    monkeypatch.setattr(pass_two, "in_runs", None)
    tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), max_length=256)
    assert "no room for a second copy of the tokens" in caplog.text
    assert not in_runs.has_room(tmp_path, 10_000)
    assert in_runs.has_room(tmp_path, 1_000)


def test_runs_are_made_of_a_store_larger_than_may_be_mapped():
    assert in_runs.run_bytes(10_000_000, 1 << 30) == 0
    assert in_runs.run_bytes(40_000_000, 800_000_000) == 100_000_000
    assert in_runs.run_bytes(1 << 40, 1 << 40) == in_runs.MOST_MAPPED
    assert in_runs.run_bytes(1 << 40, 0) == in_runs.LEAST_MAPPED
