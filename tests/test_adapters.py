"""One base in memory and adapters beside it: each as PEFT alone has it, what does not belong refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from adapter_files import save_adapter
from peft import PeftModel
from trainer_rows import Said, save_tiny_model
from transformers import AutoModelForCausalLM

from tokpack.errors import UsageError
from trainer_plugin.adapters import loaded as adapters
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapter, read_adapters
from trainer_plugin.checkpoints.base_digest import base_digest

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base, and adapters of several forms."""
    folder = tmp_path_factory.mktemp("adapters")
    save_tiny_model(folder / "base")
    save_tiny_model(folder / "other", num_hidden_layers=1)
    save_adapter(folder / "base", folder / "math.v1", seed=1)
    save_adapter(folder / "base", folder / "code", seed=2, use_dora=True, target_modules=["q_proj"])
    return folder


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def alone(place, name):
    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    return logits(base if name is None else PeftModel.from_pretrained(base, str(place / name)).eval())


def test_base_and_adapters_in_one_model_answer_as_each_alone(place):
    loaded = load_adapted(place / "base", read_adapters([place / "math.v1", place / "code"]), dtype="float32")
    assert list(loaded.adapters) == ["math.v1", "code"]
    for name in (None, "code", "math.v1", None, "code"):
        with loaded.using(name) as model:
            assert torch.equal(logits(model), alone(place, name)), name


def test_what_takes_seconds_before_the_weights_is_done_under_their_name(place, monkeypatch):
    tell = Said()
    for name in ("settle_dtype", "load_tokenizer"):
        whole = getattr(adapters, name)
        said = lambda *args, whole=whole: (tell.lines.append(tell._tasks[-1].what), whole(*args))[1]  # noqa: E731
        monkeypatch.setattr(adapters, name, said)
    load_adapted(place / "base", dtype="float32", tell=tell)
    assert tell.lines.count(f"loading {place / 'base'}") == 2


def test_adapters_come_and_go_and_the_base_stands_alone_in_between(place):
    loaded = load_adapted(place / "base", dtype="float32")
    for _ in range(2):
        loaded.load(read_adapter(f"a={place / 'math.v1'}"))
        with loaded.using("a") as model:
            assert torch.equal(logits(model), alone(place, "math.v1"))
        loaded.load(read_adapter(place / "code"))
        loaded.unload("a")
        with loaded.using("code") as model:
            assert torch.equal(logits(model), alone(place, "code"))
        loaded.unload("code")
        with loaded.using(None) as model:
            assert torch.equal(logits(model), alone(place, None))
    with pytest.raises(UsageError, match="no adapter named 'a'"):
        loaded.unload("a")


def test_an_adapter_of_another_base_is_refused_and_leaves_nothing_behind(place):
    loaded = load_adapted(place / "other", dtype="float32")
    with pytest.raises(UsageError, match="'code' does not fit this base") as error:
        loaded.load(read_adapter(place / "code"))
    assert str(place / "base") in error.value.hint
    assert not loaded.adapters
    assert not hasattr(loaded.network, "peft_config")


def test_a_recorded_digest_or_vocabulary_of_another_base_is_refused(place, tmp_path):
    folder = save_adapter(place / "base", tmp_path / "a", seed=3)
    loaded = load_adapted(place / "base", dtype="float32")
    for provenance, what in (
        ({"base": {"digest": "0" * 64}}, "another base"),
        ({"tokenizer": {"vocab_sha256": "0" * 64}}, "another tokenizer"),
        ({"method": "qlora"}, "on 4 bits"),
    ):
        (folder / "tokpack.json").write_text(json.dumps(provenance))
        with pytest.raises(UsageError, match=what):
            loaded.load(read_adapter(folder))
    (folder / "tokpack.json").write_text(json.dumps({"base": {"digest": base_digest(place / "base")}}))
    loaded.load(read_adapter(folder))
    assert base_digest(place / "other") != base_digest(place / "base") != ""


def test_a_base_of_another_name_is_noted(place, tmp_path):
    save_adapter(place / "base", tmp_path / "a", seed=3, base_name="elsewhere/model")
    told = Said()
    load_adapted(place / "base", [read_adapter(tmp_path / "a")], dtype="float32", tell=told)
    assert any("names elsewhere/model as its base" in line for line in told.lines)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"init_lora_weights": "pissa"}, "starts as pissa"),
        ({"peft_type": "PREFIX_TUNING"}, "virtual tokens"),
    ],
)
def test_what_would_change_the_base_for_others_is_refused(place, tmp_path, change, what):
    folder = save_adapter(place / "base", tmp_path / "a", seed=3)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=what):
        read_adapter(folder)


def test_an_adapter_that_brings_biases_of_the_base_is_refused(place, tmp_path):
    """PEFT puts them into the base's own layers, where `disable_adapter` leaves them."""
    save_tiny_model(tmp_path / "base", attention_bias=True)
    save_adapter(tmp_path / "base", tmp_path / "biased", seed=1, bias="lora_only", target_modules=["q_proj"])
    with pytest.raises(UsageError, match="changes biases of the base for everybody") as caught:
        read_adapter(tmp_path / "biased")
    assert "convert-adapter" in str(caught.value.hint)
    save_adapter(place / "base", tmp_path / "none", seed=1, bias="lora_only", target_modules=["q_proj"])
    assert read_adapter(tmp_path / "none").name == "none"  # a base without biases


def test_folders_without_an_adapter_and_names_given_twice_are_said(place, tmp_path):
    with pytest.raises(UsageError, match="no adapter here"):
        read_adapter(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        read_adapter(place / "cod")
    with pytest.raises(UsageError, match="two adapters are named 'x'"):
        read_adapters([f"x={place / 'code'}", f"x={place / 'math.v1'}"])
    with pytest.raises(UsageError, match="no base model"):
        load_adapted(None)


def test_an_adapter_with_weights_that_the_base_has_no_place_for_is_refused(place, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_adapter(place / "base", tmp_path / "a", seed=3)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name.replace("layers.0", "layers.7"): tensors[name].clone()}, path)
    with pytest.raises(UsageError, match="has no place for 1 of its weights"):
        load_adapted(place / "base", [read_adapter(folder)], dtype="float32")


def test_a_qlora_adapter_gets_the_base_through_4_bits(place, tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = save_adapter(place / "base", tmp_path / "a", seed=3)
    (folder / "tokpack.json").write_text(json.dumps({"method": "qlora"}))
    adapter = read_adapter(folder)
    on_4_bits = load_adapted(place / "base", [adapter], dtype="float32")
    as_it_is = load_adapted(place / "base", [adapter], dtype="float32", base_weights="original")
    assert (on_4_bits.on_4_bits, as_it_is.on_4_bits) == (True, False)
    with as_it_is.using(None) as model:
        assert torch.equal(logits(model), alone(place, None))
    with on_4_bits.using(None) as model:
        difference = (logits(model) - alone(place, None)).abs().max()
    assert 0 < difference < alone(place, None).abs().max()
