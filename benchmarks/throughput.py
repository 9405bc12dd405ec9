"""Real tokens per second of LoRA training: padded, grouped by length, and packed.

The same documents go through forward and backward of a real model in fp32: in batches of `--batch` where they
are padded, in rows of `--capacity` tokens where they are packed. Padding costs time and counts for nothing.
Documents are drawn from a packed dataset (`--packed`, made by `tokpack pack --max-length CAPACITY` from your
data), else from made-up chats. Grouping is at its best here: all documents sorted by length.

Processor time of one thread, the ways one after another in each repeat, the median of the repeats: what else
the machine does hardly counts. Padded to the capacity is slots counted, not run (`--all` runs it).

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --model SmolLM2-135M-Instruct --packed packed
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from trainer_plugin import PackedCollator, PackedDataset, prepare_model

Document = dict[str, np.ndarray]
Batches = Callable[[], Iterator[dict[str, Any]]]
WANTED = {"padded to the longest": 2.0, "grouped by length": 1.2}
"""Times faster that packing has to be."""


def draw_documents(packed: Path, count: int, seed: int = 0) -> list[Document]:
    """Documents at random, each with the labels it has in the packed dataset."""
    dataset = PackedDataset(packed)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(int(dataset.row_documents().sum()), count, replace=False))
    first = np.cumsum(dataset.row_documents()) - dataset.row_documents()
    documents = []
    for number in chosen:
        index = int(np.searchsorted(first, number, side="right")) - 1
        row = dataset[index]
        ends = np.cumsum(row["seq_lengths"])
        end, length = ends[number - first[index]], row["seq_lengths"][number - first[index]]
        documents.append({name: row[name][end - length : end] for name in ("input_ids", "labels")})
    return [documents[i] for i in rng.permutation(count)]


def make_packed(model: str, capacity: int, folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import make_demo_data

    import tokpack

    make_demo_data.main([str(folder / "chats.jsonl"), "--documents", "2000"])
    tokpack.pack(folder / "chats.jsonl", folder / "packed", tokenizer=model, max_length=capacity)
    return folder / "packed"


def padded(documents: list[Document], batch: int, width: int | None = None) -> Iterator[dict[str, Any]]:
    for start in range(0, len(documents), batch):
        part = documents[start : start + batch]
        length = width or max(len(document["input_ids"]) for document in part)
        ids = torch.zeros(len(part), length, dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, document in enumerate(part):
            size = len(document["input_ids"])
            ids[row, :size] = torch.from_numpy(document["input_ids"].copy())
            labels[row, :size] = torch.from_numpy(document["labels"].copy())
            mask[row, :size] = 1
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pack(documents: list[Document], capacity: int) -> list[dict[str, np.ndarray]]:
    """First fit, longest first."""
    rows: list[list[Document]] = []
    free: list[int] = []
    for document in sorted(documents, key=lambda one: -len(one["input_ids"])):
        size = len(document["input_ids"])
        row = next((i for i, left in enumerate(free) if left >= size), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(capacity)
        rows[row].append(document)
        free[row] -= size
    return [
        {
            **{name: np.concatenate([one[name] for one in row]) for name in ("input_ids", "labels")},
            "seq_lengths": np.array([len(one["input_ids"]) for one in row]),
        }
        for row in rows
    ]


def seconds(model: Any, batches: Iterator[dict[str, Any]]) -> float:
    start = time.process_time()
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        model.zero_grad()
    return time.process_time() - start


def feeding(packed: Path, rows: int) -> float:
    """Seconds to read and collate so many rows of the packed dataset."""
    dataset, collate = PackedDataset(packed), PackedCollator()
    start = time.process_time()
    for index in np.random.default_rng(0).permutation(len(dataset))[:rows].tolist():
        collate([dataset[index]])
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("TOKPACK_SMOLLM2"))
    parser.add_argument("--packed", type=Path, help="packed dataset to draw documents from")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--capacity", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="run what is padded to the capacity as well")
    args = parser.parse_args()
    if not args.model:
        raise SystemExit(
            "give --model FOLDER, or set TOKPACK_SMOLLM2 (examples/get_model.py makes the folder)"
        )
    with tempfile.TemporaryDirectory() as temporary:
        run(args, args.packed or make_packed(args.model, args.capacity, Path(temporary)))


def run(args: argparse.Namespace, packed: Path) -> None:
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    documents = draw_documents(packed, args.documents)
    by_length = sorted(documents, key=lambda one: len(one["input_ids"]))
    rows = pack(documents, args.capacity)
    collate = PackedCollator()
    ways: dict[str, tuple[str, Batches]] = {
        "padded to the longest": ("sdpa", lambda: padded(documents, args.batch)),
        "grouped by length": ("sdpa", lambda: padded(by_length, args.batch)),
        "packed, sdpa": ("sdpa", lambda: (collate([row]) for row in rows)),
        "packed": ("tokpack", lambda: (collate([row]) for row in rows)),
    }
    if args.all:
        ways = {
            "padded to the capacity": ("sdpa", lambda: padded(documents, args.batch, args.capacity)),
            **ways,
        }
    tokens = sum(len(document["input_ids"]) for document in documents)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}\n"
        f"{len(documents)} documents, {tokens:,} tokens, {len(rows)} rows of {args.capacity}; "
        f"padded to the capacity {len(documents) * args.capacity:,} slots"
    )
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, (attn, batches) in ways.items():
            prepare_model(model, attn, probe=False)
            times[name].append(seconds(model, batches()))
            print(f"  {name}: {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    report(times, {name: slots(batches()) for name, (_, batches) in ways.items()}, tokens)
    step = median(times["packed"]) / len(rows)
    fed = feeding(packed, 500) / 500
    print(f"reading and collating a row takes {fed * 1e6:.0f} us, {fed / step:.4%} of a step of {step:.1f} s")


def slots(batches: Iterator[dict[str, Any]]) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)


def report(times: dict[str, list[float]], slots: dict[str, int], tokens: int) -> None:
    best = median(times["packed"])
    print(f"\n{'':26}{'slots':>10}{'seconds':>10}{'real tokens/s':>16}{'packed is':>12}")
    for name, found in times.items():
        ratio = median(found) / best
        line = f"{name:26}{slots[name]:10,}{median(found):10.1f}{tokens / median(found):16.1f}{ratio:11.2f}x"
        print(line + ("  below what is wanted" if ratio < WANTED.get(name, 0) else ""))


if __name__ == "__main__":
    main()
