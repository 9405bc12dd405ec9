"""Adapters: LoRA and QLoRA by PEFT and bitsandbytes, with what they need to be right, on CPU too.

QLoRA here is NF4 with double quantization, computing in the dtype that the device is fast at
(`trainer_plugin.dtypes`), LoRA on all linear layers. Adapters trained on a
4-bit base belong to the *dequantized* base: `trainer_plugin.adapters.merge`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokpack.errors import UsageError, near_matches
from tokpack.files.durable import write_durably
from trainer_plugin.checkpoints.adapter_folder import PROVENANCE, RECIPE
from trainer_plugin.checkpoints.base_digest import base_digest
from trainer_plugin.extras import need
from trainer_plugin.models.private_names import keep_differentiable, sharding_config, whole_weights
from trainer_plugin.output_folder import forget_result

if TYPE_CHECKING:
    from trainer_plugin.recipe import Recipe

LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


def quantization_config(compute_dtype: Any = None) -> Any:
    """NF4, double quantization, computing in `compute_dtype` (by default what this device is fast at)."""
    import torch
    from transformers import BitsAndBytesConfig

    from trainer_plugin.dtypes import frozen_dtype

    dtype = compute_dtype or frozen_dtype().dtype

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if _placed_by_accelerate() else torch.uint8,
    )


def _placed_by_accelerate() -> bool:
    """Whether FSDP or DeepSpeed is set up: then accelerate places the weights, and spreads them by dtype."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


def load_model(model: str | Path, recipe: Recipe) -> Any:
    """Base model for a recipe: 4-bit for qlora, in `recipe.dtype` otherwise, sharded if it says so."""
    import torch

    from trainer_plugin.checkpoints.model_files import load_causal_model
    from trainer_plugin.dtypes import settle_dtype

    dtype = settle_dtype(recipe, model)[1].dtype
    options: dict[str, Any] = {"dtype": dtype}
    if recipe.method == "qlora":
        need("bitsandbytes")
        options["quantization_config"] = quantization_config(dtype)
    if recipe.shard:
        options["distributed_config"] = sharding_config(_processes())
    elif torch.cuda.is_available() and not _placed_by_accelerate():
        from accelerate import PartialState

        options["device_map"] = {"": PartialState().local_process_index}
    with whole_weights():
        loaded = load_causal_model(model, **options)
    repair_linear4bit(loaded)
    return loaded


def _processes() -> int:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks < 2:
        raise UsageError(
            "one process has nobody to share the weights with",
            where="shard",
            hint="torchrun --nproc-per-node N $(which tokpack) train ...",
        )
    return ranks


def repair_linear4bit(model: Any) -> int:
    """Keep bitsandbytes' 4-bit layers differentiable on CPUs with AVX512-BF16; returns the layers changed.

    There, one forward pass in evaluation mode repacks `Linear4bit` weights into a form without a backward:
    from then on most LoRA gradients are zero while the loss looks normal, and a merge yields garbage (seen
    with bitsandbytes 0.50.2). Call right after loading, before any forward pass.
    """
    try:
        from bitsandbytes.nn.modules import Linear4bit
    except ImportError:
        return 0
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        keep_differentiable(layer)
    return len(layers)


def prepare_lora(model: Any, recipe: Recipe) -> Any:
    """The model with a trainable LoRA adapter; k-bit preparation first when it is quantized.

    `recipe.lora` goes to `peft.LoraConfig`. Raises UsageError for a key that it does not know, and for an
    adapter that does not go with the weights (PiSSA on 4 bits, say).
    """
    need("peft")
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
    if recipe.lora.get("init_lora_weights") == "eva":
        raise UsageError(
            "EVA looks at data before training, which a recipe cannot make it do",
            where="[lora] init_lora_weights",
            hint="call peft.initialize_lora_eva_weights in Python, with PackedCollator batches",
        )
    try:
        config = LoraConfig(task_type="CAUSAL_LM", **{**LORA_DEFAULTS, **recipe.lora})
        return get_peft_model(model, config)
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(
            f"PEFT does not take this adapter: {' '.join(str(error).split())}",
            where=f"[lora], {recipe.method}",
        ) from None


def adapted_layers(model: Any) -> list[Any]:
    """The layers of PEFT's adapters, found once: a walk through all modules takes milliseconds."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def inputs_as_they_are(layers: Sequence[Any], autocast: bool) -> Iterator[None]:
    """Under autocast, LoRA takes its inputs uncast: PEFT's cast to fp32 would be cast back at once.

    The same bits, without two copies of each layer's input. To be put around forward and backward pass, which
    computes layers again under gradient checkpointing. layers: as `adapted_layers` finds them.
    """
    changed = [layer for layer in layers if autocast and layer.cast_input_dtype_enabled]
    for layer in changed:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer in changed:
            layer.cast_input_dtype_enabled = True


def lora_plus_optimizer(model: Any, arguments: Any, ratio: float) -> Any:
    """PEFT's LoRA+: the optimizer of `arguments`, B matrices at `ratio` times the learning rate of A.

    None for a ratio of 0: Trainer makes its own. Raises UsageError for an optimizer that it cannot make.
    """
    if not ratio:
        return None
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    if not isinstance(kind, type) or {"params", "model", "optimizer_dict"} & settings.keys():
        raise UsageError(
            f"LoRA+ does not go with the optimizer {arguments.optim}",
            where="lora_plus_ratio",
            hint='optim = "adamw_torch" or "paged_adamw_8bit" under [trainer]',
        )
    settings |= {"loraplus_weight_decay": arguments.weight_decay}
    return create_loraplus_optimizer(model, kind, loraplus_lr_ratio=ratio, **settings)


def save_result(trainer: Any, out: str | Path, recipe: Recipe, *, packed: Any, tokenizer: Any = None) -> Path:
    """Write the adapter (or full model), its recipe, and the fingerprint of the packed dataset behind it.

    All processes call it: a sharded model is gathered. The weights come last: they are there with their own
    recipe, by which a merge decides what they belong to, or not at all.
    """
    out = Path(out)
    if trainer.is_world_process_zero():
        forget_result(out, recipe.method)
        if tokenizer is not None:
            tokenizer.save_pretrained(out)
        record = provenance(packed, recipe, _base_of(trainer, recipe))
        write_durably(out / RECIPE, recipe.to_toml().encode())
        write_durably(out / PROVENANCE, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    trainer.save_model(str(out))
    return out


def _base_of(trainer: Any, recipe: Recipe) -> dict[str, str]:
    """Name and digest of the model under an adapter."""
    from trainer_plugin.models.strategies import inner_model

    name = str(getattr(inner_model(trainer.model), "name_or_path", ""))
    return {} if recipe.method == "full" or not name else {"name": name, "digest": base_digest(name)}


def provenance(packed: Any, recipe: Recipe, base: dict[str, str]) -> dict[str, Any]:
    """What ties a trained model to its data: versions, digests of base, tokenizer, shards, rows, tokens,
    and what became of the data."""
    from importlib.metadata import version

    manifest = packed.manifest
    return {
        "tokpack_version": manifest["tokpack_version"],
        "tokenizer": manifest["tokenizer"],
        "shards": manifest["shards"],
        "capacity": manifest["capacity"],
        "rows": len(packed),
        "tokens": int(packed.row_tokens().sum()),
        "ledger": {part: manifest["ledger"][part] for part in ("documents", "tokens")},
        "method": recipe.method,
        "base": base,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
