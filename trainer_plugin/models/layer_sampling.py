"""LISA (Pan et al. 2024, arXiv:2403.17919): full training in which few layers move at a time.

Every `steps` optimizer steps some decoder layers are drawn. They are trained, with all that is no decoder
layer (embeddings, last norm, head); the others stand still, with no gradient and no optimizer state: theirs
is freed. A layer that is drawn twice in a row keeps its state.

The draw follows from the seed and the number of the step alone: a resumed run trains what the uninterrupted
one would have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from tokpack.errors import UsageError
from trainer_plugin.models.strategies import inner_model, text_config


class LayerSampling(TrainerCallback):
    """Holds all decoder layers of `model` still but `layers` of them, drawn anew every `steps` steps.

    Raises UsageError for a model without more layers than that, and, when training begins, where several
    processes share gradients.
    """

    def __init__(self, model: Any, layers: int, steps: int, seed: int) -> None:
        self.layers = decoder_layers(model)
        if layers >= len(self.layers):
            raise UsageError(
                f"{layers} layers are to be trained at a time, and the model has {len(self.layers)}",
                where=f"lisa_layers={layers}",
                hint="2 is what its paper takes for 7B; leave it out to train all layers all the time",
            )
        self.count, self.steps, self.seed = layers, steps, seed

    def drawn(self, step: int) -> list[int]:
        """The layers that are trained in an optimizer step, counted from 0."""
        draw = np.random.default_rng((self.seed, step // self.steps))
        chosen: list[int] = draw.choice(len(self.layers), self.count, replace=False).tolist()
        return sorted(chosen)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            raise UsageError(
                "layers are drawn in one process: others would wait for gradients of layers that stand still",
                where="lisa_layers",
                hint="train in one process, or leave it out",
            )
        self._hold(state.global_step, kwargs["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0:
            self._hold(state.global_step, kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for layer in self.layers:
            layer.requires_grad_(True)

    def _hold(self, step: int, optimizer: Any) -> None:
        drawn = self.drawn(step)
        for number, layer in enumerate(self.layers):
            layer.requires_grad_(number in drawn)
            for parameter in () if number in drawn else layer.parameters():
                parameter.grad = None
                optimizer.state.pop(parameter, None)


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The outermost list of as many modules as the configuration has layers. UsageError without one."""
    count = getattr(text_config(model), "num_hidden_layers", 0)
    for module in inner_model(model).modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UsageError(
        f"{type(inner_model(model)).__name__} has no list of layers to draw from", where="lisa_layers"
    )
