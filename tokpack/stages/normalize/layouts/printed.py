"""Cells in which a list or an object stands as Python prints it, as `DataFrame.to_csv` leaves it: no JSON."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tokpack.errors import UsageError
from tokpack.stages.normalize.fields import (
    BESIDE,
    CHATS,
    CHOSEN,
    COMPLETIONS,
    PROMPTS,
    REJECTED,
    Row,
    as_json,
)
from tokpack.stages.normalize.layouts.answer_lists import SEVERAL
from tokpack.stages.normalize.layouts.exams import CHOICES
from tokpack.stages.normalize.values import is_repr
from tokpack.stages.read.sources import Source
from tokpack.stages.read.tables import CELLS

LOOKED_AT = 20
"""Rows whose cells are looked at."""
_LISTS = frozenset(
    {*CHATS, *CHOSEN, *REJECTED, *SEVERAL, *CHOICES, "data", "translation", "chat_template_kwargs"}
    | {name for field in ("history", "tools", "system", "reasoning") for name in BESIDE[field]}
)
"""Columns in which a list or an object is read."""
_TEXTS = frozenset({*PROMPTS, *COMPLETIONS})
"""Columns of texts: what Python prints is refused there where it holds objects, as messages."""
_FIELDS = ("text", "prompt", "completion", "instruction", "output", "input")
"""Fields of texts: a column that the user names for one is taken as it is."""
_COMMAND = (
    'python -c "import ast, json, polars; [print(json.dumps({{k: ast.literal_eval(v) if v and k in {names} '
    "else v for k, v in row.items()}})) for row in polars.read_csv('FILE', infer_schema=False{mark})"
    '.iter_rows(named=True)]" > rows.jsonl'
)


def check_printed(source: Source, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Raises UsageError for cells of lists and objects as Python prints them, in columns that are read."""
    if source.container not in CELLS or source.config.format in ("text", "prompt_completion", "alpaca"):
        return
    given = source.config.map
    mapped = {path if path in columns else path.partition(".")[0] for path in given.values()}
    as_texts = {path for field, path in given.items() if field in _FIELDS}
    printed = [
        name
        for name in columns
        if name not in as_texts and _is_read(name, mapped, held := _texts(name, rows)) and _printed(held)
    ]
    if not printed:
        return
    names, verb = ", ".join(printed), "is" if len(printed) == 1 else "are"
    way = "save it as Parquet, or DataFrame.to_json('rows.jsonl', orient='records', lines=True)"
    if all(_literal(text) is not None for name in printed for text in _texts(name, rows)):
        mark = ", separator='\\t'" if source.container == "tsv" else ""
        way = f"{_COMMAND.format(names=tuple(printed), mark=mark)} writes it as JSON lines"
    raise UsageError(
        f"{source.name}: {names} {verb} what Python prints, not JSON",
        where=source.path,
        hint=f"{way}; --format prompt_completion takes such cells as texts",
    )


def _texts(column: str, rows: Sequence[Row]) -> list[str]:
    return [value for row in rows[:LOOKED_AT] if isinstance(value := row.get(column), str) and value.strip()]


def _is_read(column: str, mapped: set[str], texts: Sequence[str]) -> bool:
    name = column.casefold()
    if name in _LISTS or column in mapped:
        return True
    return name in _TEXTS and any(map(is_repr, texts))


def _printed(texts: Sequence[str]) -> bool:
    """Whether one is what Python prints, and the others are, or JSON."""
    others = [text for text in texts if isinstance(as_json(text), str)]
    return bool(others) and all(is_repr(text) or _literal(text) is not None for text in others)


def _literal(text: str) -> Any:
    """The list or object that Python prints so; None for anything else."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.literal_eval(text.strip())
    return None
