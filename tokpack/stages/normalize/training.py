"""Which messages are trained, and by how much: the names that data and other tools have for it. A column
`weight` says it of a whole row.

    train, training, trainable, loss, compute_loss, loss_mask, step_loss_mask    false or 0: not trained
    weight, loss_weight, loss_scale                0: not trained; else the weight of its tokens in the loss
    mask, masked, ignore_loss                                                    true or 1: not trained

A message that has several is trained by their product. `train_detail`, which trains parts, is refused.
"""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

from tokpack.stages.normalize.values import RowError, kind_of

TRAINED = ("train", "training", "trainable", "loss", "compute_loss", "loss_mask", "step_loss_mask")
WEIGHTS = ("weight", "loss_weight", "loss_scale")
MASKED = ("mask", "masked", "ignore_loss")
PARTS = ("train_detail", "training_detail")
DIRECTIONS = (*TRAINED, *WEIGHTS, *MASKED, *PARTS)
"""All keys of a message that say whether it is trained."""
MOST_WEIGHT = 1000
LEAST_WEIGHT = 2.0**-126
"""What is less is 0: weights are stored as float32."""


def take_directions(extra: dict[str, Any], where: str) -> float:
    """By how much the message is trained, 0 for not at all; takes what says so out of `extra`.

    Raises RowError for what cannot be read: `"train": "false"`, `"train": 0.5`, `"weight": -1`.
    """
    for key in PARTS:
        if key in extra:
            raise RowError(f"{where}.{key}: a message is trained whole or not at all, not in parts")
    said: list[float]
    said = [_is_one(extra.pop(key), f"{where}.{key}", "true or false") for key in TRAINED if key in extra]
    said += [_weight(extra.pop(key), f"{where}.{key}") for key in WEIGHTS if key in extra]
    said += [not _is_one(extra.pop(key), f"{where}.{key}", "true or false") for key in MASKED if key in extra]
    weight = float(prod(said))
    return weight if weight >= LEAST_WEIGHT else 0.0


def weight_in(value: Any) -> float | None:
    """The number that a column of weights holds, also as a text; None for what is none."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return float({"true": "1", "false": "0"}.get(value.casefold(), value))
    return None


def row_weight(value: Any) -> float:
    """By how much a whole row is trained, as its column `weight` says. Raises RowError for another value."""
    weight = weight_in(value)
    if weight is None:
        raise RowError(f"its weight is {value!r}, not a number")
    if not 0 <= weight <= MOST_WEIGHT:
        raise RowError(f"its weight is {value}: a weight is from 0, not trained, to {MOST_WEIGHT}")
    return weight


def _weight(value: Any, where: str) -> float:
    if not isinstance(value, bool | int | float):
        raise RowError(f"{where} is {kind_of(value)}, not a number")
    if not 0 <= value <= MOST_WEIGHT:
        raise RowError(f"{where} is {value}: a weight is from 0, not trained, to {MOST_WEIGHT}")
    return float(value)


def _is_one(value: Any, where: str, wanted: str) -> bool:
    if not isinstance(value, bool | int | float):
        raise RowError(f"{where} is {kind_of(value)}, not {wanted}")
    if value not in (0, 1):
        raise RowError(f"{where} is {value}: only 0, not trained, and 1, trained, are known")
    return bool(value)
