"""Merged file by file or whole, adapter and base give the same weights, and the logits that were trained."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from trainer_rows import Said, save_tiny_model, tiny_llama
from transformers import AutoModelForCausalLM

from tokpack.errors import OutputError, VerifyError
from trainer_plugin import Recipe, load_recipe, prepare_lora
from trainer_plugin.adapters import convert, merge
from trainer_plugin.adapters.merge import compare_logits, merge_dequantized
from trainer_plugin.adapters.qlora import load_model

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model of several safetensors files."""
    folder = tmp_path_factory.mktemp("base")
    save_tiny_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="80KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def adapter_on(base: Path, folder: Path, recipe: Recipe) -> Path:
    """An adapter with weights that matter, and its recipe, as `tokpack train` saves them."""
    model = prepare_lora(load_model(base, recipe), recipe)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, mean=float("magnitude" in name), std=0.1)
    model.save_pretrained(folder)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return folder


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits.float()


KINDS = {
    "qlora": {"method": "qlora", "dtype": "bfloat16"},
    "qlora-fp32": {"method": "qlora", "dtype": "float32"},
    "qlora-dora": {"method": "qlora", "dtype": "bfloat16", "lora": {"use_dora": True, "r": 4}},
    "qlora-some": {
        "method": "qlora",
        "dtype": "bfloat16",
        "lora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    },
    "lora": {"method": "lora", "dtype": "float32"},
    "lora-ranks": {
        "method": "lora",
        "dtype": "bfloat16",
        "lora": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}},
    },
    "lora-eva": {"method": "lora", "dtype": "float32"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_file_by_file_gives_the_weights_of_merging_the_whole_model_bit_for_bit(
    base, tmp_path, kind, monkeypatch
):
    recipe = load_recipe(**KINDS[kind])
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    if kind == "lora-eva":
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "eva"}))
    merge._merge_whole(str(base), adapter, tmp_path / "whole", recipe)
    with monkeypatch.context() as patched:
        patched.setattr(merge, "load_model", None)  # the whole model is never in memory
        merge_dequantized(adapter, tmp_path / "files")
    names = sorted(path.name for path in base.glob("*.safetensors"))
    assert sorted(path.name for path in (tmp_path / "files").glob("*.safetensors")) == names
    whole, files = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto") for name in ("whole", "files")
    )
    assert whole.dtype == files.dtype
    for (name, one), (_, other) in zip(whole.state_dict().items(), files.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    name = "model.layers.0.self_attn.q_proj.weight"
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype="auto").state_dict()[name]
    assert not torch.equal(files.state_dict()[name], untouched)


def test_the_merged_model_answers_as_the_quantized_one_with_its_adapter(base, tmp_path):
    recipe = load_recipe(method="qlora", dtype="float32")
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    tell = Said()
    merge_dequantized(adapter, tmp_path / "merged", check=True, tell=tell)
    assert "100.0% the same first choice" in tell.lines[-1]
    expected = logits(PeftModel.from_pretrained(load_model(base, recipe), str(adapter)))
    got = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_merge_that_is_interrupted_leaves_nothing_in_the_way_of_the_next(base, tmp_path, monkeypatch):
    adapter = adapter_on(base, tmp_path / "adapter", load_recipe(method="lora", dtype="float32"))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "compare_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge_dequantized(adapter, tmp_path / "merged", check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    merge_dequantized(adapter, tmp_path / "merged")


def test_a_full_disk_is_not_taken_for_an_adapter_that_does_not_fit(base, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    adapter = adapter_on(base, tmp_path / "adapter", load_recipe(method="lora"))
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="cannot write: No space left on device"):
        merge_dequantized(adapter, tmp_path / "merged", model=base)


def test_merged_into_the_original_weights_it_is_another_model_than_was_trained(base, tmp_path):
    recipe = load_recipe(method="qlora", dtype="float32")
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    merge_dequantized(adapter, tmp_path / "original", original=True, check=True)
    got = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "original"))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    trained = PeftModel.from_pretrained(load_model(base, recipe), str(adapter))
    assert (got - logits(plain)).abs().max() < 1e-4 * got.abs().max()
    assert (got - logits(trained)).abs().max() > 1e-2 * got.abs().max()


def test_an_adapter_with_a_retrained_head_is_merged_in_the_whole_model(base, tmp_path):
    recipe = load_recipe(method="lora", dtype="float32", lora={"modules_to_save": ["lm_head"]})
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    merge_dequantized(adapter, tmp_path / "merged", check=True)
    assert [path.name for path in (tmp_path / "merged").glob("*.safetensors")] == ["model.safetensors"]


def test_an_adapter_that_changed_its_base_at_the_start_is_merged_in_the_whole_model(base, tmp_path):
    lora = {"init_lora_weights": "pissa", "r": 4}
    recipe = load_recipe(method="lora", dtype="float32", lora=lora)
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    tell = Said()
    merge_dequantized(adapter, tmp_path / "merged", check=True, tell=tell)
    assert "100.0% the same first choice" in tell.lines[-1]


def test_the_comparison_sees_a_weight_that_was_not_merged(base, tmp_path):
    recipe = load_recipe(method="qlora", dtype="bfloat16")
    adapter = adapter_on(base, tmp_path / "adapter", recipe)
    merge_dequantized(adapter, tmp_path / "merged")
    name = "model.layers.1.mlp.down_proj.weight"
    for path in (tmp_path / "merged").glob("*.safetensors"):
        weights = load_file(path)
        if name in weights:
            weights[name] = tiny_llama(hidden_size=64, intermediate_size=128).state_dict()[name].bfloat16()
            save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(VerifyError, match="the merged model is another one"):
        compare_logits(str(base), adapter, tmp_path / "merged", recipe)


def test_a_model_that_makes_much_of_rounding_is_merged_all_the_same(tmp_path):
    """Eight layers of large weights turn the rounding of bfloat16 into more than other models do."""
    save_tiny_model(tmp_path / "base", num_hidden_layers=8, initializer_range=0.2)
    adapter = adapter_on(
        tmp_path / "base", tmp_path / "adapter", load_recipe(method="qlora", dtype="bfloat16")
    )
    tell = Said()
    merge_dequantized(adapter, tmp_path / "merged", check=True, tell=tell)
    assert float(tell.lines[-1].split()[2]) > merge.TOLERANCE[torch.bfloat16]


def test_a_conversion_compares_one_model_after_the_other(base, tmp_path, monkeypatch):
    recipe = load_recipe(method="lora", dtype="float32")
    folder, alive = adapter_on(base, tmp_path / "adapter", recipe), []
    load = convert._in_fp32

    def counted(name):
        assert not any(model() is not None for model in alive)
        model = load(name)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(convert, "_in_fp32", counted)
    convert._compare(str(base), folder, folder)
    assert len(alive) == 2
