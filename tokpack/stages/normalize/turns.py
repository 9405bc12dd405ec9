"""Chats in the many ways in which services and sets write them -> messages with role and content.

    [{"input": "Hi", "output": "Hello."}]                    Capybara
    [{"human": "Hi", "assistant": "Hello."}]                 ShareGPT in Chinese
    ["Hi", "Hello."]                                         LIMA; in other columns only when asked for
    [{"role": "model", "parts": [{"text": "Hello."}]}]       Gemini, Vertex
    [{"role": "user", "content": [{"text": "Hi"}]}]          Bedrock Converse
    content blocks of type tool_use, tool_result, thinking   Anthropic, and Vercel's AI SDK
    [{"type": "human", "content": "Hi"}]                     LangChain
    items of type reasoning, function_call, ...              OpenAI Responses
    "USER: Hi ASSISTANT: Hello."                             only when asked for

Messages that have role and content already stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.fields import as_json, is_filled
from tokpack.stages.normalize.reasoning import text_of
from tokpack.stages.normalize.responses import TEXT_PARTS, has_items, items_as_messages
from tokpack.stages.normalize.values import turned

ASKED = ("human", "user", "input", "question", "instruction", "prompt", "query", "q", "usr")
ANSWERED = ("assistant", "gpt", "output", "answer", "response", "completion", "bot", "model", "a", "chatgpt")
ROLE_KEYS = ("role", "from", "author", "speaker")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")
Message = dict[str, Any]

_MARK = re.compile(
    r"(?:\A|\n|(?=###))\s*(?:<\|im_start\|>(?P<d>\w+)\n|<\|(?P<a>\w+)\|>:?|###\s*(?P<b>[A-Za-z ]+?):"
    r"|(?P<c>Human|User|USER|Assistant|ASSISTANT|SYSTEM|System|FUNCTION RESPONSE|GPT|Bot|MOSS):)[ \t]*"
)
_MARKED_ROLES = {
    "human": "user",
    "user": "user",
    "instruction": "user",
    "input": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "moss": "assistant",
    "response": "assistant",
    "system": "system",
    "function response": "tool",
}
_MOSS_END = re.compile(r"<eo[hmtcr]>\s*\Z")


def as_messages(value: Any, named: bool = False) -> list[Any] | None:
    """The messages of a value, None when it holds none. `named`: the user said that it is a chat, so texts
    with marks of turns, lists of texts and objects of turns are one too."""
    if are_bare(value):
        bare: list[Any] = value
        return bare
    value = as_json(value)
    if isinstance(value, Mapping):
        return _of_object(value, named)
    if isinstance(value, list):
        return _of_list(value, named)
    return (text_turns(value) or None) if named and isinstance(value, str) else None


def are_bare(value: Any) -> bool:
    """Whether it is a list of messages of a role and a text alone, as most are: they stay as they are."""
    if type(value) is not list or not value:
        return False
    for message in value:
        if type(message) is not dict or len(message) != 2:
            return False
        role, text = message.get("from"), message.get("value")
        if role is None and text is None:
            role, text = message.get("role"), message.get("content")
        if type(role) is not str or type(text) is not str:
            return False
    return True


def _of_list(value: list[Any], named: bool) -> list[Any] | None:
    first = as_json(value[0]) if value else {"role": ""}
    if isinstance(first, Mapping):
        turns = [as_json(item) for item in value]
        if first.get("type") in _LANGCHAIN and not any(key in first for key in ROLE_KEYS):
            turns = [_of_langchain(turn) for turn in turns]
            first = turns[0]
        if has_items(turns):
            return plain_messages(items_as_messages(turns))
        if pair := _pair_keys(first):
            return list(_paired(turns, *pair))
        return plain_messages(turns) if any(key in first for key in ROLE_KEYS) else None
    if not named:
        return None
    texts = value
    if all(isinstance(item, list) for item in value):
        texts = [text for pair in value for text in pair]
    return _alternating(texts) if all(isinstance(text, str) for text in texts) else None


_LANGCHAIN = ("human", "ai", "system")


def _of_langchain(turn: Any) -> Any:
    """`{"type": "human", "content": "Hi"}`, also with the rest in `data`, as a message with a role."""
    held = turn.get("data", turn) if _is(turn) else turn
    if not _is(held) or not isinstance(turn.get("type"), str):
        return turn
    more = held.get("additional_kwargs")
    calls = [
        source["tool_calls"] for source in (held, more) if _is(source) and is_filled(source.get("tool_calls"))
    ]
    rest = {key: value for key, value in held.items() if key not in ("type", "additional_kwargs")}
    return {"role": turn["type"], **rest, **({"tool_calls": calls[0]} if calls else {})}


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


def text_turns(text: str) -> list[Message]:
    """`"USER: Hi\\n\\nASSISTANT: Hello."` as messages; none for a text that does not begin so."""
    marks = [mark for mark in _MARK.finditer(text) if _role_of(mark) is not None]
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [
        {"role": _role_of(mark), "content": text[mark.end() : end].strip().removesuffix("<|im_end|>")}
        for mark, end in zip(marks, ends, strict=True)
    ]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()
    return turns if any(turn["role"] == "user" for turn in turns) else []


def is_open(text: str) -> bool:
    """Whether it ends on a mark of the assistant, for the answer to follow."""
    marks = list(_MARK.finditer(text))
    return bool(marks) and not text[marks[-1].end() :].strip() and _role_of(marks[-1]) == "assistant"


def _role_of(mark: re.Match[str]) -> str | None:
    return _MARKED_ROLES.get((mark["a"] or mark["b"] or mark["c"] or mark["d"]).strip().lower())


def _of_object(value: Mapping[str, Any], named: bool) -> list[Any] | None:
    if any(key in value for key in ROLE_KEYS) and (messages := turned(dict(value))):
        return plain_messages(messages)
    if isinstance(value.get("messages"), list):
        return as_messages(value["messages"], named)
    if any(key in value for key in ROLE_KEYS) and any(key in value for key in (*CONTENT_KEYS, "parts")):
        return plain_messages([value])
    turns = list(value.values())
    if named and turns and all(isinstance(turn, Mapping) for turn in turns):
        return list(_moss(turns))
    return None


def _moss(turns: list[Any]) -> Iterator[Message]:
    """`{"turn_1": {"Human": "<|Human|>: Hi<eoh>", "MOSS": "<|MOSS|>: Hello.<eom>"}}`, without its marks."""
    for turn in turns:
        for key, role in (("Human", "user"), ("MOSS", "assistant")):
            text = str(turn.get(key) or "")
            yield {"role": role, "content": _MOSS_END.sub("", text.removeprefix(f"<|{key}|>:")).strip()}


def _alternating(texts: list[str]) -> list[Message]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
    ]


def _pair_keys(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of a turn that holds both a question and its answer."""
    if any(key in turn for key in ROLE_KEYS):
        return None
    known = {key.casefold(): key for key in turn}
    asked = next((known[key] for key in ASKED if key in known), None)
    answered = next((known[key] for key in ANSWERED if key in known), None)
    return (asked, answered) if asked and answered else None


