"""What attention asks of the kernels of a CUDA device: PyTorch's fake tensors name one that is not there."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_plugin.models import attention

CUDA = torch.device("cuda:0")


@pytest.fixture
def fake(monkeypatch):
    """A card with flash units."""
    monkeypatch.setattr(attention, "_has_flash_units", lambda index: True)
    with FakeTensorMode() as mode:
        yield mode


def heads(query, key, tokens=24, dtype=torch.bfloat16, size=64):
    made = (torch.empty(1, n, tokens, size, dtype=dtype, device=CUDA) for n in (query, key, key))
    return tuple(made)


@pytest.mark.parametrize(
    ("flash", "dtype", "size", "masked", "copied"),
    [
        (True, torch.bfloat16, 64, False, False),
        (True, torch.bfloat16, 64, True, True),
        (True, torch.float32, 64, False, True),
        (True, torch.bfloat16, 512, False, True),
        (False, torch.float16, 64, False, True),  # a T4
    ],
)
def test_grouped_heads_are_copied_where_no_kernel_takes_them(
    fake, monkeypatch, flash, dtype, size, masked, copied
):
    """With `enable_gqa` PyTorch then holds the scores of all pairs, which takes long and much memory."""
    monkeypatch.setattr(attention, "_has_flash_units", lambda index: flash)
    called = {}

    def sdpa(q, k, v, **options):
        called.update(options, heads=k.shape[1])
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", sdpa)
    q, k, v = heads(8, 2, dtype=dtype, size=size)
    mask = torch.ones(24, 24, dtype=torch.bool, device=CUDA) if masked else None
    scores = attention.Scores(1.0, causal=True, dropout=0.0)
    attention._attend_plain(q, k, v, scores, mask)
    assert called["enable_gqa"] is not copied
    assert called["heads"] == (8 if copied else 2)


@pytest.mark.parametrize(("size", "fits"), [(64, True), (100, False), (256, True), (264, False)])
def test_the_flash_kernel_gets_heads_of_a_size_that_it_takes(fake, size, fits):
    q, _, v = heads(2, 2, size=size)
    assert attention._varlen_fits(q, v, attention.Scores(1.0, causal=True, dropout=0.0)) is fits


def test_heads_are_copied_once_for_a_kernel_without_groups(monkeypatch):
    """PyTorch 2.11; keys and values lie token by token, as projections make them."""
    monkeypatch.setattr(attention, "_varlen_takes", lambda option: option == "window_size")
    given = {}

    def kernel(q, k, v, *_args, **options):
        given.update(options, k=k, v=v)
        return q

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    q, k, v = (torch.randn(1, 24, n, 64).transpose(1, 2) for n in (8, 2, 2))
    bounds = torch.tensor([0, 9, 24], dtype=torch.int32)
    with Copies() as copies:
        attention._attend_varlen(q, k, v, bounds, 15, attention.Scores(1.0, causal=True, dropout=0.0))
    assert copies.made == 2
    assert "enable_gqa" not in given
    for name, states in (("k", k), ("v", v)):
        assert torch.equal(given[name], states.repeat_interleave(4, dim=1)[0].transpose(0, 1))
        assert given[name].is_contiguous()


class Copies(TorchDispatchMode):
    """How many tensors are copied."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.aten.clone.default
        return func(*args, **(kwargs or {}))
