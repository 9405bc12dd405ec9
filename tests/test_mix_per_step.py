"""Rows in steps that each have their share of every source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokpack
from tokpack.errors import UsageError
from tokpack.on_disk.ledger import documents_by_source
from tokpack.schema import IGNORE_INDEX, keeps_order
from tokpack.stages.plan import make_plan
from tokpack.stages.planners.mix import Mix, by_time
from trainer_plugin.rows.balance import BalancedSampler, lost_mix
from trainer_plugin.rows.dataset import PackedDataset

CAPACITY = 64
STEPS: dict[str, Any] = {"mix_per_step": True, "rows_per_step": 4}


def beyond_a_document(plan: Any, mix: Mix) -> float:
    """How much more than its longest document a source is away from its share of a step's stretch of time."""
    order = by_time(mix, 0)
    totals = np.bincount(mix.source, weights=mix.counted)
    step_of = plan.row_of_doc // mix.rows_per_step
    assert (np.diff(step_of[order]) >= 0).all()  # steps are stretches of time
    worst, begin = 0.0, 0.0
    ends = {}
    for source in range(len(totals)):
        mine = order[mix.source[order] == source]
        ends[source] = (np.cumsum(mix.counted[mine]) - mix.counted[mine] / 2) / totals[source]
    for step in range(int(step_of.max()) + 1):
        inside = order[step_of[order] == step]
        end = max(
            float(ends[s][np.flatnonzero(order[mix.source[order] == s] == d)[0]])
            for d, s in zip(inside, mix.source[inside], strict=True)
        )
        for source, total in enumerate(totals):
            mine = inside[mix.source[inside] == source]
            longest = mix.counted[mix.source == source].max(initial=0)
            away = abs(mix.counted[mine].sum() - (end - begin) * total)
            worst = max(worst, away - longest)
        begin = end
    return worst


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, CAPACITY), st.integers(0, 3)), min_size=1, max_size=120),
    st.integers(2, 6),
    st.sampled_from(["bfd", "none"]),
)
def test_every_step_has_its_share_of_each_source_within_one_document(documents, rows_per_step, planner):
    lengths = np.array([length for length, _ in documents], np.int32)
    source = np.unique([number for _, number in documents], return_inverse=True)[1].astype(np.int32)
    mix = Mix(source, lengths.astype(np.int64), rows_per_step)
    plan = make_plan(lengths, CAPACITY, planner, mix=mix)
    assert plan.mixed is not None
    rows = plan.mixed.steps * rows_per_step + plan.mixed.leftover_rows
    assert plan.rows == rows  # checked for capacity, gaps and completeness by `make_plan`
    assert beyond_a_document(plan, mix) <= 1e-6
    assert make_plan(lengths, CAPACITY, planner, mix=mix).row_of_doc.tolist() == plan.row_of_doc.tolist()


