"""dtype = "auto": bfloat16 only where the device is fast at it, decided by what it is, and said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import (
    LENGTHS,
    Said,
    make_documents,
    needs_packed_trainer,
    save_tiny_model,
    tiny_llama,
    write_packed,
)

from trainer_plugin import Recipe, dtypes, load_recipe
from trainer_plugin.adapters.qlora import adapted_layers, inputs_as_they_are
from trainer_plugin.dtypes import (
    frozen_dtype,
    probed_dtype,
    settle_dtype,
    stored_dtype,
    trained_dtype,
)
from trainer_plugin.recipe import mixed_precision, training_arguments

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def cpu(monkeypatch, slowness, units=True):
    """A CPU whose 16-bit products take `slowness` times as long as fp32 ones."""
    monkeypatch.setattr(dtypes, "training_device", lambda: "cpu")
    monkeypatch.setattr(dtypes, "_slowness", lambda dtype, kind: slowness)
    monkeypatch.setattr(dtypes, "_has_units", lambda: units)


def gpu(monkeypatch, name, capability):
    monkeypatch.setattr(dtypes, "training_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=capability[0]))


def test_a_cpu_without_bf16_units_takes_fp32_for_every_method_and_says_how_slow_the_other_is(monkeypatch):
    cpu(monkeypatch, 60.0)
    assert frozen_dtype().dtype == trained_dtype(BF16).dtype == probed_dtype(BF16).dtype == FP32
    assert str(frozen_dtype()) == "float32: bfloat16 takes 60.0 times as long as float32 on this CPU"
    assert probed_dtype(FP16).dtype == FP32


def test_a_cpu_with_bf16_units_takes_bf16_unless_the_model_to_be_trained_is_stored_in_fp32(monkeypatch):
    cpu(monkeypatch, 0.5)
    assert frozen_dtype().dtype == trained_dtype(BF16).dtype == trained_dtype(FP16).dtype == BF16
    assert trained_dtype(FP32).dtype == trained_dtype(None).dtype == FP32
    assert [probed_dtype(own).dtype for own in (BF16, FP16, FP32)] == [BF16, FP16, FP32]


def test_emulation_that_happens_to_be_no_slower_is_not_taken_so_that_two_runs_take_the_same(monkeypatch):
    cpu(monkeypatch, 1.0, units=False)
    assert str(frozen_dtype()) == "float32: this CPU has no units for bfloat16"


def test_cuda_devices_are_asked_and_the_old_ones_get_fp16_for_adapters_and_fp32_for_the_rest(monkeypatch):
    gpu(monkeypatch, "NVIDIA A10", (8, 6))
    assert frozen_dtype().dtype == trained_dtype(BF16).dtype == BF16
    gpu(monkeypatch, "Tesla T4", (7, 5))
    assert str(frozen_dtype()) == "float16: Tesla T4 has no bfloat16 units"
    assert probed_dtype(BF16).dtype == probed_dtype(FP16).dtype == FP16
    assert trained_dtype(BF16).dtype == trained_dtype(FP16).dtype == FP32
    gpu(monkeypatch, "NVIDIA GTX 1080", (6, 1))
    assert frozen_dtype().dtype == FP32


def test_an_adapter_on_16_bit_weights_multiplies_in_16_bits_unless_another_precision_is_chosen(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)  # Accelerator leaves it behind
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert mixed_precision(Recipe(dtype="float16")) == mixed_precision(Recipe(dtype="bfloat16")) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert mixed_precision(Recipe(dtype="float16")) == "fp16"  # with a scaled loss
    assert mixed_precision(Recipe(dtype="bfloat16", method="lora")) == "bf16"
    assert mixed_precision(Recipe(dtype="float32")) == ""
    for dtype in ("float16", "bfloat16"):
        assert mixed_precision(Recipe(dtype=dtype, method="full")) == ""
        assert mixed_precision(Recipe(dtype=dtype, trainer={"bf16": False})) == ""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert mixed_precision(Recipe(dtype="float16")) == ""


def test_batches_go_to_a_gpu_without_the_host_waiting_for_them(monkeypatch, tmp_path):
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        arguments = training_arguments(Recipe(dtype="float32", trainer={"use_cpu": True}), tmp_path)
        assert arguments.accelerator_config.non_blocking is gpu


def test_this_machine_is_measured_once_and_gives_one_answer(monkeypatch):
    dtypes._slowness.cache_clear()
    first = frozen_dtype("cpu")
    monkeypatch.setattr(torch.nn.functional, "linear", None)  # no second measurement
    assert frozen_dtype("cpu") == first
    assert first.dtype in (BF16, FP32)


def test_a_dtype_that_was_asked_for_stays_with_a_warning_where_it_is_slow(monkeypatch):
    cpu(monkeypatch, 60.0)
    recipe, choice = settle_dtype(Recipe(dtype="bfloat16"), "nowhere")
    assert recipe.dtype == "bfloat16"
    assert str(choice).startswith("bfloat16: as asked for; slow here: bfloat16 takes 60.0 times as long")
    assert str(settle_dtype(Recipe(dtype="float32"), "nowhere")[1]) == "float32: as asked for"
    cpu(monkeypatch, 0.5)
    assert str(settle_dtype(Recipe(dtype="bfloat16"), "nowhere")[1]) == "bfloat16: as asked for"


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_the_dtype_of_a_model_is_read_from_its_configuration(tmp_path, dtype):
    tiny_llama().to(dtype).save_pretrained(tmp_path)
    assert stored_dtype(tmp_path) == dtype
    assert stored_dtype(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("slowness", "dtype"), [(60.0, FP32), (0.5, BF16)])
def test_weights_and_four_bit_arithmetic_take_the_dtype_that_is_fast(tmp_path, monkeypatch, slowness, dtype):
    pytest.importorskip("bitsandbytes")
    from trainer_plugin.adapters.qlora import load_model, quantization_config

    cpu(monkeypatch, slowness)
    save_tiny_model(tmp_path)
    model = load_model(tmp_path, Recipe())
    layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert {layer.compute_dtype for layer in layers} == {dtype}
    assert model.get_input_embeddings().weight.dtype == dtype
    assert load_model(tmp_path, Recipe(method="lora")).dtype == dtype
    assert load_model(tmp_path, Recipe(method="full")).dtype == FP32  # as it is stored
    assert quantization_config().bnb_4bit_compute_dtype == dtype


@pytest.mark.slow
def test_a_run_says_its_dtype_and_the_recipe_it_saves_names_it(tmp_path, monkeypatch):
    needs_packed_trainer()
    from trainer_plugin.adapters.merge import merge_dequantized
    from trainer_plugin.training.run import run_training

    cpu(monkeypatch, 60.0)
    save_tiny_model(tmp_path / "model")
    write_packed(tmp_path / "packed", make_documents(LENGTHS), 64)
    tell = Said()
    recipe = load_recipe(method="lora", max_steps=1)
    run_training(tmp_path / "packed", tmp_path / "model", recipe, tmp_path / "out", tell=tell)
    assert "dtype float32: bfloat16 takes 60.0 times as long as float32 on this CPU" in tell.lines
    assert load_recipe(tmp_path / "out" / "recipe.toml").dtype == "float32"
    cpu(monkeypatch, 0.5)  # merged on another machine, the weights are those that were trained
    merge_dequantized(tmp_path / "out", tmp_path / "merged")
    assert stored_dtype(tmp_path / "merged") == FP32


def test_verify_probes_a_bf16_model_in_fp32_where_bf16_is_slow(tmp_path, monkeypatch):
    from trainer_plugin.isolation.verify import verify_model

    cpu(monkeypatch, 60.0)
    save_tiny_model(tmp_path / "model")
    tiny_llama(hidden_size=64, intermediate_size=128).to(BF16).save_pretrained(tmp_path / "model")
    write_packed(tmp_path / "packed", make_documents(LENGTHS), 64)
    found = verify_model(tmp_path / "packed", tmp_path / "model", attn="sdpa")
    assert found.reports["sdpa"].dtype == "float32"
    assert found.advice[0] == "probed in float32: bfloat16 takes 60.0 times as long as float32 on this CPU"


def test_mixed_precision_that_is_slow_here_is_told(tmp_path, monkeypatch):
    from trainer_plugin.training.run import _precision_line

    needs_packed_trainer()
    cpu(monkeypatch, 60.0)
    slow = training_arguments(Recipe(trainer={"bf16": True}), tmp_path)
    assert "mixed precision bf16" in _precision_line(slow)
    assert _precision_line(training_arguments(Recipe(), tmp_path)) == ""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_inputs_that_lora_takes_as_they_are_give_the_same_bits(checkpointing):
    peft = pytest.importorskip("peft")
    losses, gradients, kept = [], [], []
    for uncast in (False, True):
        model = tiny_llama("sdpa").to(BF16)
        model = peft.get_peft_model(
            model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
        )
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids, sizes = torch.arange(3, 60)[None], {}
        model.train()

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with inputs_as_they_are(adapted_layers(model), uncast):
            hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
            with hooks, torch.autocast("cpu", BF16):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
        layers = [one for one in model.modules() if hasattr(one, "cast_input_dtype_enabled")]
        assert layers
        assert all(layer.cast_input_dtype_enabled for layer in layers)  # as it was
        losses.append(loss.detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        kept.append(sum(sizes.values()))
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert checkpointing or kept[1] < 0.9 * kept[0]
