"""Items of OpenAI's Responses API -> messages.

    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A greeting."}]}
    {"type": "function_call", "call_id": "c1", "name": "count", "arguments": "{}"}
    {"type": "function_call_output", "call_id": "c1", "output": "3"}
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}

Reasoning, text and calls that follow each other are one message of the assistant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokpack.stages.messages import UNREAD_REASONING

TEXT_PARTS = ("input_text", "output_text", "summary_text", "reasoning_text")
RESULTS = ("function_call_output",)
ITEMS = ("reasoning", "function_call", *RESULTS)
"""Types of the items that are no messages."""


def has_items(values: list[Any], types: tuple[str, ...] = ITEMS) -> bool:
    return any(_type(value) in types for value in values)


def items_as_messages(items: list[Any]) -> list[Any]:
    """Messages with the calls, results and thoughts between them; what is no item stays as it is."""
    return joined(items, _of_answer, lambda item: _result(item) if _type(item) in RESULTS else item)


def joined(
    items: list[Any],
    of_answer: Callable[[Any], dict[str, Any] | None],
    other: Callable[[Any], Any],
    tears: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda answer, added: False,
) -> list[Any]:
    """One message for what the assistant says, calls and thinks in a row; a thought or a text that follows a
    text begins the next. `of_answer`: what an item adds to it, None where it is of somebody else. Items of
    which one `tears` the answer become a part that is refused."""
    messages: list[Any] = []
    answer: dict[str, Any] | None = None
    for item in items:
        added = of_answer(item)
        if added is None:
            messages.append(other(item))
            answer = None
            continue
        begins = added.get("content") or added.get("reasoning_content")
        if answer is None or (begins and answer["content"]):
            answer = {"role": "assistant", "content": ""}
            messages.append(answer)
        elif tears(answer, added):
            added["content"] = [{"type": "answer that is trained in part"}]
        _add(answer, added)
    return messages


def _of_answer(item: Any) -> dict[str, Any] | None:
    """What an item of the assistant adds to its message."""
    kind = _type(item)
    if kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        texts = [str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("text")]
        encrypted = {UNREAD_REASONING: True} if item.get("encrypted_content") else {}
        return {"reasoning_content": "\n".join(texts)} if texts else encrypted
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {"tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}]}
    if isinstance(item, Mapping) and item.get("role") == "assistant" and "tool_calls" not in item:
        return {key: value for key, value in item.items() if key not in ("type", "id", "status")}
    return None


def _add(answer: dict[str, Any], added: dict[str, Any]) -> None:
    calls = [*answer.get("tool_calls", ()), *added.get("tool_calls", ())]
    thoughts = [held["reasoning_content"] for held in (answer, added) if held.get("reasoning_content")]
    answer |= added
    if calls:
        answer["tool_calls"] = calls
    if thoughts:
        answer["reasoning_content"] = "\n".join(thoughts)


def _result(item: Mapping[str, Any]) -> dict[str, Any]:
    output = item.get("output")
    content = output if isinstance(output, str | list) else json.dumps(output, ensure_ascii=False)
    return {"role": "tool", "content": content, "tool_call_id": item.get("call_id")}


def _type(value: Any) -> Any:
    return value.get("type") if isinstance(value, Mapping) else None
