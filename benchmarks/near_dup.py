"""Seconds, peak memory and growth of the near-duplicate join and of decontamination on real documents.

The set is `mix.jsonl.zst` of the data folder (README.md there; `--data` names it): 94,639 instruction
documents, a fifth of them exact duplicates, which the exact stage would have dropped and which are left
out here. `--copies 10` adds ten copies of it over disjoint vocabularies, memory-mapped from disk as a run
would, and checks that every copy is decided as the original: none lost, none leaked; `--memory` is what a run
is given for the search. Decontamination looks for the questions of 1,000 GSM8K rows, which are in the set.
Tokens, and what the search spills, lie in `--cache`.

    python benchmarks/near_dup.py --tokenizer Qwen2.5/tokenizer.json
    python benchmarks/near_dup.py --tokenizer Qwen2.5/tokenizer.json --copies 100 --memory 8G
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from tokpack.free_memory import own_bytes
from tokpack.settings.parsing import parse_memory
from tokpack.stages.decontaminate import find_contaminated
from tokpack.stages.near_dup.near_dup import NearDuplicates, find_near_duplicates
from tokpack.stages.selected_tokens import SelectedTokens
from tokpack.way.decide import table_bytes

REPO_ROOT = Path(__file__).resolve().parent.parent
BATCH_DOCUMENTS = 30_000
VOCABULARY = 1 << 18
Result = TypeVar("Result")


def tokenize(texts: list[str], tokenizer: Path) -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens of all texts and their offsets."""
    import awkward as ak
    import gigatoken

    ids = gigatoken.Tokenizer(str(tokenizer)).encode_batch([text.encode() for text in texts])
    lengths = ak.to_numpy(ak.num(ids))
    return ak.to_numpy(ak.flatten(ids)).astype(np.int32), np.cumsum([0, *lengths])


def prepare(data: Path, tokenizer: Path, cache: Path) -> np.ndarray:
    """Write the tokens of the set, and of the evaluation questions, to the cache; returns offsets."""
    if not (cache / "offsets.npy").is_file():
        messages = pl.read_ndjson(data / "mix.jsonl.zst", infer_schema_length=None)["messages"]
        texts = messages.list.eval(pl.element().struct.field("content")).list.join("\n").to_list()
        lines = (data / "gsm8k_question_answer.jsonl").read_text(encoding="utf-8").splitlines()
        for name, part in (("", texts), ("eval_", [json.loads(line)["question"] for line in lines[:1000]])):
            tokens, offsets = tokenize(part, tokenizer)
            np.save(cache / f"{name}tokens.npy", tokens)
            np.save(cache / f"{name}offsets.npy", offsets)
    return np.load(cache / "offsets.npy")


def batches_of(tokens: np.ndarray, offsets: np.ndarray) -> list[SelectedTokens]:
    cuts = [*range(0, len(offsets) - 1, BATCH_DOCUMENTS), len(offsets) - 1]
    return [
        SelectedTokens(tokens[offsets[a] : offsets[b]], offsets[a : b + 1] - offsets[a])
        for a, b in pairwise(cuts)
    ]


class Copies(Sequence[SelectedTokens]):
    """Mapped when they are asked for, as those of a store."""

    def __init__(self, cache: Path, count: int, tokens: np.ndarray, offsets: np.ndarray) -> None:
        self.cache, self.count, self.offsets = cache, count, offsets
        for copy in range(count):
            if not (path := self.path(copy)).is_file():
                np.save(path, tokens + np.int32(copy * VOCABULARY))

    def path(self, copy: int) -> Path:
        return self.cache / f"tokens-{copy}.npy"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, copy: Any) -> Any:
        if not 0 <= copy < self.count:
            raise IndexError(copy)
        return SelectedTokens(np.load(self.path(copy), mmap_mode="r"), self.offsets)


def own_peak(stop: threading.Event, found: list[int]) -> None:
    """The most memory that is not of files, twenty times a second."""
    while not stop.wait(0.05):
        found[0] = max(found[0], own_bytes())


