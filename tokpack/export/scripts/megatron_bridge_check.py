"""Prove that Megatron-Bridge reads the rows beside this file as they were packed: python check.py"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
from dataset_config import dataset_config
from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetBuilder
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent


def packed_rows(folder):
    """(ids, starts, loss mask) of the first rows."""
    table = pq.ParquetFile(sorted(folder.glob("*.idx.parquet"))[0]).read_row_group(0)
    for row in table.slice(0, 16).to_pylist():
        yield tuple(np.array(row[name]) for name in ("input_ids", "seq_start_id", "loss_mask"))


def faults(dataset, eos):
    """What is wrong with the batches that Megatron-Bridge makes of the first rows."""
    for number, (ids, starts, mask) in enumerate(packed_rows(HERE / "train")):
        batch = dataset.collate_fn([dataset[number]])
        ends = np.append(starts[1:], len(ids))
        inputs = np.ones(len(ids), bool)
        inputs[ends - 1] = False
        size = int(inputs.sum())
        lengths = ends - starts - 1
        expected = {
            "tokens": ids[inputs],
            "labels": np.roll(ids, -1)[inputs],
            "loss_mask": (mask * (ids != eos))[inputs],
            "position_ids": np.concatenate([np.arange(length) for length in lengths]),
        }
        for name, wanted in expected.items():
            if batch[name][0, :size].tolist() != wanted.tolist():
                yield f"row {number}: {name} are not the packed ones"
        if batch["loss_mask"][0, size:].any():
            yield f"row {number}: padding has a loss"
        # with context parallelism a document's place is longer than the document
        names = ("cu_seqlens_q_padded", "cu_seqlens_q", "cu_seqlens")
        found = next(batch[name] for name in names if name in batch)[0].tolist()
        if found[: len(ends) + 1] != [0, *np.cumsum(lengths).tolist()]:
            yield f"row {number}: documents end elsewhere"


def main():
    eos = AutoTokenizer.from_pretrained(HERE / "tokenizer").eos_token_id
    tokenizer = SimpleNamespace(eos_id=eos, _tokenizer=None)
    dataset, *_ = GPTSFTDatasetBuilder(dataset_config(), tokenizer).build()
    found = list(faults(dataset, eos))
    for fault in found:
        print(f"wrong: {fault}")
    if not found:
        print("right: documents end, targets and loss masks are as packed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
