"""`tokpack convert-adapter`: an adapter that servers refuse becomes one that they take, or a merged model.

    PiSSA, OLoRA         ─▶ plain LoRA of twice the rank, by PEFT: what training added to the start
    rsLoRA, patterns     ─▶ plain LoRA of one rank and one scale: the scales go into the weights
    DoRA, whole layers   ─▶ merged into the base: no plain LoRA can say them

The logits of the result are compared with those of the adapter before anything is left behind.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tokpack.errors import UsageError, VerifyError
from tokpack.terminal.activity import Activity
from tokpack.terminal.interrupts import scratch_folder
from trainer_plugin.checkpoints.adapter_config import (
    CONFIG,
    PLAIN_STARTS,
    REPEATABLE,
    WEIGHTS,
    check_patterns,
    explained,
    read_config,
    with_adapter,
)
from trainer_plugin.checkpoints.adapter_folder import PROVENANCE, RECIPE
from trainer_plugin.extras import need
from trainer_plugin.output_folder import check_empty, new_folder

Way = Literal["plain", "subtract", "fold", "merge"]
CLOSE = 1e-3
"""Largest difference of logits in fp32, relative to the largest one."""
KEPT = (PROVENANCE, RECIPE, "chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: an adapter, or a model of its own."""

    folder: Path
    way: Way


def way_of(config: dict[str, Any]) -> Way:
    """How an adapter becomes one that every server takes."""
    whole = config.get("use_dora") or config.get("modules_to_save") or config.get("trainable_token_indices")
    biased = (
        config.get("bias", "none") != "none" or config.get("lora_bias") or config.get("target_parameters")
    )
    if config.get("peft_type") != "LORA" or whole or biased:
        return "merge"
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        return "subtract"
    folded = config.get("use_rslora") or config.get("rank_pattern") or config.get("alpha_pattern")
    return "fold" if folded else "plain"


def convert_adapter(
    adapter: str | Path, out: str | Path, *, base: str | None = None, tell: Activity | None = None
) -> Converted:
    """Write the adapter in a form that servers take. base: where it has moved from the place it names.

    Raises UsageError for one that needs no conversion or cannot be converted, VerifyError where the result
    answers otherwise.
    """
    need("peft")
    adapter, out, tell = Path(adapter), Path(out), tell or Activity(quiet=True)
    config = read_config(adapter)
    way = way_of(config)
    check_empty(out)
    if way == "plain":
        raise UsageError("it is plain LoRA already: servers take it as it is", where=str(adapter))
    if way == "merge":
        from trainer_plugin.adapters.merge import merge_dequantized

        return Converted(merge_dequantized(adapter, out, model=base, check=True, tell=tell), way)
    with new_folder(out) as made:
        with explained(adapter), tell.doing("converting the adapter"):
            _fold(adapter, made, config) if way == "fold" else _subtract(adapter, made, config, base)
        with tell.doing("comparing the logits before and after"):
            _compare(str(base or config.get("base_model_name_or_path")), adapter, made)
        for name in KEPT:
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, made / name)
    return Converted(out, way)


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A of one module with."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _fold(adapter: Path, out: Path, config: dict[str, Any]) -> None:
    """One rank (the largest, others filled with zeros) and one scale, the rest of it in B."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(str(adapter / WEIGHTS))
    check_patterns(config, tensors, adapter)
    rank = max(tensor.shape[0] for name, tensor in tensors.items() if name.endswith("lora_A.weight"))
    alpha = float(config.get("lora_alpha", 8))
    folded = {}
    for name, tensor in tensors.items():
        missing = rank - (tensor.shape[0] if ".lora_A." in name else tensor.shape[1])
        if name.endswith("lora_A.weight"):
            folded[name] = torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])])
        elif name.endswith("lora_B.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            own = tensor.float() * (scale_of(config, module, tensor.shape[1]) * rank / alpha)
            folded[name] = torch.cat([own, own.new_zeros(own.shape[0], missing)], 1).to(tensor.dtype)
        else:
            raise UsageError(f"a weight that is no linear LoRA: {name}", where=str(adapter / WEIGHTS))
    plain = {"r": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    save_file({name: one.contiguous() for name, one in folded.items()}, str(out / WEIGHTS), {"format": "pt"})
    (out / CONFIG).write_text(json.dumps({**config, **plain}, indent=2, sort_keys=True), encoding="utf-8")


def _subtract(adapter: Path, out: Path, config: dict[str, Any], base: str | None) -> None:
    """By PEFT: the start is made again on the base, and subtracted from what was trained."""
    from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    start = config.get("init_lora_weights")
    if start not in REPEATABLE:
        raise UsageError(
            f"the start {start!r} cannot be made again from the base alone",
            where=str(adapter / CONFIG),
            hint="merge it where it was trained: `tokpack merge-adapter`",
        )
    settings = PeftConfig.from_pretrained(str(adapter))
    assert isinstance(settings, LoraConfig)
    settings.inference_mode = False
    name = str(base or settings.base_model_name_or_path)
    network = _in_fp32(name)
    check_patterns(config, [module for module, _ in network.named_modules()], adapter)
    network = get_peft_model(network, settings)
    settings = network.peft_config["default"]
    settings.init_lora_weights = True  # as PEFT asks: else the start changes the base again
    with scratch_folder() as untrained:
        network.save_pretrained(str(untrained))
        settings.init_lora_weights = start
        set_peft_model_state_dict(network, load_file(str(adapter / WEIGHTS)))
        network.save_pretrained(str(out), path_initial_model_for_weight_conversion=str(untrained))


def _in_fp32(base: str) -> Any:
    from trainer_plugin.checkpoints.model_files import load_causal_model

    return load_causal_model(base, "--base", dtype=torch.float32)


def _compare(base: str, before: Path, after: Path) -> None:
    """Raises VerifyError unless both answer alike on the base in fp32."""
    wanted, found = _logits(base, before), _logits(base, after)
    difference = float((wanted - found).abs().max() / wanted.abs().max())
    if not difference < CLOSE:
        raise VerifyError(
            f"the converted adapter is another one: logits within {difference:.1e}",
            where=str(before),
            hint="is this the base that it was trained on?",
        )


def _logits(base: str, adapter: Path) -> torch.Tensor:
    """Of a random text; the model is gone before the next one is loaded."""
    network = with_adapter(_in_fp32(base), adapter).eval()
    size = network.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, size, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: torch.Tensor = network(input_ids=ids).logits
    return logits
