"""Feeding the trainer: time to read and collate a row, and the time that ranks wait for each other.

Rows of `--packed` (a packed dataset), else of 20,000 made-up chats packed at 1,024 with the tokenizer of
`--model`; in random order, processor time of one thread, best of `--repeats`. Waiting is the share of the
ranks' time that they wait for the slowest one of each optimizer step, with the cost of a row by the model's
shape: tokens in the weights, pairs of tokens in attention.

    OMP_NUM_THREADS=1 python benchmarks/dataset.py --model SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import torch

import tokpack
from trainer_plugin import BalancedSampler, PackedCollator, PackedDataset

RANKS = 8
PAIR_COSTS = {"SmolLM2-135M": 576 * 30 / 134.5e6, "Llama-3-8B": 4096 * 32 / 8.03e9, "attention alone": None}
"""Hidden size x layers / parameters: a pair's cost over a token's (`rows.balance.pair_cost`)."""


def make_packed(model: str, folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import make_demo_data

    make_demo_data.main([str(folder / "chats.jsonl")])
    tokpack.pack(folder / "chats.jsonl", folder / "packed", tokenizer=model, max_length=1024)
    return folder / "packed"


def microseconds(read: Callable[[int], object], order: np.ndarray, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for row in order.tolist():
            read(row)
        times.append((time.process_time() - start) / len(order) * 1e6)
    return min(times)


def waiting(order: np.ndarray, costs: np.ndarray, accumulation: int) -> float:
    steps = len(order) // (RANKS * accumulation)
    work = costs[order[: steps * RANKS * accumulation]].reshape(steps, accumulation, RANKS).sum(1)
    return 1 - work.sum() / (work.max(1) * RANKS).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packed", type=Path)
    parser.add_argument("--model", default=os.environ.get("TOKPACK_SMOLLM2"))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if not (args.packed or args.model):
        raise SystemExit("give --packed FOLDER, or --model FOLDER to pack with its tokenizer")
    with tempfile.TemporaryDirectory() as temporary:
        run(args.packed or make_packed(args.model, Path(temporary)), args.repeats)


def run(packed: Path, repeats: int) -> None:
    dataset, collate = PackedDataset(packed), PackedCollator()
    raw = datasets.load_from_disk(str(packed))
    arrays = raw.with_format("numpy")
    order = np.random.default_rng(0).permutation(len(dataset))[:2000]
    python, versions = (
        platform.python_version(),
        f"torch {torch.__version__}, datasets {datasets.__version__}",
    )
    print(f"{platform.processor() or platform.machine()}, Python {python}, {versions}; {dataset}")
    print(f"{'row by':24}{'read, us':>12}{'and collate, us':>18}")
    for name, read in (
        ("PackedDataset", dataset.__getitem__),
        ("datasets, numpy", arrays.__getitem__),
        ("datasets, lists", raw.__getitem__),
    ):
        alone = microseconds(read, order, repeats)
        both = microseconds(lambda row, read=read: collate([read(row)]), order, repeats)
        print(f"{name:24}{alone:12.1f}{both:18.1f}")
    print(f"\n{RANKS} ranks wait, costs of{'accumulation':>17}{'random order':>15}{'BalancedSampler':>18}")
    for name, pair_cost in PAIR_COSTS.items():
        tokens, pairs = dataset.row_tokens(), dataset.row_pairs()
        costs = pairs.astype(float) if pair_cost is None else tokens + pair_cost * pairs
        shuffled = np.random.default_rng(0).permutation(len(dataset))
        for accumulation in (1, 4):
            balanced = BalancedSampler(dataset, RANKS, accumulation=accumulation, costs=costs).order(0)
            figures = [waiting(rows, costs, accumulation) for rows in (shuffled, balanced)]
            print(f"{name:22}{accumulation:17}{figures[0]:15.1%}{figures[1]:18.2%}")


if __name__ == "__main__":
    main()
