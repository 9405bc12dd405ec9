"""Reasoning of a message: the names and forms in which data holds it.

{"reasoning_content": "Why."}    also reasoning, thinking: templates know these
{"thought": "Why."}              and other names become reasoning_content; tool_plan, which
                                 Cohere's templates read, stays beside it
{"reasoning": [{"type": "text", "text": "Why."}]}    parts, lists of texts, {"content": "Why."} become texts
{"thinking_blocks": [{"type": "thinking", "thinking": "Why."}]}    and reasoning_details are read last

Of several the first is read; others that say the same are left out. Of names that templates know, others
stay, for the template to choose. What is not read, since it is encrypted or differs, is noted to be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tokpack.stages.messages import UNREAD_REASONING
from tokpack.stages.normalize.values import RowError, decoded, is_nothing, kind_of

KNOWN = ("reasoning_content", "thinking", "reasoning")
"""Names that templates read."""
OTHERS = (
    *("thought", "thoughts", "think", "cot", "chain_of_thought", "rationale", "reasoning_text"),
    *("reasoning_trace", "thinking_content", "thinking_trajectory", "thought_process", "tool_plan"),
)
PLAN = "tool_plan"
BLOCKS = ("thinking_blocks", "reasoning_details")
"""Lists of blocks, in plain text or encrypted: LiteLLM's of Anthropic's, OpenRouter's."""
LEAST_SAID = 16
"""Characters; less may stand in a content by chance."""
_TEXTS = ("text", "content", "thinking", "reasoning", "value", "summary")


def take_reasoning(extra: dict[str, Any], where: str, content: Any = None) -> None:
    """Put a message's reasoning into texts under names that templates read, in place.

    Under a name that no template reads it is left out where the content says it too, as in logs of agents.

    Raises RowError for an object or a list that holds no text.
    """
    names = {key.casefold(): key for key in extra}
    given = [names[name] for name in (*KNOWN, *OTHERS) if name in names]
    found = {
        key: _text(extra.pop(key), f"{where}.{key}")
        for key in given
        if isinstance(extra[key], str | list | dict)
    }
    found = {key: text for key, text in found.items() if key in KNOWN or not _is_said(text, content)}
    plain, unread = _of_blocks([extra.pop(names[name]) for name in BLOCKS if name in names])
    for key, text in [*found.items(), *((KNOWN[0], text) for text in plain)]:
        read = next((extra[name] for name in KNOWN if _core(extra.get(name))), "")
        if not read:
            extra[key if key in KNOWN else KNOWN[0]] = text
        elif _core(text) not in ("", _core(read)):
            if key in found and key in KNOWN:
                extra[key] = text
            else:
                unread = True
    if PLAN in found:
        extra[PLAN] = found[PLAN]
    if unread:
        extra[UNREAD_REASONING] = True


def _of_blocks(columns: list[Any]) -> tuple[list[str], bool]:
    """(the text of each list of blocks that holds one, whether any block holds none)."""
    given = [blocks for column in columns if not is_nothing(blocks := _decoded(column))]
    lists = [blocks if isinstance(blocks, list) else [blocks] for blocks in given]
    texts = [[text_of(block) or "" for block in blocks] for blocks in lists]
    joined = ["\n".join(filter(None, found)) for found in texts]
    return [text for text in joined if text], any("" in found for found in texts)


def _decoded(value: Any) -> Any:
    with suppress(RowError):
        return decoded(value, "")
    return value


def _core(text: Any) -> str:
    return "".join(text.split()) if isinstance(text, str) else ""


def _is_said(text: str, content: Any) -> bool:
    core, said = _core(text), _core(content)
    return core == said or (len(core) >= LEAST_SAID and core in said)


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
