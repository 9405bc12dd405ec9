"""Packed packed datasets and tiny models for the trainer plugin's tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokpack.activity import Activity
from tokpack.schema import FORMAT_VERSION, IGNORE_INDEX, MANIFEST, PACKED_SCHEMA
from tokpack.sums import write_sums

Document = tuple[list[int], list[int]]
LENGTHS = (9, 17, 5, 23, 1, 30, 12, 8, 19, 3, 27, 14)


class Said(Activity):
    """Keeps what is said instead of showing it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def make_documents(lengths: Any = LENGTHS, vocab: int = 128, seed: int = 0) -> list[Document]:
    """Random ids; the first third of each document is masked, as a prompt would be."""
    rng = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        ids = rng.integers(3, vocab, length).tolist()
        masked = max(1, length // 3)
        documents.append((ids, [IGNORE_INDEX] * masked + ids[masked:]))
    return documents


def pack_rows(documents: list[Document], capacity: int) -> list[dict[str, list[int]]]:
    """Next-fit, in order."""
    rows: list[dict[str, list[int]]] = []
    for number, (ids, labels) in enumerate(documents):
        if not rows or len(rows[-1]["input_ids"]) + len(ids) > capacity:
            rows.append({"input_ids": [], "labels": [], "seq_lengths": [], "doc_ids": [], "pieces": []})
        rows[-1]["input_ids"] += ids
        rows[-1]["labels"] += labels
        rows[-1]["seq_lengths"].append(len(ids))
        rows[-1]["doc_ids"].append(number)
        rows[-1]["pieces"].append(0)
    return rows


def write_packed(
    folder: Path,
    documents: list[Document],
    capacity: int = 64,
    *,
    rows_per_shard: int = 3,
    rows_per_batch: int = 2,
    vocab_sha256: str | None = None,
    planner: str = "bfd",
) -> list[dict[str, list[int]]]:
    """A packed dataset with the files the trainer plugin reads; returns its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pack_rows(documents, capacity)
    shards = [rows[start : start + rows_per_shard] for start in range(0, len(rows), rows_per_shard)]
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        table = pa.Table.from_pylist(shard, schema=PACKED_SCHEMA)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, PACKED_SCHEMA) as stream:
            stream.write_table(table, max_chunksize=rows_per_batch)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    tokens = sum(len(row["input_ids"]) for row in rows)
    trained = sum(label != IGNORE_INDEX for row in rows for label in row["labels"])
    documents_sums = {"read": len(documents), "kept": len(documents), "dropped": {}, "quarantined": 0}
    token_sums = {"tokenized": tokens, "packed": tokens, "truncated": 0, "dropped": {}}
    slots = len(rows) * capacity
    tokenizer = {"name": "tiny", "sha256": "0" * 64}
    if vocab_sha256 is not None:
        tokenizer["vocab_sha256"] = vocab_sha256
    manifest = {
        "format_version": FORMAT_VERSION,
        "tokpack_version": "0.1.0",
        "split": "train",
        "capacity": capacity,
        "rows": len(rows),
        "tokens": tokens,
        "trained_tokens": trained,
        "documents": len(documents),
        "pieces": len(documents),
        "tokenizer": tokenizer | {"vocab_size": 128, "eos_token_id": 2, "pad_token_id": 0},
        "template": {"sha256": "", "loss": "assistant"},
        "inputs": [],
        "shards": [
            {"file": name, "rows": len(shard), "sha256": digests[name]}
            for name, shard in zip(names, shards, strict=True)
        ],
        "plan": {
            "planner": planner,
            "rows": len(rows),
            "bound": len(rows),
            "bound_kind": "ceil",
            "gap": 0.0,
            "fill": tokens / slots,
        },
        "ledger": {
            "documents": documents_sums,
            "tokens": token_sums,
            "slots": {
                "rows": len(rows),
                "capacity": capacity,
                "total": slots,
                "packed": tokens,
                "free": slots - tokens,
            },
            "trained": {"packed": tokens, "trained": trained, "masked": tokens - trained},
            "sources": {"rows": {"documents": documents_sums, "tokens": token_sums}},
        },
        "config": {
            "truncate": {"max_length": capacity},
            "plan": {"planner": planner},
            "write": {},
            "source": [],
            "seed": 0,
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    write_sums(folder, digests)
    return rows


def tiny_llama(attn: str = "sdpa", seed: int = 0, **changes: Any) -> Any:
    """A random two-layer Llama, wide enough in its weights for a leak to show in the logits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer_plugin import register_attention

    register_attention()
    torch.manual_seed(seed)
    options = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = LlamaConfig(**{**options, **changes}, attn_implementation=attn)
    return LlamaForCausalLM(config).eval()


def save_tiny_model(folder: Path, **changes: Any) -> str:
    """A tiny Llama with a word tokenizer of 128 entries; returns the digest of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tokpack.fingerprint import vocab_digest

    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 128)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.15}
    tiny_llama(**{**sizes, **changes}).save_pretrained(folder)
    return vocab_digest(tokenizer.get_vocab())


def tiny_chat_model(folder: Path) -> Path:
    """A tiny Llama with a byte-level tokenizer and a chat template."""
    from encode_helpers import byte_level, template, tokenizer_folder
    from transformers import AutoTokenizer

    folder.mkdir(exist_ok=True)
    tokenizer_folder(byte_level(), folder, template("qwen2_5"))
    size = len(AutoTokenizer.from_pretrained(folder))
    tiny_llama(vocab_size=size, initializer_range=0.1, max_position_embeddings=2048).save_pretrained(folder)
    return folder


def packed_pairs(model: Path, folder: Path) -> Any:
    """Pairs whose chosen answer ends in "yes" and whose rejected one ends in "no", a fifth held out."""
    import tokpack

    folder.mkdir(exist_ok=True)
    rows = [
        {"prompt": f"question {n}", "chosen": f"{n} " * (n % 5) + "yes", "rejected": f"{n} no"}
        for n in range(40)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tokpack.pack(path, folder / "packed", tokenizer=str(model), max_length=256, val=0.2)


def needs_packed_trainer() -> None:
    """Skip the test under a transformers whose Trainer lacks hooks that `PackedTrainer` overrides."""
    from trainer_plugin.private_names import TRAINER, TRAINER_SINCE, absent

    if lost := absent(TRAINER):
        pytest.skip(f"PackedTrainer needs transformers {TRAINER_SINCE}: no {lost[0].partition(' ')[0]}")


def trainer_for(
    model: Any, dataset: Any, folder: Path, *, options: Any = None, trainer: Any = None, **flags: Any
) -> Any:
    """A PackedTrainer on CPU. `options` go to it, `trainer` to TrainingArguments, the rest to the recipe."""
    needs_packed_trainer()
    from trainer_plugin import PackedTrainer, load_recipe
    from trainer_plugin.recipe import training_arguments

    held_out = flags.pop("eval_dataset", None)
    recipe = load_recipe(method="full", trainer={"use_cpu": True, **(trainer or {})}, **flags)
    return PackedTrainer(
        model,
        training_arguments(recipe, folder),
        train_dataset=dataset,
        eval_dataset=held_out,
        loss=recipe.loss,
        progress=False,
        **(options or {}),
    )
