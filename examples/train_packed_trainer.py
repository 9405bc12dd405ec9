"""`PackedTrainer` in Python: LoRA, held-out loss weighted by tokens, isolation proven before the first step.

python examples/train_packed_trainer.py PACKED MODEL OUT
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, TrainingArguments

from trainer_plugin import PackedDataset, PackedTrainer, Recipe, prepare_lora, prepare_model


def main(packed: str, model_name: str, out: str, steps: int = 5) -> PackedTrainer:
    rows = PackedDataset(packed)
    train, held_out = rows.split(0.1)
    model = AutoModelForCausalLM.from_pretrained(model_name)
    prepare_model(model, dataset=rows)
    model = prepare_lora(model, Recipe(method="lora", lora={"r": 8}))
    arguments = TrainingArguments(
        out,
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        report_to="none",
    )
    trainer = PackedTrainer(model, arguments, train_dataset=train, eval_dataset=held_out)
    print("before", trainer.evaluate()["eval_loss"])
    trainer.train()
    print("after", trainer.evaluate()["eval_loss"], trainer.counts())
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4])
