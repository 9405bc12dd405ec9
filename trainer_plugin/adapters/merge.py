"""`tokpack merge-adapter`: an adapter and its base become one plain model, without PEFT or bitsandbytes.

A QLoRA adapter was trained on 4-bit weights, so it belongs to the *dequantized* base: merged into that, the
logits agree to rounding; merged into 4-bit, or into the original weights, they do not.

LoRA of every kind (rsLoRA, DoRA, rank patterns) is merged file by file, one weight at a time:

    weight ─▶ 4 bits and back (qlora) ─▶ PEFT merges the one layer ─▶ the file of the same name in OUT

so memory is that of one file, not of the model. Other adapters, biases, retrained embeddings and bases whose
names on disk are not those in memory go through the whole model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tokpack.errors import UsageError, VerifyError, writing
from tokpack.terminal.activity import Activity, Advance
from trainer_plugin.adapters.qlora import load_model, quantization_config
from trainer_plugin.checkpoints.adapter_config import (
    PLAIN_STARTS,
    check_patterns,
    explained,
    read_config,
    with_adapter,
)
from trainer_plugin.checkpoints.adapter_folder import RECIPE
from trainer_plugin.checkpoints.base_digest import weight_files
from trainer_plugin.checkpoints.model_files import (
    load_causal_model,
    load_config,
    load_tokenizer,
    skeleton,
    weight_names,
)
from trainer_plugin.dtypes import stored_dtype
from trainer_plugin.extras import need
from trainer_plugin.models.private_names import file_of_model, forget_quantization
from trainer_plugin.output_folder import check_empty, new_folder
from trainer_plugin.recipe import Recipe, load_recipe

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest difference of the logits, relative to the largest logit, that rounding of merged weights makes in
most models; of others it is measured."""
INDEX = "model.safetensors.index.json"


def merge_dequantized(
    adapter: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    original: bool = False,
    check: bool = False,
    tell: Activity | None = None,
) -> Path:
    """Merge a trained adapter into its base and save a plain model in `out`.

    model: replaces the base named in the adapter. original: merge a QLoRA adapter into the weights as they
    are, not dequantized; the answers then are not those that were trained. check: compare logits with those
    of base and adapter, for which both models are loaded, one after the other, the merged one in fp32.
    Raises UsageError for a folder that holds no adapter, VerifyError when the logits differ.
    """
    need("peft")
    from peft import PeftConfig

    adapter, out, tell = Path(adapter), Path(out), tell or Activity(quiet=True)
    written = read_config(adapter)
    check_empty(out)
    recipe = load_recipe(adapter / RECIPE) if (adapter / RECIPE).is_file() else Recipe(method="lora")
    if original and recipe.method == "qlora":
        recipe = replace(recipe, method="lora")
    with tell.doing("looking at adapter and base"):
        with explained(adapter):
            config = PeftConfig.from_pretrained(str(adapter))
        base = str(model or config.base_model_name_or_path)
        recipe = _with_dtype(recipe, base)
        check_patterns(written, _adapter_weights(adapter), adapter)
        files = _files_to_merge(base, adapter, config, recipe)
    with new_folder(out) as folder:
        if files is None:
            with explained(adapter), tell.doing("merging the whole model"):
                _merge_whole(base, adapter, folder, recipe)
        else:
            with explained(adapter), tell.doing("merging", len(files), "files") as advance:
                _merge_files(base, files, adapter, config, folder, recipe, advance)
        with tell.doing("writing the tokenizer"):
            load_tokenizer(base).save_pretrained(str(folder))
        if check:
            with tell.doing("comparing the logits with those of base and adapter"):
                line = compare_logits(base, adapter, folder, recipe)
            tell.say(line)
    return out


