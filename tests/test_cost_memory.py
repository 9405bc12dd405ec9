"""The memory model against what autograd really keeps, and against the peak of a real training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_samples import LLAMA_8B

from tokpack.cost import Method, ModelShape, find_gpu, fits, load_gpus, memory
from tokpack.cost.gpus import GIB, Gpu
from tokpack.cost.memory import CHUNK_BYTES, activation_bytes, nf4_bytes, weight_bytes

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA_3_8B = ModelShape.from_config(LLAMA_8B)
FP32_LORA = Method(kind="lora", rank=8, weights="fp32", compute_bytes=4)
METHODS = {
    "fp32 lora": FP32_LORA,
    "bf16 lora under autocast": Method(kind="lora", rank=8),
    "nf4 lora under autocast": Method(kind="qlora", rank=8),
    "fp32 full": Method(kind="full", weights="fp32", compute_bytes=4),
    "bf16 full": Method(kind="full", weights="bf16"),
}


def make_model(model_type: str, layers: int, method: Method) -> Any:
    """A small random model, prepared as training does it."""
    import torch
    import transformers

    from trainer_plugin.adapters.qlora import load_model, prepare_lora
    from trainer_plugin.recipe import Recipe

    config = transformers.AutoConfig.for_model(
        model_type, **SMALL, num_hidden_layers=layers, attn_implementation="sdpa"
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(torch.float32 if method.base_weights == "fp32" else torch.bfloat16)
    recipe = Recipe(
        method=method.kind, dtype="bfloat16", gradient_checkpointing=False, lora={"r": method.rank}
    )
    if method.kind == "qlora":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = load_model(folder, recipe)
    return (prepare_lora(model, recipe) if method.adapts else model).train()


def kept_bytes(model_type: str, layers: int, method: Method, tokens: int) -> int:
    """Bytes that autograd keeps for the backward pass of a real model, each storage once, weights aside."""
    import torch

    from trainer_plugin.adapters.qlora import adapted_layers, inputs_as_they_are

    model = make_model(model_type, layers, method)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}
    alive = []  # a storage freed early could give its address to another

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.randint(3, 900, (1, tokens))
    whole = torch.ones_like(ids)  # else transformers before 5 makes a mask, which sdpa keeps in each layer
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=method.adapts and method.compute_bytes == 2)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with hooks, inputs_as_they_are(adapted_layers(model), autocast=True), autocast:
        output = model(input_ids=ids, attention_mask=whole, labels=ids, use_cache=False)
    assert output.loss.isfinite()
    return sum(sizes.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_activations_are_what_autograd_keeps(model_type: str, name: str) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    method, tokens = METHODS[name], 500
    # The difference of two depths leaves layers alone: no logits, no embeddings.
    small, large = (kept_bytes(model_type, layers, method, tokens) for layers in (2, 4))
    shape = ModelShape.from_config({**SMALL, "model_type": model_type, "num_hidden_layers": 2})
    assert activation_bytes(shape, method) == pytest.approx((large - small) / tokens, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model_type", ["qwen2", "gemma3_text", "gpt_neox"])
def test_activations_of_other_families_are_within_sixteen_percent(model_type: str, name: str) -> None:
    pytest.importorskip("peft")
    method, tokens = METHODS[name], 500
    small, large = (kept_bytes(model_type, layers, method, tokens) for layers in (2, 4))
    values = {k: v for k, v in SMALL.items() if model_type != "gpt_neox" or k != "num_key_value_heads"}
    shape = ModelShape.from_config({**values, "model_type": model_type, "num_hidden_layers": 2})
    assert activation_bytes(shape, method) == pytest.approx((large - small) / tokens, rel=0.16)


def test_nf4_costs_half_a_byte_and_its_scales() -> None:
    assert nf4_bytes(double_quant=False) == 0.5 + 4 / 64
    assert nf4_bytes(double_quant=True) == pytest.approx(0.515869, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("double_quant", [False, True])
def test_nf4_bytes_are_those_that_bitsandbytes_allocates(double_quant: bool) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes").functional
    weights = torch.randn(1024, 1024)
    packed, state = functional.quantize_4bit(
        weights, blocksize=64, compress_statistics=double_quant, quant_type="nf4"
    )
    size = packed.nbytes + state.absmax.nbytes
    if double_quant:
        size += state.state2.absmax.nbytes
    assert size == weights.numel() * nf4_bytes(double_quant=double_quant)


def test_embeddings_and_head_stay_16_bit_under_nf4() -> None:
    shape, outside = LLAMA_3_8B, 2 * 128256 * 4096
    assert weight_bytes(shape, Method(kind="lora")) == 2 * shape.total_params
    nf4 = weight_bytes(shape, Method(kind="qlora"))
    assert nf4 == pytest.approx(shape.matrix_params * nf4_bytes(double_quant=True) + 2 * outside)
    int8 = weight_bytes(shape, Method(kind="lora", weights="int8"))
    assert int8 == pytest.approx(shape.matrix_params + 2 * outside, rel=0.001)
    assert weight_bytes(shape, Method(kind="qlora"), head_bytes=4) == nf4 + 2 * outside


def test_full_training_pays_sixteen_bytes_a_parameter_in_fp32() -> None:
    need = memory(LLAMA_3_8B, 0, method=Method(kind="full", weights="fp32", compute_bytes=4))
    states = need.weights + need.gradients + need.optimizer
    assert states == 16 * LLAMA_3_8B.total_params
    assert need.adapter == 0


def test_tied_embeddings_hold_three_gradients_before_they_add_up() -> None:
    method = Method(kind="full", weights="fp32", compute_bytes=4)
    tied, untied = (replace(LLAMA_3_8B, tied=tied) for tied in (True, False))
    one = 4 * 128256 * 4096
    for shape, copies in ((tied, 3), (untied, 1)):
        need = memory(shape, 1, method=method)
        assert copies * one <= need.scratch + need.activations + need.logits <= copies * one * 1.01
    assert memory(tied, 8192, method=method).scratch == 0  # the logits and activations take more
    assert memory(tied, 1).scratch == 0  # frozen
    whole = memory(untied, 8192, method=method, checkpointing=True, loss="whole")
    cut = memory(untied, 8192, method=method, checkpointing=True, loss="chunked")
    assert whole.scratch == 0
    assert cut.activations + cut.logits + cut.scratch > 4 * 4096 * 32 * 8192 + 3 * one


def test_an_adapter_trains_alone() -> None:
    need = memory(LLAMA_3_8B, 1024, method=Method(kind="qlora", rank=16))
    assert need.adapter == need.gradients == 4 * LLAMA_3_8B.lora_params(16)
    assert need.optimizer == 2 * need.adapter
    paged = memory(LLAMA_3_8B, 1024, method=Method(kind="qlora", optimizer="paged_adamw_8bit"))
    assert paged.optimizer == 0
    assert paged.pageable == pytest.approx(LLAMA_3_8B.lora_params(16) * 2.03125)


def test_logits_are_what_the_loss_holds_of_them() -> None:
    count, fp32 = 128256 * 4096, Method(kind="lora", weights="fp32", compute_bytes=4)
    assert memory(LLAMA_3_8B, 4096, loss="fused").logits == 0
    assert memory(LLAMA_3_8B, 4096, loss="whole").logits == (3 * 4 + 2) * count
    assert memory(LLAMA_3_8B, 4096, loss="whole", method=fp32).logits == 3 * 4 * count
    assert memory(LLAMA_3_8B, 4096).logits == memory(LLAMA_3_8B, 4096, loss="copied").logits == 18 * count


def test_the_chunked_loss_is_whole_up_to_a_size_and_grows_by_states_beyond() -> None:
    def chunked(tokens: int) -> float:
        return memory(LLAMA_3_8B, tokens, loss="chunked").logits

    small = CHUNK_BYTES // 4 // 128256
    assert chunked(small) == memory(LLAMA_3_8B, small, loss="whole").logits
    assert chunked(8192) - chunked(4096) == 3 * 2 * 4096 * 4096
    assert chunked(32768) < 2 * 2**30 < memory(LLAMA_3_8B, 32768, loss="whole").logits / 25


LONGEST = {12: 932, 16: 2551, 24: 5789, 40: 12264, 48: 15502, 80: 28454}
"""GiB -> tokens: QLoRA of rank 32 on Llama 3.1 8B, batch 1, Hugging Face with flash-attention, as Unsloth
publishes it: https://unsloth.ai/docs/basics/unsloth-benchmarks"""


