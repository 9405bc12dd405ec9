"""Dataset, collator, attention and probe with the Trainer of transformers, whichever version it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch.nn.functional import cross_entropy
from trainer_rows import make_documents, tiny_llama, write_packed

from trainer_plugin import PackedCollator, PackedDataset, prepare_model


@pytest.mark.parametrize("attn", ["tokpack", "sdpa"])
def test_a_plain_trainer_has_the_loss_of_the_documents_one_by_one(tmp_path, attn):
    from transformers import Trainer, TrainingArguments

    documents = make_documents()
    write_packed(tmp_path / "packed", documents, 256)
    dataset = PackedDataset(tmp_path / "packed")
    assert len(dataset) == 1
    model = tiny_llama()
    with torch.no_grad():
        expected, trained = 0.0, 0
        for ids, labels in documents:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            target = torch.tensor(labels[1:], dtype=torch.int64)
            expected += float(cross_entropy(logits, target, ignore_index=-100, reduction="sum"))
            trained += int((target != -100).sum())
    assert prepare_model(model, attn, dataset=dataset).ok
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=PackedCollator(), train_dataset=dataset)
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert abs(logged - expected / trained) < 2e-4 * expected / trained
