"""Find message contents in a rendered chat by rendering it again with marks around them.

A mark is a private-use character before the first and after the last visible character of a content. Taking
the marks out of the second text must give the first one, so a mark's place is a proof, not a guess.

    content "  hi\\n"  ->  "  \\U00100000hi\\U00100001\\n"      marks inside the outer whitespace: a template
                                                          that strips still strips the same
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tokpack.stages.render.template.chat_template import (
    PRIVATE_USE,
    CharSpan,
    ChatTemplate,
    Message,
    RenderError,
)
from tokpack.stages.render.template.template_trace import Round, Trace, rounds

TAG = re.compile(r"<[^<>\s]{1,80}>")


@dataclass(frozen=True)
class Marked:
    """A rendering with its marks taken out. Places are in characters of `text`, by message index."""

    text: str
    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    """Rounds of the template's loops."""
    absent: frozenset[int] = frozenset()
    """Messages with marks of which nothing was written."""

    def last_end(self, before: int) -> int:
        """Where the last located content of the messages before this one ends."""
        return max((place for i, place in self.ends.items() if i < before), default=0)

    def next_start(self, after: int, low: int) -> int:
        """Where the first located content of the messages after this one begins, from `low` on."""
        places = [place for i, place in self.starts.items() if i > after and place >= low]
        return min(places, default=len(self.text))


