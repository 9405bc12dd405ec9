"""Prove that TRL reads the rows beside this file as they were packed: python check.py --model MODEL"""

import argparse
import sys
import tempfile

import torch
from datasets import load_from_disk
from train import HERE, make_trainer
from transformers import AutoModelForCausalLM


def faults(trainer, packed):
    """What is wrong with the trainer's rows, and with the first batch that it would train on."""
    if len(trainer.train_dataset) != len(packed):
        yield f"TRL trains on {len(trainer.train_dataset)} rows, {len(packed)} were packed"
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [packed[i] for i in range(min(trainer.args.train_batch_size, len(packed)))]
    lengths = [length for row in rows for length in row["seq_lengths"]]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ends = torch.tensor([0, *lengths]).cumsum(0)
    expected = {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "position_ids": positions,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
    }
    for name, wanted in expected.items():
        if name not in batch:
            yield f"the batch has no {name}"
        elif batch[name].shape != wanted.shape or not torch.equal(batch[name].cpu().long(), wanted):
            yield f"{name} is not what was packed"
    if batch.get("attention_mask") is not None:
        yield "the batch has an attention mask: transformers then ignores document boundaries"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as output:
        trainer = make_trainer(
            AutoModelForCausalLM.from_pretrained(given.model, dtype="auto"),
            output,
            train_sampling_strategy="sequential",
            bf16=False,
            report_to="none",
        )
        found = list(faults(trainer, load_from_disk(str(HERE))["train"]))
    for fault in found:
        print(f"wrong: {fault}")
    if not found:
        print("right: position_ids restart at every document, labels are as packed, no attention mask")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
