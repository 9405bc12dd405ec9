"""The code around flash-attention kernels, with a reference kernel in their place.

The kernel is the definition, written out; everything around it (boundaries, windows, unpadding) is the code
that runs on a GPU: transformers' own flash path, and the `varlen_attn` path of the packed attention. `calls`
keeps the documents that each call of the kernel was given.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from tiny_decoders import build
from trainer_rows import make_documents, pack_rows
from transformers import modeling_flash_attention_utils as flash

from trainer_plugin import PackedCollator, prepare_model, probe_isolation
from trainer_plugin.models import attention
from trainer_plugin.models.attention import document_lengths


def attend(q, k, v, scale, causal, window):
    """`[T, H, D]` of one document; the window as flash-attn counts it: keys before and behind the query."""
    k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], 1) for states in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    distance = torch.arange(len(q))[:, None] - torch.arange(len(k))
    hidden = (distance < 0) if causal else torch.zeros_like(distance, dtype=torch.bool)
    if window[0] >= 0:
        hidden |= (distance > window[0]) | (distance < -window[1])
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def varlen(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
    ):
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        lengths = cu_seqlens_q.diff().tolist()
        assert max(lengths) <= max_seqlen_q == max_seqlen_k
        seen.append(lengths)
        parts = zip(*(states.split(lengths) for states in (q, k, v)), strict=True)
        return torch.cat([attend(*part, softmax_scale, causal, window_size) for part in parts])

    def dense(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
        rows = [attend(*row, softmax_scale, causal, window_size) for row in zip(q, k, v, strict=True)]
        return torch.stack(rows)

    if not hasattr(flash, "_loaded_implementation"):
        pytest.skip("this transformers loads its kernels another way")
    cached = "flash_attn_with_kvcache" in inspect.getsource(flash._lazy_imports)  # not in transformers 5.2
    kernels = (dense, varlen, *[None] * cached, flash._pad_input, flash._unpad_input)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_args, **_kwargs: kernels)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    yield seen
    flash._loaded_implementation = None


def flash_model(family="mistral"):
    model = build(family)
    model.config._attn_implementation = "flash_attention_2"  # the setter asks for the package
    return model


def make_rows():
    return pack_rows(make_documents([9, 17, 5, 23, 1, 12]), 32)


def alone(model, batch):
    lengths = document_lengths(batch["cu_seq_lens_q"])
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=ids, use_cache=False).logits[0] for ids in batch["input_ids"].split(lengths, 1)]
        )


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize("rows", [1, 3])
def test_our_batch_gives_the_kernel_the_documents(calls, family, rows):
    """Mistral's window of 6 tokens is shorter than its documents."""
    batch = PackedCollator()(make_rows()[:rows])
    model = build(family)
    expected = alone(model, batch)
    model.config._attn_implementation = "flash_attention_2"
    with torch.no_grad():
        found = model(**batch, use_cache=False).logits[0]
    assert calls == [document_lengths(batch["cu_seq_lens_q"])] * 2
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_gradients_through_the_flash_path_equal_those_of_documents_alone(calls):
    batch, model = PackedCollator()(make_rows()), flash_model()
    model(**batch, use_cache=False).loss.backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    lengths, trained = document_lengths(batch["cu_seq_lens_q"]), (batch["labels"] != -100).sum()
    documents = zip(*(batch[name].split(lengths, 1) for name in ("input_ids", "labels")), strict=True)
    for ids, labels in documents:
        model(input_ids=ids, labels=labels, num_items_in_batch=trained, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        assert (packed[name] - parameter.grad).norm() <= 2e-5 * parameter.grad.norm(), name


def test_the_probe_and_the_ladder_take_a_model_that_came_with_it(calls):
    model = flash_model()
    report = probe_isolation(model)
    assert (report.ok, report.attn, report.strategy) == (True, "flash_attention_2", "native")
    assert prepare_model(model, "flash_attention_2").attn == "flash_attention_2"


@pytest.mark.parametrize("case", ["two rows of positions", "padding mask"])
def test_what_other_batches_do_on_the_flash_path(calls, case):
    """Why the collator flattens and gives bounds: documents see each other, without a warning."""
    model, rows = flash_model("llama"), make_rows()[:2]
    flat = PackedCollator()(rows)
    expected = alone(model, flat)
    width = max(len(row["input_ids"]) for row in rows)
    ids, positions = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    mask = torch.zeros(2, width, dtype=torch.long)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length] = torch.tensor(row["input_ids"])
        positions[number, :length] = torch.cat([torch.arange(n) for n in row["seq_lengths"]])
        mask[number, :length] = 1
    extra = {"attention_mask": mask} if case == "padding mask" else {}
    with torch.no_grad():
        found = model(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits[mask.bool()]
    assert (found - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.fixture
def varlen_calls(monkeypatch):
    """PyTorch's `varlen_attn`, called as its signature wants it."""
    from torch.nn.attention import varlen

    signature, seen = inspect.signature(varlen.varlen_attn), []

    def reference(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        values = given.arguments
        q, k, v = values["query"], values["key"], values["value"]
        lengths = values["cu_seq_q"].diff().tolist()
        assert values["max_q"] == values["max_k"] == max(lengths)
        assert values.get("enable_gqa", False) == (q.shape[1] != k.shape[1])
        assert all(states.is_contiguous() for states in (q, k, v))
        seen.append(lengths)
        left, right = values["window_size"]
        causal, window = right == 0, (left, right)
        parts = zip(*(states.split(lengths) for states in (q, k, v)), strict=True)
        return torch.cat([attend(*part, values["scale"], causal, window) for part in parts])

    monkeypatch.setattr(varlen, "varlen_attn", reference)
    monkeypatch.setattr(attention, "_varlen_fits", lambda *_: True)
    monkeypatch.setattr(attention, "_half_dtype", lambda _module, query: query.dtype)
    return seen


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_the_packed_attention_gives_varlen_attn_the_documents(varlen_calls, family):
    batch, model = PackedCollator()(make_rows()), build(family)
    expected = alone(model, batch)
    prepare_model(model, "tokpack", probe=False)
    with torch.no_grad():
        found = model(**batch, use_cache=False).logits[0]
    assert varlen_calls == [document_lengths(batch["cu_seq_lens_q"])] * 2
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert probe_isolation(model).ok


def test_heads_are_repeated_where_varlen_attn_knows_no_groups(varlen_calls, monkeypatch):
    """As in PyTorch 2.11."""
    monkeypatch.setattr(attention, "_varlen_takes", lambda option: option == "window_size")
    batch, model = PackedCollator()(make_rows()), build("llama")
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    expected = alone(model, batch)
    prepare_model(model, "tokpack", probe=False)
    with torch.no_grad():
        found = model(**batch, use_cache=False).logits[0]
    assert len(varlen_calls) == 2
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_flex_attention_is_exact_and_refused_where_it_has_no_backward(family):
    """Uncompiled: compiling it takes minutes on a CPU."""
    batch, model = PackedCollator()(make_rows()), build(family)
    expected = alone(model, batch)
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        found = model(**batch, use_cache=False).logits[0]
        report = probe_isolation(model)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert "does not support backward on CPU" in report.problem