class Marks:
    """Messages, and which of them get marks (`chosen`): all with a text, at first.

    Marks in a text without anything visible stand at its end, next to each other.
    """

    def __init__(self, text: str, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.chosen = {i for i, message in enumerate(messages) if _has_text(message)}
        self._first_mark = _free_marks(text, messages)
        self._any_mark = _mark_pattern(self._first_mark, 2 * len(messages) + 1)
        self._outside: set[int] = set()
        self._inside: dict[int, tuple[int, int]] = {}

    def only(self, chosen: set[int]) -> Marks:
        other = copy(self)
        other.chosen = chosen
        return other

    def between_tags(self, indices: Collection[int], source: str) -> Marks:
        """The same with marks of those of these answers that hold tags of the template (`source`), inside of
        the tags at their ends: it may take these away, and white space beside them."""
        other = copy(self)
        other._inside = {
            i: _between_tags(self.messages[i]["content"], source)
            for i in indices
            if _has_tags(self.messages[i], source)
        }
        other.chosen = self.chosen | other._inside.keys()
        return other

    def take_tags(self, marked: Marked) -> bool:
        """Whether the template took away what stands outside of the marks between tags."""
        for index, (lead, end) in self._inside.items():
            content = self.messages[index]["content"]
            before, behind = content[:lead].strip(), content[end:].strip()
            start, stop = marked.starts.get(index), marked.ends.get(index)
            if start is None or stop is None or (before and marked.text.endswith(before, 0, start)):
                return False
            if behind and marked.text.startswith(behind, stop):
                return False
        return True

    def lost(self, marked: Marked | None) -> frozenset[int]:
        """Of the answers with marks between tags those of which nothing between them was written."""
        absent = marked.absent if marked else frozenset[int]()
        return frozenset(i for i, (lead, end) in self._inside.items() if i in absent and lead < end)

    def outermost(self, indices: Collection[int]) -> Marks:
        """The same with the marks of these messages outside of the outer whitespace."""
        other = copy(self)
        other._outside = set(indices) - self._inside.keys()
        return other

    @property
    def choices(self) -> list[set[int]]:
        """Which messages to mark, to be tried in this order: an empty content may matter to the template."""
        visible = {i for i, message in enumerate(self.messages) if visible_texts(message)}
        answers = {i for i, message in enumerate(self.messages) if message.get("role") == "assistant"}
        return [self.chosen, self.chosen - (answers - visible), visible]

    @property
    def have_outer_space(self) -> bool:
        return any(any(self.outer_space(i)) for i in self.chosen)

    def outer_space(self, index: int) -> tuple[str, str]:
        """The whitespace before and after a content, all before where there is nothing else.

        Empty for an index outside the list.
        """
        if not 0 <= index < len(self.messages):
            return "", ""
        texts = visible_texts(self.messages[index])
        if not texts:
            content = self.messages[index].get("content")
            return content if isinstance(content, str) else "", ""
        first, last = texts[0], texts[-1]
        return first[: len(first) - len(first.lstrip())], last[len(last.rstrip()) :]

    def render(
        self,
        template: ChatTemplate,
        tools: Any,
        upto: int | None = None,
        add_generation_prompt: bool = False,
    ) -> Marked | None:
        """Render the first `upto` messages; None when the template refuses them."""
        messages = [
            self._put_into(i, message) if i in self.chosen else message
            for i, message in enumerate(self.messages[:upto])
        ]
        try:
            text, trace = template.render_traced(
                messages,
                tools,
                chr(self._first_mark + 2 * len(self.messages)),
                add_generation_prompt=add_generation_prompt,
            )
        except RenderError:
            return None
        return self._take_out(text, trace)

    def _take_out(self, text: str, trace: Trace) -> Marked | None:
        pieces: list[str] = []
        places: tuple[dict[int, int], dict[int, int]] = ({}, {})
        seen: set[int] = set()
        noted: list[int] = []
        last = length = 0
        for found in self._any_mark.finditer(text):
            pieces.append(text[last : found.start()])
            length += found.start() - last
            last = found.end()
            number = ord(found.group()) - self._first_mark
            index, side = divmod(number, 2)
            if index == len(self.messages):
                noted.append(length)
            elif number in seen:  # the template writes it twice: no place of its own
                places[side].pop(index, None)
            else:
                places[side][index] = length
            seen.add(number)
        pieces.append(text[last:])
        if len(noted) != len(trace.notes):
            return None
        absent = frozenset(i for i in self.chosen if not seen & {2 * i, 2 * i + 1})
        return Marked("".join(pieces), *places, rounds(trace.notes, noted), absent)

    def _put_into(self, index: int, message: Message) -> Message:
        before, after = chr(self._first_mark + 2 * index), chr(self._first_mark + 2 * index + 1)
        content = message["content"]
        if isinstance(content, str):
            return {**message, "content": self._put(index, content, before, after)}
        parts = [dict(part) if isinstance(part, dict) else part for part in content]
        shown = [part for part in parts if _shows(part)]
        shown[0]["text"] = self._put(index, shown[0]["text"], before, "")
        shown[-1]["text"] = self._put(index, shown[-1]["text"], "", after)
        return {**message, "content": parts}

    def _put(self, index: int, text: str, before: str, after: str) -> str:
        if index in self._outside:
            return before + text + after
        if index in self._inside:
            lead, end = self._inside[index]
            return text[:lead] + before + text[lead:end] + after + text[end:]
        core = text.strip()
        lead = text.index(core) if core else len(text)
        return text[:lead] + before + core + after + text[lead + len(core) :]


def _has_text(message: Message) -> bool:
    return isinstance(message.get("content"), str) or bool(visible_texts(message))


def visible_texts(message: Message) -> list[str]:
    """The content's texts that hold more than whitespace: one for a string, several for content parts."""
    content = message.get("content")
    if isinstance(content, str):
        return [content] if content.strip() else []
    return [part["text"] for part in content if _shows(part)] if isinstance(content, list) else []


def _shows(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and bool(part["text"].strip())


def _has_tags(message: Message, source: str) -> bool:
    """An answer in one text that holds tags of the template."""
    content = message.get("content")
    return message.get("role") == "assistant" and isinstance(content, str) and bool(_tags(content, source))


def _tags(text: str, source: str) -> list[re.Match[str]]:
    return [tag for tag in TAG.finditer(text) if tag.group() in source]


def _between_tags(text: str, source: str) -> tuple[int, int]:
    """Where what stands behind the last of the template's tags begins and ends, without white space; tags at
    the end do not count."""
    tags, end = _tags(text, source), len(text)
    while tags and not text[tags[-1].end() : end].strip():
        end = tags.pop().start()
    behind = text[tags[-1].end() if tags else 0 : end]
    lead = end - len(behind.lstrip())
    return lead, lead + len(behind.strip())


def _mark_pattern(first: int, number: int) -> re.Pattern[str]:
    return re.compile(f"[{chr(first)}-{chr(first + max(number, 1) - 1)}]")


def _free_marks(text: str, messages: Sequence[Message]) -> int:
    """The first of two private-use characters a message, and one more, that stand nowhere in the data."""
    everything = "".join([text, *(part for message in messages for part in visible_texts(message))])
    first = PRIVATE_USE.start
    if not everything.isascii():
        any_of_them = _mark_pattern(first, len(PRIVATE_USE))
        for used in sorted(set(map(ord, any_of_them.findall(everything)))):
            if used > first + 2 * len(messages):
                break
            first = used + 1
    if first + 2 * len(messages) >= PRIVATE_USE.stop:
        raise RenderError("too many messages, or too many characters of Unicode's private-use plane 16")
    return first


def widen(spans: list[CharSpan | None], marks: Marks, inner: Marked, outer: Marked) -> None:
    """Add to `spans` the outer whitespace that the template keeps.

    Between two contents the text is `kept tail of the one + literal + kept head of the other`; `outer`, with
    the marks outside the whitespace of those located exactly, shows the literal.
    """
    edges = [(-1, -1, True), *_edges(inner, outer), (len(inner.text), len(marks.messages), False)]
    for (_, left, left_ends), (_, right, right_ends) in pairwise(edges):
        if not left_ends:
            continue
        between, literal = (
            marked.text[
                marked.ends.get(left, 0) : (marked.ends if right_ends else marked.starts).get(
                    right, len(marked.text)
                )
            ]
            for marked in (inner, outer)
        )
        before = "" if right_ends else marks.outer_space(right)[0]  # what it begins with is taken away
        for tail in _kept_heads(marks.outer_space(left)[1]):
            head = between[len(tail) + len(literal) :]
            wanted = any(form.endswith(head) for form in _written(before))
            if between == tail + literal + head and wanted:
                _stretch(spans, left, right, len(tail), len(head))
                break


def _edges(inner: Marked, outer: Marked) -> list[tuple[int, int, bool]]:
    """(place, message, whether it is its end) of contents' ends and beginnings that both texts show."""
    starts = ((place, index, False) for index, place in inner.starts.items() if index in outer.starts)
    ends = ((place, index, True) for index, place in inner.ends.items() if index in outer.ends)
    return sorted([*starts, *ends])


def _stretch(spans: list[CharSpan | None], left: int, right: int, tail: int, head: int) -> None:
    if left >= 0 and (span := spans[left]) is not None:
        spans[left] = (span[0], span[1] + tail)
    if right < len(spans) and (span := spans[right]) is not None:
        spans[right] = (span[0] - head, span[1])


def _kept_heads(space: str) -> list[str]:
    """What stripping on the right may leave of trailing whitespace: all, nothing, a part."""
    return list(dict.fromkeys([*_written(space), "", *(space[:n] for n in range(len(space) - 1, 0, -1))]))


def _written(space: str) -> list[str]:
    """As it is, and as JSON writes it."""
    return [space, *(json.dumps(space, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))]
