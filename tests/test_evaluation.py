"""`tokpack eval`: losses per document as of a plain forward, paired figures, gates, JSON, terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from adapter_files import save_adapter
from commands import run
from peft import PeftModel
from torch.nn.functional import cross_entropy
from trainer_rows import LENGTHS, Said, make_documents, save_tiny_model, write_packed
from transformers import AutoModelForCausalLM

from tokpack.errors import UsageError
from trainer_plugin import PackedDataset, prepare_model
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapters
from trainer_plugin.evaluation.gates import judge, parse_gate
from trainer_plugin.evaluation.losses import DocumentLosses, read_documents
from trainer_plugin.evaluation.run import EvalSettings, evaluate
from trainer_plugin.evaluation.statistics import Interval

FP32 = EvalSettings(dtype="float32")
HELD_OUT = make_documents(LENGTHS * 3, seed=9)
CONTROL = make_documents(LENGTHS * 2, seed=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base, two adapters, a packed dataset with a validation part, a control text."""
    folder = tmp_path_factory.mktemp("eval")
    save_tiny_model(folder / "base")
    save_adapter(folder / "base", folder / "good", seed=1, std=0.02)
    save_adapter(folder / "base", folder / "bad", seed=2, std=0.3)
    write_packed(folder / "packed", make_documents(LENGTHS * 2), 64)
    write_packed(folder / "packed" / "validation", HELD_OUT, 64)
    write_packed(folder / "control", CONTROL, 64)
    return folder


@pytest.fixture(scope="module")
def found(place):
    """An evaluation of both adapters."""
    return evaluate(
        place / "packed",
        place / "base",
        [place / "good", f"worse={place / 'bad'}"],
        control=place / "control",
        gates=["good: heldout < 1", "worse: heldout < -9"],
        settings=FP32,
    )


def plain_sums(place: Path, adapter: str | None, documents) -> np.ndarray:
    """The summed loss of each document alone, by transformers and PEFT as they are."""
    model = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, str(place / adapter))
    sums = []
    with torch.no_grad():
        for ids, labels in documents:
            logits = model.eval()(torch.tensor([ids])).logits[0, :-1]
            wanted = torch.tensor(labels[1:], dtype=torch.long)
            losses = cross_entropy(logits, wanted, ignore_index=-100, reduction="none")
            sums.append(float(losses.double().sum()))
    return np.array(sums)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [1 << 40, 4], ids=["whole logits", "in chunks"])
def test_losses_of_packed_documents_are_those_of_a_plain_forward_of_each(place, chunk_bytes):
    dataset = PackedDataset(place / "packed" / "validation")
    loaded = load_adapted(place / "base", read_adapters([place / "good", place / "bad"]), dtype="float32")
    prepare_model(loaded.network, dataset=dataset, probe=False)
    losses = DocumentLosses(loaded.network)
    losses.chunked.chunk_bytes = chunk_bytes
    documents = read_documents(dataset)
    assert sorted(documents.doc_id) == list(range(len(HELD_OUT)))
    in_rows = [HELD_OUT[number] for number in documents.doc_id]
    assert documents.trained.tolist() == [sum(x != -100 for x in labels) for _, labels in in_rows]
    for name in (None, "good", "bad"):
        with loaded.using(name) as model:
            sums = losses(model, dataset, lambda amount, figures="": None)
        expected = plain_sums(place, name, in_rows)
        assert np.abs(sums - expected).max() < 1e-5 * max(1, expected.max()), name
    assert np.abs(plain_sums(place, "good", HELD_OUT) - plain_sums(place, None, HELD_OUT)).max() > 0.01


@pytest.mark.slow
def test_the_figures_are_those_of_documents_alone(place, found):
    base = plain_sums(place, None, HELD_OUT)
    trained = np.array([sum(x != -100 for x in labels) for _, labels in HELD_OUT])
    for one, adapter in zip(found.held_out.comparisons, ("good", "bad"), strict=True):
        ours = plain_sums(place, adapter, HELD_OUT)
        assert one.base_loss == pytest.approx(base.sum() / trained.sum(), abs=1e-5)
        assert one.loss == pytest.approx(ours.sum() / trained.sum(), abs=1e-5)
        assert one.difference.value == pytest.approx((ours - base).sum() / trained.sum(), abs=1e-5)
        counted = trained > 0
        assert one.improved.value == pytest.approx(((ours - base)[counted] < 0).mean())
        assert one.documents == counted.sum()
        means = np.full(len(trained), np.nan)
        means[counted] = (ours - base)[counted] / trained[counted]
        assert [shown.doc_id for shown in one.worst[:3]] == np.argsort(-means)[:3].tolist()
        assert [shown.doc_id for shown in one.best[:3]] == np.argsort(means)[:3].tolist()
        assert one.worst[0].loss - one.worst[0].base_loss == pytest.approx(np.nanmax(means), abs=1e-5)
    control = found.control.comparisons[0]
    expected = plain_sums(place, "good", CONTROL).sum() - plain_sums(place, None, CONTROL).sum()
    tokens = sum(x != -100 for _, labels in CONTROL for x in labels)
    assert control.difference.value == pytest.approx(expected / tokens, abs=1e-5)


