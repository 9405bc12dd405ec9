"""Lists beside a chat that say of each message whether it is trained: `"loss_mask": [0, 1, 0, 1]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokpack.errors import UsageError
from tokpack.stages.normalize.chats.training import speaks_of_training
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import Row, as_json, value_at
from tokpack.stages.normalize.formats import CHATS
from tokpack.stages.normalize.layouts.commands import ROWS, at
from tokpack.stages.normalize.layouts.jq_hints import for_file
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.sources import Source


def check_turn_flags(shape: Shape, rows: Sequence[Row], source: Source) -> None:
    """Raises UsageError for such a column: it says more than a field of a row can."""
    path = next(iter(shape.columns.values()))
    if shape.format not in CHATS or path not in shape.present or source.config.format != "auto":
        return
    for column in sorted(shape.present - shape.read_columns()):
        if not speaks_of_training(column):
            continue
        held = [(as_json(row.get(column)), as_messages(value_at(row, path)) or []) for row in rows]
        listed = [(flags, chat) for flags, chat in held if isinstance(flags, list)]
        if listed and all(_are_flags(flags, len(chat)) for flags, chat in listed):
            joined = f"[[{at(path)}, {at(column)}] | transpose[] | .[0] + {{{column}: .[1]}}]"
            way = for_file(ROWS.format(f"{at(path)} = {joined} | del({at(column)})"), source, rows)
            raise UsageError(
                f"{source.name}: {column} says of each message whether it is trained",
                where=source.path,
                hint=f"{way} puts it into the messages",
            )


def _are_flags(flags: list[Any], messages: int) -> bool:
    return len(flags) == messages > 0 and all(isinstance(flag, bool | int | float) for flag in flags)