@pytest.mark.parametrize("size", LONGEST)
def test_the_longest_row_errs_on_the_safe_side_of_a_published_table(size: int) -> None:
    gpu = Gpu(key="card", tflops=1, memory_gb=size, reported_gib=size)
    found = fits(LLAMA_3_8B, gpu, 512, method=Method(kind="qlora", rank=32), checkpointing=True, head_bytes=4)
    assert 0.85 * LONGEST[size] < found.max_tokens < LONGEST[size]


def test_seventy_billion_parameters_too() -> None:
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256}
    shape = ModelShape.from_config({"model_type": "llama", **sizes, **heads})
    gpu = Gpu(key="card", tflops=1, memory_gb=80, reported_gib=80)
    found = fits(shape, gpu, 512, method=Method(kind="qlora", rank=32), checkpointing=True, head_bytes=4)
    assert 0.85 * 6916 < found.max_tokens < 6916


def test_cards_have_the_memory_that_their_drivers_report() -> None:
    gpus = load_gpus()
    assert gpus["T4"].reported_bytes == 14.75 * GIB
    assert 22 * 0.99 * GIB < gpus["A10"].reported_bytes < 22.5 * GIB
    assert all(0.9 <= gpu.reported_bytes / gpu.memory_bytes <= 0.98 for gpu in gpus.values())


