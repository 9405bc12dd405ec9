"""Where a run ends: after so many tokens, or when so much money is spent.

Tokens are exact. Row lengths and row order are known before the first step, so is the row that reaches the
budget: one process ends right after it, in mid-accumulation if need be; several processes end after the
micro-batch that it is part of. The learning rate reaches its end there.
Money is measured: wall time of `train()`, all sessions of a resumed run together, times the price. A run ends
after the optimizer step in which it is spent.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from tokpack.errors import UsageError
from trainer_plugin.checkpoints.base_digest import read_json
from trainer_plugin.rows.balance import BalancedSampler, Stop
from trainer_plugin.training.price import no_price

SPENT = "spent.json"


def limit_tokens(
    sampler: BalancedSampler, row_tokens: np.ndarray, budget: int, *, accumulation: int, steps: int
) -> int:
    """Set `sampler.stop` to where `budget` tokens are reached; returns the optimizer steps of the run.

    steps: what the run takes without a budget. A budget that it never reaches changes nothing.
    """
    sampler.stop = None
    epoch, before, left = 0, 0, budget
    while before < steps:
        order = sampler.epoch_rows(epoch)
        reached = np.cumsum(row_tokens[order])
        rows = int(np.searchsorted(reached, left)) + 1
        if sampler.ranks > 1:
            rows = math.ceil(rows / sampler.hand) * sampler.hand
        if rows <= len(order):
            taken = before + sampler.steps_for(rows, accumulation)
            if taken <= steps:
                sampler.stop = Stop(epoch, rows, taken)
            break
        epoch, before = epoch + 1, before + sampler.steps_for(len(order), accumulation)
        left -= int(reached[-1])
    return steps if sampler.stop is None else sampler.stop.steps


class EpochOfBudget(TrainerCallback):
    """Tells the epoch of a run that ends in mid-epoch, which Trainer is told to take for a whole one."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = self.trainer.sampler
        if sampler.stop is not None and state.epoch > sampler.stop.epoch:
            share = sampler.stop.rows / len(sampler)
            state.epoch = sampler.stop.epoch + (state.epoch - sampler.stop.epoch) * min(share, 1.0)


class Meter:
    """Seconds and dollars of a run over all its sessions; a killed one counts up to its last log.

    price: dollars an hour of all processes together; None: seconds alone. limit: dollars, None: no limit.
    `evaluation` is the part of this session's seconds that went into evaluations.
    """

    def __init__(self, folder: str | Path, price: float | None = None, limit: float | None = None) -> None:
        if limit is not None and not price:
            raise no_price()
        self.file, self.price, self.limit = Path(folder) / SPENT, price, limit
        self.before, self.evaluation = 0.0, 0.0
        self._started: float | None = None
        self._session = 0.0

    def start(self, resumed: bool) -> None:
        """Begin a session. Raises UsageError when a resumed run has nothing left to spend."""
        self.before, self._session = _seconds_in(self.file) if resumed else 0.0, 0.0
        self.evaluation = 0.0
        if self.spent:
            raise UsageError(
                f"the run has cost ${self.dollars:,.4f}, all of --max-cost {self.limit:g}",
                where=str(self.file),
                hint="resume with a larger --max-cost",
            )
        self._started = time.perf_counter()

    def end(self) -> None:
        self._session, self._started = self.session, None

    @property
    def session(self) -> float:
        """Seconds of this session."""
        return self._session if self._started is None else time.perf_counter() - self._started

    @property
    def seconds(self) -> float:
        return self.before + self.session

    @property
    def dollars(self) -> float:
        return self.seconds / 3600 * (self.price or 0.0)

    @property
    def spent(self) -> bool:
        return self.limit is not None and self.dollars >= self.limit

    def total_seconds(self, done: int, left: int) -> float:
        """Seconds of the whole run, when this session took `done` steps and `left` are to come.

        Evaluations to come are not counted.
        """
        return self.seconds + (self.session - self.evaluation) / max(done, 1) * left

    def save(self) -> None:
        """Keep the seconds for a later session; by rename, so that a kill leaves no half a file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".tmp")
        fresh.write_text(json.dumps({"seconds": round(self.seconds, 3)}) + "\n", encoding="utf-8")
        fresh.replace(self.file)


def _seconds_in(file: Path) -> float:
    found = (read_json(file) if file.is_file() else None) or {}
    seconds = found.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else 0.0


class StopWhenSpent(TrainerCallback):
    """Ends a run whose money is spent; the first process decides for all."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.agree(self.trainer.meter.spent):
            control.should_training_stop = True
            control.should_log = True
            control.should_save = args.save_strategy != "no"
