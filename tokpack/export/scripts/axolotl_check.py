"""Prove that axolotl reads the rows beside this file as they were packed: python check.py config.yaml"""

import sys

import torch
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.utils.collators.batching import DataCollatorForSeq2Seq
from datasets import load_from_disk
from transformers import AutoTokenizer


def faults(cfg, rows, packed):
    """What is wrong with the settings, with the dataset that axolotl made, and with a batch of it."""
    wanted = {"skip_prepare_dataset": True, "sample_packing": False, "micro_batch_size": 1}
    for key, value in wanted.items():
        if cfg[key] != value:
            yield f"{key} is {cfg[key]!r}, it must be {value!r}"
    if sorted(rows.column_names) != sorted(packed.column_names):
        yield f"axolotl's dataset has the columns {rows.column_names}"
        return
    if len(rows) != len(packed):
        yield f"axolotl's dataset has {len(rows)} rows, {len(packed)} were packed"
    row = rows[0]
    if not any(row == packed[i] for i in range(len(packed)) if packed[i]["input_ids"] == row["input_ids"]):
        yield "axolotl's first row is none of the packed rows"
    tokenizer = AutoTokenizer.from_pretrained(cfg.tokenizer_config)
    batch = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=64)([dict(row)])
    yield from batch_faults(batch, row)


def batch_faults(batch, row):
    """What is wrong with a collated row; padding behind it is a document of its own without labels."""
    size = len(row["input_ids"])
    for name in ("input_ids", "labels", "position_ids"):
        if batch[name][0, :size].tolist() != row[name]:
            yield f"{name} of the batch are not the packed ones"
    if (batch["labels"][0, size:] != -100).any():
        yield "padding has labels"
    padding = batch["position_ids"][0, size:]
    if not torch.equal(padding, torch.arange(len(padding))):
        yield "padding does not count from 0"
    if batch.get("attention_mask") is not None:
        yield "the batch has an attention mask: transformers then ignores document boundaries"


def main():
    cfg = load_cfg(sys.argv[1] if len(sys.argv) > 1 else "config.yaml")
    found = list(faults(cfg, load_datasets(cfg=cfg).train_dataset, load_from_disk("data")["train"]))
    for fault in found:
        print(f"wrong: {fault}")
    if not found:
        print("right: position_ids restart at every document, labels are as packed, no attention mask")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
