"""Speed of training on the present device: a few packed rows, trained as `tokpack train` would.

The entry point `tokpack.calibrators`: `tokpack analyze --calibrate` finds it there, so that tokpack by itself
never imports torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokpack.schema import IGNORE_INDEX
from trainer_plugin.adapters.qlora import adapted_layers, inputs_as_they_are, load_model, prepare_lora
from trainer_plugin.dtypes import settle_dtype
from trainer_plugin.isolation.verify import prepare_model
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.models.strategies import fit_batch
from trainer_plugin.recipe import Recipe, mixed_precision
from trainer_plugin.rows.collator import PackedCollator

Row = Mapping[str, Any]
LEAST_STEPS = 3
SECONDS = 30.0
"""How long steps are taken for, about."""


@dataclass(frozen=True, slots=True)
class Device:
    """What trains here."""

    kind: str
    """`cuda`, `mps` or `cpu`."""
    name: str
    memory_bytes: int


def device() -> Device:
    """The device that `tokpack train` takes."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Device("cuda", str(found.name), int(found.total_memory))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", memory)
    threads = torch.get_num_threads()
    return Device("cpu", f"CPU, {threads} thread{'' if threads == 1 else 's'}", memory)


def precision(model: str, method: str) -> str:
    """The dtype that training takes here, and why: "float32: ..."."""
    return str(settle_dtype(Recipe(method=method), model)[1])  # type: ignore[arg-type]


class Trial:
    """A model set up for training, and one optimizer step at a time of it. Nothing is saved.

    `clock` is read before and after each step; `time.process_time` measures work on a shared CPU.
    """

    def __init__(
        self,
        model: str,
        *,
        method: str = "qlora",
        rank: int = 16,
        checkpointing: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        recipe = Recipe(method=method, gradient_checkpointing=checkpointing, lora={"r": rank})  # type: ignore[arg-type]
        recipe, _ = settle_dtype(recipe, model)
        network = load_model(model, recipe)
        prepare_model(network, recipe.attn)
        if method != "full":
            network = prepare_lora(network, recipe)
        if checkpointing:
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.network, self.clock, self.collate = network.train(), clock, PackedCollator()
        self.layers, self.chunked = adapted_layers(network), ChunkedLoss(network)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)
        self.autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision(recipe))

    def step(self, rows: Sequence[Row]) -> float:
        """Forward, backward and optimizer step of one micro-batch; returns the seconds it took."""
        self._wait()
        started = self.clock()
        batch = fit_batch(self.network, self.collate(rows)) | {"use_cache": False}
        with inputs_as_they_are(self.layers, self.autocast is not None):
            with torch.autocast("cuda", self.autocast, enabled=self.autocast is not None):
                loss = self._loss(batch)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._wait()
        return self.clock() - started

    def _loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """In chunks where the trainer makes it so: whole logits may not fit where those of a training do."""
        labels: torch.Tensor = batch["labels"]
        losses: torch.Tensor | None = None
        if self.chunked.fits(labels.shape[-1]):
            without = {name: value for name, value in batch.items() if name != "labels"}
            losses = self.chunked(self.network, without, labels)
        if losses is not None:
            return losses.sum() / (labels != IGNORE_INDEX).sum()
        loss: torch.Tensor = self.network(**batch).loss
        return loss

    @staticmethod
    def _wait() -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()


def measure(
    model: str,
    rows: Sequence[Row],
    *,
    method: str,
    rank: int,
    checkpointing: bool,
    batch_rows: int = 1,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[tuple[list[int], float]]:
    """(document lengths, seconds) of each optimizer step on `batch_rows` of `rows`, in order.

    A step before the first is not counted: it warms up. Goes on for about SECONDS, and for LEAST_STEPS
    steps at least; rows repeat where there are fewer.
    """
    from trainer_plugin.extras import ready_libraries

    ready_libraries()
    trial = Trial(model, method=method, rank=rank, checkpointing=checkpointing)
    trial.step(rows[:batch_rows])
    taken: list[tuple[list[int], float]] = []
    most = max(LEAST_STEPS, len(rows) // batch_rows)
    while len(taken) < most and (len(taken) < LEAST_STEPS or sum(s for _, s in taken) < SECONDS):
        chosen = [rows[(len(taken) * batch_rows + i) % len(rows)] for i in range(batch_rows)]
        spent = trial.step(chosen)
        lengths = [int(length) for row in chosen for length in row["seq_lengths"]]
        taken.append((lengths, spent))
        progress(sum(lengths))
    return taken
