"""What each engine refuses of an adapter. vLLM's are from its `peft_helper`; others were not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer_plugin.checkpoints.adapter_config import PLAIN_STARTS, REPEATABLE

ENGINES = ("vllm", "sglang", "lmdeploy", "llamacpp", "ollama")
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank`."""
GGUF_ENGINES = ("llamacpp", "ollama")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason. `way`: what `convert-adapter` makes of it."""

    adapter: str
    what: str
    way: str
    """"plain" LoRA, or "merge"."""


def refusals(name: str, config: Mapping[str, Any], engine: str) -> list[Refusal]:
    """What the engine does not take of this adapter."""
    found = [Refusal(name, what, way) for what, way in _reasons(config, engine)]
    rank = highest_rank(config)
    if engine == "vllm" and rank > VLLM_RANKS[-1]:
        found.append(Refusal(name, f"rank {rank}: vLLM takes up to {VLLM_RANKS[-1]}", "merge"))
    return found


def _reasons(config: Mapping[str, Any], engine: str) -> list[tuple[str, str]]:
    kind, start = config.get("peft_type"), config.get("init_lora_weights", True)
    found = []
    if kind != "LORA":
        return [(f"{kind}: LoRA alone is served", "merge")]
    if config.get("use_dora"):
        found.append(("DoRA (use_dora): the magnitudes are not read", "merge"))
    if start not in PLAIN_STARTS:
        way = "plain" if start in REPEATABLE else "merge"
        found.append((f"init_lora_weights = {start!r}: it belongs to a changed base", way))
    if config.get("modules_to_save"):
        found.append((f"modules_to_save = {config['modules_to_save']}: whole layers are not read", "merge"))
    if config.get("trainable_token_indices"):
        found.append(("trainable_token_indices: rows of the embeddings are not read", "merge"))
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        found.append(("biases that were trained", "merge"))
    if config.get("target_parameters"):
        found.append(("target_parameters: weights that are no linear layers", "merge"))
    if engine not in GGUF_ENGINES:  # there the scales go into the weights anyway
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            found.append(("rank_pattern or alpha_pattern: one rank and one scale are read for all", "plain"))
        if config.get("use_rslora") and engine != "vllm":
            found.append(("use_rslora: its scale is not read everywhere", "plain"))
    return found


def highest_rank(config: Mapping[str, Any]) -> int:
    """Of all its modules."""
    ranks = [config.get("r", 8), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=8)


def vllm_rank(ranks: list[int]) -> int:
    """The smallest `--max-lora-rank` that holds them all."""
    return next(rank for rank in VLLM_RANKS if rank >= max(ranks))
