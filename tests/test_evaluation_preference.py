"""`tokpack eval` on preference pairs packed from files: rewards as pair by pair, sources and places."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from adapter_files import save_adapter
from encode_helpers import byte_level, template, tokenizer_folder
from peft import PeftModel
from trainer_rows import tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokpack
from trainer_plugin import PackedDataset
from trainer_plugin.evaluation.run import EvalSettings, evaluate
from trainer_plugin.recipe import Recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    tokenizer_folder(byte_level(), folder / "base", template("qwen2_5"))
    size = len(AutoTokenizer.from_pretrained(folder / "base"))
    model = tiny_llama(vocab_size=size, initializer_range=0.1, max_position_embeddings=2048)
    model.save_pretrained(folder / "base")
    save_adapter(folder / "base", folder / "a", seed=1, std=0.2)
    recipe = Recipe(method="lora", preference={"loss": "ipo", "beta": 0.3})
    (folder / "a" / "recipe.toml").write_text(recipe.to_toml())
    for name, count in (("x", 11), ("y", 14)):
        rows = [
            {"prompt": f"question {n}", "chosen": f"{n} " * (n % 5) + "yes", "rejected": f"{n} no"}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = [folder / "x.jsonl", folder / "y.jsonl"]
    tokpack.pack(inputs, folder / "packed", tokenizer=str(folder / "base"), max_length=256)
    return folder


def log_probs(model, dataset) -> dict[int, tuple[float, int]]:
    """doc_id -> log-probability of its trained tokens, and how many; each document alone."""
    found = {}
    for row in dataset:
        start = 0
        for doc_id, length in zip(row["doc_ids"].tolist(), row["seq_lengths"].tolist(), strict=True):
            ids, labels = (
                torch.tensor(row[n][start : start + length]).long() for n in ("input_ids", "labels")
            )
            with torch.no_grad():
                scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
            trained = labels[1:] != -100
            found[doc_id] = float(scores[trained, labels[1:][trained]].double().sum()), int(trained.sum())
            start += length
    return found


def test_rewards_are_those_of_each_pair_alone(place):
    settings = EvalSettings(dtype="float32", probe=False)
    found = evaluate(place / "packed", place / "base", [place / "a"], settings=settings)
    dataset = PackedDataset(place / "packed")
    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32).eval()
    reference = log_probs(base, dataset)
    policy = log_probs(PeftModel.from_pretrained(base, str(place / "a")).eval(), dataset)
    margins, prefers = [], 0
    for chosen in sorted(doc_id for doc_id in policy if doc_id % 2 == 0):
        rewards = [
            0.3 * (policy[one][0] - reference[one][0]) / policy[one][1] for one in (chosen, chosen + 1)
        ]
        margins.append(rewards[0] - rewards[1])
        means = [policy[one][0] / policy[one][1] for one in (chosen, chosen + 1)]
        prefers += means[0] > means[1]
    one = found.held_out.comparisons[0]
    assert (one.pairs.pairs, one.pairs.loss, one.pairs.strength) == (len(margins), "ipo", 0.3)
    assert one.pairs.margin.value == pytest.approx(sum(margins) / len(margins), abs=1e-5)
    assert one.pairs.accuracy.value == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    assert one.pairs.prefers.value == pytest.approx(prefers / len(margins))
    loss = [-sum(x[i] for d, x in policy.items() if d % 2 == 0) for i in (0, 1)]
    assert one.loss == pytest.approx(-loss[0] / loss[1], abs=1e-5)
    assert {"reward_accuracy", "reward_margin"} <= found.figures("a").keys()


def test_documents_have_the_file_and_the_row_that_they_are_from(place):
    settings = EvalSettings(dtype="float32", probe=False)
    one = evaluate(place / "packed", None, [place / "a"], settings=settings).held_out.comparisons[0]
    groups = {group.name: group for group in one.by_source}
    assert set(groups) == {"x.jsonl", "y.jsonl"}
    assert sum(group.documents for group in groups.values()) == one.documents
    for shown in (*one.worst, *one.best):
        number, name = shown.place.removeprefix("number ").split(" of ")
        assert name == shown.source
        row = json.loads((place / name).read_text().splitlines()[int(number) - 1])
        assert row["prompt"] in shown.prompt
        assert row["chosen"] in shown.answer
