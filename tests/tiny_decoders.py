"""Tiny random models of every decoder family of transformers, and what packing does to each.

`build` shrinks a family's default configuration by the names of its fields; families that need more than that
are in `SPECIAL`, those that no configuration brings to life in `NOT_BUILT`, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from trainer_rows import make_documents, pack_rows
from transformers.models.auto import modeling_auto

from tokpack.errors import TokpackError
from trainer_plugin import PackedCollator, prepare_model
from trainer_plugin.isolation.probe import unmasked
from trainer_plugin.models.attention import document_lengths
from trainer_plugin.models.strategies import cache_option, fit_batch

_TEXT = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
_MULTIMODAL = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
FAMILIES: dict[str, str] = {**_MULTIMODAL, **_TEXT}
"""Model type -> class, of all causal language models, and of multimodal ones run on text alone."""

UNSET = object()
TOLERANCE = 2e-4


def each(value: Any, names: str) -> dict[str, Any]:
    """`each(2, "a b")` -> `{"a": 2, "b": 2}`"""
    return dict.fromkeys(names.split(), value)


SMALL = {
    "vocab_size": 128,
    **each(32, "hidden_size n_embd d_model embedding_size word_embed_proj_dim lru_width"),
    **each(32, "attention_hidden_size"),
    **each(64, "intermediate_size ffn_dim n_inner dff d_inner dim_ff ffn_hidden_size feed_forward_size"),
    **each(64, "decoder_ffn_dim encoder_ffn_dim mamba_d_ssm"),
    **each(2, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"),
    **each(2, "num_encoder_layers num_decoder_layers depth"),
    **each(4, "num_attention_heads attention_heads n_head n_heads num_heads swa_num_attention_heads"),
    **each(4, "decoder_attention_heads encoder_attention_heads"),
    **each(4, "num_encoder_attention_heads num_decoder_attention_heads"),
    **each(2, "num_key_value_heads swa_num_key_value_heads"),
    **each(8, "head_dim swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim linear_head_dim"),
    **each(8, "linear_key_head_dim linear_value_head_dim mamba_d_head mamba_d_state mamba_n_heads"),
    **each(256, "max_position_embeddings n_positions n_ctx max_seq_len context_length"),
    **each(256, "max_target_positions model_max_length"),
    **each(4, "num_local_experts num_experts n_routed_experts moe_num_experts zero_expert_num"),
    **each(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k"),
    **each(32, "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size"),
    **each(32, "expert_ffn_hidden_size shared_intermediate_size dense_intermediate_size"),
    **each(32, "shared_experts_intermediate_size intermediate_size_mlp"),
    **each(16, "q_lora_rank kv_lora_rank o_lora_rank qk_head_dim index_head_dim index_n_heads"),
    **each(16, "mamba_chunk_size chunk_size"),
    **each(1, "n_group topk_group num_expert_group"),
    **each(4, "linear_num_value_heads linear_num_heads rotary_dim laurel_rank index_block_size"),
    **each(2, "linear_num_key_heads index_topk_blocks"),
    **each(8, "hidden_size_per_layer_input index_topk"),
    "vocab_size_per_layer_input": 128,
    **each(6, "sliding_window window_size sliding_window_size attention_chunk_size"),
    **each(0.3, "initializer_range init_std embed_init_std"),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"is_decoder": True, "is_encoder_decoder": False},
}
"""Fields of a tiny configuration; the spread of weights is wide enough for a leak to show in the logits."""

MLA = {"num_key_value_heads": 4, "head_dim": 8}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MROPE = {
    "text_config": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0, "mrope_section": [2, 1, 1]}}
}
MINIMAX_M3 = {
    "layer_types": ["full_attention", "minimax_m3_sparse"],
    "num_hidden_layers": 2,
    "index_n_heads": 2,
}
QWEN4 = {
    **{"hc_count": 2, "hc_lowrank": 8, "ple_layer_ids": [1], "ple_embed_dim": 32, "heads_per_ngram": 4},
    **{"ngram_vocab_size_base": 64, "split_ngram_parts": 1, "make_ngram_vocab_size_divisible_by": 8},
    **{"indexer_n_heads": 8, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8},
    "indexer_compress_ratio": 2,
}
DOTS3 = {
    **each(4, "num_attention_heads num_key_value_heads swa_num_attention_heads swa_num_key_value_heads"),
    **each(16, "kv_lora_rank q_lora_rank swa_q_lora_rank swa_kv_lora_rank swa_head_dim"),
    **each(8, "qk_rope_head_dim qk_nope_head_dim v_head_dim swa_qk_nope_head_dim swa_v_head_dim"),
}
COMPASS = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_hidden_layers": 2,
    "rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE},
}

SPECIAL: dict[str, dict[str, Any]] = {
    **each(MLA, "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa"),
    **each(MLA, "kimi_linear longcat_flash minicpm3 youtu"),
    **each({"text_config": MLA}, "kimi_k25 mistral_large4"),
    "glm5_next": {"text_config": {**MLA, "index_kpool": 2, "qk_rope_head_dim": 0}},
    **each(MROPE, "qwen2_vl qwen2_5_vl qwen2_5_omni_thinker glm46v glm4v glm4v_moe glm_ocr glmga"),
    **each(MROPE, "paddleocr_vl hunyuan_vl cosmos3_edge"),
    **each(QWEN4, "qwen4_exp qwen4_exp_text"),
    **each(DOTS3, "dots3_note dots3_note_text"),
    "bamba": {"num_hidden_layers": 2, "attn_layer_indices": [1]},
    "blt": {
        "global_config": {"hidden_size": 64, "num_key_value_heads": 4, "head_dim": 16},
        "decoder_config": {"hidden_size_global": 64},
        "encoder_hash_byte_group_vocab": 64,
    },
    "cohere_compass": {"text_config": COMPASS},
    "cohere_compass_text": COMPASS,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 32, "ffn_act_fn": {"name": "silu"}, "moe_top_k": 2},
    },
    "doge": {"sliding_window": None},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "ernie4_5_vl_moe": {
        "text_config": {
            "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]},
            "moe_intermediate_size": [32, 32],
        }
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": None,
        "intermediate_size": 64,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite_docling": {"vision_config": {"out_hidden_size": 32}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "chameleon": {"vocabulary_map": {"<image>": 3}},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2},
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "jamba": {
        **{"num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        **{"mamba_dt_rank": 4, "use_mamba_kernels": False},
    },
    "janus": {
        "vision_config": {"projection_dim": 32},
        "vq_config": each(32, "num_embeddings projection_dim image_token_embed_dim"),
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "full_attn_idxs": [1]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_hidden_layers": 3,
        "num_dense_layers": 1,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8},
    "minimax_m3_vl": {"text_config": MINIMAX_M3},
    "minimax_m3_vl_text": MINIMAX_M3,
    "mistral4": {"num_key_value_heads": 4, "head_dim": UNSET},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}, "projector_hidden_size": 32},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2},
    "prophetnet": {"num_hidden_layers": UNSET},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        **{"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [8, 24], "attention_head_size": 8},
        **{"attn_layers": ["local", "lsh"], "num_buckets": 8},
    },
    "roc_bert": {"pronunciation_embed_dim": 32, "shape_embed_dim": 32, "shape_vocab_size": 64},
    "xlnet": {"max_position_embeddings": UNSET, "num_hidden_layers": UNSET},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "layer_types": UNSET,
        **{"head_dim": 16, "num_key_value_heads": 4, "attention_hidden_size": 64, "mamba_dt_rank": 4},
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        **each(UNSET, "layer_types hybrid_layer_ids head_dim attention_hidden_size"),
        **{"num_key_value_heads": 4, "adapter_rank": 4, "n_mamba_heads": 4},
    },
    "zaya": {"num_experts_per_tok": 1},
}
_IMAGE = "every call needs an image"
_LIBRARY = "its vision tower needs a library that is not installed: "
NOT_BUILT: dict[str, str] = {
    **each(_IMAGE, "blip blip-2 idefics instructblip instructblipvideo kosmos-2 pix2struct pp_formulanet"),
    **each(_IMAGE, "vision-encoder-decoder"),
    "udop": "every call needs boxes of a page",
    "pi0": "every call needs the state of a robot",
    **each(_LIBRARY + "timm", "fast_vlm gemma3n perception_lm"),
    "inkling_mm_model": _LIBRARY + "scipy",
    "diffusion_gemma": "a diffusion model, not a decoder",
    **each("an encoder-decoder, not a decoder", "florence2 t5gemma2"),
    **each("reads audio codebooks, not a row of tokens", "musicgen musicgen_melody"),
    **each("a draft model that reads its target's keys", "gemma4_assistant gemma4_unified_assistant"),
    **each("no tiny configuration was found", "granite4_vision muse_spark"),
}
_NUMBER_FOR_TRUTH = each(
    True,
    "aya_vision big_bird chameleon cohere2 cohere2_vision ernie4_5 ernie4_5_moe ernie4_5_vl_moe falcon_h1 "
    "mbart mvp olmo olmo2 olmo3 olmoe paddleocr_vl phimoe",
)


def why_not_built(family: str) -> str:
    """What keeps an older transformers from building a family; empty if nothing."""
    installed = Version(transformers.__version__)
    if family not in FAMILIES:
        return f"transformers {installed} has no {family}"
    if family in _NUMBER_FOR_TRUTH and installed.release[:2] == (5, 4):
        return "transformers 5.4 declares a field as a number that is true or false: huggingface_hub refuses"
    if family.startswith("cohere_compass") and installed < Version("5.21"):
        return "before transformers 5.21 it takes no heads that are so small"
    if family == "qwen2_vl" and installed < Version("5"):
        return "Qwen2-VL of transformers 4 does not run on texts alone when it is made so small"
    return ""


def build(family: str) -> Any:
    model_class = getattr(transformers, FAMILIES[family])
    config_class = transformers.CONFIG_MAPPING[family]
    if model_class.config_class is not None and not issubclass(config_class, model_class.config_class):
        config_class = model_class.config_class  # the text model of a multimodal configuration
    sizes = _merge(_shrink(config_class()), SPECIAL.get(family, {}))
    torch.manual_seed(0)
    return model_class(config_class(**sizes)).eval()


def _shrink(config: Any) -> dict[str, Any]:
    """One layer of each kind, at least two; sub-configurations likewise."""
    sizes = {name: value for name, value in SMALL.items() if _settable(config, name)}
    for name, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            sizes[name] = {**_shrink(value), "model_type": value.model_type}
    kinds, depth = getattr(config, "layer_types", None), 2
    if kinds and _settable(config, "layer_types"):
        kinds = list(dict.fromkeys(kinds))
        sizes["layer_types"] = kinds * 2 if len(kinds) == 1 else kinds
        depth = sizes["num_hidden_layers"] = len(sizes["layer_types"])
    if kinds := getattr(config, "mlp_layer_types", None):
        sizes["mlp_layer_types"] = [kinds[0]] + [kinds[-1]] * (depth - 1)
    return sizes


def _settable(config: Any, name: str) -> bool:
    name = getattr(type(config), "attribute_map", {}).get(name, name)
    kind = getattr(type(config), name, None)
    try:
        return hasattr(config, name) and not (isinstance(kind, property) and kind.fset is None)
    except Exception:  # a value per layer, or a field that the family refuses
        return False


def _merge(sizes: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    merged = dict(sizes)
    for name, value in special.items():
        both = isinstance(value, dict) and isinstance(sizes.get(name), dict)
        merged[name] = _merge(sizes[name], value) if both else value
    return {name: value for name, value in merged.items() if value is not UNSET}


@dataclass(frozen=True)
class Found:
    """What `prepare_model` made of a family.

    `difference`: packed against alone; `leak`: one joined document against alone; both relative to the
    largest logit.
    """

    family: str
    way: str
    mixers: tuple[str, ...] = ()
    difference: float = 0.0
    leak: float = 1.0
    reason: str = ""

    @property
    def silent(self) -> bool:
        return self.way != "refused" and not self.difference < TOLERANCE


def examine(family: str) -> Found:
    """Prepare a family for packed rows; compare with its documents alone, on other rows than the probe's."""
    model = build(family)
    batch = PackedCollator(capacity=128)(pack_rows(make_documents([19, 7, 31, 2, 23], seed=5), 128))
    pieces = batch["input_ids"].split(document_lengths(batch["cu_seq_lens_q"]), dim=1)
    del batch["labels"]
    options = cache_option(model, False)
    with torch.no_grad():
        alone = unmasked(torch.cat([model(input_ids=piece, **options).logits[0] for piece in pieces]))
        joined = unmasked(model(input_ids=batch["input_ids"], **options).logits[0])
        try:
            report = prepare_model(model)
        except TokpackError as error:
            return Found(family, "refused", reason=error.what.splitlines()[-1].strip())
        packed = unmasked(model(**fit_batch(model, batch), **options).logits[0])
    difference, leak = (
        float((logits - alone).abs().max() / alone.abs().max()) for logits in (packed, joined)
    )
    return Found(family, report.strategy, report.mixers, difference, leak)
