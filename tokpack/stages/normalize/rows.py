"""One input row -> one document, in plain Python: the reference for `normalize`, and its slow path."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokpack.frozen import frozen
from tokpack.on_disk.reasons import LABELED_BAD, OTHER_SPLIT
from tokpack.stages.normalize.chats.calls import TOOLS, read_tools, tool_name
from tokpack.stages.normalize.chats.message_rows import (
    Turn,
    is_message,
    message_list,
    messages_in,
    read_messages,
)
from tokpack.stages.normalize.chats.reasoning import text_of
from tokpack.stages.normalize.chats.training import row_weight
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import SWITCHES, TRUTHS, as_json, is_filled, verdict
from tokpack.stages.normalize.formats import CHATS, FIELDS
from tokpack.stages.normalize.passed_over import is_held_back
from tokpack.stages.normalize.values import RowError, decoded, dump, is_nothing, kind_of, read_text

if TYPE_CHECKING:
    from tokpack.stages.normalize.shape import Shape

NO_INPUT = ("", "<noinput>", "<no input>", "nan")
"""What the column `input` says where there is none; `nan` is what pandas makes of it."""
KWARGS = "chat_template_kwargs"
"""Key of `extra` for arguments of the chat template that a row brings."""


@frozen
class RowDocument:
    kind: str
    roles: list[str | None]
    contents: list[str | None]
    extra: str | None
    dropped: str | None = None
    """Why the row itself says that it is not to be learned."""
    desirable: bool | None = None
    """Of unpaired preferences: whether the answer is a good one."""


def row_to_document(row: Mapping[str, Any], shape: Shape) -> RowDocument:
    """Raises RowError for a row of the wrong shape. Missing content is None: cleaning has a rule for it."""
    row = shape.canonical(row)
    if shape.unpaired:
        desirable = _is_desirable(row.pop("label", None))
        document = _to_document(row, shape)
        if any("weight" in extra for extra in (as_json(document.extra) or {}).get("messages", ())):
            raise RowError("it has a weight: unpaired answers are compared whole, so only 0 and 1 are known")
        return replace(document, desirable=desirable)
    return _to_document(row, shape)


def _is_desirable(label: Any) -> bool:
    if not is_filled(label):
        raise RowError("there is no label: true or false has to say whether the answer is good")
    found = verdict(label)
    if found is None:
        raise RowError(f"its label is {label!r}: true or false has to say whether the answer is good")
    return found


def _to_document(row: Mapping[str, Any], shape: Shape) -> RowDocument:
    if shape.format == "text":
        text = read_text(row.get("text"), "text")
        return RowDocument("text", ["text"], [text], None, left_out(row))
    if shape.format in CHATS:
        return _document("chat", _chat(row, next(iter(FIELDS[shape.format]))), row)
    prompt_field, answer_field = FIELDS[shape.format]
    prompt, answer = (messages_in(row.get(field), field) for field in (prompt_field, answer_field))
    if isinstance(prompt, list) or isinstance(answer, list):
        return _document("chat", _conversational(prompt, answer, row), row)
    asked: Turn = ("user", _with_input(read_text(prompt, prompt_field), row), {})
    said: Turn = ("assistant", read_text(answer, answer_field), {})
    before = said_once(history_of(row), [asked, said])
    kind = "chat" if any(extra for _, _, extra in before) else "prompt_completion"
    return _document(kind, with_system([*before, asked, said], row), row)


def _with_input(prompt: str, row: Mapping[str, Any]) -> str:
    more = row.get("input") or ""
    return prompt if more in NO_INPUT else f"{prompt}\n{read_text(more, 'input')}"


def _document(kind: str, turns: list[Turn], row: Mapping[str, Any]) -> RowDocument:
    """The turns with what stands beside them: reasoning of the answer, tools, arguments of the template."""
    if is_filled(row.get("reasoning")):
        turns = with_reasoning(turns, row["reasoning"])
    weight = row_weight(given) if (given := row.get("weight")) not in (None, "", [], {}) else 1.0
    if weight not in (0, 1):
        turns = [_weighted(turn, weight) for turn in turns]
    extras = [extra for _, _, extra in turns]
    document = around(row, turns) | ({"messages": extras} if any(extras) else {})
    bad = is_filled(row.get("label")) and not _is_desirable(row["label"])
    bad = bad or not weight or not _is_trained(row.get("trained"))
    return RowDocument(
        kind,
        [role for role, _, _ in turns],
        [text for _, text, _ in turns],
        dump(document) if document else None,
        LABELED_BAD if bad else left_out(row),
    )


def left_out(row: Mapping[str, Any]) -> str | None:
    """Why the columns that the user named for it leave the row out."""
    if row.get("skip"):
        return LABELED_BAD
    return OTHER_SPLIT if is_held_back(row.get("split")) else None


def _is_trained(value: Any) -> bool:
    """What a column such as `loss` says of the whole row. Raises RowError for a number between."""
    if not is_filled(value):
        return True
    trained = TRUTHS.get(str(value).casefold())
    if trained is None:
        raise RowError(
            f"it is trained by {value!r}: only 0, not trained, and 1, trained in full, are known here; "
            "a column called weight may hold other numbers"
        )
    return trained


def _weighted(turn: Turn, weight: float) -> Turn:
    """An answer whose tokens count so many times as much as before."""
    role, text, extra = turn
    trained = role == "assistant" and extra.get("train") is not False
    return (role, text, {**extra, "weight": weight * extra.get("weight", 1)}) if trained else turn


def with_reasoning(turns: list[Turn], reasoning: Any) -> list[Turn]:
    """Reasoning goes to the last answer, unless that holds it already."""
    text = read_text(text_of(reasoning) if isinstance(reasoning, list) else reasoning, "reasoning").strip()
    at = next((i for i in reversed(range(len(turns))) if turns[i][0] == "assistant"), None)
    if at is None or text.casefold() in SWITCHES:
        return turns
    if text in (turns[at][1] or "") or "reasoning_content" in turns[at][2]:
        return turns
    role, content, extra = turns[at]
    return [*turns[:at], (role, content, {**extra, "reasoning_content": text}), *turns[at + 1 :]]


def around(row: Mapping[str, Any], turns: list[Turn]) -> dict[str, Any]:
    """What the template is given beside the messages: tools, and arguments of its own."""
    document = read_tools(row)
    for role, _, extra in turns:
        if role in ("system", "user"):
            own = read_tools({name: extra.pop(name) for name in TOOLS if name in extra})
            document = _with_tools(document, own) if document and own else document or own
    if document and _are_told(document["tools"], turns):
        document = {}
    arguments = as_json(row.get("chat_template_kwargs"))
    if not is_nothing(arguments):
        if not isinstance(arguments, dict):
            raise RowError(f"chat_template_kwargs is {kind_of(arguments)}, not an object")
        given = {name: value for name, value in arguments.items() if value is not None}
        document |= {KWARGS: given} if given else {}
    return document


def _with_tools(document: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """With tools of other names."""
    held = document["tools"]
    known = {name for tool in held if (name := tool_name(tool))}
    new = [tool for tool in more["tools"] if tool not in held and tool_name(tool) not in known]
    return {"tools": [*held, *new]} if new else document


def tools_twice(row: Mapping[str, Any], shape: Shape) -> bool:
    """Whether a chat has its tools in the system message and in a column as well."""
    with suppress(RowError):
        row = shape.canonical(row)
        tools = read_tools(row).get("tools")
        return bool(tools) and _are_told(tools or [], _chat(row, next(iter(FIELDS[shape.format]))))
    return False


def _are_told(tools: list[Any], turns: list[Turn]) -> bool:
    """Whether the system message holds the tools already, as Hermes' function calling writes them."""
    system = next((text for role, text, _ in turns if role == "system"), None) or ""
    if "<tools>" not in system:
        return False
    names = map(tool_name, tools)
    return all(name and (f'"{name}"' in system or f"'{name}'" in system) for name in names)


