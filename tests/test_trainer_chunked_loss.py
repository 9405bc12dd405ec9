"""The loss in chunks of logits: the same loss and gradients, in megabytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
from tiny_decoders import build
from trainer_rows import LENGTHS, WITH_ONE, make_documents, pack_rows, tiny_llama, trainer_for, write_packed

from trainer_plugin import PackedCollator, PackedDataset, prepare_model
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.loss import token_losses

CAPACITY = 64


def small_chunks(model):
    """Seven tokens a chunk, for any row."""
    vocabulary = model.config.get_text_config().vocab_size
    return ChunkedLoss(model, chunk_bytes=4 * vocabulary * 7)


def losses_and_gradients(model, losses):
    model.zero_grad()
    losses.sum().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# Gemma 2 caps its logits, Cohere and Granite scale them, Mamba runs document by document.
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gpt_oss", "mamba", "bloom"])
def test_chunks_give_the_losses_and_gradients_of_whole_logits(family):
    if family == "bloom" and transformers.__version__.startswith("4."):
        pytest.skip("BLOOM of transformers 4 takes no arguments that it does not know")
    model = build(family)
    prepare_model(model, "auto", probe=False)
    model.train()
    batch = PackedCollator()(pack_rows(make_documents(WITH_ONE), CAPACITY)[:2])
    labels = batch.pop("labels")
    from trainer_plugin.models.strategies import fit_batch

    batch = fit_batch(model, batch)
    chunked = small_chunks(model)
    found = chunked(model, batch, labels)
    assert found is not None, chunked.reason
    found = losses_and_gradients(model, found)
    wanted = losses_and_gradients(model, token_losses(model(**batch).logits, labels))
    assert (found[0] - wanted[0]).abs().max() <= 1e-6 * wanted[0].abs().max()
    assert (found[1] - wanted[1]).norm() <= 1e-6 * wanted[1].norm()


def test_a_row_without_labels_has_no_loss_and_gradients_of_zero():
    model = tiny_llama("tokpack").train()
    batch = PackedCollator()(pack_rows(make_documents(LENGTHS), CAPACITY)[:1])
    labels = torch.full_like(batch.pop("labels"), -100)
    losses, gradients = losses_and_gradients(model, small_chunks(model)(model, batch, labels))
    assert not losses.any()
    assert not gradients.any()


def test_logits_that_come_out_otherwise_are_held_whole(caplog):
    """A model whose head reads more than the base model's last states."""
    model = tiny_llama("tokpack")
    forward, calls = model.forward, []

    def odd(*args, **kwargs):
        calls.append(kwargs)
        output = forward(*args, **kwargs)
        output.logits = output.logits + len(calls)
        return output

    model.forward = odd
    batch = PackedCollator()(pack_rows(make_documents(LENGTHS), CAPACITY)[:1])
    labels = batch.pop("labels")
    chunked = small_chunks(model)
    assert chunked(model, batch, labels) is None
    assert chunked.reason == "the logits come out otherwise"
    assert not chunked.fits(10**9)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["token", "document"])
def test_a_run_in_chunks_ends_at_the_weights_of_one_with_whole_logits(tmp_path, loss):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 2), CAPACITY)
    dataset = PackedDataset(tmp_path / "packed")
    weights, evaluated = [], []
    for chunks in (False, True):
        model = tiny_llama("tokpack")
        options = {"loss": loss, "accumulation": 2, "eval_dataset": dataset, "max_steps": 4}
        trainer = trainer_for(model, dataset, tmp_path / str(chunks), trainer={"optim": "sgd"}, **options)
        if chunks:
            trainer.chunked_loss = small_chunks(model)
        trainer.train()
        assert trainer.chunked_loss._proven is chunks
        evaluated.append(trainer.evaluate()["eval_loss"])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 1e-6
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-6)


def test_only_large_logits_are_cut():
    chunked = ChunkedLoss(tiny_llama(vocab_size=1 << 14))
    assert not chunked.fits(1 << 12)
    assert chunked.fits((1 << 12) + 1)
