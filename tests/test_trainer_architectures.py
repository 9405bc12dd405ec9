"""Decoder families of transformers, tiny and random: packed logits equal those of the documents alone.

What the plain call gives for each document is taken before the model is prepared, on other documents than
the probe's. Families whose layers carry state along the row (Mamba, Jamba, RWKV, Qwen3-Next) have to end up
in the loop over documents, the others in the packed attention or in transformers' own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch.nn.functional import cross_entropy
from trainer_rows import make_documents, pack_rows

from trainer_plugin import PackedCollator, prepare_model
from trainer_plugin.attention import document_lengths

pytestmark = pytest.mark.slow

SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "rotary_dim": 4,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "word_embed_proj_dim": 32,
    "attention_hidden_size": 32,
    "initializer_range": 0.3,
    "sliding_window": 6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MLA = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
GDN = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
ATTENTION = """
    llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 gpt_neox gptj gpt2
    opt biogpt olmo olmo2 olmo3 olmoe starcoder2 stablelm cohere cohere2 granite granitemoe glm glm4 glm4_moe
    gpt_oss smollm3 nemotron arcee ernie4_5 exaone4 hunyuan_v1_dense seed_oss helium persimmon bitnet
    deepseek_v2 deepseek_v3
"""
LOOP = "bloom falcon mpt xglm mamba falcon_mamba jamba rwkv recurrent_gemma qwen3_next minimax"
KINDS = {**dict.fromkeys(ATTENTION.split(), "attention"), **dict.fromkeys(LOOP.split(), "loop")}


def settable(config, name):
    kind = getattr(type(config), name, None)
    return hasattr(config, name) and not (isinstance(kind, property) and kind.fset is None)


def build(family):
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config_class = transformers.CONFIG_MAPPING[family]
    defaults = config_class()
    wanted = {**SMALL, **(MLA if family.startswith("deepseek") else {}), **GDN}
    sizes = {name: value for name, value in wanted.items() if settable(defaults, name)}
    torch.manual_seed(0)
    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    return model_class(config_class(**sizes)).eval()


@pytest.mark.parametrize("family", KINDS)
def test_packed_logits_and_loss_equal_those_of_documents_alone(family):
    model = build(family)
    batch = PackedCollator(capacity=128)(pack_rows(make_documents([19, 7, 31, 2, 23], seed=5), 128))
    with torch.no_grad():
        pieces = batch["input_ids"].split(document_lengths(batch["cu_seq_lens_q"]), dim=1)
        expected = torch.cat([model(input_ids=piece, use_cache=False).logits[0] for piece in pieces])
        report = prepare_model(model)
        found = model(**batch, use_cache=False)
    assert (report.strategy == "loop") == (KINDS[family] == "loop"), str(report)
    assert (found.logits[0] - expected).abs().max() < 2e-4 * expected.abs().max()
    loss = cross_entropy(expected[:-1].float(), batch["labels"][0, 1:], ignore_index=-100)
    torch.testing.assert_close(found.loss.float(), loss, rtol=2e-4, atol=1e-6)
