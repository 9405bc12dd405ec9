"""The loss of a packed batch, token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tokpack.schema import IGNORE_INDEX


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each prediction, 0 where there is no label: fp32[T - 1].

    logits `[1, T, V]`, labels `[1, T]`, unshifted. Only those logits that predict a label become fp32.
    """
    kept = labels[0, 1:] != IGNORE_INDEX
    losses: torch.Tensor = cross_entropy(logits[0, :-1][kept].float(), labels[0, 1:][kept], reduction="none")
    return losses.new_zeros(kept.shape).masked_scatter(kept, losses)


def loss_weights(batch: dict[str, Any]) -> torch.Tensor:
    """Weight of each prediction of the batch: `[1, T - 1]` or, with the first token's 0, `[1, T]`."""
    weights: torch.Tensor | None = batch.get("loss_weights")
    if weights is not None:
        return weights
    labels: torch.Tensor = batch["labels"]
    return (labels[..., 1:] != IGNORE_INDEX).float()


def document_sums(losses: torch.Tensor, seq_idx: torch.Tensor, documents: int) -> torch.Tensor:
    """Sum of the losses of each document: fp32[documents]; losses `[T - 1]`, seq_idx `[1, T]`."""
    return losses.new_zeros(documents).index_add(0, seq_idx[0, 1:].long(), losses)