def test_extremes_have_their_texts_and_places(found):
    worst = found.held_out.comparisons[1].worst[0]
    ids, labels = HELD_OUT[worst.doc_id]
    trained = [f"w{x}" for x in labels if x != -100]
    assert worst.answer == " ".join(trained)
    assert worst.prompt == " ".join(f"w{x}" for x in ids[: len(ids) - len(trained)])
    assert worst.place == f"number {worst.doc_id + 1} of rows.jsonl"


def test_gates_ask_the_unfavorable_end(found):
    assert [gate.passed for gate in found.gates] == [True, False]
    assert not found.passed
    assert found.gates[1].sentence.startswith("worse: heldout < -9 failed: the upper end of the interval is")
    figures = found.figures("good")
    difference = figures["heldout"]
    for sign, end in (("<", difference.high), (">", difference.low)):
        inside, outside = (difference.value + end) / 2, end + (end - difference.value) / 2
        assert not judge(parse_gate(f"heldout {sign} {inside}"), "good", figures).passed
        assert judge(parse_gate(f"heldout {sign} {outside}"), "good", figures).passed
    assert judge(parse_gate("improved > 1%"), "good", figures).passed
    unknown = {"heldout": Interval(-5.0)}
    assert "too little data" in judge(parse_gate("heldout < 0"), "good", unknown).sentence


def test_what_will_not_be_measured_is_said_before_any_model_is_loaded(place):
    for gate, what in (
        ("heldou < 0", "'heldou' is measured"),
        ("control < 0", "'control' is measured"),
        ("x: heldout < 0", "no adapter named 'x'"),
        ("heldout = 0", "no gate"),
        ("heldout < 1.2.3", "no gate"),
    ):
        with pytest.raises(UsageError, match=what):
            evaluate(place / "packed", "no-such-model", [place / "good"], gates=[gate])


def test_the_command_writes_json_shows_a_screen_and_ends_with_1_at_a_gate(place, found):
    options = ["--dtype", "float32", "--no-probe", "--gate", "heldout < -5"]
    ended = run("eval", place / "packed", "-a", place / "good", "--json", *options)
    assert ended.returncode == 1
    assert "heldout < -5 failed: the upper end of the interval is" in ended.stderr
    data = json.loads(ended.stdout)
    only, expected = data["held_out"]["comparisons"][0], found.held_out.comparisons[0]
    assert only["difference"]["value"] == pytest.approx(expected.difference.value, abs=1e-6)
    assert data["gates"][0]["passed"] is False
    shown = run("eval", place / "packed", "-a", place / "good", "-q", "--split", "train", *options[:3])
    assert shown.returncode == 0
    assert "of packed" in shown.stdout
    assert "difference" in shown.stdout
    assert not shown.stderr


def test_rows_that_were_trained_on_are_no_held_out_rows(place, tmp_path):
    folder = save_adapter(place / "base", tmp_path / "a", seed=1)
    manifest = json.loads((place / "packed" / "manifest.json").read_text())
    (folder / "tokpack.json").write_text(json.dumps({"shards": manifest["shards"]}))
    told = Said()
    settings = EvalSettings(dtype="float32", split="train", probe=False, max_rows=2)
    seen = evaluate(place / "packed", place / "base", [folder], settings=settings, tell=told)
    assert any("trained on these rows" in note for note in seen.notes)
    assert seen.held_out.rows == 2
    assert any("intervals of so few" in note for note in seen.notes)


def test_wrong_values_name_flag_and_choice(place):
    for flags, what in (
        (["--split", "test"], "--split"),
        (["--dtype", "fp8"], "--dtype"),
        (["--base-weights", "int8"], "--base-weights"),
    ):
        ended = run("eval", place / "packed", "-a", place / "good", *flags)
        assert ended.returncode == 2
        assert what in ended.stderr
    ended = run("eval", place / "control", "-a", place / "good", "--split", "validation", "-q")
    assert "no validation part" in ended.stderr
