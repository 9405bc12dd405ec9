"""The packed attention and the isolation probe on tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import build
from trainer_rows import (
    WITH_ONE,
    make_documents,
    pack_rows,
    tiny_llama,
    write_packed,
)

from tokpack.errors import UsageError, VerifyError
from trainer_plugin import PackedCollator, PackedDataset, prepare_model, probe_isolation
from trainer_plugin.models.attention import Scores, document_lengths, packed_attention, varlen_window
from trainer_plugin.models.strategies import attention_of


@pytest.fixture(scope="module")
def batch():
    return PackedCollator()(pack_rows(make_documents(WITH_ONE), 512)[:1])


def logits_of(model, batch, attn):
    model.set_attn_implementation(attn)
    with torch.no_grad():
        return model(**batch, use_cache=False).logits[0]


def alone(model, batch, attn):
    """Logits of each document through the plain call; transformers' own attention."""
    model.set_attn_implementation(attn)
    pieces = batch["input_ids"].split(document_lengths(batch["cu_seq_lens_q"]), dim=1)
    with torch.no_grad():
        return torch.cat([model(input_ids=piece, use_cache=False).logits[0] for piece in pieces])


def test_packed_attention_equals_documents_alone(batch):
    model = tiny_llama()
    expected = alone(model, batch, "sdpa")
    for attn, limit in (("tokpack", 1e-6), ("sdpa", 1e-5), ("eager", 1e-5)):
        difference = (logits_of(model, batch, attn) - expected).abs().max() / expected.abs().max()
        assert difference <= limit, attn


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Mistral", {"sliding_window": 6}),
        ("Gemma2", {"sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8}),
        ("GptOss", {"sliding_window": 6, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
        ("Qwen3", {"head_dim": 8}),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ],
)
def test_windows_soft_caps_sinks_and_learned_positions_equal_eager_alone(batch, family, changes):
    import transformers

    from trainer_plugin import register_attention

    if family == "OPT" and transformers.__version__.startswith("4."):
        pytest.skip("before transformers 5, OPT makes a mask for every attention: ours is refused")
    register_attention()
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
        **changes,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in model.parameters():  # the default spread is too small for attention to matter
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = alone(model, batch, "eager")
    got = logits_of(model, batch, "tokpack")
    assert (got - expected).abs().max() / expected.abs().max() < 2e-5


def test_gradients_through_packed_attention_equal_those_of_documents_alone(batch):
    model = tiny_llama()
    model.set_attn_implementation("tokpack")
    model(**batch, use_cache=False).loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    lengths = document_lengths(batch["cu_seq_lens_q"])
    trained = (batch["labels"] != -100).sum()
    for ids, labels in zip(
        batch["input_ids"].split(lengths, 1), batch["labels"].split(lengths, 1), strict=True
    ):
        model(input_ids=ids, labels=labels, num_items_in_batch=trained, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        assert (packed[name] - parameter.grad).norm() <= 2e-5 * parameter.grad.norm(), name


def test_chunked_layers_see_only_their_own_chunk():
    class Layer(torch.nn.Module):
        layer_idx, is_causal = 0, True

        class config:
            attention_chunk_size, layer_types = 4, ["chunked_attention"]

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 14, 8) for _ in range(3))
    cu = torch.tensor([0, 9, 14], dtype=torch.int32)
    got, _ = packed_attention(Layer(), q, k, v, None, cu_seq_lens_q=cu)
    position = torch.cat([torch.arange(9), torch.arange(5)])
    document = torch.tensor([0] * 9 + [1] * 5)
    mask = (document[:, None] == document) & (position[:, None] // 4 == position // 4)
    mask &= position[:, None] >= position
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_the_flash_kernel_counts_the_window_without_the_query_itself():
    assert varlen_window(Scores(1.0, causal=True, dropout=0.0)) == (-1, 0)
    assert varlen_window(Scores(1.0, causal=True, dropout=0.0, window=8)) == (7, 0)
    assert varlen_window(Scores(1.0, causal=False, dropout=0.0)) == (-1, -1)


def test_a_batch_without_document_bounds_raises_instead_of_leaking(batch):
    model = tiny_llama("tokpack")
    with pytest.raises(UsageError, match="no cu_seq_lens_q"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(UsageError, match="attention mask"):
        packed_attention(
            model, *[torch.ones(1, 1, 2, 2)] * 3, torch.ones(1), cu_seq_lens_q=torch.tensor([0, 2])
        )
    with pytest.raises(UsageError, match="2 rows in one batch"):
        packed_attention(model, *[torch.ones(2, 1, 2, 2)] * 3, None, cu_seq_lens_q=torch.tensor([0, 2]))


def test_tensors_that_would_change_who_sees_whom_are_refused():
    states = [torch.ones(1, 1, 2, 2)] * 3
    with pytest.raises(UsageError, match="'block_indices', which it does not know"):
        packed_attention(
            torch.nn.Module(), *states, None, cu_seq_lens_q=torch.tensor([0, 2]), block_indices=torch.ones(1)
        )


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    heads=st.sampled_from([(2, 1), (4, 2), (3, 3)]),
    window=st.sampled_from([None, 1, 7]),
    softcap=st.sampled_from([None, 5.0]),
    sinks=st.booleans(),
    causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_packed_attention_is_the_masked_softmax(lengths, heads, window, softcap, sinks, causal):
    """Against the definition on the whole row in float64: cap, mask of blocks and window, sinks, softmax."""
    torch.manual_seed(sum(lengths))
    total, (queries, keys) = sum(lengths), heads
    q = torch.randn(1, queries, total, 4, dtype=torch.float64)
    k, v = (torch.randn(1, keys, total, 4, dtype=torch.float64) for _ in range(2))
    s_aux = torch.randn(queries, dtype=torch.float64) if sinks else None
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    got, _ = packed_attention(
        torch.nn.Module(),
        *(q, k, v, None),
        scaling=0.7,
        sliding_window=window,
        softcap=softcap,
        s_aux=s_aux,
        is_causal=causal,
        cu_seq_lens_q=bounds,
    )
    k, v = (states.repeat_interleave(queries // keys, 1) for states in (k, v))
    scores = q @ k.transpose(2, 3) * 0.7
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = torch.arange(total)[:, None] - torch.arange(total)
    visible = number[:, None] == number
    visible &= (distance >= 0) if causal else True
    visible &= (distance.abs() < window) if window else True
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks:
        scores = torch.cat([scores, s_aux[None, :, None, None].expand(1, -1, total, 1)], -1)
    expected = (torch.softmax(scores, -1)[..., :total] @ v).transpose(1, 2)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attn", ["tokpack", "sdpa", "eager"])
def test_the_probe_passes_for_every_sound_attention(attn):
    report = probe_isolation(tiny_llama(attn))
    assert report.ok
    assert report.max_difference < 1e-5
    assert "first document changed" in str(report)


def test_the_probe_sees_documents_that_see_each_other(monkeypatch):
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    report = probe_isolation(tiny_llama("sdpa"))
    assert not report.ok
    assert report.max_difference > 0.1


def test_the_probe_sees_a_leak_that_only_training_has():
    """Fused training kernels are other code than the ones that evaluate."""
    model = tiny_llama("tokpack")

    def leak(module, _args, output):
        return output + 0.01 * output.mean(1, keepdim=True) if module.training else output

    assert probe_isolation(model).ok
    model.model.layers[0].mlp.register_forward_hook(leak)
    report = probe_isolation(model)
    assert not report.ok
    assert report.problem.startswith("gradients of another document")
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_probe_sees_windows_that_are_lost_though_its_documents_are_shorter(monkeypatch):
    from trainer_plugin.models import attention

    model = build("mistral")
    model.config.sliding_window = 4096
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 4096
    model.set_attn_implementation("tokpack")
    assert probe_isolation(model).ok
    monkeypatch.setattr(attention, "_visible", lambda *_: None)
    assert probe_isolation(model).problem.startswith("packed against alone")
    assert model.config.sliding_window == model.model.layers[0].self_attn.sliding_window == 4096


def test_the_probe_uses_up_no_random_numbers():
    model = tiny_llama("tokpack", attention_dropout=0.5).train()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    probe_isolation(model)
    assert torch.equal(torch.rand(3), expected)


def test_the_probe_tells_what_a_cache_would_do_and_leaves_the_model_as_it_was():
    model = tiny_llama("sdpa").train()
    report = probe_isolation(model)
    assert any("use_cache=True would leak" in note for note in report.notes)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_the_ladder_takes_our_attention_first():
    model = tiny_llama()
    report = prepare_model(model)
    assert (report.strategy, report.max_difference) == ("tokpack", 0.0)
    assert attention_of(model) == "tokpack"
    assert model.config.use_cache is False


@pytest.mark.parametrize(("family", "way"), [("mamba", "mixers"), ("bloom", "loop")])
def test_the_loss_of_models_without_exchangeable_attention_is_that_of_the_row(family, way, batch):
    model = build(family)
    report = prepare_model(model)
    assert (report.strategy, report.ok) == (way, True)
    with torch.no_grad():
        out = model(**batch)
        lengths = document_lengths(batch["cu_seq_lens_q"])
        plain = [type(model).forward(model, input_ids=ids) for ids in batch["input_ids"].split(lengths, 1)]
    expected = torch.cat([one.logits for one in plain], 1)
    torch.testing.assert_close(out.logits, expected, atol=1e-6, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(expected[0, :-1], batch["labels"][0, 1:])
    torch.testing.assert_close(out.loss, loss)


def test_an_attention_that_leaks_is_refused_with_advice(monkeypatch):
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(VerifyError, match="does not keep packed documents apart") as error:
        prepare_model(tiny_llama(), "sdpa")
    assert error.value.hint == "use attn=auto"


ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 20,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_a_row_too_long_for_a_rope_that_looks_at_lengths_is_refused(tmp_path, kind):
    positions = 20 if kind == "dynamic" else 40
    model = tiny_llama(max_position_embeddings=positions, rope_parameters=ROPES[kind])
    write_packed(tmp_path / "long", make_documents([30, 10]), 64)
    write_packed(tmp_path / "alone", make_documents([30]), 64)
    with pytest.raises(UsageError, match=f"{kind} RoPE"):
        prepare_model(model, dataset=PackedDataset(tmp_path / "long"))
    assert prepare_model(model, "tokpack", dataset=PackedDataset(tmp_path / "alone"), probe=False)


def test_multimodal_positions_are_refused():
    from types import SimpleNamespace

    from trainer_plugin.isolation.verify import refuse_config

    config = SimpleNamespace(
        model_type="qwen2_5_vl", vision_config={}, rope_parameters={"mrope_section": [1, 1, 2]}
    )
    with pytest.raises(UsageError, match="3-D positions"):
        refuse_config(config)
