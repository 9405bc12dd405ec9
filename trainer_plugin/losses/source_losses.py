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
        self._sums: torch.Tensor | None = None

    def add(self, documents: np.ndarray, sums: torch.Tensor) -> None:
        """documents: int64[D, 3], doc_id (-1 for padding), piece and trained tokens; sums: float[D]."""
        import torch

        source = np.searchsorted(self._ends, documents[:, 0], side="right")  # padding has no trained token
        at = torch.from_numpy(np.minimum(source, len(self.names) - 1)).to(sums.device)
        trained = torch.from_numpy(documents[:, 2]).to(sums.device)
        if self._sums is None:
            self._sums = torch.zeros(2, len(self.names), dtype=torch.float32, device=sums.device)
        self._sums.index_add_(1, at, torch.stack([sums.float(), trained.float()]))

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Mean loss of a trained token by source, and begin anew. `reduce` sums over all processes."""
        if self._sums is None:
            return {}
        sums, self._sums = reduce(self._sums), None
        found = zip(self.names, *sums.tolist(), strict=True)
        return {PREFIX + name: round(loss / tokens, 4) for name, loss, tokens in found if tokens}
