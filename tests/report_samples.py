"""Reports to test views with: made by `make_report` from a corpus in memory, no tokenizer and no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from tokpack.pipeline import Corpus, Part
from tokpack.report.figures import make_report
from tokpack.stages.plan import make_plan

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
    pieces = pl.DataFrame({"length": lengths, "trained": lengths // 3})
    corpus = Corpus(docs, pieces, quarantined=[], counters=counters or {}, paths={}, examples=examples or {})
    part = Part(pieces, make_plan(lengths, capacity), None)  # type: ignore[arg-type]  # reports need no layout
    run = SimpleNamespace(
        tokenizer=SimpleNamespace(name=tokenizer),
        sources=[SimpleNamespace(name=name, size_bytes=4_815_925) for name in sources],
        shapes=[SimpleNamespace(format="messages")] * len(sources),
    )
    return make_report(run, corpus, part).data  # type: ignore[arg-type]


def hostile() -> dict[str, Any]:
    """Every string that can come from a user's data or plug-ins is an attack."""
    return sample(
        dropped={HOSTILE.replace("\ud800", ""): 9, "overlong": 3},
        sources=(HOSTILE, "[bold]b[/bold].jsonl"),
        tokenizer=HOSTILE,
        examples={
            HOSTILE.replace("\ud800", ""): [HOSTILE, "\u202e" + HOSTILE],
            "overlong": ["[red]no[/red]"],
        },
        counters={HOSTILE: 3, "special_token_inside": 400},
    )
