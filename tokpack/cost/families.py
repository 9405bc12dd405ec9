"""What a config.json does not say: how each model family builds its layers, and its unwritten defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from tokpack.frozen import frozen


@frozen(kw_only=True)
class Family:
    """Layer layout of a `model_type`. The default is Llama's."""

    gated: bool = True
    """The MLP has a gate beside the up projection (SwiGLU, GeGLU)."""
    fused_qkv: bool = False
    """One matrix yields queries, keys and values: one LoRA pair instead of three."""
    fused_gate_up: bool = False
    qk_norm: bool = False
    """Queries and keys are normed (memory only)."""
    rms_norm: bool = True
    """RMS norms, in transformers a chain of fp32 operations; else LayerNorm, one kernel (memory only)."""
    norms: int = 2
    """Norms of the hidden states in a layer (memory only)."""
    adapts_experts: bool = False
    """PEFT's `all-linear` reaches the expert stacks and the router (and then skips dense MLPs)."""
    learned_positions: bool = False
    tied: bool = False
    """Tied embeddings when `tie_word_embeddings` is not in the file."""
    window_switch: bool = False
    """`sliding_window` counts only with `use_sliding_window`."""
    window_from_layer: bool = False
    """Layers from `max_window_layers` on slide."""
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GEMMA2 = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
}
_GEMMA3 = {**_GEMMA2, "vocab_size": 262208, "sliding_window_pattern": 6}

_FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(adapts_experts=True),
    "olmo2": Family(qk_norm=True),
    "granite": Family(),
    "qwen2": Family(window_switch=True, window_from_layer=True),
    "qwen3": Family(qk_norm=True, window_switch=True, window_from_layer=True, defaults={"head_dim": 128}),
    "qwen2_moe": Family(window_switch=True),
    "qwen3_moe": Family(qk_norm=True, window_switch=True, adapts_experts=True),
    "smollm3": Family(window_switch=True, tied=True),
    "gemma": Family(tied=True, defaults={"head_dim": 256}),
    "gemma2": Family(norms=4, tied=True, defaults=_GEMMA2),
    "gemma3": Family(norms=4, qk_norm=True, tied=True, defaults=_GEMMA3),
    "gemma3_text": Family(norms=4, qk_norm=True, tied=True, defaults=_GEMMA3),
    "phi3": Family(fused_qkv=True, fused_gate_up=True),
    "deepseek_v3": Family(adapts_experts=True),
    "gpt_neox": Family(gated=False, rms_norm=False, fused_qkv=True),
    "gpt2": Family(gated=False, rms_norm=False, fused_qkv=True, learned_positions=True, tied=True),
}


def family_of(model_type: str) -> tuple[Family, bool]:
    """The family and whether it is one we have checked; an unknown type is taken for Llama-like."""
    family = _FAMILIES.get(model_type)
    return (family or Family(), family is not None)
