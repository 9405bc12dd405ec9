"""The loss of every document of a packed dataset, from packed rows, for whatever model is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokpack.schema import IGNORE_INDEX
from tokpack.terminal.activity import Advance
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.loss import document_sums, token_losses, trained_places
from trainer_plugin.models.strategies import fit_batch, quiet_evaluation
from trainer_plugin.rows.collator import PackedCollator
from trainer_plugin.rows.dataset import PackedDataset

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TOGETHER = 16
"""Rows whose losses are copied from a GPU at once, so that it does not wait for the host after each."""


@dataclass(frozen=True, slots=True)
class DocumentPlaces:
    """All documents of a dataset in the order of its rows, int64[D] each; a split one has several pieces."""

    doc_id: Ints
    piece: Ints
    row: Ints
    start: Ints
    """First token within the row."""
    tokens: Ints
    trained: Ints
    """Tokens with a label."""
    chosen: npt.NDArray[np.bool_] | None = None
    """Of preference pairs, which lie side by side: chosen, rejected, chosen, ..."""

    def __len__(self) -> int:
        return len(self.doc_id)


def read_documents(dataset: PackedDataset) -> DocumentPlaces:
    """Reads every label once."""
    names = ("doc_id", "piece", "row", "start", "tokens", "trained")
    parts: dict[str, list[Any]] = {name: [] for name in names}
    chosen = []
    for number, row in enumerate(dataset):
        lengths = np.asarray(row["seq_lengths"], np.int64)
        starts = np.cumsum(lengths) - lengths
        labeled = row["labels"] != IGNORE_INDEX
        labeled[starts] = False  # nothing stands before it to predict it from
        counts = np.concatenate([[0], np.cumsum(labeled)])
        values = (row["doc_ids"], row["pieces"], np.full(len(lengths), number), starts, lengths)
        for name, value in zip(names, (*values, counts[starts + lengths] - counts[starts]), strict=True):
            parts[name].append(value)
        if dataset.is_preference:
            chosen.append(row["is_chosen"])
    joined = {
        name: np.concatenate([*part, np.zeros(0, np.int64)]).astype(np.int64) for name, part in parts.items()
    }
    return DocumentPlaces(**joined, chosen=np.concatenate(chosen).astype(bool) if chosen else None)


class DocumentLosses:
    """Runs one model over packed rows; the logits of a row are made in chunks where they would be large.

    What is switched inside the model between two calls (its adapter) is its owner's affair.
    """

    def __init__(self, model: Any) -> None:
        self.chunked, self.collate = ChunkedLoss(model), PackedCollator(loss_weights=False)

    def __call__(self, model: Any, dataset: PackedDataset, advance: Advance) -> Floats:
        """Sum of the losses of each document's trained tokens, in nats: float64[D]."""
        sums, kept = [np.zeros(0)], []
        with quiet_evaluation(model):
            for number, row in enumerate(dataset, 1):
                batch = self.collate([row])
                documents = len(batch["cu_seq_lens_q"]) - 1
                kept.append((self._losses(model, batch), batch["seq_idx"], documents))
                if number % TOGETHER == 0 or number == len(dataset):
                    sums += [document_sums(one.cpu().double(), *where).numpy() for one, *where in kept]
                    kept = []
                advance(1)
        return np.concatenate(sums)

    def _losses(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Of each prediction of a row, on the model's device; nothing is asked of it."""
        places = trained_places(batch["labels"])
        batch = fit_batch(model, {**batch, "places": places})
        labels, places = batch.pop("labels"), batch.pop("places")
        losses = None
        if self.chunked.fits(labels.shape[-1]):
            losses = self.chunked(model, batch, labels, places)
        if losses is None:
            losses = token_losses(model(**batch).logits, labels, places)
        return losses
