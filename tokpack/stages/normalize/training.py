"""Which messages are not trained: the names that data and other tools have for it.

    train, training, trainable, loss, compute_loss, loss_mask, step_loss_mask    false or 0: not trained
    weight, loss_weight, loss_scale                                              0: not trained
    mask, masked, ignore_loss                                                    true or 1: not trained

A message is trained or it is not: weights between are refused, and so is `train_detail`, which trains parts.
"""

from __future__ import annotations

from typing import Any

from tokpack.stages.normalize.values import RowError, kind_of

TRAINED = ("train", "training", "trainable", "loss", "compute_loss", "loss_mask", "step_loss_mask")
WEIGHTS = ("weight", "loss_weight", "loss_scale")
MASKED = ("mask", "masked", "ignore_loss")
PARTS = ("train_detail", "training_detail")
DIRECTIONS = (*TRAINED, *WEIGHTS, *MASKED, *PARTS)
"""All keys of a message that say whether it is trained."""


def take_directions(extra: dict[str, Any], where: str) -> bool:
    """Whether the message is trained; takes what says so out of `extra`.

    Raises RowError for what cannot be read: `"train": "false"`, `"weight": 0.5`.
    """
    for key in PARTS:
        if key in extra:
            raise RowError(f"{where}.{key}: a message is trained whole or not at all, not in parts")
    said = [_is_one(extra.pop(key), f"{where}.{key}", "true or false") for key in TRAINED if key in extra]
    said += [_is_one(extra.pop(key), f"{where}.{key}", "0 or 1") for key in WEIGHTS if key in extra]
    said += [not _is_one(extra.pop(key), f"{where}.{key}", "true or false") for key in MASKED if key in extra]
    return all(said)


def _is_one(value: Any, where: str, wanted: str) -> bool:
    if not isinstance(value, bool | int | float):
        raise RowError(f"{where} is {kind_of(value)}, not {wanted}")
    if value not in (0, 1):
        raise RowError(f"{where} is {value}: only 0, not trained, and 1, trained in full, are known")
    return bool(value)