def test_steps_are_filled_as_far_as_their_documents_allow():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5, 1, 4000), 8, 2048).astype(np.int32)
    source = rng.choice(3, len(lengths), p=[0.7, 0.25, 0.05]).astype(np.int32)
    mix = Mix(source, lengths.astype(np.int64), 16)
    plan = make_plan(lengths, 2048, mix=mix)
    assert plan.fill > 0.98
    assert plan.mixed is not None
    assert plan.mixed.largest_error < 2048 / (16 * 2048)
    shuffled = make_plan(lengths, 2048)
    step = shuffled.row_of_doc // 16  # rows as the planner numbers them: long documents first
    apart = [
        np.bincount(source[step == s], weights=lengths[step == s], minlength=3) / lengths[step == s].sum()
        for s in range(shuffled.rows // 16)
    ]
    whole = np.bincount(source, weights=lengths) / lengths.sum()
    assert np.abs(np.array(apart) - whole).max() > 2 * plan.mixed.largest_error


def test_sources_without_a_counted_token_are_spread_by_their_documents():
    mix = Mix(np.array([0, 0, 0, 0, 1, 1], np.int32), np.array([0, 0, 0, 0, 5, 5]), 2)
    plan = make_plan(np.full(6, 30, np.int32), CAPACITY, "none", mix=mix)
    steps = [sorted(mix.source[plan.row_of_doc // 2 == step].tolist()) for step in range(3)]
    assert sorted(map(len, steps)) == [2, 2, 2]
    assert sum(0 in step for step in steps) == 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixed")
    made = []
    for name, rows, words in (("chats", 120, 12), ("code", 40, 30), ("sums", 15, 6)):
        path = folder / f"{name}.jsonl"
        texts = [
            {
                "prompt": f"{name} question {n}",
                "completion": " ".join(f"{name}{n}word{i}" for i in range(most)),
            }
            for n, most in enumerate(words + n % 7 for n in range(rows))
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in texts))
        made.append(path)
    return made


def pack(inputs: list[Path], out: Path, tokenizer: Path, **options: Any) -> Any:
    settings = {"tokenizer": str(tokenizer), "max_length": 512, "render": "plain", "mix_per_step": True}
    return tokpack.pack(inputs, out, **settings | options)


def shares(packed: Any, rows_per_step: int, labels: bool = False) -> list[list[int]]:
    """Tokens of each source by step, full ones alone; with `labels` those that have one."""
    ends = [end for _, end in documents_by_source(packed.manifest["ledger"]).values()]
    found = []
    for first in range(0, len(packed) // rows_per_step * rows_per_step, rows_per_step):
        counts = np.zeros(len(ends), np.int64)
        for row in range(first, first + rows_per_step):
            record = packed[row]
            offsets = np.concatenate([[0], np.cumsum(record["seq_lengths"])])
            for document, low, high in zip(record["doc_ids"], offsets, offsets[1:], strict=False):
                piece = np.asarray(record["labels"])[low:high]
                counts[np.searchsorted(ends, document, side="right")] += (
                    int((piece != IGNORE_INDEX).sum()) if labels else high - low
                )
        found.append(counts.tolist())
    return found


@pytest.mark.parametrize("by_labels", [False, True])
def test_packed_rows_lie_in_such_steps(inputs, qwen, tmp_path, by_labels):
    options: dict[str, Any] = {"budget": "1M-trained"} if by_labels else {}
    packed = pack(inputs, tmp_path / "out", qwen, rows_per_step=4, **options)
    figures = packed.manifest["plan"]["mixed"]
    by_step = np.array(shares(packed, 4, by_labels))
    assert len(by_step) == figures["steps"] >= 3
    total = np.array(shares(packed, len(packed), by_labels)[0])
    apart = np.abs(by_step / by_step.sum(axis=1, keepdims=True) - total / total.sum()).max()
    assert figures["largest_error"] == pytest.approx(apart, abs=1e-6)
    assert keeps_order(packed.manifest)
    assert tokpack.verify(packed.folder).ok


def test_ranks_get_equal_work_within_their_steps(inputs, qwen, tmp_path):
    alone = pack(inputs, tmp_path / "alone", qwen, rows_per_step=4)
    dealt = pack(inputs, tmp_path / "dealt", qwen, rows_per_step=2, world_size=2)
    assert dealt.manifest["plan"]["mixed"] == alone.manifest["plan"]["mixed"]
    assert shares(dealt, 4) == shares(alone, 4)
    figures = dealt.manifest["plan"]["dealt"]
    assert figures["steps"] == dealt.manifest["plan"]["mixed"]["steps"]
    costs = np.array([(dealt[row]["seq_lengths"].astype(float) ** 2).sum() for row in range(len(dealt))])
    busy = costs[: 4 * figures["steps"]].reshape(-1, 2, 2).sum(axis=1)
    assert figures["idle_share"] == pytest.approx(1 - busy.sum() / (2 * busy.max(axis=1).sum()), abs=1e-6)


def test_repacking_makes_steps_of_a_packed_dataset(inputs, qwen, tmp_path):
    mixed = pack(inputs, tmp_path / "mixed", qwen, rows_per_step=4)
    assert tokpack.repack(mixed, tmp_path / "same").manifest["shards"] == mixed.manifest["shards"]
    plain = tokpack.repack(mixed, tmp_path / "plain", mix_per_step=False, rows_per_step=1)
    assert "mixed" not in plain.manifest["plan"]
    assert not keeps_order(plain.manifest)
    for form in ("arrow", "index"):
        stored = tokpack.repack(plain, tmp_path / form, shard_format=form)
        again = tokpack.repack(
            stored, tmp_path / f"{form}-again", mix_per_step=True, rows_per_step=4, shard_format="arrow"
        )
        assert again.manifest["shards"] == mixed.manifest["shards"]
        assert again.manifest["plan"] == mixed.manifest["plan"]
    kept = tokpack.repack(mixed, tmp_path / "kept", planner="sequential")
    assert "mixed" not in kept.manifest["plan"]
    with pytest.raises(UsageError, match="makes no steps"):
        tokpack.repack(mixed, tmp_path / "wrong", planner="optimal", mix_per_step=True)
    with pytest.raises(UsageError, match="one row is no mix"):
        tokpack.repack(plain, tmp_path / "one", mix_per_step=True)


def test_repacked_steps_count_labels_where_the_budget_did(inputs, qwen, tmp_path):
    mixed = pack(inputs, tmp_path / "mixed", qwen, rows_per_step=4, budget="1M-trained")
    for form in ("arrow", "index"):
        plain = tokpack.repack(mixed, tmp_path / form, mix_per_step=False, rows_per_step=1, shard_format=form)
        again = tokpack.repack(
            plain, tmp_path / f"{form}-again", mix_per_step=True, rows_per_step=4, shard_format="arrow"
        )
        assert again.manifest["shards"] == mixed.manifest["shards"]


def test_settings_that_make_no_mix_are_refused(inputs, qwen, tmp_path):
    with pytest.raises(UsageError, match="mix_per_step cannot be True"):
        pack(inputs, tmp_path / "out", qwen)
    for planner in ("sequential", "optimal"):
        with pytest.raises(UsageError, match="another planner"):
            pack(inputs, tmp_path / "out", qwen, rows_per_step=4, planner=planner)


def test_training_says_where_its_steps_are_not_those_that_were_packed(inputs, qwen, tmp_path):
    dataset = PackedDataset(pack(inputs, tmp_path / "out", qwen, rows_per_step=4).folder)

    def lost(**options: Any) -> str:
        return lost_mix(dataset, BalancedSampler(dataset, **options))

    assert BalancedSampler(dataset).order(3).tolist() == list(range(len(dataset)))
    assert lost(accumulation=4) == lost(batch_rows=2, accumulation=4) == lost(ranks=2, accumulation=2) == ""
    assert "trains on 6:" in lost(ranks=2, accumulation=3)
    assert "undoes it" in lost(accumulation=4, order="random")


def test_rows_that_are_merged_lie_in_no_steps(inputs, qwen, tmp_path):
    parts = [pack([path], tmp_path / path.stem, qwen, **STEPS) for path in inputs[:2]]
    merged = tokpack.merge(parts, tmp_path / "merged")
    assert not keeps_order(merged.manifest)
    assert "mixed" not in merged.manifest["plan"]
    again = tokpack.repack(merged, tmp_path / "again", planner="bfd", **STEPS)
    at_once = pack(inputs[:2], tmp_path / "at_once", qwen, rows_per_step=4)
    assert again.manifest["plan"]["mixed"] == at_once.manifest["plan"]["mixed"]


def test_one_source_is_told_to_be_no_mix(inputs, qwen, tmp_path, caplog):
    pack(inputs[:1], tmp_path / "out", qwen, rows_per_step=4)
    assert "there is one source, chats.jsonl, and nothing to mix" in caplog.text
