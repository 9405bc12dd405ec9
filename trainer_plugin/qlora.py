"""Adapters: LoRA and QLoRA by PEFT and bitsandbytes, with what they need to be right, on CPU too.

QLoRA here is NF4 with double quantisation, bf16 computation, LoRA on all linear layers. Adapters trained on a
4-bit base belong to the *dequantised* base: merged into it the logits agree to rounding; merged into 4-bit,
or moved to the original full-precision weights, they do not. `merge_dequantized` makes that base.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokpack.errors import UsageError, near_matches

if TYPE_CHECKING:
    from trainer_plugin.recipe import Recipe

PROVENANCE = "tokpack.json"
RECIPE = "recipe.toml"
LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def quantization_config(compute_dtype: Any = None) -> Any:
    """NF4, double quantisation, computing in `compute_dtype` (bfloat16 when not given)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype or torch.bfloat16,
    )


def load_model(model: str | Path, recipe: Recipe) -> Any:
    """Base model for a recipe: 4-bit for qlora, in `recipe.dtype` otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype: Any = recipe.dtype
    if dtype == "auto" and recipe.method != "full":
        dtype = "bfloat16"
    dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if recipe.method == "qlora":
        _need("bitsandbytes")
        options["quantization_config"] = quantization_config(None if dtype == "auto" else dtype)
    if torch.cuda.is_available():
        from accelerate import PartialState

        options["device_map"] = {"": PartialState().local_process_index}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(str(model), **options)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            where=f"--model {model}",
            hint="give a folder with config.json and weights, or a model name on the hub",
        ) from None
    repair_linear4bit(loaded)
    return loaded


def repair_linear4bit(model: Any) -> int:
    """Keep bitsandbytes' 4-bit layers differentiable on CPUs with AVX512-BF16; returns the layers changed.

    There, one forward pass in evaluation mode repacks `Linear4bit` weights into a form without a backward:
    from then on most LoRA gradients are zero while the loss looks normal, and a merge yields garbage (seen
    with bitsandbytes 0.50.2). Call right after loading, before any forward pass.
    """
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError:
        return 0
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def prepare_lora(model: Any, recipe: Recipe) -> Any:
    """The model with a trainable LoRA adapter; k-bit preparation first when it is quantised.

    `recipe.lora` goes to `peft.LoraConfig`. Raises UsageError for a key that it does not know.
    """
    _need("peft")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    known = set(LoraConfig.__dataclass_fields__)
    for name in recipe.lora:
        if name not in known:
            raise UsageError(f"unknown key {name!r}", where="[lora]", hint=near_matches(name, known))
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        repair_linear4bit(model)
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=recipe.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    elif recipe.gradient_checkpointing:
        model.enable_input_require_grads()
    config = LoraConfig(task_type="CAUSAL_LM", **{**LORA_DEFAULTS, **recipe.lora})
    return get_peft_model(model, config)


def save_result(
    trainer: Any, out: str | Path, recipe: Recipe, *, artefact: Any, tokenizer: Any = None
) -> Path:
    """Write the adapter (or full model), its recipe, and the fingerprint of the artefact behind it.

    All processes call it: a sharded model is gathered.
    """
    out = Path(out)
    trainer.save_model(str(out))
    if not trainer.is_world_process_zero():
        return out
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    (out / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
    (out / PROVENANCE).write_text(
        json.dumps(provenance(artefact, recipe), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    return out


def provenance(artefact: Any, recipe: Recipe) -> dict[str, Any]:
    """What ties a trained model to its data: versions, digests of tokenizer and shards, rows and tokens."""
    from importlib.metadata import version

    manifest = artefact.manifest
    return {
        "tokpack_version": manifest["tokpack_version"],
        "tokenizer": manifest["tokenizer"],
        "shards": manifest["shards"],
        "capacity": manifest["capacity"],
        "rows": len(artefact),
        "tokens": int(artefact.row_tokens().sum()),
        "method": recipe.method,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def merge_dequantized(adapter: str | Path, out: str | Path, *, model: str | Path | None = None) -> Path:
    """Merge a trained adapter into its base and save a plain model that needs no PEFT.

    A QLoRA adapter is merged into the dequantised 4-bit base it was trained on (logits agree to rounding); a
    LoRA adapter into the base as it was loaded. `model` replaces the base named in the adapter.
    """
    _need("peft")
    from peft import PeftConfig, PeftModel
    from transformers import AutoTokenizer

    from trainer_plugin.recipe import Recipe, load_recipe

    adapter, out = Path(adapter), Path(out)
    if not (adapter / "adapter_config.json").is_file():
        raise UsageError(
            "no adapter here: adapter_config.json is missing",
            where=str(adapter),
            hint="give the folder that `tokpack train -o` wrote",
        )
    recipe = load_recipe(adapter / RECIPE) if (adapter / RECIPE).is_file() else Recipe(method="lora")
    base_name = str(model or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    base = load_model(base_name, recipe)
    if recipe.method == "qlora":
        base = base.dequantize()
        base = base.to(base.get_input_embeddings().weight.dtype)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    forget_quantization(merged)
    merged.save_pretrained(str(out))
    AutoTokenizer.from_pretrained(base_name).save_pretrained(str(out))
    return out


def forget_quantization(model: Any) -> None:
    """Make a dequantised model save as a plain one."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_loaded_in_4bit = False
    model.is_quantized = False
    model.hf_quantizer = None


def _need(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise UsageError(f"{package} is not installed", hint='pip install "tokpack[train]"')
