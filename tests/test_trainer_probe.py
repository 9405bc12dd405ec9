"""The isolation probe over a large vocabulary: it looks at the logits of few tokens, and still sees leaks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from tiny_decoders import build
from trainer_rows import make_documents, pack_rows, tiny_llama, write_packed

from tokpack.errors import VerifyError
from trainer_plugin import prepare_model, probe_isolation, verify_model
from trainer_plugin.isolation import probe
from trainer_plugin.isolation.report import AHEAD


@pytest.fixture
def few(monkeypatch):
    """Logits of every fourth token."""
    total = 21 + 40 + 17
    monkeypatch.setattr(probe, "PROBE_LOGITS", total * 128 // 4)


def tokens_of_the_head(model):
    """How many tokens each call of the head gets, filled as the model runs."""
    seen = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, args, _output: seen.append(args[0].shape[1])
    )
    return seen


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "mamba", "bloom"])
def test_sound_models_pass_on_the_logits_of_few_tokens(few, family):
    model = build(family)
    prepare_model(model, "auto")
    seen = tokens_of_the_head(model)
    report = probe_isolation(model)
    assert report.ok, report
    assert max(seen) < 30 or report.strategy == "loop"  # which runs the head once a document


def test_the_first_token_of_a_document_is_among_the_few(monkeypatch):
    """A layer that mixes each token with the one before leaks into that token alone."""
    monkeypatch.setattr(probe, "PROBE_LOGITS", (21 + 40 + 17) * 128 // 5)  # neither 21 nor 61 is a fifth
    model = tiny_llama("sdpa")
    model.model.layers[-1].register_forward_hook(
        lambda _module, _args, out: out + 0.3 * torch.roll(out, 1, dims=1)
    )
    report = probe_isolation(model)
    assert not report.checks[0].ok, report


@pytest.mark.parametrize("leak", ["packed", "training"])
def test_leaks_are_seen_on_the_logits_of_few_tokens(few, monkeypatch, leak):
    from transformers import masking_utils

    model = tiny_llama("sdpa" if leak == "packed" else "tokpack")
    if leak == "packed":
        monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    else:
        model.model.layers[0].mlp.register_forward_hook(
            lambda module, _args, out: out + 0.01 * out.mean(1, keepdim=True) if module.training else out
        )
    assert not probe_isolation(model).ok


@pytest.mark.parametrize("family", ["cpmant", "xlm", "xlnet"])
def test_models_that_see_the_tokens_to_predict_are_refused(family):
    """Documents stay apart, and each is read in both directions: the loss would fall without learning."""
    with pytest.raises(VerifyError, match=f"it sees the tokens that it is to predict; {AHEAD}") as error:
        prepare_model(build(family))
    assert "attn=eager" in str(error.value)
    assert "--planner none" not in str(error.value)


def test_verify_says_that_a_model_sees_ahead_and_not_that_documents_leak(tmp_path):
    write_packed(tmp_path / "p", make_documents([20, 9, 30]), 64)
    found = verify_model(tmp_path / "p", build("cpmant"))
    assert not found.ok
    assert found.reports["loop"].verdict == "SEES AHEAD"
    assert "made to see ahead" in found.advice[-1]


def test_a_model_that_sees_ahead_in_rows_shorter_than_its_window_is_found():
    """As Doge does up to transformers 5.17; the other checks run with short windows."""
    model = build("mistral")
    model.config.sliding_window = 64
    model.model.layers[-1].register_forward_hook(
        lambda _module, _args, out: (
            out + 0.3 * torch.roll(out, -1, dims=1) if out.shape[1] <= model.config.sliding_window else out
        )
    )
    report = probe_isolation(model)
    assert [one.name for one in report.checks if not one.ok] == [AHEAD], report


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_doge_sees_nothing_ahead_or_is_refused(attn):
    """Up to transformers 5.17 its sdpa takes a document without any mask, and adds its own to none."""
    model, ids = build("doge"), torch.arange(3, 23)[None]
    with torch.no_grad():
        whole, start = (model(input_ids=row, use_cache=False).logits for row in (ids, ids[:, :9]))
    if attn == "sdpa" and not torch.allclose(whole[:, :9], start, atol=1e-4):
        with pytest.raises(VerifyError, match="it sees the tokens that it is to predict"):
            prepare_model(model)
        return
    assert prepare_model(model, attn).ok


@pytest.mark.parametrize("lengths", [(9, 17, 300), (200, 200, 200, 200), (9, 17, 23)])
def test_rows_for_flex_attention_are_as_long_as_its_kernel_on_a_gpu_needs(monkeypatch, lengths):
    model = tiny_llama("sdpa", max_position_embeddings=1024)
    monkeypatch.setattr(probe, "attention_of", lambda _: "flex_attention")
    monkeypatch.setattr(model, "set_attn_implementation", lambda _: None)
    seen = []
    model.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(kwargs), with_kwargs=True)
    (row,) = pack_rows(make_documents(lengths), sum(lengths))
    assert probe_isolation(model, [row]).ok
    rows = [kwargs["input_ids"].shape[1] for kwargs in seen if "position_ids" in kwargs]
    assert len(rows) >= 5
    assert min(rows) >= 128, rows
