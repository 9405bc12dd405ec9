"""What an answer is made of: reasoning, calls, what the template writes by itself, and what is said.

    <think>\\n  R  \\n</think>\\n\\n  C  \\n<tool_call>\\n...</tool_call>  <|im_end|>
    ── thinking ──────────────────  ─  ── tool_calls ─────────────────  stays trained

Reasoning and answers are found by marks in a second rendering, as in `chat_marks`. What stands between them
is dealt out: the tags around reasoning are reasoning, what is written for calls is calls, the rest, an empty
think block or a header, is the template's. What closes the turn belongs to none of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, islice, pairwise
from typing import TYPE_CHECKING, Any

from tokpack.stages.render.spans.chat_marks import visible_texts
from tokpack.stages.render.spans.own_words import CLOSE, OPEN, OwnWords
from tokpack.stages.render.template.chat_template import (
    PRIVATE_USE,
    REASONING_KEYS,
    CharSpan,
    Message,
    RenderError,
)

if TYPE_CHECKING:
    from tokpack.stages.render.spans.chat_spans import SpanFinder

ANSWER, TEMPLATE, THINKING, CALLS = range(4)
"""Numbers of `schema.SEGMENTS`, and of what is said."""

Segment = tuple[int, int, int]
"""(start, end, number of the segment)"""

_TAG = re.compile(r"\s*(?:<[^<>]{1,40}>|\[[^\[\]]{1,40}\])\s*")
_Level = tuple[str | None, str | None]
_OF_ENDS: tuple[_Level, ...] = (("", None), ("\n", ""))
"""Only of use where a content has white space at an end."""
_LEVELS: tuple[_Level, ...] = (("", ""), *_OF_ENDS, ("\n", "\n"), (None, None))
"""What stands outside of the marks, between the parts of a content and at its ends: nothing, line breaks, all
white space. A template may strip either."""


def think_blocks(text: str) -> list[CharSpan]:
    """Insides of the `<think>` blocks of a content; the first may lack its opening tag."""
    found, at = list[CharSpan](), 0
    while (end := text.find(CLOSE, at)) >= 0:
        start = text.find(OPEN, at, end)
        if start >= 0 or not at:
            found.append((start + len(OPEN) if start >= 0 else 0, end))
        at = end + len(CLOSE)
    return found


def inline_segments(content: str) -> list[Segment]:
    """The think blocks of a content that is written as it is; an empty one counts as the template's."""
    blocks = think_blocks(content) if CLOSE in content else []
    return [
        (
            start - len(OPEN) if content.startswith(OPEN, start - len(OPEN)) and start else start,
            end + len(CLOSE),
            THINKING if content[start:end].strip() else TEMPLATE,
        )
        for start, end in blocks
    ]


@dataclass(slots=True)
class _Value:
    """A text of a message: `kind`, and the two marks around it."""

    kind: int
    inline: bool
    """It stands in a content, with tags around it."""
    marks: tuple[str, str]


@dataclass(slots=True)
class _Unit:
    """A field of a message that is marked as one."""

    index: int
    key: str
    values: list[_Value] = field(default_factory=list)


