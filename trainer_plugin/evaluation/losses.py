"""The loss of every document of a packed dataset, from packed rows, for whatever model is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.schema import IGNORE_INDEX
from tokpack.terminal.activity import Advance
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.loss import document_sums, token_losses
from trainer_plugin.models.strategies import fit_batch, quiet_evaluation
from trainer_plugin.rows.collator import PackedCollator
from trainer_plugin.rows.dataset import PackedDataset

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
        sums = [np.zeros(0)]
        with quiet_evaluation(model):
            for row in dataset:
                sums.append(self._row(model, row))
                advance(1)
        return np.concatenate(sums)

    def _row(self, model: Any, row: dict[str, np.ndarray]) -> Floats:
        batch = self.collate([row])
        documents = len(batch["cu_seq_lens_q"]) - 1
        numbers = batch["seq_idx"]
        batch = fit_batch(model, batch)
        labels = batch.pop("labels")
        losses = None
        if self.chunked.fits(labels.shape[-1]):
            losses = self.chunked(model, batch, labels)
        if losses is None:
            losses = token_losses(model(**batch).logits, labels)
        found: Floats = document_sums(losses.cpu().double(), numbers, documents).numpy()
        return found