def history_of(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of the column `history`: pairs of a question and its answer, or messages. Raises RowError."""
    history = decoded(row.get("history"), "history") or []
    if not isinstance(history, list):
        raise RowError(f"history is {kind_of(history)}, not a list of messages or [question, answer] pairs")
    if all(map(is_message, history)):
        return read_messages(history, "history")
    turns: list[Turn] = []
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("history is not a list of messages or [question, answer] pairs")
        turns += [
            ("user", read_text(pair[0], "history"), {}),
            ("assistant", read_text(pair[1], "history"), {}),
        ]
    return turns


def said_once(before: list[Turn], after: list[Turn]) -> list[Turn]:
    """The earlier turns without those at their end that `after` begins with: some logs have them in both."""
    end = [_said(turn) for turn in before]
    begin = [_said(turn) for turn in after]
    most = min(len(end), len(begin))
    again = next((n for n in range(most, 0, -1) if end[-n:] == begin[:n] and begin[0][0] == "user"), 0)
    return before[: len(before) - again]


def _said(turn: Turn) -> tuple[str | None, str]:
    role, text, _ = turn
    return role, (text or "").strip()


def _chat(row: Mapping[str, Any], column: str) -> list[Turn]:
    value = row.get(column)
    messages = message_list(value, column)
    if isinstance(value, str):
        messages = as_messages(messages) or messages
    turns = read_messages(messages, column)
    if is_filled(row.get("completion")):
        turns.append(("assistant", read_text(row["completion"], "completion"), {}))
    return with_system(turns, row)


def with_system(turns: list[Turn], row: Mapping[str, Any]) -> list[Turn]:
    """The text of `system` comes first, once."""
    if not row.get("system"):
        return turns
    text = read_text(row["system"], "system")
    told = bool(turns) and turns[0][0] == "system" and (turns[0][1] or "").strip() == text.strip()
    return turns if told else [("system", text, {}), *turns]


def _conversational(prompt: Any, completion: Any, row: Mapping[str, Any]) -> list[Turn]:
    """TRL's conversational prompt + completion, either of which may be a text: only the completion's answers
    are trained."""
    asked = _side(prompt, "prompt", "user")
    if isinstance(prompt, str) and asked:
        asked = [("user", _with_input(prompt, row), {})]
    answers = _side(completion, "completion", "assistant")
    asked = with_system([*said_once(history_of(row), [*asked, *answers]), *asked], row)
    return [*(_untrained(turn) for turn in asked), *answers]


def _side(value: Any, where: str, role: str) -> list[Turn]:
    if isinstance(value, str):
        return [(role, read_text(value, where), {})]
    if not isinstance(value, list):
        raise RowError(f"{where} is {kind_of(value)}, not a text or a list of messages")
    return read_messages(value, where)


def _untrained(turn: Turn) -> Turn:
    role, text, extra = turn
    return (role, text, {**extra, "train": False}) if role == "assistant" else turn
