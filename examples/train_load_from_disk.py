"""A packed dataset is a saved dataset: `datasets` opens it, and a plain Trainer trains on it.

python examples/train_load_from_disk.py PACKED MODEL OUT
"""

from __future__ import annotations

import sys

from datasets import load_from_disk
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from trainer_plugin import PackedCollator, prepare_model


def main(packed: str, model_name: str, out: str, steps: int = 5) -> Trainer:
    rows = load_from_disk(packed).with_format("numpy")  # filter, map and select rows as you like
    print(rows)
    model = AutoModelForCausalLM.from_pretrained(model_name)
    prepare_model(model)
    arguments = TrainingArguments(
        out,
        max_steps=steps,
        per_device_train_batch_size=1,
        remove_unused_columns=False,  # seq_lengths tells where documents end
        report_to="none",
    )
    trainer = Trainer(model, arguments, PackedCollator(), train_dataset=rows)
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
