"""One row that is tokenized already -> ids and flags, in plain Python: the reference, and the slow path.

    input_ids [5, 6, 7, 0], labels [-100, 6, 7, -100], attention_mask [1, 1, 1, 0]  ->  5 6* 7*

Labels are unshifted. Without labels every token is trained but the first. The attention mask only says which
tokens at the ends are padding; they are taken away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.frozen import frozen
from tokpack.schema import CONTENT, IGNORE_INDEX, TRAINED
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.values import RowError

LABELED = "tokens"
"""Kind of documents whose row says what is trained; `text` are those that are trained whole."""


@frozen
class RowTokens:
    kind: str
    ids: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]


def column_of(shape: Shape, field: str) -> str:
    """The column of `input_ids`, `labels` or `attention_mask`, which may first appear after the head."""
    return shape.columns.get(field, field)


def row_to_tokens(row: Mapping[str, Any], shape: Shape, vocab_size: int) -> RowTokens:
    """Raises RowError for a row that cannot be packed as it is."""
    ids = _integers(row.get(column_of(shape, "input_ids")), "input_ids")
    labels, mask = (_optional(row, shape, field, len(ids)) for field in ("labels", "attention_mask"))
    first, last = _without_padding(mask) if mask is not None else (0, len(ids))
    for place in range(first, last):
        if not 0 <= ids[place] < vocab_size:
            raise RowError(
                f"id {ids[place]} at input_ids[{place}] is not in the vocabulary of {vocab_size} tokens"
            )
        if labels is not None and labels[place] not in (IGNORE_INDEX, ids[place]):
            raise RowError(
                f"labels[{place}] is {labels[place]}, input_ids[{place}] is {ids[place]}: "
                f"a label is the id at the same place or {IGNORE_INDEX}"
            )
    kept = np.array(ids[first:last], np.int32)
    trained = kept >= 0 if labels is None else np.array(labels[first:last], np.int64) != IGNORE_INDEX
    trained[:1] = False
    flags = np.where(trained, CONTENT | TRAINED, CONTENT).astype(np.uint8)
    return RowTokens("text" if labels is None else LABELED, kept, flags)


def _integers(values: Any, field: str, also: type = int) -> list[int]:
    if not isinstance(values, list):
        raise RowError(f"{field} is {_shown(values)}, not a list of integers")
    for place, value in enumerate(values):
        if type(value) is not int and type(value) is not also:
            raise RowError(f"{field}[{place}] is {_shown(value)}, not an integer")
    return values


def _optional(row: Mapping[str, Any], shape: Shape, field: str, length: int) -> list[int] | None:
    values = row.get(column_of(shape, field))
    if values is None:
        return None
    values = _integers(values, field, bool if field == "attention_mask" else int)
    if len(values) != length:
        raise RowError(f"{field} has {len(values)} values, input_ids {length}")
    return values


def _without_padding(mask: list[int]) -> tuple[int, int]:
    """Where the ones begin and end. Raises RowError for anything but zeros around ones."""
    for place, value in enumerate(mask):
        if value not in (0, 1):
            raise RowError(f"attention_mask[{place}] is {value}: only 0, padding, and 1 are known")
    if 1 not in mask:
        return 0, 0
    first, last = mask.index(1), len(mask) - mask[::-1].index(1)
    if 0 in mask[first:last]:
        place = mask.index(0, first)
        raise RowError(f"attention_mask[{place}] is 0 between ones: padding belongs at the ends")
    return first, last


def _shown(value: Any) -> str:
    return "missing" if value is None else json.dumps(value, ensure_ascii=False, default=str)[:40]
