"""What was recognized in a source, and what of it is not read: told to the user in one line."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokpack.schema import UNPAIRED
from tokpack.stages.normalize.columns import Columns
from tokpack.stages.normalize.fields import SWITCHES, Row, is_filled
from tokpack.stages.normalize.shape import Shape

log = logging.getLogger("tokpack")

WIDTH = 32
"""Characters shown of an example value."""
MOST_GROUPS = 20
MATTERS = re.compile(
    r"^tools?|tools?$|tool[._]definitions|^(images?|audios?|videos?)$|^functions?$|^system|system_|reasoning|thinking|^cot$|_cot$|^labels?$|^kto|score|rating|reward"
    r"|^(loss_|sample_)?weights?$|^loss$|^train(ed|able|ing)?$|^roles_to_train$|^rank$|^context$|^history$|helpfulness|correctness|^is_safe|^(overall_)?preference(_strength)?$|^better|^winner$"
    r"|^(chosen|rejected)(_response)?$|kwargs$|^instructions$|^developer|^documents$|^input$|^(answer|response|completion|output)$",
    re.IGNORECASE,
)
"""Names of columns that mostly should have reached the model, or say that an answer should not."""
VERDICT = re.compile(
    r"^(is_|was_)?(good|bad|accepted|approved|correct|valid|included?|excluded?|skip(ped)?|ignored?|deleted|flagged|pass(ed)?"
    r"|success(ful)?|resolved|mask(ed)?|verified|desired)$|thumbs|feedback|verdict|^use_(for|in)_|_mask$|^train_on|^status$",
    re.IGNORECASE,
)
"""Names of columns that may say that a row is not to be learned."""
THOUGHT = re.compile("reasoning|thinking", re.IGNORECASE)
"""Columns that may also only say whether there is any: `reasoning: on`."""


def shown(value: Any) -> str:
    """A value on one line, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def recognized(shape: Shape) -> str:
    """`prompt_completion (prompt from question, completion from answer)`, in the words of `--map`."""
    fields = [f"{field} from {path}" for field, path in (*shape.columns.items(), *shape.beside.items())]
    if shape.better and shape.better.columns:
        fields.append(f"better from {' and '.join(shape.better.columns)}")
    fields += [f"template arguments from {', '.join(shape.variables)}"] if shape.variables else []
    name = f"{shape.format}, layout {shape.layout.name}" if shape.layout else shape.format
    name = f"{UNPAIRED}, {name}" if shape.unpaired else name
    return f"{name} ({', '.join(fields)})"


def unread_columns(shape: Shape, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """Each column that does not reach the document -> an example; empty ones are left out."""
    held, read = Columns(columns, rows), shape.read_columns() | shape.media
    examples = {name: held.values(name) for name in columns if name not in read}
    return {name: shown(values[0]) for name, values in examples.items() if any(map(is_filled, values))}


def grouping_columns(unread: Iterable[str], rows: Sequence[Row]) -> tuple[str, ...]:
    """Columns of short texts with at least two values and few for so many rows, as `source` or `language`."""
    found = []
    for name in unread:
        values = [row.get(name) for row in rows]
        texts = {value for value in values if isinstance(value, str) and value and len(value) <= WIDTH}
        short = all(value is None or (isinstance(value, str) and len(value) <= WIDTH) for value in values)
        if short and 2 <= len(texts) <= min(MOST_GROUPS, len(rows) // 3):
            found.append(name)
    return tuple(found)


def worth_a_warning(unread: Mapping[str, str]) -> list[str]:
    """Columns left unread that probably mean something for training."""
    return [
        name
        for name, example in unread.items()
        if (MATTERS.search(name) or VERDICT.search(name))
        and not (THOUGHT.search(name) and example.casefold() in SWITCHES)
    ]


def tell(sources: Sequence[str], shapes: Sequence[Shape]) -> None:
    """A line for each layout that was found, what of it is not read, and a warning where that may matter."""
    files: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for name, shape in zip(sources, shapes, strict=True):
        unread = ", ".join(f"{column} {example!r}" for column, example in shape.unread.items())
        line = f"{recognized(shape)}; not read: {unread or 'nothing'}"
        key = (line, shape.notes, tuple(worth_a_warning(shape.unread)))
        files.setdefault(key, []).append(name)
    for (line, notes, matters), names in files.items():
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        log.info("%s: %s", name, line)
        for note in notes:
            log.info("%s: %s", name, note)
        if matters:
            listed = ", ".join(matters)
            log.warning("%s: not read, and may matter: %s (--map FIELD=COLUMN reads one)", name, listed)