def first_of_equals(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(tokens[a:b].tobytes(), a) == a for a, b in pairwise(offsets)])


def timed(repeats: int, work: Callable[[], Result]) -> tuple[Result, float, float]:
    """The result, and the least wall-clock and processor seconds. Tells the memory that was taken."""
    wall, processor = [], []
    stop, peak = threading.Event(), [0]
    watch = threading.Thread(target=own_peak, args=(stop, peak))
    watch.start()
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        result = work()
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    stop.set()
    watch.join()
    print(f"memory of its own {peak[0] / (1 << 30):.2f} GiB at most")
    return result, min(wall), min(processor)


def report(name: str, batches: Sequence[SelectedTokens], wall: float, processor: float, counts: str) -> None:
    documents, tokens = sum(map(len, batches)), sum(len(batch.tokens) for batch in batches)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"{name:<16}{documents:>9,} documents {tokens / 1e6:>7.1f} M tokens {wall:>7.2f} s")
    print(
        f"{'':<16}{processor:.2f} s of processor time; peak memory so far {peak:.2f} GiB, with mapped files"
    )
    print(f"{'':<16}{counts}", flush=True)


def check_copies(base: NearDuplicates, copies: NearDuplicates) -> None:
    documents, jaccard, expected = len(base.partner), copies.jaccard, base.jaccard
    differing = 0
    for start in range(0, len(copies.partner), documents):
        own = slice(start, start + documents)
        differing += int((copies.partner[own] != np.where(base.removed, base.partner + start, -1)).sum())
        differing += int((jaccard[own] != expected).sum())
    print(f"{'':<16}decided otherwise than in the original: {differing}")
    if differing:
        raise SystemExit("the copies were not decided as the original")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("TOKPACK_DATA", REPO_ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mix.jsonl.zst")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tokpack-near-dup")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--memory", type=parse_memory, default=0, metavar="SIZE")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.cache.mkdir(parents=True, exist_ok=True)
    packages = " ".join(f"{name} {version(name)}" for name in ("tokpack", "numpy", "numba"))
    print(f"{shlex.join(['python', *sys.argv])}\n{platform.platform()}, {os.cpu_count()} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()} {packages}")
    offsets = prepare(options.data, options.tokenizer, options.cache)
    tokens = np.load(options.cache / "tokens.npy")
    eligible, batches = first_of_equals(tokens, offsets), batches_of(tokens, offsets)

    def near_dup(batches: Sequence[SelectedTokens], eligible: np.ndarray) -> Any:
        return find_near_duplicates(
            batches,
            options.threshold,
            eligible=eligible,
            threads=options.threads,
            table_bytes=table_bytes(options.memory),
            folder=options.cache,
        )

    started = time.perf_counter()
    near_dup(batches_of(tokens[:0], offsets[:1]), np.ones(0, np.bool_))
    print(f"kernels ready in {time.perf_counter() - started:.2f} s")
    base, seconds, used = timed(options.repeats, lambda: near_dup(batches, eligible))
    counts = f"{eligible.sum():,} distinct, {base.removed.sum():,} removed, {base.bounded.sum()} bounded"
    report("near_dup", batches, seconds, used, counts)
    questions = SelectedTokens(
        *(np.load(options.cache / f"eval_{name}.npy") for name in ("tokens", "offsets"))
    )
    found, *times = timed(options.repeats, lambda: find_contaminated(batches, [questions]))
    report("decontaminate", batches, *times, f"{len(found.document):,} contaminated")
    if options.copies:
        many = Copies(options.cache, options.copies, tokens, offsets)
        every = np.tile(eligible, options.copies)
        del tokens, batches, questions, found
        copies, *times = timed(1, lambda: near_dup(many, every))
        counts = f"{copies.removed.sum():,} removed, {copies.bounded.sum()} bounded"
        report(f"near_dup x {options.copies}", many, *times, counts)
        growth = (times[0] / seconds, times[1] / used)
        print(f"{'':<16}{growth[0]:.1f} x the time, {growth[1]:.1f} x the processor time")
        check_copies(base, copies)


if __name__ == "__main__":
    main()
