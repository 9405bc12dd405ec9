"""Bodies of requests: every field checked, and the ones that are not honored refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokpack.errors import near_matches
from trainer_plugin.serving.errors import ApiError

COMMON = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n"}
    | {"ignore_eos", "logprobs", "return_tokens_as_token_ids"}
    | {"frequency_penalty", "presence_penalty", "logit_bias"}
)
CHAT = COMMON | {"messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs"}
CHAT |= {"tools", "tool_choice", "response_format"}
COMPLETION = COMMON | {"prompt", "echo", "best_of", "suffix", "add_special_tokens"}
HARMLESS = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
    ]
)
"""Fields that change no answer."""
UNSERVED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Fields that would change the answer in a way that is not built, and the values that say so."""
MOST_LIKELIEST = 20
MOST_STOPS = 16
MOST_PROMPTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What chats and completions have in common."""

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    ignore_end: bool
    likeliest: int | None
    token_ids: bool
    """Tokens as `token_id:17` instead of their text."""


def read_wishes(body: dict[str, Any], *, chat: bool) -> Wishes:
    """Raises ApiError that names the field."""
    _check_fields(body, CHAT if chat else COMPLETION)
    model = body.get("model")
    if not isinstance(model, str):
        raise ApiError("a model is needed, by its name", param="model")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError("an object is needed", param="stream_options")
    most = body.get("max_completion_tokens") if chat else None
    key = "max_tokens" if most is None else "max_completion_tokens"
    return Wishes(
        model=model,
        stream=_flag(body, "stream"),
        include_usage=options.get("include_usage") is True,
        max_tokens=_integer(body, key, 1 if chat else 0, 1 << 31),
        temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0),
        top_k=max(0, _integer(body, "top_k", -1, 1 << 31) or 0),
        seed=_integer(body, "seed", -(1 << 63), (1 << 64) - 1),
        stop=_stops(body.get("stop")),
        ignore_end=_flag(body, "ignore_eos"),
        likeliest=_chat_likeliest(body) if chat else _integer(body, "logprobs", 0, MOST_LIKELIEST),
        token_ids=_flag(body, "return_tokens_as_token_ids"),
    )


def _check_fields(body: dict[str, Any], known: Iterable[str]) -> None:
    known = {*known, *HARMLESS}
    for name, value in body.items():
        if name not in known:
            raise ApiError(
                f"unknown field {name[:100]!r}: {near_matches(name[:100], known)}", param=name[:100]
            )
        if name in UNSERVED and value is not None and value not in UNSERVED[name]:
            raise ApiError(f"{name} is not served here, only its default", param=name, code="unsupported")


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise ApiError("true or false is needed", param=name)
    return bool(value)


def _integer(body: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ApiError(f"a whole number from {least} to {most} is needed", param=name)
    return value


def _number(body: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    number = not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) < 1e9
    if not number or not math.isfinite(value) or not least <= value <= most:
        raise ApiError(f"a number from {least:g} to {most:g} is needed", param=name)
    return float(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    good = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not good or not all(isinstance(one, str) and 0 < len(one) <= 1000 for one in stops):
        raise ApiError(f"a text or up to {MOST_STOPS} texts are needed", param="stop")
    return tuple(stops)


def _chat_likeliest(body: dict[str, Any]) -> int | None:
    wanted, most = _flag(body, "logprobs"), _integer(body, "top_logprobs", 0, MOST_LIKELIEST)
    if most and not wanted:
        raise ApiError("top_logprobs needs logprobs = true", param="top_logprobs")
    return (most or 0) if wanted else None


def read_messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Chat messages with their contents as text. Raises ApiError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("a list of messages is needed", param="messages")
    read = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError("a message is an object with a role", param=f"messages[{number}]")
        read.append({**message, "content": _content(message.get("content"), f"messages[{number}].content")})
    return read


def _content(content: Any, param: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [None]:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise ApiError("only text is served", param=param)
        texts.append(text)
    return "".join(texts)


def read_prompts(body: dict[str, Any]) -> list[str | list[int]]:
    """A text, several, or the tokens of one or several. Raises ApiError."""
    prompt: Any = body.get("prompt")
    if isinstance(prompt, str) or _is_tokens(prompt):
        return [prompt]
    if not isinstance(prompt, list) or not 0 < len(prompt) <= MOST_PROMPTS:
        raise ApiError(
            f"a text, a list of tokens, or up to {MOST_PROMPTS} of them are needed", param="prompt"
        )
    if not all(isinstance(one, str) or _is_tokens(one) for one in prompt):
        raise ApiError("each prompt is a text or a list of tokens", param="prompt")
    return prompt


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)
