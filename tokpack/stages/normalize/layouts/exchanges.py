"""Exchanges: a request with its messages and the response to it, wherever in a row a log keeps them.

    {"request": {"messages": [...], "tools": [...]}, "response": {"choices": [{"message": {...}}]}}
    {"messages": [...], "response": {"role": "assistant", "content": [...]}}
    {"request": {"contents": [...]}, "response": {"candidates": [{"content": {...}}]}}
    {"inputs": {"messages": [[...]]}, "outputs": {"generations": [[{"message": {...}}]]}}

There is one where the first rows have the messages of a chat without its answer in one place, and one message
of an assistant in another. JSON in texts is looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokpack.stages.normalize.chats.roles import role_name
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import BESIDE, COMPLETIONS, PROMPTS, Row, as_json, is_filled, value_at
from tokpack.stages.normalize.layouts.commands import quoted
from tokpack.stages.normalize.layouts.layouts import Layout, Rows

DEPTH = 6
"""Levels of objects and lists that are looked into."""
SEVERAL = ("choices", "candidates", "generations")
"""Lists of answers to one request, of which the first is read."""
REQUESTS = ("request", "request_body", "input", "inputs", "body", "payload")
"""Columns of requests whose answer may be a text in another column."""
NO_MESSAGES = ("tools", "functions", "logprobs", "usage")
LANGSMITH = "constructor"
"""Type of a message of LangChain's as LangSmith writes it."""
USUAL = {"contents": "systemInstruction", "input": "instructions"}
"""Key of the messages of a request -> key of its system message, where that is not `system`."""
SYSTEM = (*BESIDE["system"], "instructions")


def find_exchange(present: Sequence[str], rows: Rows) -> Layout | None:
    """The layout of rows that hold a request and its response."""
    if _has_texts(PROMPTS, present, rows) and _has_texts(COMPLETIONS, present, rows):
        return None
    found = [list(_places(row, "", DEPTH)) for row in rows]
    asked = list(dict.fromkeys(path for row in found for path, kind in row if kind == "chat"))
    answered = list(dict.fromkeys(path for row in found for path, kind in row if kind == "answer"))
    whole = list(dict.fromkeys(path for row in found for path, kind in row if kind == "whole"))
    if (
        len(asked) == len(whole) == 1
        and not answered
        and all(_goes_on(row, asked[0], whole[0]) for row in rows)
    ):
        return Layout(name="chat that goes on", format="messages", fields={"messages": whole[0]})
    if len(asked) == 1 and not answered and asked[0].partition(".")[0] in REQUESTS and "." in asked[0]:
        answered = [name for name in present if name in COMPLETIONS and _has_texts((name,), present, rows)]
    if len(asked) != 1 or len(answered) != 1 or any(kind == "several" for row in found for _, kind in row):
        return None
    [prompt], [completion] = asked, answered
    if prompt in PROMPTS and completion in COMPLETIONS:
        return None
    fields = {"prompt": prompt, "completion": completion} | _beside(prompt, rows)
    several = next((name for name in SEVERAL if f".{name}.0" in f".{completion}"), "")
    note = f"{prompt} holds the request, {completion} the answer"
    if several and any(_more_than_one(row, completion, several) for row in rows):
        note += f"; of several {several} the first is read"
    return Layout(name="requests and responses", format="prompt_completion", fields=fields, note=note)


def _goes_on(row: Row, asked: str, whole: str) -> bool:
    """Whether a chat begins with the messages of another, as the state of a graph after a run."""
    first, all_of_it = (as_messages(value_at(row, path)) or [] for path in (asked, whole))
    said = [[(_role(message), message.get("content")) for message in chat] for chat in (first, all_of_it)]
    return said[1][: len(said[0])] == said[0]


