"""Packed attention against the block mask that transformers builds and its `sdpa` attention.

One layer of SmolLM2's shape (9 heads, 3 key-value heads, 64 wide), fp32 on a CPU, bf16 on a GPU; rows full
of documents with real-looking lengths (log-normal, median 90 tokens). Forward and backward pass; the mask is
made once for all layers of a model and not timed. Best of `--repeats`, in processor time of one thread, so
that what else the machine does hardly counts (CUDA: wall-clock time).

    OMP_NUM_THREADS=1 python benchmarks/attention.py
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainer_plugin.models.attention import packed_attention

HEADS, KV_HEADS, WIDTH = 9, 3, 64
WANTED = {1024: 2.0, 2048: 4.0, 4096: 8.0, 8192: 15.0}
"""Times faster that the packed attention has to be, by tokens in a row."""


class Layer(torch.nn.Module):
    is_causal = True
    num_key_value_groups = HEADS // KV_HEADS


class Compared(NamedTuple):
    documents: int
    packed: float
    masked: float
    difference: float


def document_lengths(total: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(int(np.clip(rng.lognormal(4.5, 0.9), 8, total)))
    lengths[-1] -= sum(lengths) - total
    return [length for length in lengths if length > 0]


def best(work: Callable[[], None], repeats: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def compare(total: int, repeats: int, device: str) -> Compared:
    lengths, layer = document_lengths(total), Layer()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    shapes = [(1, heads, total, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    states = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    mask = (number[:, None] == number).tril()[None, None]
    documents = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": max(lengths)}

    def packed() -> torch.Tensor:
        return packed_attention(layer, *states, None, **documents)[0]

    def masked() -> torch.Tensor:
        return sdpa_attention_forward(layer, *states, mask)[0]

    def step(forward: Callable[[], torch.Tensor]) -> None:
        forward().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    clock = time.perf_counter if device == "cuda" else time.process_time
    with torch.no_grad():
        difference = float((packed() - masked()).abs().max())
    times = []
    for forward in (packed, masked):
        step(forward)
        times.append(best(lambda forward=forward: step(forward), repeats, clock))
    return Compared(len(lengths), times[0], times[1], difference)


def machine(device: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = torch.cuda.get_device_name() if device == "cuda" else (names or [platform.machine()])[0]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}, one thread; Python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--totals", type=int, nargs="+", default=list(WANTED))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(machine(args.device))
    print("python", " ".join(sys.argv))
    print(
        f"{'tokens':>7} {'documents':>9} {'packed ms':>10} {'masked ms':>10} {'faster':>8} {'difference':>11}"
    )
    for total in args.totals:
        found = compare(total, args.repeats, args.device)
        faster = found.masked / found.packed
        wanted = WANTED.get(total, 0)
        print(
            f"{total:7} {found.documents:9} {found.packed * 1e3:10.1f} {found.masked * 1e3:10.1f} "
            f"{faster:7.1f}x {found.difference:11.1e}" + (f"  below {wanted:g}x" if faster < wanted else "")
        )


if __name__ == "__main__":
    main()
