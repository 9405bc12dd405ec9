"""Packed rows in TRL's SFTTrainer (pip install trl), through its own padding-free path.

TRL finds the documents of a row by the column `seq_lengths`, and only with `padding_free`. `packing` stays
off: it would pack the rows again, without their boundaries. `skip_prepare_dataset` keeps the columns.

    python examples/train_trl.py PACKED MODEL OUT
"""

from __future__ import annotations

import sys

import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trainer_plugin import prepare_model


def main(packed: str, model_name: str, out: str, steps: int = 5) -> SFTTrainer:
    model = AutoModelForCausalLM.from_pretrained(model_name)
    print(prepare_model(model, "sdpa"))  # or flash_attention_2: TRL's batches have no cu_seq_lens for ours
    arguments = SFTConfig(
        out,
        packing=False,
        padding_free=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_steps=steps,
        per_device_train_batch_size=1,
        bf16=torch.cuda.is_available(),
        report_to="none",
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=load_from_disk(packed),
        processing_class=AutoTokenizer.from_pretrained(model_name),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
