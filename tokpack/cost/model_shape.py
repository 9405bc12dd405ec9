"""A decoder's shape from a Hugging Face config.json: its weight matrices, heads and attention windows.

Everything counted later (parameters, FLOPs, LoRA ranks, bytes) is a sum over one list of matrices.
Norm weights and biases are left out: below 0.1 % of any model worth costing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokpack.frozen import frozen


@frozen(kw_only=True)
class Matrix:
    """One weight matrix [inputs, outputs], present in `layers` layers.

    `copies` are held per layer (experts), `used` of them work on one token. `linear` is false for expert
    stacks and routers: bare parameters, which bitsandbytes does not quantize. `lora` is the rank an adapter
    on it gets under PEFT's `all-linear`, as a multiple of r: 0 where PEFT leaves it alone.
    """

    name: str
    inputs: int
    outputs: int
    layers: int
    copies: int = 1
    used: int = 1
    linear: bool = True
    lora: int = 1

    @property
    def params(self) -> int:
        """Weights held, over all layers and copies."""
        return self.inputs * self.outputs * self.layers * self.copies

    @property
    def active(self) -> int:
        """Weights that work on one token."""
        return self.inputs * self.outputs * self.layers * self.used


@frozen(kw_only=True)
class ModelShape:
    """What a cost needs to know of a decoder. `windows` holds one entry a layer: None is full attention.

    `qk_dim` and `v_dim` are the sizes of one head's query/key and value (they differ in DeepSeek's MLA).
    """

    model_type: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    qk_dim: int
    v_dim: int
    gated: bool
    fused_qkv: bool
    qk_norm: bool
    rms_norm: bool
    norms: int
    """Norms a layer, beside those of queries and keys."""
    tied: bool
    positions: int
    """Rows of a learned position embedding (GPT-2), else 0."""
    windows: tuple[int | None, ...]
    matrices: tuple[Matrix, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any]) -> ModelShape:
        """From a config.json, the folder it lies in, or its content as a dict.

        Raises UsageError that names the key when one is missing or means a layer we cannot count.
        """
        from tokpack.cost.hf_config import read_shape

        return read_shape(config)

    @property
    def matrix_params(self) -> int:
        """Weights of all layers, without embeddings and lm_head."""
        return sum(matrix.params for matrix in self.matrices)

    @property
    def embedding_params(self) -> int:
        """Token embeddings, and learned positions where the model has them."""
        return (self.vocab_size + self.positions) * self.hidden_size

    @property
    def head_params(self) -> int:
        """The lm_head matrix; it shares the embeddings' memory when tied, and always costs its FLOPs."""
        return self.vocab_size * self.hidden_size

    @property
    def total_params(self) -> int:
        """Parameters held in memory, tied weights once."""
        return self.matrix_params + self.embedding_params + (0 if self.tied else self.head_params)

    @property
    def active_params(self) -> int:
        """Parameters that multiply one token: layers (chosen experts only) and lm_head, no embeddings."""
        return sum(matrix.active for matrix in self.matrices) + self.head_params

    def lora_params(self, rank: int) -> int:
        """Trainable parameters of LoRA on all linear layers (PEFT `all-linear`: without lm_head).

        On mixtures of experts PEFT 0.21 adapts each expert and the router, and skips dense MLPs beside them.
        """
        return sum(rank * m.lora * (m.inputs + m.outputs) * m.layers * m.copies for m in self.matrices)

    @property
    def quantized_params(self) -> int:
        """Weights that bitsandbytes turns into 4 or 8 bits: linear layers without lm_head."""
        return sum(matrix.params for matrix in self.matrices if matrix.linear)
