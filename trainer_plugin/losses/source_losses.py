"""`SourceLosses`: the training loss of each source of a mix, in every log entry.

Sums stay on the device; they are copied when the trainer logs, as its own loss is. A source without a trained
token since the last entry is left out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tokpack.errors import UsageError
from tokpack.on_disk.ledger import documents_by_source
from trainer_plugin.rows.dataset import PackedDataset

if TYPE_CHECKING:
    import torch

PREFIX = "loss_by_source/"
"""Of the names in a log entry: `loss_by_source/chats.jsonl`."""


class SourceLosses:
    """Summed losses and trained tokens of each source since the last log entry.

    Raises UsageError where rows are not of a packed dataset that says its sources.
    """

    def __init__(self, dataset: object) -> None:
        if not isinstance(dataset, PackedDataset):
            raise UsageError(
                "these rows do not say which source a document came from",
                where="loss_by_source",
                hint="train on a trainer_plugin.PackedDataset",
            )
        ranges = documents_by_source(dataset.manifest["ledger"])
        self.names = list(ranges)
        self._ends = np.array([end for _, end in ranges.values()])
        self._documents: list[np.ndarray] = []
        self._sums: list[torch.Tensor] = []

    def add(self, documents: np.ndarray, sums: torch.Tensor) -> None:
        """documents: int64[D, 3], doc_id (-1 for padding), piece and trained tokens; sums: float[D]."""
        self._documents.append(documents)
        self._sums.append(sums)

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Mean loss of a trained token by source, and begin anew. `reduce` sums over all processes."""
        if not self._sums:
            return {}
        import torch

        documents, losses = np.concatenate(self._documents), torch.cat(self._sums)
        self._documents, self._sums = [], []
        source = np.searchsorted(self._ends, documents[:, 0], side="right")  # padding has no trained token
        at = np.minimum(source, len(self.names) - 1)
        summed = [
            np.bincount(at, weights, len(self.names)) for weights in (losses.cpu().numpy(), documents[:, 2])
        ]
        sums = reduce(torch.tensor(np.array(summed), dtype=torch.float32, device=losses.device))
        found = zip(self.names, *sums.tolist(), strict=True)
        return {PREFIX + name: round(loss / tokens, 4) for name, loss, tokens in found if tokens}
