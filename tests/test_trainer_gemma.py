"""A real model with a large vocabulary, Gemma 3 270M: 262,144 ids, layers that see 512 tokens back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import get_gemma
import torch
from trainer_rows import make_documents, pack_rows

from trainer_plugin import PackedCollator, prepare_model
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.loss import token_losses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gemma():
    folder = get_gemma.folder()
    if not get_gemma.is_complete(folder):
        pytest.skip("no Gemma 3 270M: python tests/get_gemma.py")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_documents_are_proven_isolated(gemma):
    report = prepare_model(gemma)
    assert report.ok, report
    assert report.strategy == "tokpack", report


def test_the_loss_in_chunks_is_the_loss_of_whole_logits(gemma):
    prepare_model(gemma, "tokpack", probe=False)
    batch = PackedCollator()(pack_rows(make_documents([60, 30, 90]), 180))
    labels = batch.pop("labels")
    vocabulary = gemma.config.vocab_size
    chunked = ChunkedLoss(gemma, chunk_bytes=4 * vocabulary * 50)
    with torch.no_grad():
        found = chunked(gemma, batch, labels)
        assert found is not None, chunked.reason
        wanted = token_losses(gemma(**batch).logits, labels)
    assert found.any()
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()
