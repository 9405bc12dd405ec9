"""Chats as apps and libraries keep them -> messages with role and content, or parts that `blocks` reads.

{"versions": [{"role": "user", "content": [...]}], "currentlySelected": 0}       LM Studio
{"role": "model", "text": "Hm.", "isThought": true}                              Google AI Studio
{"source": "user", "type": "TextMessage", "content": "Hi"}                       AutoGen
{"type": "gemini", "content": "Three.", "thoughts": [...], "toolCalls": [...]}   Gemini CLI
{"role": "user", "blocks": [{"block_type": "text", "text": "Hi"}]}               LlamaIndex
{"role": "assistant", "parts": [{"type": "tool-count", "input": {}, "output": 3}]}    Vercel's AI SDK
{"role": "assistant", "toolInvocations": [{"toolName": "count", ...}], "content": "Three."}    its older form
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.chats.reasoning import BLOCKS, KNOWN

_FURTHER = ("additional_kwargs", "provider_specific_fields")
"""Objects in which LangChain, LlamaIndex and LiteLLM keep fields of a message."""
_LIFTED = ("tool_calls", "tool_call_id", "name", *KNOWN, *BLOCKS)
KEYS = ("versions", "isThought", "toolInvocations", "blocks", *_FURTHER)
"""Keys of messages that are read here, whatever the template reads."""
_STEPS = ("step-start", "step-finish")
"""Types of parts that say nothing."""
_DONE = ("result", "output-available", "output-error")
_CLI = ("gemini", "info", "warning", "error")
"""Types of messages of Gemini CLI's, beside those of the user."""
_EVENTS = ("TextMessage", "ToolCallRequestEvent", "ToolCallExecutionEvent")


def is_of_app(messages: list[Any]) -> bool:
    return any(map(_is_of_app, messages))


def app_messages(messages: list[Any]) -> list[Any]:
    """The messages of a chat, of any of these; others stay as they are."""
    plain = [one for message in messages for one in _plain(message)]
    return _with_thoughts(plain) if any(_is_thought(message) for message in plain) else plain


def _is_of_app(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    held = isinstance(message.get("versions"), list) or message.get("isThought") is True
    held = held or any(isinstance(message.get(key), list) for key in ("toolInvocations", "blocks"))
    parts = message.get("parts")
    held = held or (isinstance(parts, list) and any(map(_is_of_sdk, parts))) or _is_of_cli(message)
    return held or (message.get("type") in _EVENTS and "source" in message) or _has_more(message)


def _plain(message: Any) -> Iterator[Any]:
    if not _is_of_app(message):
        yield message
    elif isinstance(versions := message.get("versions"), list):
        number = message.get("currentlySelected") or 0
        yield _version(versions[number] if number < len(versions) else versions[-1])
    elif message.get("type") in _EVENTS:
        yield from _event(message)
    elif _is_of_cli(message):
        yield from _of_cli(message)
    else:
        yield _of_parts(message)


def _version(version: Any) -> Any:
    """What LM Studio shows of a turn: its own parts, or those of its steps."""
    if not isinstance(version, Mapping) or not isinstance(steps := version.get("steps"), list):
        return version if not isinstance(version, Mapping) else _without(version, "type")
    parts: list[Any] = []
    for step in steps:
        if step.get("type") == "contentBlock":
            thinks = (step.get("style") or {}).get("type") == "thinking"
            for part in step.get("content") or []:
                text = part.get("text") if thinks else None
                parts.append({"type": "thinking", "thinking": text} if text else part)
        elif step.get("type") != "debugInfoBlock":
            parts.append({"type": step.get("type")})
    return {"role": version.get("role"), "content": parts}


def _event(message: Mapping[str, Any]) -> Iterator[Any]:
    """AutoGen's: what an agent says, calls, and is answered."""
    kind, content = message["type"], message.get("content")
    if kind == _EVENTS[0] or not isinstance(content, list):
        yield {"role": message["source"], "content": content}
    elif kind == _EVENTS[1]:
        calls = [
            {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("arguments")}}
            for call in content
        ]
        yield {"role": "assistant", "content": "", "tool_calls": calls}
    else:
        for result in content:
            named = {"name": result["name"]} if result.get("name") else {}
            yield {
                "role": "tool",
                "content": result.get("content"),
                "tool_call_id": result.get("call_id"),
                **named,
            }


def _is_of_cli(message: Mapping[str, Any]) -> bool:
    return message.get("type") in ("user", *_CLI) and "content" in message and "role" not in message