def test_checkpointing_keeps_a_hidden_state_a_layer() -> None:
    need = memory(LLAMA_3_8B, 2048, checkpointing=True)
    assert need.activations == 2 * 4096 * 32 * 2048  # its one live layer is smaller than the logits
    assert need.total < memory(LLAMA_3_8B, 2048).total
    assert memory(LLAMA_3_8B, 2048, checkpointing=True, loss="fused").activations > need.activations
    kbit = memory(LLAMA_3_8B, 2048, checkpointing=True, head_bytes=4)
    assert kbit.activations == 2 * need.activations  # embeddings in fp32: so are the states


def test_figures_name_what_is_computed_and_what_assumed() -> None:
    figures = memory(LLAMA_3_8B, 1024).figures()
    assert figures["weights"].source == "computed"
    assert figures["overhead"].source == figures["total"].source == "assumed"
    parts = sum(figure.value for name, figure in figures.items() if name != "total")
    assert parts == pytest.approx(figures["total"].value)


def test_fits_finds_the_largest_micro_batch_exactly() -> None:
    gpu, method = find_gpu("RTX-4090"), Method(kind="qlora")
    for checkpointing in (False, True):
        fit = fits(LLAMA_3_8B, gpu, 1024, method=method, checkpointing=checkpointing)
        assert fit.fits
        assert fit.advice == ()
        here, beyond = (
            memory(LLAMA_3_8B, fit.max_tokens + more, method=method, checkpointing=checkpointing).total
            for more in (0, 1)
        )
        assert here <= fit.usable < beyond


