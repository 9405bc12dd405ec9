"""Reads a Hugging Face config.json: key names, unwritten defaults, errors that name the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokpack.cost.families import Family, family_of
from tokpack.cost.model_shape import Matrix, ModelShape
from tokpack.errors import UsageError

_ALIASES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}

_FOREIGN_KEYS = ("mamba_d_state", "ssm_state_size", "state_size", "linear_num_value_heads", "rwkv_version")
"""Keys of layers that are not attention: their cost is not counted here, so such a model is refused."""


def read_shape(config: str | Path | Mapping[str, Any]) -> ModelShape:
    """What `ModelShape.from_config` does."""
    values, where = _load(config)
    return ConfigReader(values, where).shape()


def max_positions(config: str | Path | Mapping[str, Any]) -> int | None:
    """Longest document the model was made for, in tokens; None where its config does not say."""
    reader = ConfigReader(*_load(config))
    return reader.count("max_position_embeddings") or None


def _load(config: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(config, Mapping):
        return config, "config"
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UsageError(
            "no model config found" if missing else f"cannot open the model config: {error.strerror}",
            where=str(path),
            hint="give a Hugging Face model folder or its config.json",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"not JSON: {error}", where=str(path), hint="fetch the model's config.json again"
        ) from None
    if not isinstance(values, dict):
        raise UsageError(
            "config.json is not an object", where=str(path), hint="fetch the model's config.json again"
        )
    return values, str(path)


class ConfigReader:
    """Reads one config: aliases, the family's defaults, and errors that name the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.notes: list[str] = []
        if isinstance(values.get("text_config"), Mapping):
            where += ": text_config"
            values = {"model_type": values.get("model_type"), **values["text_config"]}
            self.notes.append("only the text model of a multimodal model is counted")
        self.values, self.where = values, where
        if values.get("is_encoder_decoder"):
            raise UsageError(
                "an encoder-decoder model",
                where=f"{where}: is_encoder_decoder",
                hint="packed rows are for decoders: give a causal language model",
            )
        for key in _FOREIGN_KEYS:
            if values.get(key):
                raise UsageError(
                    "a model with layers other than attention (state space or linear attention)",
                    where=f"{where}: {key}",
                    hint="its cost is not modeled; measure it with --calibrate",
                )
        self.model_type = str(values.get("model_type", ""))
        self.family, known = family_of(self.model_type)
        if not known:
            self.notes.append(f"model type {self.model_type!r} is unknown: counted like Llama")

    def get(self, key: str) -> Any:
        """Value by any of its names, else the family's default, else None."""
        for name in _ALIASES.get(key, (key,)):
            if self.values.get(name) is not None:
                return self.values[name]
        return self.family.defaults.get(key)

    def need(self, key: str) -> int:
        """A positive whole number. Raises UsageError that names the key."""
        value = self.get(key)
        names = " or ".join(_ALIASES.get(key, (key,)))
        if value is None:
            raise UsageError(
                f"the model config has no {names}",
                where=f"{self.where}: {key}",
                hint="add the key, or give the config.json of a decoder-only model",
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{names} must be a positive whole number, not {value!r}", where=self.where)
        return value

    def count(self, key: str) -> int:
        """A key that may be absent or null: 0 then."""
        return self.need(key) if self.get(key) else 0

    def shape(self) -> ModelShape:
        heads, layers, hidden = (
            self.need(key) for key in ("num_attention_heads", "num_hidden_layers", "hidden_size")
        )
        attention, qk_dim, v_dim, kv_heads = self.attention(hidden, heads, layers)
        return ModelShape(
            model_type=self.model_type,
            hidden_size=hidden,
            num_layers=layers,
            vocab_size=self.need("vocab_size"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            qk_dim=qk_dim,
            v_dim=v_dim,
            gated=self.family.gated,
            fused_qkv=self.family.fused_qkv,
            qk_norm=self.family.qk_norm,
            rms_norm=self.family.rms_norm,
            norms=self.family.norms,
            tied=self.tied(),
            positions=self.need("max_position_embeddings") if self.family.learned_positions else 0,
            windows=self.windows(layers),
            matrices=tuple(attention + self.mlp(hidden, layers)),
            notes=tuple(self.notes),
        )

    def tied(self) -> bool:
        value = self.values.get("tie_word_embeddings")
        return self.family.tied if value is None else bool(value)

    def attention(self, hidden: int, heads: int, layers: int) -> tuple[list[Matrix], int, int, int]:
        """(matrices, size of one head's query and key, of its value, heads of keys and values)."""
        if self.get("kv_lora_rank"):
            return self.latent_attention(hidden, heads, layers)
        kv_heads = self.count("num_key_value_heads") or heads
        dim = self.count("head_dim")
        if not dim:
            if hidden % heads:
                raise UsageError(
                    f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}",
                    where=f"{self.where}: head_dim",
                    hint="add head_dim to the config",
                )
            dim = hidden // heads
        query, key = heads * dim, kv_heads * dim
        widths = {"q_proj": query, "k_proj": key, "v_proj": key}
        if self.family.fused_qkv:
            widths = {"qkv_proj": query + 2 * key}
        sizes = {name: (hidden, width) for name, width in widths.items()} | {"o_proj": (query, hidden)}
        return _matrices(sizes, layers), dim, dim, kv_heads

    def latent_attention(self, hidden: int, heads: int, layers: int) -> tuple[list[Matrix], int, int, int]:
        """DeepSeek's multi-head latent attention: queries, keys and values pass through low ranks."""
        rope, nope = self.need("qk_rope_head_dim"), self.need("qk_nope_head_dim")
        value, kv_rank, q_rank = self.need("v_head_dim"), self.need("kv_lora_rank"), self.count("q_lora_rank")
        query = heads * (nope + rope)
        sizes = {
            "kv_a_proj": (hidden, kv_rank + rope),
            "kv_b_proj": (kv_rank, heads * (nope + value)),
            "o_proj": (heads * value, hidden),
        }
        if q_rank:
            sizes = {"q_a_proj": (hidden, q_rank), "q_b_proj": (q_rank, query), **sizes}
        else:
            sizes = {"q_proj": (hidden, query), **sizes}
        return _matrices(sizes, layers), nope + rope, value, heads

    def mlp(self, hidden: int, layers: int) -> list[Matrix]:
        experts = self.count("num_experts")
        sparse = self.sparse_layers(layers) if experts else 0
        dense_lora = 0 if sparse and self.family.adapts_experts else 1
        matrices = []
        if layers > sparse:
            width = self.count("intermediate_size")
            if not width:
                if self.model_type != "gpt2":
                    self.need("intermediate_size")
                width = 4 * hidden
            matrices += _mlp("", hidden, width, layers - sparse, self.family, lora=dense_lora)
        if sparse:
            matrices += self.experts(hidden, experts, sparse)
        return matrices

    def sparse_layers(self, layers: int) -> int:
        """How many layers hold experts: DeepSeek starts dense, Qwen may mix dense layers in."""
        dense_first = self.count("first_k_dense_replace")
        step = self.count("decoder_sparse_step") or 1
        dense = set(self.values.get("mlp_only_layers") or ())
        return sum(i >= dense_first and (i + 1) % step == 0 and i not in dense for i in range(layers))

    def experts(self, hidden: int, experts: int, layers: int) -> list[Matrix]:
        used, lora = self.need("num_experts_per_tok"), int(self.family.adapts_experts)
        width = self.count("moe_intermediate_size") or self.need("intermediate_size")
        matrices = [
            Matrix(name="router", inputs=hidden, outputs=experts, layers=layers, linear=False, lora=lora),
            *_expert_stack(hidden, width, layers=layers, experts=experts, used=used, lora=lora),
        ]
        shared = self.count("n_shared_experts") * width
        if self.get("shared_expert_intermediate_size"):
            shared = self.need("shared_expert_intermediate_size")
            matrices.append(Matrix(name="shared_expert_gate", inputs=hidden, outputs=1, layers=layers))
        if shared:
            matrices += _mlp("shared_expert.", hidden, shared, layers, self.family, lora=1 - lora)
        return matrices

    def windows(self, layers: int) -> tuple[int | None, ...]:
        """The sliding window of each layer, in tokens: `layer_types` where given, else the family's rule."""
        window = self.get("sliding_window")
        if self.family.window_switch and not self.values.get("use_sliding_window"):
            window = None
        types = self.get("layer_types") or self.default_types(layers)
        if len(types) != layers:
            raise UsageError(
                f"{len(types)} layer_types for {layers} layers", where=f"{self.where}: layer_types"
            )
        unknown = set(types) - {"full_attention", "sliding_attention"}
        if unknown:
            raise UsageError(
                f"layer type {sorted(unknown)[0]!r} is not modeled",
                where=f"{self.where}: layer_types",
                hint="full_attention and sliding_attention are; measure others with --calibrate",
            )
        return tuple(window if kind == "sliding_attention" and window else None for kind in types)

    def default_types(self, layers: int) -> list[str]:
        pattern = self.get("sliding_window_pattern")
        if self.family.window_from_layer:
            first = self.count("max_window_layers")
            sliding = [i >= first for i in range(layers)]
        elif pattern:
            sliding = [(i + 1) % pattern != 0 for i in range(layers)]
        else:
            sliding = [True] * layers
        return ["sliding_attention" if flag else "full_attention" for flag in sliding]


def _mlp(prefix: str, hidden: int, width: int, layers: int, family: Family, *, lora: int = 1) -> list[Matrix]:
    """Up, gate (where the family has one) and down."""
    up = {"up_proj": width}
    if family.gated:
        up = {"gate_up_proj": 2 * width} if family.fused_gate_up else {"gate_proj": width, "up_proj": width}
    sizes = {prefix + name: (hidden, outputs) for name, outputs in up.items()}
    return _matrices(sizes | {f"{prefix}down_proj": (width, hidden)}, layers, lora)


def _matrices(sizes: dict[str, tuple[int, int]], layers: int, lora: int = 1) -> list[Matrix]:
    """Name -> inputs and outputs, as linear layers."""
    return [
        Matrix(name=name, inputs=inputs, outputs=outputs, layers=layers, lora=lora)
        for name, (inputs, outputs) in sizes.items()
    ]


def _expert_stack(
    hidden: int, width: int, *, layers: int, experts: int, used: int, lora: int
) -> list[Matrix]:
    """All experts of a layer: two bare parameters. The adapter on the fused gate and up has rank 2r."""
    return [
        Matrix(
            name=f"experts.{name}",
            inputs=inputs,
            outputs=outputs,
            layers=layers,
            copies=experts,
            used=used,
            linear=False,
            lora=ranks * lora,
        )
        for name, inputs, outputs, ranks in (
            ("gate_up_proj", hidden, 2 * width, 2),
            ("down_proj", width, hidden, 1),
        )
    ]