def _paired(turns: list[Any], asked: str, answered: str) -> Iterator[Any]:
    for turn in turns:
        if not isinstance(turn, Mapping):
            yield turn
            continue
        if is_filled(turn.get("system")):
            yield {"role": "system", "content": turn["system"]}
        for key, role in ((asked, "user"), (answered, "assistant")):
            if turn.get(key) is not None:
                yield {"role": role, "content": turn[key]}


# One message


def _is(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)


def _is_plain(message: Any) -> bool:
    """Whether the message is for `read_message` as it is: what is no message is too, it has the words."""
    if not _is(message):
        return True
    if message.keys() in _BARE and type(message.get("content", "")) is str:
        return True  # as most are
    if ("role" not in message and "from" not in message) or _filled(message, "parts"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return not any(_is_block(part) for part in content)
    return any(key in message for key in ("content", "value", "tool_calls", "function_call")) or not any(
        key in message for key in CONTENT_KEYS
    )


_BARE = ({"role", "content"}, {"from", "value"})
_TAKEN_APART = {*ROLE_KEYS, *CONTENT_KEYS, "parts", "type", "id", "status"}
"""Keys of a message of blocks that are not handed on as they are."""
BLOCKS = {
    **{"tool_use": "call", "tool_result": "result", "thinking": "thought", "redacted_thinking": "thought"},
    **{"tool-call": "call", "tool-result": "result", "reasoning": "thought"},
}
"""Type of a content block of Anthropic's, or of Vercel's AI SDK -> what it is."""
MEDIA = ("image", "document", "video", "audio", "search_result")
"""Types, or keys, of parts of a tool's result that are no text."""
VALUED = {"text": "text", "tool_call": "call"}
"""Type of a part of LLaMA-Factory's, `{"type": "text", "value": "Hi"}` -> what it is."""
CALLS = ("functionCall", "function_call", "toolUse")
RESULTS = ("functionResponse", "function_response", "toolResult")


def _is_block(part: Any) -> bool:
    if not _is(part):
        return False
    if is_filled(part.get("type")):
        return part["type"] in BLOCKS or part["type"] in TEXT_PARTS or _is_valued(part)
    return any(_filled(part, key) for key in ("text", "reasoningContent", *CALLS, *RESULTS))


def _is_valued(part: Mapping[str, Any]) -> bool:
    return part.get("type") in VALUED and _filled(part, "value") and not _filled(part, "text")


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
    parts = message.get("parts") if _filled(message, "parts") else message.get("content")
    if not isinstance(parts, list):
        key = next((key for key in CONTENT_KEYS if key in message), "content")
        rest = {k: v for k, v in message.items() if k not in (*ROLE_KEYS, key)}
        yield {"role": role, "content": message.get(key), **rest}
        return
    texts: list[Any] = []
    calls, results, thoughts = [], [], []
    for part in parts:
        kind, value = _block(part)
        if kind == "call":
            calls.append(_call(value, names))
        elif kind == "result":
            results.append(_result(value, names))
        elif kind == "thought":
            thoughts.append(str(value))
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


def _joined(parts: list[Any]) -> Any:
    return "".join(parts) if all(isinstance(part, str) for part in parts) else parts


def _block(part: Any) -> tuple[str, Any]:  # noqa: PLR0911 - one return a kind
    """(`text`, `call`, `result` or `thought`, its value); a part of another kind stays what it is."""
    if not _is(part):
        return "text", part
    if meaning := BLOCKS.get(part.get("type") or ""):
        return meaning, text_of(part) or "" if meaning == "thought" else part
    if _is_valued(part):
        return _valued(part)
    for names, meaning in ((CALLS, "call"), (RESULTS, "result")):
        if name := next((name for name in names if _filled(part, name)), None):
            return meaning, part[name]
    if thought := part.get("reasoningContent"):
        return "thought", plain_text(thought.get("reasoningText")) if _is(thought) else thought
    if part.get("type") in (None, "text", *TEXT_PARTS) and isinstance(part.get("text"), str):
        return ("thought" if part.get("thought") is True else "text"), part["text"]
    return "text", part


def _valued(part: Mapping[str, Any]) -> tuple[str, Any]:
    meaning, value = VALUED[part["type"]], part["value"]
    if meaning != "call":
        return meaning, value
    call = as_json(value)
    return (meaning, call) if _is(call) else ("text", part)


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
    if value.get("type") == "tool-result" and _is(content) and "value" in content:
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
    kinds = ((part["type"],) if "type" in part else part) if _is(part) else ()
    return next((kind for kind in kinds if kind in MEDIA), None)


def _result_part(part: Any) -> str:
    if _is(part) and isinstance(part.get("text"), str):
        return str(part["text"])
    held = part["json"] if _is(part) and _filled(part, "json") else part
    return held if isinstance(held, str) else json.dumps(held, ensure_ascii=False)
