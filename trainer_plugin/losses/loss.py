"""The loss of a packed batch, token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tokpack.schema import IGNORE_INDEX


def trained_places(labels: torch.Tensor) -> torch.Tensor:
    """Which predictions of a row are of a label: int64[K], ascending; labels `[1, T]`, unshifted.

    Waits for a GPU, if the labels are on one: to be called before the model is, or to be known beforehand.
    """
    return (labels[0, 1:] != IGNORE_INDEX).nonzero()[:, 0]


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy of each prediction, 0 where there is no label: fp32[T - 1].

    logits `[1, T, V]`, labels `[1, T]`, unshifted. Only those logits that predict a label become fp32.
    places: `trained_places` of the labels, where they are known.
    """
    places = trained_places(labels) if places is None else places
    wanted = labels[0, 1:].index_select(0, places)
    losses = cross_entropy(logits[0].index_select(0, places).float(), wanted, reduction="none")
    return in_their_places(losses, places, labels)


def in_their_places(losses: torch.Tensor, places: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Losses of the trained predictions `[K]` -> those of all: fp32[T - 1]."""
    return losses.new_zeros(labels.shape[-1] - 1).index_copy(0, places, losses)


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
