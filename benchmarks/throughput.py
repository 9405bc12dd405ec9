"""Real tokens per second of LoRA training: padded, grouped by length, and packed.

The same documents (log-normal lengths, median 90 tokens, at most `--capacity`) go through forward and
backward of a real model in fp32, batches of `--batch` documents where they are padded, rows of `--capacity`
tokens where they are packed. Padding tokens cost time and count for nothing. Needs a model folder:

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --model SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from trainer_plugin import PackedCollator, prepare_model

Documents = list[np.ndarray]


def make_documents(count: int, capacity: int, vocab: int, seed: int = 0) -> Documents:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.5, 0.9, count), 8, capacity).astype(int)
    return [rng.integers(10, vocab, length) for length in lengths]


def padded(documents: Documents, batch: int, width: int | None) -> Iterator[dict[str, Any]]:
    for start in range(0, len(documents), batch):
        part = documents[start : start + batch]
        length = width or max(map(len, part))
        ids = torch.zeros(len(part), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, document in enumerate(part):
            ids[row, : len(document)] = torch.from_numpy(document)
            mask[row, : len(document)] = 1
        yield {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def packed(documents: Documents, capacity: int) -> Iterator[dict[str, Any]]:
    """First fit, longest first."""
    rows: list[Documents] = []
    for document in sorted(documents, key=len, reverse=True):
        fitting = (row for row in rows if sum(map(len, row)) + len(document) <= capacity)
        row = next(fitting, None)
        if row is None:
            row = []
            rows.append(row)
        row.append(document)
    collate = PackedCollator()
    for row in rows:
        ids = np.concatenate(row)
        yield collate([{"input_ids": ids, "labels": ids, "seq_lengths": [len(d) for d in row]}])


def real_tokens_per_second(model: Any, batches: Iterator[dict[str, Any]], tokens: int) -> float:
    start = time.perf_counter()
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        model.zero_grad()
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("TOKPACK_SMOLLM2"))
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--capacity", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    if not args.model:
        raise SystemExit(
            "give --model FOLDER, or set TOKPACK_SMOLLM2 (examples/get_model.py makes the folder)"
        )
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    documents = make_documents(args.documents, args.capacity, base.config.vocab_size)
    tokens = sum(map(len, documents))
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {len(documents)} documents"
    )
    by_length = sorted(documents, key=len)
    cases = [
        ("padded to the capacity", "native", lambda: padded(documents, args.batch, args.capacity)),
        ("padded to the longest", "native", lambda: padded(documents, args.batch, None)),
        ("grouped by length", "native", lambda: padded(by_length, args.batch, None)),
        ("packed, sdpa", "sdpa", lambda: packed(documents, args.capacity)),
        ("packed, tokpack attention", "tokpack", lambda: packed(documents, args.capacity)),
    ]
    for name, attn, batches in cases:
        if attn != "native":
            prepare_model(model, attn, probe=False)
        print(f"{name:28} {real_tokens_per_second(model, batches(), tokens):8.1f} real tokens/s", flush=True)


if __name__ == "__main__":
    main()