def test_advice_names_changes_that_really_fit() -> None:
    fit = fits(LLAMA_3_8B, find_gpu("T4"), 4096, method=Method(kind="lora"), loss="chunked")
    assert not fit.fits
    assert fit.max_tokens == 0
    assert any(r.do.startswith("QLoRA with gradient checkpointing") for r in fit.advice)
    assert any("A100-80GB" in remedy.do for remedy in fit.advice)
    qlora = fits(
        LLAMA_3_8B, find_gpu("T4"), 4096, method=Method(kind="qlora"), checkpointing=True, loss="chunked"
    )
    assert qlora.fits


def test_a_model_no_card_holds_is_told_to_shard() -> None:
    shape = ModelShape.from_config({**SMALL, "hidden_size": 32768, "intermediate_size": 131072,
                                    "num_hidden_layers": 100, "model_type": "llama"})  # fmt: skip
    fit = fits(shape, load_gpus()["B200"], 2048, method=Method(kind="full"))
    assert "shard the model" in fit.advice[-1].do


PEAK = """
import gc, json, os, sys, torch
sys.modules.update(bitsandbytes=None, boto3=None, scipy=None)  # loaded where they are installed, for nothing
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
torch.set_num_threads(1)
folder, layers, peaks = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
def measure(kind, settings):
    size = {"num_hidden_layers": layers}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **size).train()
    for p in model.parameters():
        p.data = p.data.clone()  # out of the memory-mapped file
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.enable_input_require_grads()
    def backward(rows, tokens):
        ids = torch.randint(3, 49000, (rows, tokens))
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    backward(1, 8)  # libraries and buffers of the runtime
    model.zero_grad(set_to_none=True)
    gc.collect()
    before = status("VmRSS")
    def peak(rows, tokens, checkpointing):
        if checkpointing:
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()
        model.zero_grad(set_to_none=True)
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for shape in ((1, 8), (rows, tokens)):  # the first makes the optimizer's states
            backward(*shape)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        return status("VmHWM") - before
    return [peak(*setting) for setting in settings]
for kind, settings in peaks.items():
    if os.fork() == 0:  # each from the same beginning
        print(json.dumps([kind, measure(kind, settings)]), flush=True)
        os._exit(0)
    os.wait()
"""
LAYERS = 3
"""Of the model's thirty: the rest only repeats them."""
PEAKS = {
    "lora": [(1, 128, False), (1, 384, True)],
    "full": [(1, 128, False), (1, 384, True)],
}
"""Kind -> rows of a micro-batch, tokens of each, gradient checkpointing."""


@pytest.fixture(scope="module")
def peaks(smollm2: Path) -> dict[str, list[int]]:
    """Growth of the resident peak over the loaded model, in bytes; kinds and settings as in PEAKS."""
    pytest.importorskip("peft")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is reset through /proc")
    # glibc returns freed blocks at once, so that the peak is the model's and not the allocator's.
    settings = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(smollm2), str(LAYERS), json.dumps(PEAKS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
    return dict(map(json.loads, run.stdout.splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEAKS)
def test_peak_of_two_real_steps_is_within_fifteen_percent(
    smollm2: Path, peaks: dict[str, list[int]], kind: Any
) -> None:
    """Layers of SmolLM2-135M in fp32 on the CPU."""
    config = json.loads((smollm2 / "config.json").read_text(encoding="utf-8"))
    shape = ModelShape.from_config(config | {"num_hidden_layers": LAYERS})
    method = Method(kind=kind, weights="fp32", compute_bytes=4)
    for (rows, tokens, checkpointing), measured in zip(PEAKS[kind], peaks[kind], strict=True):
        need = memory(shape, rows * tokens, method=method, checkpointing=checkpointing, loss="whole")
        predicted = need.total - need.overhead - need.weights - need.adapter
        setting = f"{kind}, {rows} x {tokens} tokens, checkpointing {checkpointing}"
        print(f"{setting}: measured {measured / 1e6:.0f} MB, predicted {predicted / 1e6:.0f} MB")
        assert predicted == pytest.approx(measured, rel=0.15), setting
