"""The training loss of each source of a mix, in the trainer's log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import tiny_chat_model, tiny_llama, trainer_for

import tokpack
from tokpack.errors import UsageError
from trainer_plugin import PackedDataset
from trainer_plugin.training.progress import figures_of


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    model = tiny_chat_model(folder / "model")
    for name, answer in (("short", "yes"), ("long", "no, never, not at all")):
        rows = [{"prompt": f"{name} {n}", "completion": f"{answer} {n}"} for n in range(30)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [folder / "short.jsonl", folder / "long.jsonl"]
    tokpack.pack(paths, folder / "packed", tokenizer=str(model), max_length=128, clean="off")
    return PackedDataset(folder / "packed")


@pytest.mark.slow
def test_the_loss_of_each_source_is_the_mean_over_its_documents(mix, tmp_path):
    path = tmp_path / "documents.parquet"
    trainer = trainer_for(
        tiny_llama("tokpack", vocab_size=mix.manifest["tokenizer"]["vocab_size"]),
        mix,
        tmp_path,
        options={"document_log": path, "loss_by_source": True},
        learning_rate=1e-30,
        accumulation=2,
        log_steps=10**6,  # one entry, of the whole run
    )
    trainer.train()
    trainer.log({"loss": 1.0})
    entry = trainer.state.log_history[-1]
    table = pq.read_table(path)
    doc, tokens, loss = (table[name].to_numpy() for name in ("doc_id", "tokens", "loss"))
    for name, mine in (("short.jsonl", doc < 30), ("long.jsonl", doc >= 30)):
        expected = np.average(loss[mine], weights=tokens[mine])
        assert entry[f"loss_by_source/{name}"] == pytest.approx(expected, abs=1e-4)
    assert f"(short.jsonl {entry['loss_by_source/short.jsonl']:.2f}, long" in figures_of(entry)
    trainer.log({"loss": 1.0})
    assert "loss_by_source/short.jsonl" not in trainer.state.log_history[-1]


def test_rows_without_sources_are_refused(mix, tmp_path):
    with pytest.raises(UsageError, match="source"):
        trainer_for(tiny_llama(), list(mix), tmp_path, options={"loss_by_source": True})
