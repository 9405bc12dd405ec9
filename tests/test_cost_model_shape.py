"""Parameter counts from config.json against the models that transformers and PEFT really build."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from report_samples import LLAMA_8B

from tokpack.cost.model_shape import ModelShape
from tokpack.errors import UsageError

BASE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
TINY: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "mistral": {**BASE, "sliding_window": 32},
    "qwen2": BASE,
    "qwen3": BASE,
    "gemma": {**BASE, "head_dim": 32},
    "gemma2": {**BASE, "head_dim": 32, "sliding_window": 32},
    "gemma3_text": {**BASE, "head_dim": 32, "sliding_window": 32},
    "phi3": BASE,
    "smollm3": BASE,
    "olmo2": BASE,
    "granite": BASE,
    "mixtral": {**BASE, "num_local_experts": 4},
    "qwen2_moe": {**BASE, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 80},
    "qwen3_moe": {**BASE, **EXPERTS, "num_experts": 4, "mlp_only_layers": [1]},
    "deepseek_v3": {
        **BASE,
        **EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "first_k_dense_replace": 1,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_group": 2,
        "topk_group": 1,
    },
    "gpt_neox": {key: value for key, value in BASE.items() if key != "num_key_value_heads"},
    "gpt2": {
        "vocab_size": 512,
        "n_embd": 64,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}

LLAMA_3_8B = {**LLAMA_8B, "tie_word_embeddings": False}


def meta_model(model_type: str, **overrides: Any) -> tuple[Any, ModelShape]:
    """The model on the meta device (no memory, no weights) and our shape of its config."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if model_type == "olmo2" and transformers.__version__.startswith("5.4."):
        pytest.skip("transformers 5.4 declares its tie_word_embeddings as a number: huggingface_hub refuses")
    config = transformers.AutoConfig.for_model(model_type, **{**TINY[model_type], **overrides})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model, ModelShape.from_config(config.to_dict())


@pytest.mark.parametrize("model_type", TINY)
def test_parameters_equal_those_of_the_real_model_in_matrices(model_type: str) -> None:
    model, shape = meta_model(model_type)
    assert shape.total_params == sum(p.numel() for p in model.parameters() if p.dim() >= 2)
    assert shape.notes == ()


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2", "deepseek_v3"])
def test_norms_and_biases_left_out_are_below_a_percent_of_a_narrow_model(model_type: str) -> None:
    wide = {"n_embd": 512, "n_head": 8} if model_type == "gpt2" else {"hidden_size": 512}
    model, shape = meta_model(model_type, **wide)
    assert shape.total_params == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)


@pytest.mark.parametrize("model_type", TINY)
def test_adapter_parameters_equal_those_that_peft_makes(model_type: str) -> None:
    peft = pytest.importorskip("peft")
    model, shape = meta_model(model_type)
    transformers = Version(version("transformers"))
    older = transformers < Version("5") or Version(version("peft")) < Version("0.21")
    if older and any(matrix.copies > 1 for matrix in shape.matrices):
        pytest.skip("experts are counted as PEFT 0.21 adapts them in transformers 5")
    if model_type == "qwen2_moe" and transformers < Version("5.5"):
        pytest.skip("experts of Qwen2-MoE are counted as from transformers 5.5 on: not adapted")
    config = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    assert shape.lora_params(8) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_llama_3_8b_has_eight_billion_parameters() -> None:
    shape = ModelShape.from_config(LLAMA_3_8B)
    assert shape.total_params == 8_030_261_248 - 65 * 4096  # published count minus the norm weights
    assert shape.embedding_params == shape.head_params == 128256 * 4096
    assert shape.active_params == shape.total_params - shape.embedding_params


def test_deepseek_v3_activates_37_of_671_billion() -> None:
    config = {
        "model_type": "deepseek_v3",
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
    }
    shape = ModelShape.from_config(config)
    assert shape.total_params / 1e9 == pytest.approx(671, abs=0.5)
    assert (shape.active_params + shape.embedding_params) / 1e9 == pytest.approx(37.5, abs=0.5)


def test_mixtral_counts_two_of_eight_experts_as_active() -> None:
    config = {**LLAMA_3_8B, "model_type": "mixtral", "vocab_size": 32000}
    config |= {"num_local_experts": 8, "num_experts_per_tok": 2}
    shape = ModelShape.from_config(config)
    assert shape.total_params / 1e9 == pytest.approx(46.7, abs=0.1)
    assert (shape.active_params + shape.embedding_params) / 1e9 == pytest.approx(12.9, abs=0.1)


def test_windows_follow_each_familys_rule() -> None:
    def windows(**config: Any) -> list[int | None]:
        return list(ModelShape.from_config({**BASE, **config}).windows)

    assert windows(model_type="llama") == [None] * 4
    assert windows(model_type="mistral", sliding_window=8) == [8] * 4
    assert windows(model_type="mistral", sliding_window=None) == [None] * 4
    assert windows(model_type="gemma2", sliding_window=8) == [8, None, 8, None]
    gemma3 = windows(model_type="gemma3_text", sliding_window=8, num_hidden_layers=7)
    assert gemma3 == [8, 8, 8, 8, 8, None, 8]
    qwen = {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 3}
    assert windows(**qwen, use_sliding_window=False) == [None] * 4
    assert windows(**qwen, use_sliding_window=True) == [None, None, None, 8]
    types = ["full_attention", "sliding_attention"] * 2
    assert windows(model_type="llama", sliding_window=8, layer_types=types) == [None, 8, None, 8]


def test_text_part_of_a_multimodal_config_is_used_with_its_unwritten_defaults() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    config = {"model_type": "gemma3", "text_config": {**text, "num_hidden_layers": 34}, "vision_config": {}}
    shape = ModelShape.from_config(config)
    assert shape.tied
    assert (shape.num_heads, shape.num_kv_heads, shape.qk_dim) == (8, 4, 256)
    assert shape.total_params / 1e9 == pytest.approx(3.88, abs=0.01)
    assert "multimodal" in shape.notes[0]


def test_a_config_file_and_its_folder_give_the_same_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    assert ModelShape.from_config(tmp_path) == ModelShape.from_config(tmp_path / "config.json")
    assert ModelShape.from_config(tmp_path) == ModelShape.from_config(LLAMA_3_8B)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size or n_embd"),
        ({"vocab_size": None}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"num_hidden_layers": "4"}, "positive whole number"),
        ({"num_local_experts": 4}, "num_experts_per_tok"),
        ({"hidden_size": 66}, "head_dim"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["linear_attention"] * 4}, "'linear_attention'"),
        ({"mamba_d_state": 16}, "mamba_d_state"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_what_cannot_be_counted_is_an_error_that_names_the_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ModelShape.from_config({**BASE, "model_type": "llama", **change})


def test_an_unknown_model_type_is_counted_like_llama_and_says_so() -> None:
    shape = ModelShape.from_config({**BASE, "model_type": "newcomer"})
    assert "'newcomer' is unknown" in shape.notes[0]
    assert shape.total_params == ModelShape.from_config({**BASE, "model_type": "llama"}).total_params


def test_a_missing_or_broken_config_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model config"):
        ModelShape.from_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        ModelShape.from_config(tmp_path)
