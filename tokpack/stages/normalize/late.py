"""Late columns: what stands beside an answer and the first rows do not fill, as where several sets lie in
one file, one after the other.

They are found by name in each row, so that a label, a weight, reasoning or tools count there as in the first
rows. Images and sounds beside a chat set its row aside: the answer speaks of what is not in the text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize import fields
from tokpack.stages.normalize.chats.calls import OLDER_TOOLS
from tokpack.stages.normalize.chats.media import holds_media
from tokpack.stages.normalize.chats.training import weight_in
from tokpack.stages.normalize.fields import Row, is_filled, plain_name, value_at
from tokpack.stages.normalize.layouts.columns import TAKES, Columns, may_be
from tokpack.stages.normalize.message_columns import Bools, filled, text_column
from tokpack.stages.normalize.values import RowError, is_nothing

Late = Mapping[str, tuple[str, ...]]
"""Field -> columns or paths that may hold it, for rows in which none of the first rows' columns does."""


def late_columns(name: str, given: Collection[str], held: Columns, used: Collection[str]) -> Late:
    """`used`: columns and paths that are read anyway; `given`: fields that the user or the layout placed."""
    folded = {plain_name(column): column for column in held.present}
    late = {}
    for target in TAKES.get(name, ()):
        paths = []
        for known in fields.BESIDE[target] if target not in given else ():
            root, dot, rest = known.partition(".")
            column = folded.get(plain_name(root), root)
            path = f"{column}{dot}{rest}"
            if not {column, path} & set(used) and not (held.values(path) if column in held.present else ()):
                paths.append(path)
        late[target] = tuple(paths)
    return late


def read_late(row: Row, late: Late, found: dict[str, Any]) -> None:
    """Put what the row has in late columns among its fields, in place."""
    for target, paths in late.items():
        if not is_nothing(found.get(target)):
            continue
        for path in paths:
            column = path.partition(".")[0]
            if column in row and is_filled(value := value_at(row, path)) and may_be(target, value):
                found[OLDER_TOOLS if path.casefold() == OLDER_TOOLS else target] = value
                break


def refuse_media(row: Row, columns: Collection[str]) -> None:
    """Raises RowError for a row with an image, a sound or a film."""
    for column in sorted(columns):
        if column in row and holds_media(row[column]):
            raise RowError(
                f"{column} holds what is no text, and only text can be packed: without that column the texts "
                "alone are taken"
            )


def refuse_weight(row: Row, name: str) -> None:
    """Raises RowError for a pair that is to count more or less than others."""
    if name != PREFERENCE:
        return
    for column in fields.BESIDE["weight"]:
        if weight_in(row.get(column)) not in (None, 1):
            raise RowError(f"its {column} is {row[column]}, and preference pairs all weigh the same")


def roots_of(late: Late) -> dict[str, frozenset[str]]:
    """Column -> keys in it that are read; no keys where the column itself is."""
    roots: dict[str, frozenset[str]] = {}
    for path in (path for paths in late.values() for path in paths):
        column, _, key = path.partition(".")
        roots[column] = roots.get(column, frozenset()) | ({key} if key else frozenset())
    return roots


def may_hold(column: pa.ChunkedArray, keys: Collection[str]) -> Bools:
    """Which rows may have one of the keys in a column of objects, also as JSON in a text."""
    texts = text_column(column)
    if texts is not None:
        return texts.str.contains_any(sorted(keys)).fill_null(False).to_numpy()
    if not pa.types.is_struct(column.type):
        return filled(column)
    names = [field.name for field in column.type]
    held = [filled(pc.struct_field(column, name)) for name in names if name in keys]
    result: Bools = np.logical_or.reduce([np.zeros(len(column), dtype=bool), *held])
    return result
