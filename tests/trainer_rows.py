"""Packed datasets and tiny models for the trainer plugin's tests."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokpack.schema import IGNORE_INDEX
from tokpack.terminal.activity import Activity

Document = tuple[list[int], list[int]]
LENGTHS = (9, 17, 5, 23, 2, 30, 12, 8, 19, 3, 27, 14)
WITH_ONE = (9, 17, 1, 23, 5, 30, 12, 8, 19, 3, 27, 14)
"""A document of one token too, as the last piece of a long one may be."""


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
    planner: str = "bfd",
) -> list[dict[str, list[int]]]:
    """Packs the documents, in small shards of several batches each; returns the rows as they were written.

    The tokenizer is the one of `save_tiny_model`.
    """
    import tokpack
    from tokpack.stages import write

    rows = [{"input_ids": ids, "labels": labels} for ids, labels in documents]
    options = {"tokenizer": str(tiny_tokenizer()), "max_length": capacity, "planner": planner}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "BYTES_PER_TOKEN", (1 << 20) // (rows_per_shard * capacity))
        patch.setattr(write, "CHUNK_TOKENS", 2 * capacity)
        packed = tokpack.pack(rows, folder, shard_mb=1, **options)
    assert packed.manifest["ledger"]["documents"]["kept"] == len(documents)
    shards = [pa.ipc.open_stream(path).read_all() for path in sorted(folder.glob("data-*.arrow"))]
    return [row for shard in shards for row in shard.to_pylist()]


@cache
def tiny_tokenizer() -> Path:
    """Folder of a word tokenizer of 128 entries."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 128)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    folder = Path(tempfile.mkdtemp(prefix="tokpack-tests-"))
    tokenizer.save_pretrained(folder)
    return folder


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


def save_tiny_model(folder: Path, **changes: Any) -> None:
    """A tiny Llama with `tiny_tokenizer`."""
    shutil.copytree(tiny_tokenizer(), folder, dirs_exist_ok=True)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.15}
    tiny_llama(**{**sizes, **changes}).save_pretrained(folder)


def with_few_layers(model: Path, folder: Path, layers: int = 8) -> Path:
    """The first layers of a model, with its tokenizer."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    return folder


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
    from trainer_plugin.models.private_names import TRAINER, TRAINER_SINCE, absent

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
