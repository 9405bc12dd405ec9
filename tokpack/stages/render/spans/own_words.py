"""Whether short calls and reasoning are written, or only letters like theirs in the words of the template, or
in other words of the data.

    call of "f", reasoning "x"    <|im_start|>assistant\\n<|im_end|>     hold neither, but `find` says nothing

What may stand there twice is marked in one more rendering; its marks tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from tokpack.stages.render.template.chat_template import (
    PRIVATE_USE,
    REASONING_KEYS,
    CharSpan,
    ChatTemplate,
    Explicit,
    Message,
    RenderError,
)

OPEN, CLOSE = "<think>", "</think>"
TAGS = re.compile(f"({OPEN}|{CLOSE})")
_BARE = ("", OPEN, CLOSE)
_CALLS, _THOUGHTS = range(2)


class OwnWords:
    """Of one rendered chat."""

    def __init__(self, template: ChatTemplate, messages: Sequence[Message], tools: Any, text: str) -> None:
        self._template, self._messages, self._tools, self._text = template, messages, tools, text
        self._mark_of: dict[tuple[int, int, str], str] = {}

    def calls(self, index: int, name: str, extent: CharSpan) -> int | None:
        """How often a message's calls of that name are written in a part of the text.

        None where the text tells it, or marks do not.
        """
        return self._count(index, _CALLS, name, extent)

    def thoughts(self, index: int, thought: str, extent: CharSpan) -> int | None:
        """The same for its reasoning, without outer white space."""
        return self._count(index, _THOUGHTS, thought, extent)

    def _count(self, index: int, kind: int, words: str, extent: CharSpan) -> int | None:
        own = words in self._template.source
        if not (own or self._is_said(index, kind, words)) or self._places is None:
            return None
        mark = self._mark_of.get((index, kind, words))
        if mark is None:
            return None
        return sum(extent[0] <= place <= extent[1] for place in self._places.get(mark, ()))

    def _is_said(self, index: int, kind: int, words: str) -> bool:
        """Whether the message says them elsewhere too, or tools' answers do, which may stand in its turn."""
        message = self._messages[index]
        answers = takewhile(lambda other: other.get("role") == "tool", self._messages[index + 1 :])
        held = dict(message)
        if kind == _THOUGHTS:
            held = {key: value for key, value in message.items() if not _is_thought(key, value, words)}
            if len(held) == len(message) and isinstance(content := message.get("content"), str):
                held["content"] = content.replace(words, "", 1)  # it is that of a think block
        elif isinstance(calls := message.get("tool_calls"), list):
            held["tool_calls"] = [_told(call) for call in calls]
        texts = list(_texts([held, *(answer.get("content") for answer in answers)]))
        return any(stands_in(words, text) for text in texts)

    @cached_property
    def _places(self) -> dict[str, list[int]] | None:
        """Where each mark stands; None where the template writes another text because of them."""
        held = self._text + json.dumps(self._messages, ensure_ascii=False, default=str)
        self._free = (chr(code) for code in PRIVATE_USE if chr(code) not in held)
        messages = [self._marked(index, message) for index, message in enumerate(self._messages)]
        try:
            marked, _ = self._template.render(messages, self._tools)
        except RenderError:
            return None
        places: dict[str, list[int]] = {}
        pieces = re.split(f"([{''.join(self._mark_of.values())}])", marked) if self._mark_of else [marked]
        length = 0
        for number, piece in enumerate(pieces):
            if number % 2:
                places.setdefault(piece, []).append(length)
            else:
                length += len(piece)
        return places if "".join(pieces[::2]) == self._text else None

    def _marked(self, index: int, message: Message) -> Message:
        """The message with a mark behind each name and before each reasoning."""
        if message.get("role") != "assistant":
            return message
        changed: dict[str, Any] = {}
        for key in REASONING_KEYS:
            thought = message.get(key)
            if isinstance(thought, str) and thought.strip():
                changed[key] = self._marked_thought(index, thought)
        content = message.get("content")
        if isinstance(content, str) and CLOSE in content:
            block, close, rest = content.rpartition(CLOSE)
            pieces = (self._marked_thought(index, piece) for piece in TAGS.split(block))
            changed["content"] = "".join([*pieces, close, rest])
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            changed["tool_calls"] = [self._marked_call(index, call) for call in calls]
        whole = {**message, **changed}
        return Explicit(whole) if isinstance(message, Explicit) else whole

    def _marked_thought(self, index: int, text: str) -> str:
        """A piece of think blocks; their tags and blanks stay as they are."""
        core = text.strip()
        return text.replace(core, self._mark(index, _THOUGHTS, core) + core, 1) if core not in _BARE else text

    def _marked_call(self, index: int, call: Any) -> Any:
        function: Any = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            return call
        changed = {**function, "name": name + self._mark(index, _CALLS, name)}
        return {**call, "function": changed} if "function" in call else changed

    def _mark(self, index: int, kind: int, words: str) -> str:
        key = (index, kind, words)
        if key not in self._mark_of:
            self._mark_of[key] = next(self._free)
        return self._mark_of[key]


def stands_in(part: str, text: str) -> bool:
    """As it is, or as JSON writes it."""
    core = part.strip()
    return core in text or any(
        json.dumps(core, ensure_ascii=ascii_only)[1:-1] in text for ascii_only in (False, True)
    )


def _is_thought(key: str, value: Any, words: str) -> bool:
    return key in REASONING_KEYS and isinstance(value, str) and value.strip() == words


def _told(call: Any) -> Any:
    """A call's arguments, which are not its name."""
    function: Any = call.get("function", call) if isinstance(call, Mapping) else None
    return function.get("arguments") if isinstance(function, Mapping) else None


def _texts(value: Any) -> Iterator[str]:
    """All texts in data, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for inner in pair for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner))
    else:
        yield from (json.dumps(value, default=str), str(value))  # a template writes null, or None
