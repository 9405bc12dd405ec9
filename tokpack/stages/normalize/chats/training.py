"""Which messages are trained, and by how much: the names that data and other tools have for it. A column
`weight` says it of a whole row.

    train, training, trainable, loss, compute_loss, loss_mask, step_loss_mask    false or 0: not trained
    weight, loss_weight, loss_scale                0: not trained; else the weight of its tokens in the loss
    mask, masked, ignore_loss                                                    true or 1: not trained

and some more, in any letter case. A message that has several is trained by their product. `train_detail`,
which trains parts, is refused, and so is a true or false under another name that speaks of training.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from math import prod
from typing import Any

from tokpack.stages.normalize.values import RowError, kind_of

TRAINED = (
    *("train", "training", "trainable", "loss", "compute_loss", "loss_mask", "step_loss_mask"),
    *("trained", "is_trained", "is_trainable", "should_train", "do_train", "train_on", "train_on_turn"),
    *("supervised", "calculate_loss", "has_loss"),
)
WEIGHTS = ("weight", "loss_weight", "loss_scale")
MASKED = (
    "mask",
    "masked",
    "ignore_loss",
    "is_masked",
    "no_loss",
    "skip_loss",
    "no_train",
    "exclude_from_loss",
)
PARTS = ("train_detail", "training_detail")
DIRECTIONS = (*TRAINED, *WEIGHTS, *MASKED, *PARTS)
"""All keys of a message that say whether it is trained."""
_SPEAKS_OF_TRAINING = re.compile(
    r"(?:\A|_)(?:un)?(?:train(?:ed|able|ing)?|loss|mask(?:ed)?|supervised?)(?:_|\Z)"
)
MOST_WEIGHT = 1000
LEAST_WEIGHT = 2.0**-126
"""What is less is 0: weights are stored as float32."""


def take_directions(extra: dict[str, Any], where: str) -> float:
    """By how much the message is trained, 0 for not at all; takes what says so out of `extra`.

    Raises RowError for what cannot be read: `"train": "false"`, `"train": 0.5`, `"weight": -1`.
    """
    said: list[float] = []
    for key in [key for key in extra if speaks_of_training(key)]:
        name, place = _plain(key), f"{where}.{key}"
        if name in PARTS:
            raise RowError(f"{place}: a message is trained whole or not at all, not in parts")
        if name in WEIGHTS:
            said.append(_weight(extra.pop(key), place))
        elif name in TRAINED:
            said.append(_is_one(extra.pop(key), place, "true or false"))
        elif name in MASKED:
            said.append(not _is_one(extra.pop(key), place, "true or false"))
        elif isinstance(extra[key], bool):
            raise RowError(f"{place}: it may say whether the message is trained; the name for that is train")
    weight = float(prod(said))
    return weight if weight >= LEAST_WEIGHT else 0.0


@lru_cache(1024)
def speaks_of_training(key: str) -> bool:
    """Whether a field of this name says, or may say, whether its message is trained."""
    name = _plain(key)
    return name in DIRECTIONS or _SPEAKS_OF_TRAINING.search(name) is not None


def _plain(key: str) -> str:
    return key.strip().replace("-", "_").casefold()


def weight_in(value: Any) -> float | None:
    """The number that a column of weights holds, also as a text; None for what is none."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return float({"true": "1", "false": "0"}.get(value.casefold(), value))
    return None


def is_weight(value: float | None) -> bool:
    return value is not None and 0 <= value <= MOST_WEIGHT


def row_weight(value: Any) -> float:
    """By how much a whole row is trained, as its column `weight` says. Raises RowError for another value."""
    weight = weight_in(value)
    if weight is None:
        raise RowError(f"its weight is {value!r}, not a number")
    if not is_weight(weight):
        raise RowError(f"its weight is {value}: a weight is from 0, not trained, to {MOST_WEIGHT}")
    return weight


def _weight(value: Any, where: str) -> float:
    if not isinstance(value, bool | int | float):
        raise RowError(f"{where} is {kind_of(value)}, not a number")
    if not is_weight(value):
        raise RowError(f"{where} is {value}: a weight is from 0, not trained, to {MOST_WEIGHT}")
    return float(value)


def _is_one(value: Any, where: str, wanted: str) -> bool:
    if not isinstance(value, bool | int | float):
        raise RowError(f"{where} is {kind_of(value)}, not {wanted}")
    if value not in (0, 1):
        raise RowError(f"{where} is {value}: only 0, not trained, and 1, trained, are known")
    return bool(value)
