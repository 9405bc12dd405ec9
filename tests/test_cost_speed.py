"""Published speeds, and the ranges that are told for them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from tokpack.cost import Method, ModelShape, estimate, find_gpu, flops, load_gpus
from tokpack.cost.speed import basis, micro_batch_seconds, start_seconds, utilization


@dataclass
class PublishedSpeed:
    """Seconds of a micro-batch of `documents` of `length` tokens on one card."""

    card: str
    stack: str
    source: str
    model: str
    shape: ModelShape
    method: Method
    checkpointing: bool
    length: int
    documents: int
    seconds: float

    @property
    def work(self) -> float:
        """FLOPs of a micro-batch."""
        lengths = [self.length] * self.documents
        return flops(self.shape, lengths, method=self.method, checkpointing=self.checkpointing).total


def points() -> Iterator[PublishedSpeed]:
    table = tomllib.loads((files("tokpack.cost") / "speeds.toml").read_text(encoding="utf-8"))
    for group in table["points"]:
        same = {name: group[name] for name in ("card", "stack", "source", "checkpointing")}
        for run in group["runs"]:
            model = table["models"][run["model"]]
            config = {"model_type": "llama", "num_key_value_heads": model["num_attention_heads"], **model}
            same |= {"model": run["model"], "shape": ModelShape.from_config(config)}
            same["method"] = Method(kind=run["method"], rank=group.get("rank", 16))
            same["documents"] = documents = run.get("documents", group.get("documents"))
            for at, length in enumerate(group["lengths"]):
                seconds = (
                    run["seconds"][at] / group["micro_batches"]
                    if "seconds" in run
                    else documents * length / run["tokens_per_second"][at]
                )
                yield PublishedSpeed(length=length, seconds=seconds, **same)


POINTS = list(points())
LLAMA_8B = ModelShape.from_config(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
)


def test_every_published_point_lies_in_its_range() -> None:
    assert len(POINTS) == 64
    missed = []
    for point in POINTS:
        fast, slow = micro_batch_seconds(point.shape, find_gpu(point.card), point.method, point.work)
        if not fast <= point.seconds <= slow:
            missed.append((point.card, point.model, point.method.kind, point.length))
    assert not missed


def test_a_range_is_no_wider_than_a_factor_of_five_and_a_half() -> None:
    for point in POINTS:
        fast, slow = micro_batch_seconds(point.shape, find_gpu(point.card), point.method, point.work)
        assert slow < 5.5 * fast


def test_points_name_cards_of_the_table_and_pages() -> None:
    assert {point.card for point in POINTS} <= set(load_gpus())
    ours = {"docs/performance.md"}
    assert all(point.source in ours or point.source.startswith("https://") for point in POINTS)


@pytest.mark.parametrize("card", ["T4", "A100-80GB", "H100-SXM", "B200", "MI300X", "RTX-4090"])
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_more_tokens_at_once_never_train_slower(card: str, kind: str) -> None:
    gpu, method = find_gpu(card), Method(kind=kind)  # type: ignore[arg-type]
    reached = [
        utilization(LLAMA_8B, gpu, method, flops(LLAMA_8B, [512] * count, method=method).total)
        for count in (1, 2, 4, 16, 64)
    ]
    assert all(0 < low < high <= 1 for low, high in reached)
    for (low, high), (more, most) in pairwise(reached):
        assert more > low
        assert most >= high


def test_short_rows_and_tiny_models_reach_little_of_a_fast_card() -> None:
    tiny = ModelShape.from_config(
        {
            "model_type": "llama",
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
        }
    )
    gpu, method = find_gpu("H100-SXM"), Method(kind="lora")
    assert utilization(tiny, gpu, method, flops(tiny, [512], method=method).total)[1] < 0.02
    assert utilization(LLAMA_8B, gpu, method, flops(LLAMA_8B, [256], method=method).total)[1] < 0.2


def test_mixtures_of_experts_reach_less() -> None:
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
    }
    shape, gpu, work = ModelShape.from_config(config), find_gpu("H100-SXM"), 1e16
    assert utilization(shape, gpu, Method(kind="full"), work)[1] < 0.4
    assert "mixture" in basis(shape, gpu)


def test_loading_takes_longer_for_more_weights() -> None:
    fast, slow = start_seconds(LLAMA_8B)
    assert 20 < fast < 60
    assert 120 < slow < 300


def test_hours_follow_from_the_size_of_a_micro_batch() -> None:
    gpu = find_gpu("A100-80GB")
    one, eight = (
        estimate(LLAMA_8B, [256] * 4096, gpu, micro_batches=4096 // rows).tokens_per_second for rows in (1, 8)
    )
    assert eight.value > 1.5 * one.value


def test_the_table_of_the_documentation_is_that_of_the_points() -> None:
    text = (Path(__file__).parent.parent / "docs" / "cost-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+), ([^|]+?) \| (\d+) \| ([\d.]+) to ([\d.]+) \|", text, re.M)
    told = {(card, stack): (int(count), float(low), float(high)) for card, stack, count, low, high in rows}
    found = {}
    for key in {(point.card, point.stack) for point in POINTS}:
        ratios = []
        for point in POINTS:
            if (point.card, point.stack) == key:
                fast, slow = micro_batch_seconds(point.shape, find_gpu(point.card), point.method, point.work)
                ratios.append(point.seconds / ((fast + slow) / 2))
        found[key] = (len(ratios), round(min(ratios), 2), round(max(ratios), 2))
    assert told == found
