"""Messages of any service -> messages with role, content, calls and reasoning, as OpenAI names them.

    [{"role": "model", "parts": [{"text": "Hello."}]}]       Gemini, Vertex
    [{"role": "user", "content": [{"text": "Hi"}]}]          Bedrock Converse
    content blocks of type tool_use, tool_result, thinking   Anthropic, and Vercel's AI SDK
    parts of type text with a content, tool_call, ...        OpenTelemetry
    [{"role": "TOOL", "tool_results": [...]}]                Cohere's first API

Messages that have role and content already stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.chats.reasoning import text_of
from tokpack.stages.normalize.chats.responses import TEXT_PARTS
from tokpack.stages.normalize.chats.roles import role_name
from tokpack.stages.normalize.fields import as_json, is_filled

ROLE_KEYS = ("role", "from", "author", "speaker", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "body", "msg", "system_prompt")
Message = dict[str, Any]


def plain_messages(messages: list[Any]) -> list[Any]:
    """Messages of any service with their role, content and calls under OpenAI's names."""
    if all(_is_plain(message) for message in messages):
        return messages
    names: dict[str, str] = {}
    return [plain for message in messages for plain in _plain(message, names)]


def plain_text(value: Any) -> Any:
    """The text of a system message given as text, parts, blocks or one message; others as they are."""
    value = as_json(value)
    if isinstance(value, Mapping):
        keys = (key for key in ("parts", "content", "text", "value") if is_filled(value.get(key)))
        return plain_text(value.get(next(keys, "text"), ""))
    if isinstance(value, list):
        texts = [plain_text(part) for part in value]
        return "\n".join(texts) if all(isinstance(text, str) for text in texts) else value
    return value


_OF_SYSTEM = {"type", "text", "cache_control"}


def system_in_text(text: str) -> Any:
    """A system message that a text holds as a service's JSON; other texts as they are."""
    held = as_json(text)
    if (
        isinstance(held, list)
        and held
        and all(is_object(p) and "text" in p and p.keys() <= _OF_SYSTEM for p in held)
    ):
        return plain_text(held)
    if is_object(held) and (
        held.get("role") in ("system", "developer") or held.keys() in ({"parts"}, {"text"})
    ):
        return plain_text(held)
    return text


def is_object(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)