def _of_cli(message: Mapping[str, Any]) -> Iterator[Any]:
    """Gemini CLI's: what the model says and calls, and then what its tools answered. Notes to the user say
    nothing to the model."""
    if message["type"] not in ("user", "gemini"):
        return
    made = {"role": "user" if message["type"] == "user" else "model", "content": message["content"]}
    thoughts = [thought for thought in message.get("thoughts") or [] if isinstance(thought, Mapping)]
    if thoughts:
        told = (text for thought in thoughts for text in (thought.get("subject"), thought.get("description")))
        made["reasoning_content"] = "\n".join(str(text) for text in told if text)
    calls = [call for call in message.get("toolCalls") or [] if isinstance(call, Mapping)]
    if calls:
        named = [{"name": call.get("name"), "arguments": call.get("args")} for call in calls]
        made["tool_calls"] = [
            {"id": call.get("id"), "function": function} for call, function in zip(calls, named, strict=True)
        ]
    yield made
    for call in calls:
        answers: list[Any] = call["result"] if isinstance(call.get("result"), list) else []
        said = [
            (answer.get("functionResponse") or {}).get("response") if isinstance(answer, Mapping) else answer
            for answer in answers
        ]
        text = "\n".join(_cli_text(one) for one in said)
        yield {"role": "tool", "content": text, "tool_call_id": call.get("id"), "name": call.get("name")}


def _cli_text(response: Any) -> str:
    output = response.get("output", response) if isinstance(response, Mapping) else response
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _of_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = message.get("parts") if isinstance(message.get("parts"), list) else None
    if parts is None and isinstance(blocks := message.get("blocks"), list):
        parts = [_block(block) for block in blocks]
    if parts is None and isinstance(used := message.get("toolInvocations"), list):
        parts = [{"type": "tool-invocation", "toolInvocation": one} for one in used]
        said = message.get("content")
        parts += [{"type": "text", "text": said}] if isinstance(said, str) and said else []
    rest = {**_without(message, "parts", "blocks", "toolInvocations", *_FURTHER), **further_fields(message)}
    return rest if parts is None else {**rest, "content": list(_expanded(parts))}


def _expanded(parts: list[Any]) -> Iterator[Any]:
    """Parts of Vercel's AI SDK, a call and its result in one, as calls and then their results."""
    results: list[Any] = []
    for part in parts:
        used = _invocation(part)
        if used is None:
            yield from results
            results = []
            if not (isinstance(part, Mapping) and part.get("type") in _STEPS):
                yield part
            continue
        name, number = used.get("toolName"), used.get("toolCallId")
        given = used.get("input", used.get("args"))
        yield {"type": "tool-call", "toolCallId": number, "toolName": name, "input": given}
        if used.get("state") in _DONE:
            said = used.get("output", used.get("result", used.get("errorText")))
            results.append({"type": "tool-result", "toolCallId": number, "toolName": name, "result": said})
    yield from results


def _is_of_sdk(part: Any) -> bool:
    return isinstance(part, Mapping) and (part.get("type") in _STEPS or _invocation(part) is not None)


def _invocation(part: Any) -> dict[str, Any] | None:
    """The call of a tool with its result, where a part is one."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "tool-invocation" and isinstance(used := part.get("toolInvocation"), Mapping):
        return dict(used)
    if not isinstance(kind, str) or "toolCallId" not in part or "state" not in part:
        return None
    return (
        {"toolName": kind.removeprefix("tool-"), **part} if kind.startswith(("tool-", "dynamic-")) else None
    )


def _block(block: Any) -> Any:
    """LlamaIndex' part of a message."""
    if not isinstance(block, Mapping) or "block_type" not in block:
        return block
    kind = block["block_type"]
    if kind == "tool_call":
        named = {"id": block.get("tool_call_id"), "name": block.get("tool_name")}
        return {"type": "tool_use", **named, "input": block.get("tool_kwargs")}
    if kind == "thinking":
        return {"type": "thinking", "thinking": block.get("content")}
    return {"type": kind, **({"text": block.get("text")} if kind == "text" else {})}


def further_fields(message: Mapping[str, Any]) -> dict[str, Any]:
    """What libraries keep in objects beside the content and the message itself does not say: calls, names,
    reasoning."""
    held = [more for key in _FURTHER if isinstance(more := message.get(key), Mapping)]
    return {key: more[key] for more in held for key in _LIFTED if more.get(key) and not message.get(key)}


def _has_more(message: Mapping[str, Any]) -> bool:
    return "role" in message and any(isinstance(message.get(key), Mapping) for key in _FURTHER)


def _is_thought(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("isThought") is True


def _with_thoughts(chunks: list[Any]) -> list[Any]:
    """AI Studio's: a thought goes to the answer that follows it, and what is no text is refused."""
    messages: list[Any] = []
    thoughts: list[str] = []
    for chunk in chunks:
        if _is_thought(chunk):
            thoughts.append(str(chunk.get("text") or ""))
            continue
        if thoughts and isinstance(chunk, Mapping) and chunk.get("role") == "model":
            messages.append({**chunk, "reasoning_content": "\n".join(thoughts)})
            thoughts = []
        else:
            messages.append(chunk)
    return messages


def _without(message: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in keys}
