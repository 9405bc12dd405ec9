"""One input row -> one document, in plain Python: the reference for `normalize`, and its slow path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tokpack.schema import PREFERENCE
from tokpack.stages.read.csv_rows import UNREADABLE

TOKENS = "tokens"
"""Format of rows that are tokenised already."""
# Formats in the order they are tried, each with its required fields and the role each text plays.
FIELDS: dict[str, dict[str, str]] = {
    PREFERENCE: {"chosen": "assistant", "rejected": "assistant"},
    "messages": {"messages": ""},
    "sharegpt": {"conversations": ""},
    "alpaca": {"instruction": "user", "output": "assistant"},
    "prompt_completion": {"prompt": "user", "completion": "assistant"},
    "text": {"text": "text"},
    TOKENS: {"input_ids": ""},
}
CHATS = {"messages": ("role",), "sharegpt": ("from", "role")}
"""Formats of a column of messages, and what these name their role."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "alpaca": ("input",),
    PREFERENCE: ("prompt",),
    TOKENS: ("labels", "attention_mask"),
}
ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "output": ("output", "response"),
    "completion": ("completion", "response"),
    "conversations": ("conversations", "conversation"),
}
PROMPTS = ("prompt", "conversations", "conversation", "question", "instruction")
"""Columns that hold the prompt of preference pairs."""
INPUT = "input"
SLOW_COLUMNS = frozenset({"tools", "functions", "system", "history", UNREADABLE})
"""Columns that change the document and that only the row-by-row path reads."""
ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}


class RowError(ValueError):
    """The row is not of the shape it should be; the message is the reason shown to the user."""


@dataclass(frozen=True, slots=True)
class RowDocument:
    kind: str
    roles: list[str | None]
    contents: list[str | None]
    extra: str | None


@dataclass(frozen=True, slots=True)
class Shape:
    """How the rows of a source are laid out. `columns`: field of tokpack -> column of the file."""

    format: str
    columns: dict[str, str]
    slow_columns: frozenset[str]

    @staticmethod
    def of(name: str, mapping: Mapping[str, str], present: list[str]) -> Shape:
        columns = {}
        for target in (*FIELDS[name], *OPTIONAL.get(name, ())):
            names = ALTERNATIVES.get(target, (target,))
            if target in mapping:
                names = (mapping[target],)
            elif (name, target) == (PREFERENCE, "prompt"):
                names = PROMPTS
            found = next((column for column in names if column in present), names[0])
            if target in FIELDS[name] or found in present:
                columns[target] = found
        # Preference pairs in Alpaca's columns: the input belongs to the instruction.
        slow = SLOW_COLUMNS | ({INPUT} if columns.get("prompt") == "instruction" else set())
        return Shape(name, columns, slow - set(columns.values()))

    @property
    def documents_per_row(self) -> int:
        """A preference pair is two documents, `2 * row` and `2 * row + 1`; any other row is one."""
        return 2 if self.format == PREFERENCE else 1

    @property
    def is_text(self) -> bool:
        """Whether all of a row is trained: a text, or ids without labels."""
        return self.format == "text" or (self.format == TOKENS and "labels" not in self.columns)

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Whether any of the first rows has every required field, with messages where they belong."""
        required = [self.columns[field] for field in FIELDS[self.format]]
        for row in rows:
            if all(row.get(column) is not None for column in required):
                if self.format == PREFERENCE:
                    return all(isinstance(row[column], str | list | dict) for column in required)
                if self.format in CHATS:
                    if row[required[0]] in ([], "[]"):
                        continue
                    return any(_has_keys(row[required[0]], key) for key in CHATS[self.format])
                if self.format == TOKENS:
                    return _is_ids(row[required[0]])
                return True
        return False

    def fits_empty(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the rows are chats without a message."""
        column = next(iter(self.columns.values()))
        return self.format in CHATS and any(row.get(column) in ([], "[]") for row in rows)


def _has_keys(messages: Any, key: str) -> bool:
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            messages = json.loads(messages)
    return (
        isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and key in messages[0]
    )


