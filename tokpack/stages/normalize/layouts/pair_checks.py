"""What the first rows of preference pairs show that no row of them can be read with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from tokpack.errors import UsageError
from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.chats.training import is_weight, weight_in
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import BESIDE, Row
from tokpack.stages.normalize.layouts.columns import Columns
from tokpack.stages.normalize.layouts.commands import ROWS
from tokpack.stages.normalize.layouts.jq_hints import for_file
from tokpack.stages.normalize.pair_rows import row_to_pair
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.sources import Source


def check_weight(shape: Shape, columns: Sequence[str], rows: Sequence[Row], source: Source) -> None:
    """Weights of whole rows are not left out of pairs without a word."""
    if shape.format != PREFERENCE:
        return
    held = Columns(columns, rows)
    for column in held.find(BESIDE["weight"]):
        weights = ((value, weight_in(value)) for value in held.values(column))
        other = next((value for value, weight in weights if weight != 1 and is_weight(weight)), None)
        if other is not None:
            raise UsageError(
                f"{source.name}: {column} gives rows a weight of {other}, "
                "and preference pairs all weigh the same",
                where=source.path,
                hint="take the column out, or leave out or repeat rows (repeat in [[source]]) instead",
            )


def check_prompt(shape: Shape, columns: Sequence[str], rows: Sequence[Row], source: Source) -> None:
    """Raises UsageError for pairs whose prompts are chats that end on a third answer."""
    if shape.format != PREFERENCE or "prompt" in shape.columns or "messages" not in columns:
        return
    if any(as_messages(row.get("messages")) for row in rows) and not any(
        _is_pair(row, shape) for row in rows
    ):
        cut = ROWS.format(".messages |= .[:-1]")
        raise UsageError(
            f"{source.name}: messages end on an answer that is neither chosen nor rejected",
            where=source.path,
            hint=f"{for_file(cut, source, rows)} takes it out; --format messages trains it alone",
        )


def _is_pair(row: Row, shape: Shape) -> bool:
    with suppress(Exception):  # a row that cannot be read is told of when its turn comes
        row_to_pair(row, shape)
        return True
    return False
