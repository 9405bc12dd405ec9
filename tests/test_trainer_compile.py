"""`torch.compile` over packed rows: one graph, and the same loss and gradients as without it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from tiny_decoders import build
from trainer_rows import LENGTHS, WITH_ONE, make_documents, pack_rows

from trainer_plugin import PackedCollator, prepare_model
from trainer_plugin.models import attention
from trainer_plugin.models.attention import Scores, _mask_of_documents

CAPACITY = 64


def gradients(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # Gemma 2: soft-capped scores, sliding windows
def test_a_packed_row_of_fixed_size_compiles_to_one_graph(family):
    model = build(family)
    prepare_model(model, "tokpack")
    model.train()

    def loss(batch):
        return model(**batch, use_cache=False).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    rows = pack_rows(make_documents(WITH_ONE * 2), CAPACITY)[:2]
    for row in rows:  # one graph serves other documents too
        batch = PackedCollator(capacity=CAPACITY)([row])
        ours, plain = compiled(batch), loss(batch)
        assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
        ours, plain = gradients(ours, model), gradients(plain, model)
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.slow
def test_the_path_of_varlen_attn_compiles_to_one_graph_as_well(monkeypatch):
    """On `meta` tensors: PyTorch's own checks of the arguments, forward and backward, no kernel."""

    def fits(query, _value, _scores):
        return query.device.type == "meta" and attention._varlen_takes("window_size")

    monkeypatch.setattr(attention, "_varlen_fits", fits)
    model = build("llama").to(torch.bfloat16)
    prepare_model(model, "tokpack", probe=False)
    model.train().to("meta")

    def loss(batch):  # cross entropy has no backward on meta
        return model(**batch, use_cache=False).logits.float().square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for row in pack_rows(make_documents(LENGTHS * 2), CAPACITY)[:2]:
        batch = PackedCollator(capacity=CAPACITY)([row])
        moved = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        del moved["labels"]
        for forward in (loss, compiled):
            model.zero_grad()
            forward(moved).backward()
            assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("causal", "window", "chunk"),
    [(True, None, None), (True, 4, None), (False, 4, None), (True, None, 3), (False, None, None)],
)
def test_the_mask_of_documents_is_the_one_counted_by_hand(causal, window, chunk):
    lengths = [5, 1, 9, 3]
    bounds = torch.tensor([0, 5, 6, 15, 18], dtype=torch.int32)
    places = [(number, place) for number, length in enumerate(lengths) for place in range(length)]

    def sees(query, key):
        near = window is None or (query[1] - key[1] < window and (causal or key[1] - query[1] < window))
        same = query[0] == key[0] and (chunk is None or query[1] // chunk == key[1] // chunk)
        return same and near and (not causal or key[1] <= query[1])

    mask = _mask_of_documents(bounds, sum(lengths), Scores(1.0, causal, 0.0, window), chunk)
    assert mask.tolist() == [[sees(query, key) for key in places] for query in places]


def test_transformers_does_not_look_for_documents_itself(monkeypatch):
    """It would wait for the device in every forward pass."""
    from transformers import masking_utils

    monkeypatch.setattr(
        masking_utils, "find_packed_sequence_indices", lambda _positions: pytest.fail("looked")
    )
    model = build("llama")
    prepare_model(model, "tokpack", probe=False)
    model(**PackedCollator()(pack_rows(make_documents(WITH_ONE), CAPACITY)), use_cache=False)