def _is_plain(message: Any) -> bool:
    """Whether the message is for `read_message` as it is: what is no message is too, it has the words."""
    if not is_object(message):
        return True
    if message.keys() in _BARE and type(message.get("content", "")) is str:
        return True  # as most are
    if ("role" not in message and "from" not in message) or _filled(message, "parts"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return not any(_is_block(part) for part in content)
    if _filled(message, RESULT_LIST):
        return False
    return any(_filled(message, key) for key in ("content", "value")) or not any(
        _filled(message, key) for key in CONTENT_KEYS
    )


_BARE = ({"role", "content"}, {"from", "value"})
_TAKEN_APART = {*ROLE_KEYS, *CONTENT_KEYS, "parts", "type", "id", "status"}
"""Keys of a message of blocks that are not handed on as they are."""
BLOCKS = {
    **{"tool_use": "call", "tool_result": "result", "thinking": "thought", "redacted_thinking": "thought"},
    **{"tool-call": "call", "tool-result": "result", "reasoning": "thought"},
    **{"tool_call": "call", "tool_call_response": "result"},
    **{"server_tool_use": "call", "mcp_tool_use": "call", "mcp_tool_result": "result"},
    **dict.fromkeys(("code_execution_tool_result", "bash_code_execution_tool_result"), "result"),
}
"""Type of a content block of Anthropic's, or of Vercel's AI SDK -> what it is."""
RESULT_LIST = "tool_results"
"""Key of a message in which Cohere's first API has what tools answered."""
MEDIA = ("image", "document", "video", "audio", "search_result")
"""Types, or keys, of parts of a tool's result that are no text."""
VALUED = {"text": "text", "tool_call": "call"}
"""Type of a part of LLaMA-Factory's, `{"type": "text", "value": "Hi"}` -> what it is."""
CALLS = ("functionCall", "function_call", "toolUse")
RESULTS = ("functionResponse", "function_response", "toolResult")


def _is_block(part: Any) -> bool:
    if not is_object(part):
        return False
    if is_filled(part.get("type")):
        named = part["type"] in BLOCKS or part["type"] in TEXT_PARTS
        return named or _is_valued(part) or _is_contained(part) or is_object(part.get("document"))
    return any(_filled(part, key) for key in ("text", "reasoningContent", *CALLS, *RESULTS))


def _is_valued(part: Mapping[str, Any]) -> bool:
    return part.get("type") in VALUED and _filled(part, "value") and not _filled(part, "text")


def _is_contained(part: Mapping[str, Any]) -> bool:
    """`{"type": "text", "content": "Hi"}`, as OpenTelemetry's logs have it."""
    return part.get("type") == "text" and "text" not in part and isinstance(part.get("content"), str)


def _filled(value: Mapping[str, Any], key: str) -> bool:
    return value.get(key) is not None


def _plain(message: Any, names: dict[str, str]) -> Iterator[Any]:
    """One message of a service -> those of ours: a message with tool results is one for each, and the rest.

    `names`: id of a call -> the tool's name, as results do not say it."""
    if _is_plain(message):
        yield message
        return
    role = next((message[key] for key in ROLE_KEYS if _filled(message, key)), None)
    role = "assistant" if role == "model" else role
    if isinstance(results := as_json(message.get(RESULT_LIST)), list):
        yield from (_cohere_result(result) for result in results)
        return
    parts = message.get("parts") if _filled(message, "parts") else message.get("content")
    if not isinstance(parts, list):
        held = [key for key in CONTENT_KEYS if key in message]
        held.sort(key=lambda key: message[key] in ("", None))
        key = held[0] if held else "content"
        rest = {k: v for k, v in message.items() if k not in (*ROLE_KEYS, key) and (v or k not in held)}
        yield {"role": role, "content": message.get(key), **rest}
        return
    if role == "assistant" and (end := _results_in(parts)):
        for some in (parts[: end[0]], parts[slice(*end)], parts[end[1] :]):
            yield from _plain({**message, "parts": None, "content": some}, names) if some else ()
        return
    yield from _of_parts(message, role, parts, names)


def _of_parts(message: Any, role: Any, parts: list[Any], names: dict[str, str]) -> Iterator[Any]:
    texts: list[Any] = []
    calls, results, thoughts = [], [], []
    for part in parts:
        kind, value = _block(part)
        if kind == "call":
            calls.append(_call(value, names))
        elif kind == "result":
            results.append(_result(value, names))
        elif kind == "thought" and role_name(str(role)) == "assistant":
            thoughts.append(str(value))
        elif kind == "thought":
            texts.append(part)  # to be refused: nobody else's thoughts are written
        else:
            texts.append(value)
    yield from results
    if texts or calls or thoughts or not results:
        plain: Message = {"role": "user" if role == "tool" and results else role, "content": _joined(texts)}
        plain |= {key: value for key, value in message.items() if key not in _TAKEN_APART}
        if thoughts:
            plain["thinking_blocks"] = thoughts
        if calls:
            plain["tool_calls"] = calls
        yield plain


def _results_in(parts: list[Any]) -> tuple[int, int] | None:
    """Where the first results stand among parts of an answer, as the service calls its own tools; None where
    there are none, or nothing else."""
    kinds = [_block(part)[0] == "result" for part in parts]
    if all(kinds) or not any(kinds):
        return None
    first = kinds.index(True)
    return first, next((i for i in range(first, len(kinds)) if not kinds[i]), len(kinds))


def _cohere_result(result: Any) -> Message:
    """`{"call": {"name": "count"}, "outputs": [{"ducks": 3}]}` as a tool's answer."""
    call: Any = result.get("call") if is_object(result) else None
    name = {"name": call["name"]} if is_object(call) and _filled(call, "name") else {}
    outputs = result.get("outputs", result) if is_object(result) else result
    return {"role": "tool", "content": json.dumps(outputs, ensure_ascii=False), **name}


def _joined(parts: list[Any]) -> Any:
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def _block(part: Any) -> tuple[str, Any]:  # noqa: PLR0911 - one return a kind
    """(`text`, `call`, `result` or `thought`, its value); a part of another kind stays what it is."""
    if not is_object(part):
        return "text", part
    if _is_valued(part):
        return _valued(part)
    if meaning := BLOCKS.get(part.get("type") or ""):
        return meaning, text_of(part) or "" if meaning == "thought" else part
    if _is_contained(part):
        return "text", part["content"]
    document: Any = part.get("document") or {}
    if is_object(document) and _filled(document, "data"):
        data = document["data"]
        return "text", data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    for names, meaning in ((CALLS, "call"), (RESULTS, "result")):
        if name := next((name for name in names if _filled(part, name)), None):
            return meaning, part[name]
    if thought := part.get("reasoningContent"):
        return "thought", plain_text(thought.get("reasoningText")) if is_object(thought) else thought
    if part.get("type") in (None, "text", *TEXT_PARTS) and isinstance(part.get("text"), str):
        return ("thought" if part.get("thought") is True else "text"), part["text"]
    return "text", part


def _valued(part: Mapping[str, Any]) -> tuple[str, Any]:
    meaning, value = VALUED[part["type"]], part["value"]
    if meaning != "call":
        return meaning, value
    call = as_json(value)
    return (meaning, call) if is_object(call) else ("text", part)


def _call(value: Any, names: dict[str, str]) -> Message:
    name = value.get("name") or value.get("toolName")
    arguments: Any = next((value[key] for key in ("input", "args", "arguments") if _filled(value, key)), {})
    call: Message = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if number := next((value[key] for key in ("id", "toolUseId", "toolCallId") if _filled(value, key)), None):
        names[number] = name
        call = {"id": number, **call}
    return call


def _result(value: Any, names: dict[str, str]) -> Message:
    content: Any = next((value[key] for key in _ANSWERS if _filled(value, key)), "")
    if value.get("type") == "tool-result" and is_object(content) and "value" in content:
        content = content["value"]
    if isinstance(content, list) and any(map(_media_of, content)):
        content = [{"type": kind, **part} for part in content if (kind := _media_of(part))]  # to be refused
    elif isinstance(content, list):
        content = "\n".join(_result_part(part) for part in content)
    elif not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    result: Message = {"role": "tool", "content": content}
    number = next((value[key] for key in _ANSWERED if _filled(value, key)), None)
    if name := value.get("name") or value.get("toolName") or names.get(number or ""):
        result["name"] = name
    if number:
        result["tool_call_id"] = number
    return result


_ANSWERS = ("content", "response", "output", "result")
_ANSWERED = ("tool_use_id", "toolUseId", "toolCallId", "id")


def _media_of(part: Any) -> str | None:
    kinds = ((part["type"],) if "type" in part else part) if is_object(part) else ()
    return next((kind for kind in kinds if kind in MEDIA), None)


def _result_part(part: Any) -> str:
    if is_object(part) and isinstance(part.get("text"), str):
        return str(part["text"])
    held = part["json"] if is_object(part) and _filled(part, "json") else part
    return held if isinstance(held, str) else json.dumps(held, ensure_ascii=False)