def dequantize_base(base: str, out: Path, *, tell: Activity | None = None) -> Path:
    """The base as 4 bits left it, in its own dtype: what every QLoRA adapter of it belongs to.

    Raises UsageError for a base whose names on disk are not those in memory.
    """
    need("bitsandbytes")
    check_empty(out)
    tell = tell or Activity(quiet=True)
    with tell.doing("looking at the base"):
        recipe, files = _with_dtype(Recipe(method="qlora"), base), _safetensors(base)
        known, quantized = _names_in_memory(base, recipe)
    named = {name for file in (files or {}).values() for name in weight_names(file)}
    if files is None or not {f"{module}.weight" for module in quantized} <= named <= known or not quantized:
        raise UsageError(
            "the weights of this base are not in files of their names",
            where=f"--base {base}",
            hint="merge each adapter instead: `tokpack merge-adapter`",
        )
    out.mkdir(parents=True, exist_ok=True)
    with tell.doing("taking the base through 4 bits", len(files)) as advance:
        _merge_files(base, files, None, None, out, recipe, advance)
    if (settings := file_of_model(base, "generation_config.json")) is not None:
        shutil.copyfile(settings, out / "generation_config.json")
    with tell.doing("writing the tokenizer"):
        load_tokenizer(base).save_pretrained(str(out))
    return out


def _with_dtype(recipe: Recipe, base: str) -> Recipe:
    """The recipe with the dtype of the merged weights: the one that was trained with, else the base's own.

    Nothing is computed in it, and the same adapter gives the same files on every machine.
    """
    if recipe.dtype != "auto":
        return recipe
    own = stored_dtype(base) or torch.float32
    return replace(recipe, dtype=str(own).removeprefix("torch."))  # type: ignore[arg-type]


# File by file


def _files_to_merge(base: str, adapter: Path, config: Any, recipe: Recipe) -> dict[str, Path] | None:
    """Safetensors files of the base by name, or None when the whole model has to be loaded."""
    from peft import PeftType

    plain = (
        config.peft_type == PeftType.LORA
        and config.init_lora_weights in PLAIN_STARTS
        and config.bias == "none"
        and not (config.modules_to_save or config.trainable_token_indices or config.target_parameters)
    )
    files = _safetensors(base) if plain else None
    if files is None:
        return None
    named = {name for file in files.values() for name in weight_names(file)}
    known, quantized = _names_in_memory(base, recipe)
    touched = {f"{module}.weight" for module in [*_adapter_weights(adapter), *quantized]}
    return files if touched <= named <= known else None


def _safetensors(base: str) -> dict[str, Path] | None:
    files = weight_files(base)
    plain = files and all(path.suffix == ".safetensors" for path in files)
    return {path.name: path for path in files} if plain else None


def _names_in_memory(base: str, recipe: Recipe) -> tuple[set[str], set[str]]:
    """Names of all weights, and of the modules that bitsandbytes quantizes; nothing is loaded."""
    from transformers.quantizers import AutoHfQuantizer

    config = load_config(base)
    if getattr(config, "quantization_config", None) is not None:
        return set(), set()
    bare = skeleton(config, base)
    known = set(bare.state_dict())
    if recipe.method != "qlora":
        return known, set()
    from bitsandbytes.nn.modules import Linear4bit

    quantizer = AutoHfQuantizer.from_config(quantization_config(getattr(torch, recipe.dtype)))
    quantizer.preprocess_model(model=bare, device_map=None)
    return known, {name for name, module in bare.named_modules() if isinstance(module, Linear4bit)}


def _merge_files(
    base: str,
    files: Mapping[str, Path],
    adapter: Path | None,
    config: Any,
    out: Path,
    recipe: Recipe,
    advance: Advance,
) -> None:
    """adapter None: the base alone."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    dtype = getattr(torch, recipe.dtype)
    updates = {} if adapter is None else _adapter_weights(adapter)
    _, quantized = _names_in_memory(base, recipe)
    for name, path in files.items():
        merged = {}
        with safe_open(str(path), "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                weight, module = tensors.get_tensor(key), key.removesuffix(".weight")
                weight = weight.to(dtype) if weight.is_floating_point() else weight
                if module in quantized:
                    weight = through_nf4(weight)
                if module in updates:
                    weight = merge_layer(weight, updates[module], config, module)
                merged[key] = weight.contiguous()
        with writing(out, resumes=False):
            save_file(merged, str(out / name), metadata={"format": "pt"})
        advance(1, "")
    if "model.safetensors" not in files and (index := file_of_model(base, INDEX)) is not None:
        shutil.copyfile(index, out / INDEX)
    settings = load_config(base)
    settings.dtype = dtype
    settings.save_pretrained(str(out))
    GenerationConfig.from_model_config(settings).save_pretrained(str(out))


def _adapter_weights(adapter: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of the adapter by module and name: `{"model.layers.0.mlp.up_proj": {"lora_A.weight": ...}}`."""
    from safetensors.torch import load_file

    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(str(adapter / "adapter_model.safetensors")).items():
        module, mark, rest = key.removeprefix("base_model.model.").partition(".lora_")
        found.setdefault(module, {})[f"lora_{rest}" if mark else key] = tensor
    return found


