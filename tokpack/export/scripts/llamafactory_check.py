"""Prove that LLaMA-Factory reads the rows beside this file as they were packed: python check.py train.yaml"""

import sys

import torch
from datasets import load_from_disk
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args, read_args
from llamafactory.model import load_tokenizer


def faults(data_args, rows, packed):
    """What is wrong with the settings and with the dataset that LLaMA-Factory made."""
    if not data_args.neat_packing:
        yield "neat_packing is off: documents would see each other"
    if len(rows) != len(packed) or rows[0] != packed[0]:
        yield "LLaMA-Factory's dataset is not the packed one"


def batch_faults(batch, row):
    """What is wrong with a row collated for flash attention: padding goes, no mask, positions as packed."""
    size = sum(number > 0 for number in row["attention_mask"])
    for name in ("input_ids", "labels", "position_ids"):
        if batch[name].tolist() != [row[name][:size]]:
            yield f"{name} of the batch are not the packed ones"
    if batch.get("attention_mask") is not None:
        yield "the batch has an attention mask: transformers then ignores document boundaries"


def mask_faults(batch, row):
    """What is wrong with the mask for other backends: a token sees its own document, up to itself."""
    numbers = torch.tensor(row["attention_mask"])
    size = len(numbers)
    allowed = (numbers[:, None] == numbers) & (numbers > 0) & torch.ones(size, size, dtype=torch.bool).tril()
    if not torch.equal(batch["attention_mask"][0, 0] == 0, allowed):
        yield "the mask lets documents see each other"


def main():
    sys.argv = [sys.argv[0], sys.argv[1] if len(sys.argv) > 1 else "train.yaml"]
    model_args, data_args, training_args, _, _ = get_train_args(read_args())
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]
    packed = load_from_disk(data_args.tokenized_path)["train"]
    found = list(faults(data_args, rows, packed))
    settings = {"template": template, "pad_to_multiple_of": 8, "neat_packing": True, "block_diag_attn": True}
    for attention, look in (("flash_attention_2", batch_faults), ("sdpa", mask_faults)):
        collate = SFTDataCollatorWith4DAttentionMask(attn_implementation=attention, **settings, **loaded)
        found += look(collate([dict(packed[0])]), packed[0])
    for fault in found:
        print(f"wrong: {fault}")
    if not found:
        print("right: position_ids restart at every document, labels are as packed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
