"""Packed attention against `scaled_dot_product_attention` with the block mask that transformers builds.

One layer of SmolLM2's shape (9 heads, 3 key-value heads, 64 wide), fp32, forward and backward, rows full of
documents with real-looking lengths (log-normal, median 90 tokens). Times are the best of `--repeats`.

    OMP_NUM_THREADS=1 python benchmarks/attention.py --totals 1024 2048 4096
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from trainer_plugin.attention import packed_attention

HEADS, KV_HEADS, WIDTH = 9, 3, 64


class Layer(torch.nn.Module):
    is_causal = True


def document_lengths(total: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(int(np.clip(rng.lognormal(4.5, 0.9), 8, total)))
    lengths[-1] -= sum(lengths) - total
    return [length for length in lengths if length > 0]


def best(work: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(total: int, repeats: int, device: str, dtype: torch.dtype) -> tuple[int, float, float, float]:
    lengths = document_lengths(total)
    torch.manual_seed(0)
    q = torch.randn(1, HEADS, total, WIDTH, device=device, dtype=dtype, requires_grad=True)
    k, v = (
        torch.randn(1, KV_HEADS, total, WIDTH, device=device, dtype=dtype, requires_grad=True)
        for _ in range(2)
    )
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    mask = (number[:, None] == number).tril()[None, None]

    def packed() -> torch.Tensor:
        return packed_attention(
            Layer(), q, k, v, None, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=max(lengths)
        )[0]

    def masked() -> torch.Tensor:
        keys, values = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask).transpose(1, 2)

    def step(forward: Callable[[], torch.Tensor]) -> None:
        forward().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        difference = float((packed() - masked()).abs().max())
    step(packed), step(masked)
    return len(lengths), best(lambda: step(packed), repeats), best(lambda: step(masked), repeats), difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--totals", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {args.device}, {dtype}")
    print(
        f"{'tokens':>7} {'documents':>9} {'packed ms':>10} {'masked ms':>10} {'faster':>7} {'difference':>11}"
    )
    for total in args.totals:
        documents, packed, masked, difference = compare(total, args.repeats, args.device, dtype)
        print(
            f"{total:7} {documents:9} {packed * 1e3:10.1f} {masked * 1e3:10.1f} "
            f"{masked / packed:6.1f}x {difference:11.1e}"
        )


if __name__ == "__main__":
    main()