def through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The weight as the 4-bit base has it: quantized as `load_model` does, and dequantized.

    On the GPU where there is one, as the training was: bitsandbytes' kernels for CPU and GPU give the same
    4-bit codes, but round some scales, which are quantized too, to another byte.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    there = weight.to("cuda" if torch.cuda.is_available() else "cpu").contiguous()
    packed, state = quantize_4bit(there, compress_statistics=True, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weight.device, weight.dtype)


def merge_layer(
    weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], config: Any, module: str
) -> torch.Tensor:
    """A linear layer's weight with its adapter merged in, by PEFT: whatever kind of LoRA it is."""
    from peft import get_peft_model, set_peft_model_state_dict
    from peft.utils.other import get_pattern_key

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, module), config.lora_alpha)
    own = replace(
        config,
        task_type=None,
        base_model_name_or_path=None,
        target_modules=["layer"],
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        r=tensors["lora_A.weight"].shape[0],
        lora_alpha=alpha,
        rank_pattern={},
        alpha_pattern={},
    )
    holder = get_peft_model(torch.nn.ModuleDict({"layer": layer}), own)
    set_peft_model_state_dict(
        holder, {f"base_model.model.layer.{name}": tensor for name, tensor in tensors.items()}
    )
    merged: torch.Tensor = holder.merge_and_unload()["layer"].weight.data
    return merged


# The whole model


def _merge_whole(base: str, adapter: Path, out: Path, recipe: Recipe) -> None:
    model = load_model(base, recipe)
    if recipe.method == "qlora":
        model = model.dequantize()
        model = model.to(model.get_input_embeddings().weight.dtype)
    merged = with_adapter(model, adapter).merge_and_unload()
    forget_quantization(merged)
    with writing(out, resumes=False):
        merged.save_pretrained(str(out))


# The proof


def compare_logits(base: str, adapter: Path, merged: Path, recipe: Recipe) -> str:
    """A line that tells how far the logits of the merged model are from those of base and adapter.

    Both compute in fp32: in bf16 the noise of computing would hide what rounding the weights does. Where they
    are further apart than TOLERANCE, another rounding of the merged weights shows how far this model's logits
    move by it.
    """
    recipe = _with_dtype(recipe, base)
    tuned = with_adapter(load_model(base, recipe), adapter).eval()
    _compute_in_fp32(tuned)
    ids = torch.randint(0, tuned.config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tuned(ids.to(tuned.device), use_cache=False).logits.cpu()
        del tuned
        plain = load_causal_model(merged, "-o", dtype=torch.float32).eval()
        got = plain(ids, use_cache=False).logits
        difference, dtype = _distance(got, expected), getattr(torch, recipe.dtype)
        limit = TOLERANCE[dtype]
        if not difference < limit:
            _round_otherwise(plain, dtype)
            limit = max(limit, 2 * _distance(plain(ids, use_cache=False).logits, got))
    agree = float((got.argmax(-1) == expected.argmax(-1)).float().mean())
    line = f"logits: within {difference:.1e} of those of base and adapter, {agree:.1%} the same first choice"
    if not difference < limit:
        raise VerifyError(
            f"the merged model is another one: {line}",
            where=str(adapter),
            hint=f"up to {limit:.0e} is rounding; is this the base the adapter was trained on?",
        )
    return line


def _distance(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


def _round_otherwise(model: Any, dtype: torch.dtype) -> None:
    """Moves each weight of an fp32 model at random by no more than rounding to `dtype` does."""
    half = torch.finfo(dtype).eps / 2
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.mul_(1 + torch.empty(weight.shape).uniform_(-half, half, generator=generator))


def _compute_in_fp32(model: Any) -> None:
    """Full-precision arithmetic with the weights as they are; 4-bit ones stay in 4 bits."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
