"""Tools beside chats, and turns that are calls, in columns of texts: the fast path of `calls`.

    roles  [human, function_call]    contents  ["Hi", '{"name": "f", "arguments": {}}']    tools  '[{...}]'
    extra  {"tools": [{...}], "messages": [{}, {"tool_calls": [...]}]}

Python reads each text of tools once where rows have equal ones, and each call; nothing is done row by row.
What is not read so (no JSON, half a surrogate pair) is left to the row-by-row path, which has the words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.stages.normalize.chats.calls import OLDER_TOOLS, read_calls, read_tools
from tokpack.stages.normalize.values import NOTHING_MORE, Dumped, is_text

if TYPE_CHECKING:
    from tokpack.stages.normalize.shape import Shape

Bools = npt.NDArray[np.bool_]

_TOLD = "<tools>"
"""A system message with it may hold the tools already."""
_BARE = ("name", "arguments")
_json = json.JSONEncoder(ensure_ascii=False).encode


def tools_column(table: pa.Table, shape: Shape) -> str | None:
    """The column of tools where `read_tools` takes its texts as they are."""
    name = shape.beside.get("tools")
    if name is None or name.casefold() == OLDER_TOOLS or table.column_names.count(name) != 1:
        return None
    kind = table.column(name).type
    return name if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def calls_json(texts: Sequence[str]) -> list[str | None]:
    """What `extra` holds of each turn that is a call; None for those to be read row by row."""
    return [_call_json(text) for text in texts]


def _call_json(text: str) -> str | None:
    with suppress(Exception):  # the row-by-row path says what is wrong
        call = json.loads(text)
        if type(call) is dict and _is_bare(call):
            written = f'{{"tool_calls": [{{"type": "function", "function": {_json(call)}}}]}}'
        else:
            calls = read_calls(text, "")
            written = _json({"tool_calls": calls}) if calls else NOTHING_MORE
        return written if is_text(written) else None
    return None


def _is_bare(call: dict[str, Any]) -> bool:
    """A name and an object of arguments, as most are: what `read_calls` leaves as it is."""
    return tuple(call) == _BARE and type(call["name"]) is str and type(call["arguments"]) is dict


def tools_json(texts: pl.Series) -> tuple[pl.Series, Bools]:
    """(JSON of the tools of each row, null where there are none; rows to be read row by row)."""
    different = texts.unique(maintain_order=True)
    written = [_tools_json(text) for text in different.to_list()]
    positions = pl.DataFrame({"text": texts}).join(
        pl.DataFrame({"text": different}).with_row_index("at"),
        on="text",
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )["at"]
    found = pl.Series([None if text is None else text or None for text in written], dtype=pl.String)
    failed = pl.Series([text is None for text in written], dtype=pl.Boolean)
    return found.gather(positions), failed.gather(positions).to_numpy()


def _tools_json(text: str | None) -> str | None:
    """Empty where there are none, None where they cannot be read."""
    with suppress(Exception):
        tools = read_tools({"tools": text}).get("tools")
        if not tools:
            return ""
        written = tools.json if isinstance(tools, Dumped) else _json(tools)
        return written if is_text(written) else None
    return None


def may_be_told(roles: pl.Series, contents: pl.Series) -> Bools:
    """Chats whose system message may hold the tools already."""
    told = contents.list.eval(pl.element().str.contains(_TOLD, literal=True)).list.any().fill_null(False)
    return (told & roles.list.contains("system").fill_null(False)).to_numpy()


def extra_column(messages: pl.Series | None, tools: pl.Series | None, rows: int) -> pl.Series | None:
    """`extra` of chats, null where it holds nothing. `messages`: lists of JSON, a text a message."""
    if messages is None and tools is None:
        return None
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows)
    more = nothing if messages is None else _message_json(messages)
    frame = pl.DataFrame({"tools": nothing if tools is None else tools, "messages": more})
    both = pl.concat_str(
        '"tools": ' + pl.col("tools"), '"messages": ' + pl.col("messages"), separator=", ", ignore_nulls=True
    )
    held = pl.concat_str(pl.lit("{"), both, pl.lit("}"))
    return frame.select(extra=pl.when(pl.any_horizontal(pl.all().is_not_null())).then(held)).to_series()


def _message_json(messages: pl.Series) -> pl.Series:
    """The lists as JSON, null where no message has further fields."""
    says = messages.list.eval(pl.element() != NOTHING_MORE).list.any().fill_null(False)
    texts = messages.filter(says).list.join(", ")
    joined = pl.DataFrame({"text": texts}).select("[" + pl.col("text") + "]").to_series()
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, len(messages))
    return nothing.scatter(says.arg_true(), joined)
