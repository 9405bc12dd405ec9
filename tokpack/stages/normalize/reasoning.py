"""Reasoning of a message: the names and forms in which data holds it.

{"reasoning_content": "Why."}    also reasoning, thinking: templates know these
{"thought": "Why."}              and other names become reasoning_content
{"reasoning": [{"type": "text", "text": "Why."}]}    parts, lists of texts, {"content": "Why."} become texts
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.values import RowError, kind_of

KNOWN = ("reasoning_content", "thinking", "reasoning")
"""Names that templates read."""
OTHERS = (
    *("thought", "thoughts", "think", "cot", "chain_of_thought", "rationale", "reasoning_text"),
    *("reasoning_trace", "thinking_content", "thinking_trajectory"),
)
_TEXTS = ("text", "content", "thinking", "reasoning", "value", "summary")


def take_reasoning(extra: dict[str, Any], where: str) -> None:
    """Put a message's reasoning into a text under a name that templates read, in place.

    Raises RowError for an object or a list that holds no text.
    """
    for name in KNOWN:
        if isinstance(extra.get(name), list | dict):
            extra[name] = _text(extra[name], f"{where}.{name}")
    if extra.keys().isdisjoint(KNOWN):
        names = {key.casefold(): key for key in extra}
        found = next((names[name] for name in (*KNOWN, *OTHERS) if name in names), None)
        if found is not None and isinstance(extra[found], str | list | dict):
            extra[KNOWN[0]] = _text(extra.pop(found), f"{where}.{found}")


def _text(value: Any, where: str) -> str:
    text = text_of(value)
    if text is None:
        raise RowError(f"{where} is {kind_of(value)}, not a text")
    return text


def text_of(value: Any) -> str | None:
    """The text of a text, of parts, or of an object that holds one; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((text_of(value[key]) for key in _TEXTS if value.get(key) is not None), None)
    if isinstance(value, list):
        texts = [text_of(part) for part in value]
        return "\n".join(text for text in texts if text is not None) if None not in texts else None
    return None