def way_to_chat(rows: Rows) -> str:
    """What to say of rows that have a chat below their columns; empty where none has."""
    places = [place for row in rows for place in _places(row, "", DEPTH)]
    for path, kind in places:
        if kind == "several":
            return f"{path} holds several chats or answers: write each in a row of its own"
    for path, kind in sorted(places, key=lambda place: place[1] == "answer"):
        if kind == "answer":
            named = quoted(f"prompt=COLUMN,completion={path}")
            return f"{path} is an answer; say what came before: --map {named}"
        fields = {"messages": path} | {
            name: at for name, at in _beside(path, rows).items() if _holds(rows, at)
        }
        named = ",".join(f"{name}={at}" for name, at in fields.items())
        if kind == "whole":
            return f"{path} looks like a chat: --map {quoted(named)}"
        if kind == "chat":
            return (
                f"{path} looks like a chat, and no answer to it was found: where one is in another column, "
                f"--map {quoted(f'{named},completion=COLUMN')}"
            )
    return ""


def _holds(rows: Rows, path: str) -> bool:
    return any(is_filled(value_at(row, path)) for row in rows)


def _places(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """(path, kind): `chat` of messages that do not end on the assistant's turn, `whole` of others, `answer`
    of a message of the assistant or its items, `several` of lists of more than one of these."""
    if path.rpartition(".")[2] in NO_MESSAGES:
        return
    value = as_json(value) if path else value
    kind = _kind(value) if path else ""
    if kind:
        yield path, kind
    elif isinstance(value, Mapping) and depth:
        for key, held in value.items():
            yield from _places(held, f"{path}.{key}" if path else str(key), depth - 1)
    elif (
        isinstance(value, list) and value and depth and path.rpartition(".")[2] not in ("tools", "functions")
    ):
        below = list(_places(value[0], f"{path}.0", depth - 1))
        named = any(part in SEVERAL for part in path.split("."))
        if len(value) > 1 and not named and any(kind in ("answer", "whole", "chat") for _, kind in below):
            yield path, "several"
        yield from below


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        known = value.get("type") == LANGSMITH or _is_answering(value)
        messages = as_messages(value) if known else None
        return "answer" if messages and _is_answering(messages[0]) else ""
    if not isinstance(value, list) or not value or not all(_is_message(item) for item in value):
        return ""
    messages = as_messages(value)
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        return ""
    answering = [_is_answering(message) for message in messages]
    if all(answering):
        return "answer" if len(answering) == 1 else "several"
    return "whole" if answering[-1] else "chat"


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and (_role(item) != "" or "type" in item)


def _is_answering(message: Mapping[str, Any]) -> bool:
    return role_name(_role(message)) == "assistant"


def _role(message: Mapping[str, Any]) -> str:
    role = next((message[key] for key in ("role", "from", "author") if key in message), None)
    if role is None and ("content" in message or "data" in message):
        role = message.get("type")
    return role.strip().casefold() if isinstance(role, str) else ""


def _beside(prompt: str, rows: Rows) -> dict[str, str]:
    """Where tools and the system message stand beside the messages of a request, or would."""
    inside, _, name = prompt.removesuffix(".0").rpartition(".")
    if not inside or any(prompt in row for row in rows):
        return {}
    found = {"system": f"{inside}.{USUAL.get(name, 'system')}", "tools": f"{inside}.tools"}
    nodes = [node for row in rows if isinstance(node := as_json(value_at(row, inside)), Mapping)]
    keys = {str(key).casefold(): str(key) for node in nodes for key in node}
    for target, names in (("system", SYSTEM), ("tools", BESIDE["tools"])):
        for known in reversed(names):
            root, dot, rest = known.partition(".")
            path = f"{inside}.{keys.get(root, root)}{dot}{rest}"
            if _holds(rows, path):
                found[target] = path
    return found


def _has_texts(names: Sequence[str], present: Sequence[str], rows: Rows) -> bool:
    """Whether a column of one of these names holds texts that are no JSON."""
    columns = [column for column in present if column.casefold() in names]
    return any(
        isinstance(as_json(row.get(column)), str) and row[column] for row in rows for column in columns
    )


def _more_than_one(row: Row, path: str, name: str) -> bool:
    answers = as_json(value_at(row, f".{path}".partition(f".{name}.0")[0][1:] + f".{name}"))
    return isinstance(answers, list) and len(answers) > 1
