"""Train with TRL on the packed rows beside this file: python train.py --model MODEL --output OUT"""

import argparse
import json
from pathlib import Path

from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).resolve().parent


def make_trainer(model, output, **settings):
    """`settings` win over settings.json. `model`: folder, Hub name, or a model."""
    data = load_from_disk(str(HERE))
    arguments = json.loads((HERE / "settings.json").read_text(encoding="utf-8")) | settings
    return SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(output), **arguments),
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=AutoTokenizer.from_pretrained(HERE / "tokenizer"),
    )


def settings_here():
    """Without bf16 where the machine has no GPU for it: `SFTConfig` refuses it there."""
    if is_torch_bf16_gpu_available():
        return {}
    print("no GPU with bf16 here: training in the model's own type, bf16 of settings.json is not used")
    return {"bf16": False}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output", required=True, help="folder for checkpoints")
    parser.add_argument("--attn", help="attention backend, such as flash_attention_2")
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype="auto", attn_implementation=given.attn)
    trainer = make_trainer(model, given.output, **settings_here())
    trainer.train()
    trainer.save_model(given.output)


if __name__ == "__main__":
    main()
