"""Documents -> rows of text in the shapes that others train on: one JSON line a document.

    openai             {"messages": [{"role", "content", ...}], "tools": [...]}: fine-tuning services, TRL
    sharegpt           {"conversations": [{"from", "value"}], "tools": "[...]"}
    alpaca             {"instruction", "input", "output", "system", "history"}
    prompt_completion  {"prompt", "completion"}: texts, or lists of messages
    text               {"text"}

Plain conversations are written by columns; what carries tools or message fields goes row by row. A document
that a shape cannot hold is named, not bent: a text has no turns, Alpaca has no tools. Arguments of the chat
template stand beside any of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Bools
from tokpack.errors import UsageError, near_matches
from tokpack.frozen import frozen
from tokpack.stages.messages import PART_SIZES, UNREAD_REASONING, Messages
from tokpack.stages.normalize.chats.roles import ROLE_ALIASES
from tokpack.stages.normalize.rows import KWARGS
from tokpack.stages.render.reference import add_fields

Extra = dict[str, Any]
FROM_ROLE = {"user": "human", "assistant": "gpt", "tool": "observation"}


@frozen
class Document:
    """One document, row by row."""

    kind: str
    roles: list[str | None]
    contents: list[Any]
    """Texts; data where a tool answered with data."""
    tools: Any
    extras: list[Extra]
    """What each message has beside role and content."""


@frozen
class TextFormat:
    plain: pl.Expr
    """Documents without extra that `columns` can write."""
    columns: Callable[[pl.DataFrame], pl.DataFrame]
    row: Callable[[Document], dict[str, Any] | None]
    """Any other document; None where the shape cannot hold it."""


def text_format(name: str) -> TextFormat:
    """Raises UsageError with near matches for an unknown shape."""
    if name not in FORMATS:
        raise UsageError(f"no shape named {name!r}", where=f"--to {name}", hint=near_matches(name, FORMATS))
    return FORMATS[name]


def write_rows(documents: pl.DataFrame, shape: TextFormat) -> tuple[bytes, Bools]:
    """(JSON lines in order, which documents the shape cannot hold)."""
    plain = documents.select((shape.plain & pl.col("extra").is_null()).fill_null(False)).to_series()
    by_columns = _lines(shape.columns(documents.filter(plain))) if plain.any() else []
    if plain.all():
        return b"".join(line + b"\n" for line in by_columns), np.zeros(len(documents), dtype=bool)
    lines = np.empty(len(documents), dtype=object)
    lines[plain.to_numpy()] = by_columns
    for position in (~plain).arg_true().to_list():
        held = documents.row(position, named=True)
        extra = json.loads(held["extra"]) if held["extra"] else {}
        row = shape.row(_document(held, extra))
        if row is not None:
            row |= {KWARGS: extra[KWARGS]} if KWARGS in extra else {}
            lines[position] = json.dumps(row, ensure_ascii=False).encode()
    lost = np.array([line is None for line in lines], dtype=bool)
    return b"".join(line + b"\n" for line in lines[~lost]), lost


def _lines(rows: pl.DataFrame) -> list[bytes]:
    buffer = io.BytesIO()
    rows.write_ndjson(buffer)
    return buffer.getvalue().removesuffix(b"\n").split(b"\n")


def _document(row: dict[str, Any], extra: Extra) -> Document:
    messages = [{"content": content} for content in row["contents"]]
    for message, more in zip(messages, extra.get("messages") or [], strict=False):
        add_fields(message, {k: v for k, v in more.items() if k not in (UNREAD_REASONING, PART_SIZES)})
    contents = [message.pop("content") for message in messages]
    return Document(row["kind"], row["roles"], contents, extra.get("tools"), messages)


def _message_column(documents: pl.DataFrame, role: str, content: str, roles: dict[str, str]) -> pl.Series:
    messages = Messages.of(documents)
    fields = {role: messages.roles.replace(roles), content: messages.contents}
    return messages.lists(pl.DataFrame(fields).to_struct())


# OpenAI


def _openai_columns(documents: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"messages": _message_column(documents, "role", "content", {})})


def _openai_row(document: Document) -> dict[str, Any] | None:
    if document.kind == "text":
        return None
    messages = [_openai_message(*message) for message in _messages(document)]
    _name_calls(messages)
    return {"messages": messages, **({"tools": document.tools} if document.tools else {})}


def _messages(document: Document) -> list[tuple[str | None, str | None, Extra]]:
    return list(zip(document.roles, document.contents, document.extras, strict=True))


def _openai_message(role: str | None, content: str | None, extra: Extra) -> dict[str, Any]:
    """`train: false` is `weight: 0` there; arguments of calls are JSON in a string."""
    extra = dict(extra)
    if extra.pop("train", True) is False:
        extra["weight"] = 0
    if calls := extra.get("tool_calls"):
        extra["tool_calls"] = [_openai_call(call) for call in calls]
    return {"role": role, "content": content, **extra}


def _openai_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or isinstance(function.get("arguments"), str | None):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return call | {"function": function | {"arguments": arguments}}


def _name_calls(messages: list[dict[str, Any]]) -> None:
    """Calls and results that name each other by nothing get ids in order: the service asks for them."""
    waiting: list[str] = []
    number = 0
    for message in messages:
        for call in message.get("tool_calls") or []:
            if isinstance(call, dict) and "id" not in call:
                call["id"] = f"call_{number}"
                waiting.append(call["id"])
                number += 1
        if message["role"] == "tool" and "tool_call_id" not in message and waiting:
            message["tool_call_id"] = waiting.pop(0)


# ShareGPT


def _sharegpt_columns(documents: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"conversations": _message_column(documents, "from", "value", FROM_ROLE)})


def _sharegpt_row(document: Document) -> dict[str, Any] | None:
    if document.kind == "text" or any(role is None or role in ROLE_ALIASES for role in document.roles):
        return None
    turns = [_sharegpt_turn(*message) for message in _messages(document)]
    tools = json.dumps(document.tools, ensure_ascii=False) if document.tools else None
    return {"conversations": turns, **({"tools": tools} if tools else {})}


def _sharegpt_turn(role: str | None, content: str | None, extra: Extra) -> dict[str, Any]:
    """A turn that is calls alone is `function_call`; other fields stay beside the text."""
    calls = extra.get("tool_calls")
    functions = [call.get("function") for call in calls or [] if isinstance(call, dict)]
    bare = [{"type": "function", "function": function} for function in functions]
    if calls and content == "" and calls == bare:
        rest = {key: value for key, value in extra.items() if key != "tool_calls"}
        called = functions if len(functions) > 1 else functions[0]
        return {"from": "function_call", "value": json.dumps(called, ensure_ascii=False), **rest}
    return {"from": FROM_ROLE.get(str(role), role), "value": content, **extra}


# Alpaca, prompt and completion


def _pair_columns(prompt: str, completion: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def columns(documents: pl.DataFrame) -> pl.DataFrame:
        turns = pl.col("contents").list
        return documents.select(turns.get(0).alias(prompt), turns.get(1).alias(completion))

    return columns


def _alpaca_row(document: Document) -> dict[str, Any] | None:
    if document.kind == "text" or document.tools or any(document.extras):
        return None
    roles, contents = list(document.roles), list(document.contents)
    system = contents.pop(0) if roles[:1] == ["system"] and roles.pop(0) else None
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or None in contents or system == "":
        return None
    pairs = [contents[i : i + 2] for i in range(0, len(contents), 2)]
    (instruction, output), history = pairs[-1], pairs[:-1]
    row: dict[str, Any] = {"instruction": instruction, "input": "", "output": output}
    return row | ({"system": system} if system else {}) | ({"history": history} if history else {})


def _completion_row(document: Document) -> dict[str, Any] | None:
    """Messages in two lists where only the last one, the assistant's, is trained."""
    roles = document.roles
    if document.kind == "text" or document.tools or len(roles) < 2 or roles[-1] != "assistant":
        return None
    untrained = [extra == {"train": False} for extra in document.extras]
    earlier = all(
        done if role == "assistant" else not extra
        for role, done, extra in zip(roles[:-1], untrained[:-1], document.extras[:-1], strict=True)
    )
    if not earlier or document.extras[-1]:
        return None
    turns = [{"role": role, "content": content} for role, content, _ in _messages(document)]
    return {"prompt": turns[:-1], "completion": turns[-1:]}


# Text


def _text_columns(documents: pl.DataFrame) -> pl.DataFrame:
    return documents.select(text=pl.col("contents").list.get(0))


IS_TEXT = pl.col("kind") == "text"
TWO_TURNS = pl.col("roles").list.join(" ") == "user assistant"
KNOWN_ROLES = pl.col("roles").list.eval(pl.element().is_in(["system", *FROM_ROLE])).list.all()

FORMATS: dict[str, TextFormat] = {
    "openai": TextFormat(~IS_TEXT, _openai_columns, _openai_row),
    "sharegpt": TextFormat(~IS_TEXT & KNOWN_ROLES, _sharegpt_columns, _sharegpt_row),
    "alpaca": TextFormat(~IS_TEXT & TWO_TURNS, _pair_columns("instruction", "output"), _alpaca_row),
    "prompt_completion": TextFormat(
        ~IS_TEXT & TWO_TURNS, _pair_columns("prompt", "completion"), _completion_row
    ),
    "text": TextFormat(IS_TEXT, _text_columns, lambda document: None),
}
