"""Decisions over all documents, from synthetic columns: exact duplicates, a cap of tokens, hold-out, plan.

    python benchmarks/corpus.py --documents 10000000
    python benchmarks/corpus.py --documents 10000000 --budget

What is between the passes of a run whose tokens nobody reads: no store, no near duplicates. A fifth of the
documents are exact duplicates, lengths are log-normal around 400 tokens, one source has more than its cap.
With `--budget` a budget of 200 tokens a document is chosen over all sources in its place, without repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl

from tokpack.engine.local import release_memory
from tokpack.free_memory import own_bytes
from tokpack.settings.config import Config
from tokpack.terminal.activity import Activity
from tokpack.way.columns import GrowingFrame
from tokpack.way.corpus import Corpus
from tokpack.way.decide import decide
from tokpack.way.plan_part import plan_part
from tokpack.way.store import TokenStore

CAPACITY = 4096
OF_BATCH = 8192


class Synthetic(Corpus):
    """Without tokens: examples of what was left out are empty."""

    __slots__ = ()

    def _stored(self, position: int) -> Any:
        return np.empty(0, np.int32), np.empty(0, np.bool_)

    def stored_documents(self, width: int = 1) -> Any:
        return np.empty(0, np.int64), []


def hashes(numbers: np.ndarray, salt: int) -> np.ndarray:
    mixed = (numbers.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xC4CEB9FE1A85EC53)
    return mixed ^ (mixed >> np.uint64(32))


def some(first: int, last: int, width: int, budget: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Documents and pieces of a range, in the columns of `Corpus.load`."""
    random = np.random.default_rng(first)
    number, zeros = np.arange(first, last), np.zeros(last - first, np.int32)
    again = random.random(len(number)) < 0.2
    same_as = np.where(again, (number * random.random(len(number))).astype(np.int64), number)
    length = np.random.default_rng(7).lognormal(6.0, 0.7, width)[same_as % width]
    length = length.astype(np.int32).clip(8, CAPACITY)
    docs = pl.DataFrame(
        {
            "doc_id": number,
            "source": (number % 3).astype(np.int32),
            "row": number,
            "drop_reason": pl.repeat(None, len(number), dtype=pl.String, eager=True),
            "hash_high": hashes(same_as, 1),
            "hash_low": hashes(same_as, 2),
            "tokens": length,
            "cut": zeros,
            "drawn": hashes(same_as, 3) % np.uint64(100) == 0,
            **({"quality": random.random(len(number), np.float32), "variant": zeros} if budget else {}),
        }
    )
    pieces = pl.DataFrame(
        {
            "document": number.astype(np.int32),
            "length": length,
            "trained": length // 2,
        }
    )
    return docs, pieces


def corpus_of(documents: int, budget: bool) -> Corpus:
    width = min(documents, 1 << 16)
    docs, pieces = GrowingFrame(), GrowingFrame()
    for first in range(0, documents, OF_BATCH):
        for columns, batch in zip(
            (docs, pieces), some(first, min(first + OF_BATCH, documents), width, budget), strict=True
        ):
            columns.add(batch)
    starts = np.append(np.arange(0, documents, OF_BATCH), documents)
    keys = [(number, 0) for number in range(len(starts) - 1)]
    store = cast(TokenStore, SimpleNamespace(folder=Path(tempfile.gettempdir())))
    return Synthetic(docs.frame(), pieces.frame(), [], {}, {}, store, keys, starts, {}, {})


class Peak:
    """Most memory that is not of files, fifty times a second."""

    def __init__(self) -> None:
        self.most, self._stop = own_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, own_bytes())

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--budget", action="store_true", help="choose over all sources, by quality")
    arguments = parser.parse_args()
    documents, budget = arguments.documents, arguments.budget
    packages = " ".join(f"{name} {version(name)}" for name in ("tokpack", "numpy", "polars"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {packages}")
    cap = 0 if budget else 50 * documents
    config = Config.from_dict(
        {
            "source": [{"path": f"{n}.jsonl", "max_tokens": cap * (n == 0)} for n in range(3)],
            "truncate": {"max_length": CAPACITY},
            "write": {"val": 0.01},
            "select": {"budget": 200 * documents * budget},
        }
    )
    sources = [SimpleNamespace(config=source, name=source.path) for source in config.source]
    tokenizer = SimpleNamespace(decode=lambda ids: "")
    run: Any = SimpleNamespace(
        config=config, sources=sources, tokenizer=tokenizer, tell=Activity(), pairs=False, kind=""
    )
    before = own_bytes()
    corpus = corpus_of(documents, budget)
    release_memory()
    print(f"{documents:,} documents: columns take {(own_bytes() - before) / documents:.0f} bytes each")
    peak = Peak()
    for name, step in (("decide", lambda: decide(run, corpus)), ("plan", lambda: plan_part(run, corpus))):
        started, used = time.perf_counter(), time.process_time()
        found = step()
        print(
            f"{name:<8}{time.perf_counter() - started:8.1f} s {time.process_time() - used:8.1f} s of the",
            end="",
        )
        print(f" processor, peak so far {(peak.most - before) / documents:.0f} bytes a document", flush=True)
    most = peak.end()
    kept = int(corpus.kept().sum())
    print(f"{kept:,} kept in {found.plan.rows:,} rows; {most / 1e9:.2f} GB of its own at most")
    print(corpus.docs["drop_reason"].value_counts(sort=True).rows())


if __name__ == "__main__":
    main()