class Segments:
    """The segments of one rendered chat.

    `contents`: the span of each message's content; `absent`: messages without one in the text. `unknown`
    counts turns whose parts cannot be located.
    """

    def __init__(
        self,
        finder: SpanFinder,
        messages: Sequence[Message],
        tools: Any,
        text: str,
        contents: Sequence[CharSpan | None],
        absent: Collection[int],
        words: OwnWords,
    ) -> None:
        self._finder, self._messages, self._tools = finder, messages, tools
        self._text, self._contents = text, contents
        self._absent, self._words = absent, words
        self.unknown = 0

    def find(self, turns: Sequence[tuple[int, CharSpan]]) -> list[Segment]:
        """In the order of the text; they do not overlap, and lie in the turns."""
        spans: dict[int, list[CharSpan]] = {}
        for index, span in sorted(turns, key=lambda turn: turn[1]):
            spans.setdefault(index, []).append(span)
        units, places = self._locate(spans)
        found: list[Segment] = []
        for index, own in spans.items():
            values = self._values(index, own, units, places)
            if values is None:
                self.unknown += 1
                continue
            found += _clip(self._deal(index, own, values), self._open(own))
        return _merged(sorted(found))

    # where the texts are

    def _locate(self, indices: Mapping[int, Any]) -> tuple[list[_Unit], dict[str, list[int]] | None]:
        """Fields to look at, and every mark's places."""
        marks = self._free_marks()
        units = [unit for i in indices for unit in _units(i, self._messages[i], marks)]
        if not units:
            return [], {}
        if (places := self._places(units, _LEVELS[0])) is not None:
            return units, places
        asked = (i for i, message in enumerate(self._messages) if message.get("role") == "user")
        last = max(asked, default=0)
        found: dict[str, list[int]] = {}
        for later in (False, True):  # templates treat answers before the last question otherwise
            found |= self._places_by_levels([unit for unit in units if (unit.index > last) == later])
        return units, found

    def _places_by_levels(self, units: Sequence[_Unit]) -> dict[str, list[int]]:
        """Places of the marks at the first level that fits all of these, or else each of them."""
        levels = [
            level for level in _LEVELS if level not in _OF_ENDS or any(map(self._has_outer_space, units))
        ]
        every = (self._places(units, level) for level in levels if units)
        if (places := next((p for p in every if p is not None), None)) is not None:
            return places
        if len(units) > 1:
            return {mark: at for unit in units for mark, at in self._places_by_levels([unit]).items()}
        for unit in units:
            unit.key = ""  # not to be found
        return {}

    def _has_outer_space(self, unit: _Unit) -> bool:
        said = _content(self._messages[unit.index])
        return unit.key == "content" and said != said.strip()

    def _free_marks(self) -> Iterator[str]:
        held = [self._text]
        for message in self._messages:
            held += [*visible_texts(message), *(str(message.get(key)) for key in REASONING_KEYS)]
        everything = "".join(held)
        return (chr(number) for number in PRIVATE_USE if chr(number) not in everything)

    def _places(self, units: Sequence[_Unit], level: _Level) -> dict[str, list[int]] | None:
        """Places of the marks; None where the template writes another text because of them."""
        messages = list(self._messages)
        for unit in units:
            messages[unit.index] = _put_in(messages[unit.index], unit, level)
        try:
            marked, _ = self._finder.template.render(messages, self._tools)
        except RenderError:
            return None
        if not any(unit.values for unit in units):
            return {}
        wanted = {mark for unit in units for value in unit.values for mark in value.marks}
        places: dict[str, list[int]] = {}
        pieces, last, length = list[str](), 0, 0
        for at in re.finditer(f"[{''.join(sorted(wanted))}]", marked):
            pieces.append(marked[last : at.start()])
            length += at.start() - last
            last = at.end()
            places.setdefault(at.group(), []).append(length)
        pieces.append(marked[last:])
        return places if "".join(pieces) == self._text else None

    def _values(
        self, index: int, own: list[CharSpan], units: list[_Unit], places: dict[str, list[int]] | None
    ) -> list[tuple[int, int, int, bool]] | None:
        """(start, end, kind, inline) of the message's texts within its turn; None where one is not found."""
        low, high = own[0][0], own[-1][1]
        found = []
        mine = [unit for unit in units if unit.index == index]
        for unit in mine:
            if not unit.key:
                return None
            for value in unit.values:
                first, last = ((places or {}).get(mark, []) for mark in value.marks)
                end = next((place for place in last if low <= place <= high), None)
                start = next((place for place in reversed(first) if end is not None and place <= end), None)
                if start is not None and end is not None:
                    found.append((max(low, start), end, value.kind, value.inline))
                elif end is not None or any(low <= place <= high for place in first):
                    return None
        if not any(unit.key == "content" for unit in mine):
            span = self._contents[index]
            if span is not None and span[0] < span[1]:
                found.append((max(low, span[0]), min(high, span[1]), ANSWER, False))
            elif index not in self._absent and self._holds_any(
                low, high, visible_texts(self._messages[index])
            ):
                return None
        found.sort()
        return found if all(a[1] <= b[0] for a, b in pairwise(found)) else None

    def _holds_any(self, low: int, high: int, texts: Sequence[str]) -> bool:
        return any(text.strip() in self._text[low:high] for text in texts)

    # what stands between them

    def _deal(
        self, index: int, own: list[CharSpan], values: list[tuple[int, int, int, bool]]
    ) -> list[Segment]:
        low, high = own[0][0], own[-1][1]
        found: list[Segment] = [(start, end, kind) for start, end, kind, _ in values if kind == THINKING]
        gaps: list[CharSpan] = []
        edges = [(low, low, -1, False), *values, (high, high, -1, False)]
        for (_, last, before, _), (first, _, after, inline) in pairwise(edges):
            start, end = last, first
            if before == THINKING and (tag := _TAG.match(self._text, start, end)):
                found.append((start, tag.end(), THINKING))
                start = tag.end()
            if after == THINKING:
                opening = self._text.rfind(OPEN, start, end) if inline else start
                if opening >= 0:
                    found.append((opening, end, THINKING))
                    end = opening
            gaps.append((start, end))
        calls = self._calls_gap(index, gaps)
        for number, (start, end) in enumerate(gaps):
            if number == calls:
                header = start + len(self._header(index, start)) if not number else start
                found += [(start, header, TEMPLATE), (header, end, CALLS)]
            elif number < len(gaps) - 1:
                found.append((start, end, TEMPLATE))
            elif not values:
                found.append((start, self._close_of_empty(start, end), TEMPLATE))
        return [segment for segment in found if segment[0] < segment[1]]

    def _close_of_empty(self, start: int, end: int) -> int:
        """Where what closes a turn without words begins: there may be more of it than one token."""
        stop = self._finder.facts.end_of_turn
        place = self._text.find(stop, start, end) if stop else -1
        return place if place >= 0 else end

    def _calls_gap(self, index: int, gaps: Sequence[CharSpan]) -> int:
        """Number of the gap in which the calls are written; -1 where they are not."""
        calls = self._messages[index].get("tool_calls")
        if not isinstance(calls, list) or not calls or not isinstance(calls[0], Mapping):
            return -1
        function = calls[0].get("function", calls[0])
        name = str(function.get("name", "")) if isinstance(function, Mapping) else ""
        written = (i for i in range(len(gaps) - 1, -1, -1) if name and self._holds_call(index, name, gaps[i]))
        return next(written, -1)

    def _holds_call(self, index: int, name: str, gap: CharSpan) -> bool:
        count = self._words.calls(index, name, gap)
        return name in self._text[slice(*gap)] if count is None else count > 0

    def _header(self, index: int, start: int) -> str:
        """What the template writes there before any answer, be it a call or a text."""
        mark = next(self._free_marks())
        before, behind = self._messages[:index], self._messages[index + 1 :]
        answer = self._finder.forms.give([{"role": "assistant", "content": mark}])
        later = dropwhile(lambda message: message.get("role") == "tool", behind)
        for chat in ([*before, *answer], [*before, *answer, *later]):
            try:
                text, _ = self._finder.template.render(chat, self._tools)
            except RenderError:
                continue
            header = text[start : text.find(mark)] if mark in text else ""
            if text[:start] == self._text[:start] and self._text.startswith(header, start):
                return header
        return ""

    def _open(self, own: list[CharSpan]) -> list[CharSpan]:
        """The spans of a turn without the token that closes each: it is what ends the model's writing."""
        opened = []
        for number, (start, end) in enumerate(own):
            closers = None
            if number < len(own) - 1:
                closers = {*self._finder.openers_of_others, self._finder.facts.end_of_turn}
            opened.append((start, self._finder.last_closer(self._text, start, end, closers)))
        return opened