def _is_ids(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def row_to_document(row: Mapping[str, Any], shape: Shape) -> RowDocument:
    """Raises RowError for a row of the wrong shape. Missing content is None: cleaning has a rule for it."""
    if shape.format in CHATS:
        return _chat(row, shape)
    texts = {target: row.get(column) for target, column in shape.columns.items()}
    if shape.format == "text":
        return RowDocument("text", ["text"], [read_text(texts["text"], "text")], None)
    if shape.format == "prompt_completion" and isinstance(texts["prompt"], list):
        return _conversational(texts["prompt"], texts["completion"])
    prompt_field, answer_field = FIELDS[shape.format]
    prompt = read_text(texts[prompt_field], prompt_field)
    if texts.get("input"):
        prompt += "\n" + read_text(texts["input"], "input")
    answer = read_text(texts[answer_field], answer_field)
    turns = [*turns_before(row), ("user", prompt), ("assistant", answer)]
    return RowDocument("prompt_completion", [role for role, _ in turns], [text for _, text in turns], None)


def turns_before(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The turns of the columns `system` and `history`."""
    turns: list[tuple[str, str]] = []
    if row.get("system"):
        turns.append(("system", read_text(row["system"], "system")))
    for pair in row.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("history is not a list of [question, answer] pairs")
        turns += [("user", read_text(pair[0], "history")), ("assistant", read_text(pair[1], "history"))]
    return turns


def _chat(row: Mapping[str, Any], shape: Shape) -> RowDocument:
    column = next(iter(shape.columns.values()))
    messages = row.get(column)
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = parsed(messages, column)
    if not isinstance(messages, list):
        raise RowError(f"{column} is {kind_of(messages)}, not a list of messages")
    roles: list[str | None] = []
    contents: list[str | None] = []
    extras: list[dict[str, Any]] = []
    if row.get("system"):
        roles, contents, extras = ["system"], [read_text(row["system"], "system")], [{}]
    for number, message in enumerate(messages, 1):
        role, content, extra = read_message(message, f"{column}[{number}]")
        roles.append(role)
        contents.append(content)
        extras.append(extra)
    document = read_tools(row)
    if any(extras):
        document["messages"] = extras
    return RowDocument("chat", roles, contents, dump(document) if document else None)


def read_tools(row: Mapping[str, Any]) -> dict[str, Any]:
    """`{"tools": [...]}` of the columns `tools` and `functions`, or nothing."""
    value = row.get("tools") or row.get("functions")
    if not value:
        return {}
    tools = parsed(value, "tools")
    if not isinstance(tools, list):
        raise RowError(f"tools is {kind_of(tools)}, not a list")
    for number, tool in enumerate(tools, 1):
        if not isinstance(tool, dict):
            raise RowError(f"tools[{number}] is {kind_of(tool)}, not an object")
    return {"tools": tools}


def read_message(message: Any, where: str) -> tuple[str | None, str | None, dict[str, Any]]:
    if not isinstance(message, dict):
        raise RowError(f"{where} is {kind_of(message)}, not a message")
    sharegpt = "from" in message and "role" not in message
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    role, content = message.get(role_key), message.get(content_key)
    if role is not None and not isinstance(role, str):
        raise RowError(f"{where}.{role_key} is {kind_of(role)}, not a string")
    extra = {
        key: value
        for key, value in message.items()
        if key not in (role_key, content_key) and value not in (None, [])
    }
    if "loss_weight" in extra:
        extra["weight"] = extra.pop("loss_weight")
    _check_directions(extra, where)
    if sharegpt and role in ("function_call", "tool_call"):
        calls = parsed(content, f"{where}.value")
        calls = calls if isinstance(calls, list) else [calls]
        extra["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        return "assistant", "", extra
    if sharegpt:
        role = ROLE_ALIASES.get(role, role) if role else role
    return _checked(role, where), _content(content, where), extra


def _check_directions(extra: Mapping[str, Any], where: str) -> None:
    """What says whether a message is trained must be readable: `"train": "false"` is not."""
    train, weight = extra.get("train", True), extra.get("weight", 1)
    if not isinstance(train, bool):
        raise RowError(f"{where}.train is {kind_of(train)}, not true or false")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise RowError(f"{where}.weight is {kind_of(weight)}, not a number")


def _content(content: Any, where: str) -> str | None:
    """A string, or content parts of type text joined."""
    if content is None:
        return None
    if not isinstance(content, list):
        return read_text(content, f"{where}.content")
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, dict) and part.get("type") == "text":
            parts.append(read_text(part.get("text"), f"{where}.content[].text"))
        else:
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise RowError(f"{where}: content part of type {kind!r}; only text can be packed")
    return _checked("".join(parts), where)


def _conversational(prompt: Any, completion: Any) -> RowDocument:
    """TRL's conversational prompt + completion: only the completion's answers are trained."""
    if not isinstance(completion, list):
        raise RowError(f"prompt is a list of messages, completion is {kind_of(completion)}")
    turns = [(read_message(m, f"prompt[{i}]"), False) for i, m in enumerate(prompt, 1)]
    turns += [(read_message(m, f"completion[{i}]"), True) for i, m in enumerate(completion, 1)]
    extras = [
        {**extra, **({} if train or role != "assistant" else {"train": False})}
        for (role, _, extra), train in turns
    ]
    document = dump({"messages": extras}) if any(extras) else None
    return RowDocument("chat", [turn[0] for turn, _ in turns], [turn[1] for turn, _ in turns], document)


def parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(f"{where} is not JSON") from None


def read_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} is {kind_of(value)}, not a string")
    return str(_checked(value, where))


def _checked(value: str | None, where: str) -> str | None:
    """Half a surrogate pair, as in `"\\ud83d"`, is no text and cannot be tokenised."""
    try:
        if value is not None:
            value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{where} holds half a surrogate pair") from None
    return value


def dump(document: dict[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False)
    return str(_checked(text, "tools or message fields"))


def kind_of(value: Any) -> str:
    kinds = {
        type(None): "missing",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        bytes: "bytes",
    }
    return kinds.get(type(value), "an object" if isinstance(value, dict) else "a list")
