"""Reports to test views with: made by `make_report` from a corpus in memory, no tokenizer and no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from tokpack.cost import Method, ModelShape, find_gpu, load_gpus
from tokpack.cost.training import Training
from tokpack.report.figures import make_report
from tokpack.settings.config import Config, CostConfig
from tokpack.settings.plain import to_plain
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.plan import make_plan
from tokpack.way.corpus import Corpus
from tokpack.way.plan_part import Part

HOSTILE = (
    '\x1b[2J<script>alert("x")</script><img src=http://evil.test/a.png onerror=alert(1)>'
    "\x1b]0;title\x07[red]bold[/red] {{ 7 * 7 }} \u202eright to left\u2066 \uffff\ud800"
    " &amp; ]]> ' \""
)


def sample(
    capacity: int = 512,
    documents: int = 400,
    dropped: dict[str, int] | None = None,
    sources: tuple[str, ...] = ("chats.jsonl", "books.txt"),
    tokenizer: str = "qwen",
    examples: dict[str, list[str]] | None = None,
    counters: dict[str, int] | None = None,
    overlong: int = 0,
    seed: int = 0,
    training: Training | None = None,
    gpu_count: int = 1,
) -> dict[str, Any]:
    """Report data of `documents` documents; the first of them are dropped for the given reasons, the last
    `overlong` are longer than the capacity and cut."""
    rng = np.random.default_rng(seed)
    tokens = np.clip(rng.lognormal(4.2, 0.8, documents), 4, capacity).astype(np.int32)
    cut = np.zeros(documents, np.int32)
    if overlong:
        cut[-overlong:] = rng.integers(1, 4 * capacity, overlong)
        tokens[-overlong:] = capacity + cut[-overlong:]
    reasons = [reason for reason, count in (dropped or {}).items() for _ in range(count)]
    docs = pl.DataFrame(
        {
            "doc_id": np.arange(documents, dtype=np.int64),
            "source": (np.arange(documents) % len(sources)).astype(np.int32),
            "row": np.arange(1, documents + 1, dtype=np.int64),
            "drop_reason": pl.Series(reasons + [None] * (documents - len(reasons)), dtype=pl.String),
            "tokens": tokens,
            "cut": cut,
        }
    )
    lengths = (tokens - cut)[len(reasons) :]
    pieces = pl.DataFrame(
        {
            "length": lengths,
            "trained": lengths // 3,
            "document": np.arange(len(reasons), documents, dtype=np.int64),
        }
    )
    corpus = Corpus(
        docs,
        pieces,
        quarantined=[],
        counters=counters or {},
        paths={},
        store=None,  # type: ignore[arg-type]  # reports read no tokens
        batches=[],
        starts=np.zeros(1, np.int64),
        sha256={},
        rows_before={},
        examples=examples or {},
    )
    part = Part(pieces, make_plan(lengths, capacity), None)  # type: ignore[arg-type]  # reports need no layout
    run = SimpleNamespace(
        config=Config(cost=CostConfig(gpu_count=gpu_count)),
        tokenizer=SimpleNamespace(name=tokenizer),
        sources=[SimpleNamespace(name=name, size_bytes=4_815_925) for name in sources],
        shapes=[Shape.of("messages", {}, ["messages"])] * len(sources),
        kind="",
    )
    return to_plain(make_report(run, corpus, part, planned=training))  # type: ignore[arg-type]


LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}


def planned(name: str = "llama-8b", gpu: str = "a10", **settings: Any) -> Training:
    """A training run of an 8B model, without a model folder."""
    chosen = CostConfig(model=name, gpu=gpu, **settings)
    gpus = load_gpus()
    return Training(
        settings=chosen,
        name=name,
        shape=ModelShape.from_config(LLAMA_8B),
        max_positions=LLAMA_8B["max_position_embeddings"],
        method=Method(kind=chosen.method, rank=chosen.rank),
        gpu=find_gpu(gpu, gpus) if gpu else None,
        gpus=gpus,
    )


def hostile(training: Training | None = None) -> dict[str, Any]:
    """Every string that can come from a user's data or plug-ins is an attack."""
    return sample(
        training=training,
        dropped={HOSTILE.replace("\ud800", ""): 9, "overlong": 3},
        sources=(HOSTILE, "[bold]b[/bold].jsonl"),
        tokenizer=HOSTILE,
        examples={
            HOSTILE.replace("\ud800", ""): [HOSTILE, "\u202e" + HOSTILE],
            "overlong": ["[red]no[/red]"],
        },
        counters={HOSTILE: 3, "special_token_inside": 400},
    )
