"""Progress of a training run on stderr: a live bar on a terminal, one line per log elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from tokpack.terminal.activity import Activity, Task, counted, duration
from trainer_plugin.losses.source_losses import PREFIX
from trainer_plugin.words import dollars


class RichProgress(TrainerCallback):
    """Step, loss, tokens per second, fill, money and time left, and how far an evaluation is; only the first
    process tells."""

    def __init__(self, tell: Activity | None = None) -> None:
        self.tell = tell or Activity()
        self.training: Task | None = None
        self.evaluating: Task | None = None
        self.started, self.stepping, self.first_step = 0.0, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started, self.stepping, self.first_step = time.perf_counter(), 0.0, state.global_step
        if state.is_world_process_zero:
            self.training = self.tell.begin("training", state.max_steps, "steps")
            self.tell.advance(self.training, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stepping = self.stepping or time.perf_counter()  # behind an evaluation of the untrained model

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training is not None:
            self.tell.advance(self.training, 1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        figures = figures_of(logs or {})
        if not state.is_world_process_zero or not figures:
            return
        if self.tell.live and self.training is not None:
            self.tell.advance(self.training, 0, figures)
        else:
            step = f"step {state.global_step}/{state.max_steps}  " if state.max_steps else ""
            self.tell.say(step + figures + self._times(state))

    def _times(self, state: Any) -> str:
        """Time taken and to come."""
        done = state.global_step - self.first_step
        if not self.started or done < 1:
            return ""
        now = time.perf_counter()
        taken, left = now - self.started, (now - self.stepping) / done * (state.max_steps - state.global_step)
        return f"  {duration(taken)}" + (f", {duration(left)} to go" if left else "")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = 0.0  # an evaluation after the training is no part of its time
        if self.training is not None:
            self.tell.end(self.training)
            self.training = None

    @contextmanager
    def evaluation(self, args: Any, batches: int) -> Iterator[None]:
        """Shows an evaluation of so many batches for as long as the block lasts."""
        if args.process_index:
            yield
            return
        self.evaluating = self.tell.begin("held-out evaluation", batches, "batches")
        try:
            yield
        finally:
            self.tell.end(self.evaluating)
            self.evaluating = None

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.evaluating is not None:
            self.tell.advance(self.evaluating, 1)


def figures_of(logs: dict[str, Any]) -> str:
    """The figures of one log entry in a line; empty for entries without a loss."""
    parts = []
    if "loss" in logs:
        parts.append(f"loss {logs['loss']:.4f}" + _by_source(logs))
    if "eval_loss" in logs:
        parts.append(f"held-out loss {logs['eval_loss']:.4f}")
    for prefix in ("", "eval_"):
        if f"{prefix}rewards/accuracy" in logs:
            parts.append(f"chosen ahead in {logs[f'{prefix}rewards/accuracy']:.1%}")
        elif f"{prefix}rewards/margin" in logs:
            parts.append(f"good ahead by {logs[f'{prefix}rewards/margin']:.4f}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "fill" in logs:
        parts.append(f"fill {logs['fill']:.1%}")
    if "tokens" in logs:
        parts.append(f"{counted(logs['tokens'], 'token')} ({logs['trained_tokens']:,} trained)")
    if "cost_usd" in logs:
        parts.append(f"{dollars(logs['cost_usd'])} of about {dollars(logs['cost_usd_total'])}")
    return "  ".join(parts)


def _by_source(logs: dict[str, Any]) -> str:
    """`" (chats.jsonl 1.91, code.jsonl 0.84)"`, or nothing."""
    found = [
        f"{name.removeprefix(PREFIX)} {loss:.2f}" for name, loss in logs.items() if name.startswith(PREFIX)
    ]
    return f" ({', '.join(found)})" if found else ""
