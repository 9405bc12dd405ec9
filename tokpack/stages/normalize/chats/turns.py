"""Chats in the many ways in which services and sets write them -> messages with role and content.

    [{"input": "Hi", "output": "Hello."}]                    Capybara
    [{"human": "Hi", "assistant": "Hello."}]                 ShareGPT in Chinese
    [{"user": "Hi"}, {"assistant": "Hello."}]                one key a turn
    [["user", "Hi"], ["assistant", "Hello."]]                pairs of a role and a text
    ["Hi", "Hello."]                                         LIMA; in other columns only when asked for
    [{"role": "model", "parts": [{"text": "Hello."}]}]       Gemini, Vertex
    [{"role": "user", "content": [{"text": "Hi"}]}]          Bedrock Converse
    content blocks of type tool_use, tool_result, thinking   Anthropic, and Vercel's AI SDK
    [{"type": "human", "content": "Hi"}]                     LangChain
    items of type reasoning, function_call, ...              OpenAI Responses
    LM Studio, AI Studio, AutoGen, LlamaIndex, Vercel's UI   see `app_chats`
    [{"role": "assistant", "channel": "analysis", ...}]      gpt-oss
    [{"author": {"role": "user"}, "content": {"parts": ["Hi"]}}]    ChatGPT's export
    "USER: Hi ASSISTANT: Hello."                             only when asked for

Messages that have role and content already stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.chats.app_chats import app_messages, further_fields, is_of_app
from tokpack.stages.normalize.chats.blocks import (
    CONTENT_KEYS,
    ROLE_KEYS,
    Message,
    is_object,
    plain_messages,
)
from tokpack.stages.normalize.chats.channels import channels_as_messages, has_channels
from tokpack.stages.normalize.chats.exported import exported_as_messages, is_exported, with_attachments
from tokpack.stages.normalize.chats.responses import has_items, items_as_messages
from tokpack.stages.normalize.chats.roles import is_unknown, role_name
from tokpack.stages.normalize.chats.text_turns import said, text_turns
from tokpack.stages.normalize.fields import as_json, is_filled
from tokpack.stages.normalize.values import turned

ASKED = ("human", "user", "input", "question", "instruction", "prompt", "query", "q", "usr")
ANSWERED = ("assistant", "gpt", "output", "answer", "response", "completion", "bot", "model", "a", "chatgpt")


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
        if not any(key in first for key in ROLE_KEYS) and any(key.casefold() in ROLE_KEYS for key in first):
            turns = [_in_small_letters(turn) for turn in turns]
            first = turns[0]
        if _is_langchain(first):
            turns = [_of_langchain(turn) for turn in turns]
            first = turns[0]
        if is_of_app(turns):
            turns = app_messages(turns)
            first = turns[0] if turns else {"role": ""}
        if is_exported(turns):
            return plain_messages(exported_as_messages(turns))
        if has_channels(turns):
            turns = channels_as_messages(turns)
            first = turns[0]
        if has_items(turns):
            return plain_messages(items_as_messages(turns))
        if flag := next((key for key in _OF_USER if isinstance(first.get(key), bool)), ""):
            turns = [_by_flag(turn, flag) for turn in turns]
            first = turns[0]
        if "sender" in first:
            turns = with_attachments(turns)
        if said := _named_by_keys(turns):
            return said
        return plain_messages(turns) if any(key in first for key in ROLE_KEYS) else None
    return _with_roles(value) or (_of_texts(value) if named else None)


def _of_texts(value: list[Any]) -> list[Message] | None:
    """Texts of a user and an assistant in turn, one by one or in pairs."""
    texts = value
    if all(isinstance(item, list) for item in value):
        texts = [text for pair in value for text in pair]
    return _alternating(texts) if all(isinstance(text, str) for text in texts) else None


def _with_roles(value: list[Any]) -> list[Message]:
    """`[["user", "Hi"], ["assistant", "Hello."]]` as messages; none for pairs of anything else."""
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs or not all(isinstance(said, str) for pair in value for said in pair):
        return []
    messages = [{"role": role, "content": text} for role, text in value]
    return messages if all(not is_unknown(role_name(role)) for role, _ in value) else []


_OF_USER = ("is_human", "is_user", "isHuman", "isUser", "from_user")
"""Keys of a turn that say whether the user speaks; PIPPA, SillyTavern."""


def _by_flag(turn: Any, flag: str) -> Any:
    """A turn whose speaker a flag tells, as a message; one that names him too as it is."""
    if not is_object(turn) or not isinstance(turn.get(flag), bool) or any(turn.get(key) for key in ROLE_KEYS):
        return turn
    text = next((key for key in (*CONTENT_KEYS, "mes") if key in turn), "content")
    rest = {key: value for key, value in turn.items() if key not in (flag, text)}
    return {"role": "user" if turn[flag] else "assistant", "content": turn.get(text), **rest}


def _in_small_letters(turn: Any) -> Any:
    """`{"Role": "user", "Content": "Hi"}` with keys as others write them."""
    return {key.casefold(): value for key, value in turn.items()} if is_object(turn) else turn


_LANGCHAIN = ("human", "ai", "system", "tool", "function")


def _is_langchain(turn: Mapping[str, Any]) -> bool:
    if any(key in turn for key in ROLE_KEYS):
        return False
    kind = turn.get("type")
    said = "content" in turn or "data" in turn
    return (kind in _LANGCHAIN and said) or (kind == "constructor" and is_object(turn.get("kwargs")))


def _of_langchain(turn: Any) -> Any:
    """`{"type": "human", "content": "Hi"}` as a message with a role; also with the rest in `data`, or as
    LangSmith writes it."""
    if is_object(turn) and turn.get("type") == "constructor" and is_object(turn.get("kwargs")):
        name = str((turn.get("id") or [""])[-1]).removesuffix("Chunk").removesuffix("Message").casefold()
        turn = {"type": name, **turn["kwargs"]}
    held = turn.get("data", turn) if is_object(turn) else turn
    if not is_object(held) or not isinstance(turn.get("type"), str):
        return turn
    rest = {key: value for key, value in held.items() if key not in ("type", "additional_kwargs")}
    return {"role": turn["type"], **rest, **further_fields(held)}


def _of_object(value: Mapping[str, Any], named: bool) -> list[Any] | None:
    if any(key in value for key in ROLE_KEYS) and (messages := turned(dict(value))):
        return plain_messages(messages)
    if isinstance(value.get("messages"), list):
        return as_messages(value["messages"], named)
    if _is_langchain(value) and value.get("type") != "tool":
        return plain_messages([_of_langchain(value)])
    if any(key in value for key in ROLE_KEYS) and any(key in value for key in (*CONTENT_KEYS, "parts")):
        return plain_messages([value])
    return _of_numbered(value, named)


def _of_numbered(value: Mapping[str, Any], named: bool) -> list[Any] | None:
    """An object whose keys number its turns."""
    turns = list(value.values())
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    if all(any(key in turn for key in ROLE_KEYS) for turn in turns) and all(map(_is_number, value)):
        return _of_list(turns, named)
    if named and all("Human" in turn or "MOSS" in turn for turn in turns):
        return list(_moss(turns))
    return None


def _is_number(key: Any) -> bool:
    """Whether a key numbers a turn: `0`, `turn_1`."""
    return str(key)[-1:].isdigit()


def _moss(turns: list[Any]) -> Iterator[Message]:
    """`{"turn_1": {"Human": "<|Human|>: Hi<eoh>", "MOSS": "<|MOSS|>: Hello.<eom>"}}`, without its marks."""
    for turn in turns:
        for key, role in (("Human", "user"), ("MOSS", "assistant")):
            text = str(turn.get(key) or "")
            yield {"role": role, "content": said(text.removeprefix(f"<|{key}|>:"))}


def _alternating(texts: list[str]) -> list[Message]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
    ]


def _named_by_keys(turns: list[Any]) -> list[Any]:
    """The messages of turns whose keys say who speaks: one a turn, or the question's and the answer's."""
    speakers = [_speaker(turn) for turn in turns]
    if all(speakers):
        return [{"role": role, "content": turn[role]} for role, turn in zip(speakers, turns, strict=True)]
    pair = _pair_keys(turns[0])
    return list(_paired(turns, *pair)) if pair else []


def _speaker(turn: Any) -> str:
    """The only filled key of a turn, where it is a role; else empty."""
    keys = [key for key, value in turn.items() if value is not None] if isinstance(turn, Mapping) else []
    alone = len(keys) == 1 and isinstance(turn[keys[0]], str)
    return keys[0] if alone and role_name(keys[0]) in ("system", "user", "assistant") else ""


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
