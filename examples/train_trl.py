"""Packed rows in TRL's SFTTrainer (pip install trl): its own metrics and losses, our batches.

`packing` stays off: the rows are packed already, and TRL would pack them again without their boundaries.

    python examples/train_trl.py PACKED MODEL OUT
"""

from __future__ import annotations

import sys

import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trainer_plugin import PackedCollator, prepare_model


def main(packed: str, model_name: str, out: str, steps: int = 5) -> SFTTrainer:
    model = AutoModelForCausalLM.from_pretrained(model_name)
    prepare_model(model)
    arguments = SFTConfig(
        out,
        max_steps=steps,
        per_device_train_batch_size=1,
        bf16=torch.cuda.is_available(),
        packing=False,
        padding_free=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        report_to="none",
    )
    trainer = SFTTrainer(
        model,
        arguments,
        data_collator=PackedCollator(),
        train_dataset=load_from_disk(packed),
        processing_class=AutoTokenizer.from_pretrained(model_name),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
