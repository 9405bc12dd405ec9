"""Packed rows in a plain Hugging Face Trainer: three lines are new (marked).

python examples/train_plain_trainer.py PACKED MODEL OUT
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from trainer_plugin import PackedCollator, PackedDataset, prepare_model


def main(packed: str, model_name: str, out: str, steps: int = 5) -> Trainer:
    model = AutoModelForCausalLM.from_pretrained(model_name)
    print(prepare_model(model))  # 1: isolate documents, and prove it
    trainer = Trainer(
        model,
        TrainingArguments(
            out,
            max_steps=steps,
            per_device_train_batch_size=1,
            remove_unused_columns=False,
            report_to="none",
        ),
        data_collator=PackedCollator(),  # 2: one flat row of documents
        train_dataset=PackedDataset(packed),  # 3: memory-mapped rows
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