def _units(index: int, message: Message, marks: Iterator[str]) -> list[_Unit]:
    """The fields of an assistant's message that marks are put into."""
    units = []
    key = next((key for key in REASONING_KEYS if message.get(key) is not None), "")
    thought = message.get(key)
    if isinstance(thought, str) and thought.strip():
        units.append(_Unit(index, key, [_Value(THINKING, False, _two(marks))]))
    said = _content(message)
    if CLOSE in said and think_blocks(said):
        parts = [(kind, said[start:end]) for start, end, kind in _parts(said)]
        values = [_Value(kind, kind == THINKING, _two(marks)) for kind, part in parts if part.strip()]
        units.append(_Unit(index, "content", values))
    return units


def _two(marks: Iterator[str]) -> tuple[str, str]:
    first, second = islice(marks, 2)
    return first, second


def _content(message: Message) -> str:
    """The content as far as think blocks are looked for in it: a text, or the only text of its parts."""
    content = message.get("content")
    if isinstance(content, list):
        texts = visible_texts(message)
        return texts[0] if len(texts) == 1 else ""
    return content if isinstance(content, str) else ""


def _parts(content: str) -> list[Segment]:
    """Reasoning and answers of a content, tags between them left out."""
    parts, at = list[Segment](), 0
    for start, end in think_blocks(content):
        parts += [(at, content.rfind(OPEN, at, start) if start > at else at, ANSWER), (start, end, THINKING)]
        at = end + len(CLOSE)
    return [*parts, (at, len(content), ANSWER)]


def _put_in(message: Message, unit: _Unit, level: _Level) -> Message:
    if unit.key != "content":
        return {**message, unit.key: _around(message[unit.key], unit.values[0].marks, None, None)}
    said, values = _content(message), iter(unit.values)
    inner, outer = level
    pieces, at = list[str](), 0
    for start, end, _ in _parts(said):
        part, sides = said[start:end], (inner if start else outer, inner if end < len(said) else outer)
        pieces += [said[at:start], _around(part, next(values).marks, *sides) if part.strip() else part]
        at = end
    text = "".join([*pieces, said[at:]])
    if isinstance(message["content"], str):
        return {**message, "content": text}
    swapped = [
        {**part, "text": text} if isinstance(part, Mapping) and part.get("text") == said else part
        for part in message["content"]
    ]
    return {**message, "content": swapped}


def _around(text: str, marks: tuple[str, str], before: str | None, behind: str | None) -> str:
    """The text with a mark on each side; characters of `before` and `behind` stay outside of them."""
    lead, end = len(text) - len(text.lstrip(before)), len(text.rstrip(behind))
    return text[:lead] + marks[0] + text[lead:end] + marks[1] + text[end:]


def _clip(found: list[Segment], spans: Sequence[CharSpan]) -> list[Segment]:
    return [
        (max(start, low), min(end, high), kind)
        for start, end, kind in found
        for low, high in spans
        if max(start, low) < min(end, high)
    ]


def _merged(found: list[Segment]) -> list[Segment]:
    """Touching ones of a kind as one."""
    merged: list[Segment] = []
    for start, end, kind in found:
        touches = bool(merged) and merged[-1][1:] == (start, kind)
        merged.append((merged.pop()[0] if touches else start, end, kind))
    return merged
