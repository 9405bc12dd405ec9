"""What `PackedTrainer` counts of its batches, without a word to the GPU."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from trainer_plugin.training.trainer_hooks import TrainerHooks
else:
    TrainerHooks = object  # the Trainer that the mixin is put before

COUNTS = ("rows", "tokens", "trained_tokens", "documents")


def none_so_far() -> dict[str, int]:
    return dict.fromkeys(COUNTS, 0)


class CountingMixin(TrainerHooks):
    """Takes out of the batches what the collator counted."""

    session_tokens = 0
    """Trained on in this session, by all ranks."""
    _operations = 0.0
    """Floating-point operations of a token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._doc_ids: deque[np.ndarray] = deque()
        self._pending_counts: list[np.ndarray] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self._doc_ids.append(batch.pop("packed_doc_ids", np.zeros(0, np.int64)))
            counts = batch.pop("packed_counts", None)
            if counts is not None:
                self._pending_counts.append(counts)
        return batches, items

    def counts(self) -> dict[str, int]:
        """Rows, tokens, trained tokens and documents trained on so far, all ranks, earlier runs included."""
        kept: dict[str, int] = self.state.stateful_callbacks.setdefault("packed_counts", none_so_far())
        if self._pending_counts:
            fresh = np.sum(self._pending_counts, axis=0)
            self._pending_counts = []
            if self.args.world_size > 1:
                told = torch.from_numpy(fresh).to(self.args.device)
                fresh = self.accelerator.reduce(told, "sum").cpu().numpy()
            for name, count in zip(COUNTS, fresh.tolist(), strict=True):
                kept[name] += count
            self.session_tokens += int(fresh[1])
        return dict(kept)

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Trainer's, which counts the parameters anew for each batch, by a walk through all modules."""
        tokens = inputs["input_ids"].numel() if "input_ids" in inputs else 0
        if not tokens:
            return float(super().floating_point_ops(inputs))
        if not self._operations:
            self._operations = super().floating_point_ops(inputs) / tokens
        return self._operations * tokens
