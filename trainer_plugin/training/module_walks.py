"""Walks through all modules of a model, which Trainer and PEFT make in each micro-batch: made once.

A model of 30 layers with LoRA has 2,500 modules. A walk through them takes the host 5 to 10 ms, and a GPU
waits for the host where micro-batches are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer_plugin.adapters.qlora import adapted_layers, inputs_as_they_are


class ModuleWalks:
    """The modules of a model as they are now."""

    def __init__(self, model: Any) -> None:
        self.modules, self.adapted = list(model.modules()), adapted_layers(model)

    @contextmanager
    def spared(self, model: Any, *, autocast: bool) -> Iterator[None]:
        """For one training step of `model`, which may be wrapped.

        `train()`, by which Trainer begins, does nothing where all modules are in training mode already.
        """
        if all(module.training for module in (model, *self.modules)):

            def first_call(mode: bool = True) -> Any:
                del model.train  # later calls are the model's own
                return model if mode else model.train(mode)

            model.train = first_call
        try:
            with inputs_as_they_are(self.adapted, autocast):
                yield
        finally:
            vars(model).pop("train", None)
