"""Early stopping that counts on where a resumed run left off."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback


class Patience(EarlyStoppingCallback):
    """Ends the training after `evaluations` in a row without a lower held-out loss.

    transformers counts from 0 when a run is resumed; here the evaluations since the best one are read from
    the log that the checkpoint holds.
    """

    def __init__(self, evaluations: int) -> None:
        super().__init__(early_stopping_patience=evaluations)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        best = state.best_global_step or 0
        since = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] > best]
        self.early_stopping_patience_counter = len(since) if state.best_metric is not None else 0
