"""Where each message's content and each assistant turn land in the rendered chat: the reference.

An assistant turn is trained from the end of the generation prompt, which is what `add_generation_prompt=True`
puts after the messages before it, to the end of its end-of-turn token. So a think block belongs to the turn
wherever the prompt leaves it to the model. A template that marks the assistant's part itself, with
`{% generation %}`, is taken at its word.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
                                    generation prompt ─────^^^^^^^^^^^^^^^ trained

What cannot be located is an error, never a guess. This is the slow path: two or three renders a document and
one per assistant turn; the template compiler runs it once per shape of chat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tokpack.stages.render.chat_marks import Marked, Marks, widen
from tokpack.stages.render.chat_template import CharSpan, ChatTemplate, Message, RenderError

_BARE: Final = {"role", "content", "name"}
"""Keys of a message whose content is all it says."""
_CLOSING_CHARS: Final = 100
"""What closes a turn is looked for in so many characters."""


@dataclass(frozen=True)
class Located:
    """A rendered chat; all positions in characters of `text`."""

    text: str
    contents: list[CharSpan | None]
    """Per message, what it says: its content, or, where an assistant's says more than that (reasoning, calls)
    or the template writes it in another form, its turn without what closes it; else None."""
    turns: list[tuple[int, CharSpan]]
    """(index of the assistant message, trained span) in the order of the text."""


@dataclass(frozen=True)
class TemplateFacts:
    """What a template writes around an assistant's content, learned from a chat of two messages."""

    end_of_turn: str = ""
    prompt: str = ""
    """What `add_generation_prompt=True` appends; empty when it changes nothing."""
    header: str = ""
    """Between the rendering of the messages before and the assistant's content."""


@dataclass(frozen=True)
class SpanFinder:
    """Renders chats with one template and locates their spans. Safe to share between threads."""

    template: ChatTemplate
    special_tokens: tuple[str, ...] = ()
    """Strings that the tokenizer takes whole; the end-of-turn token is usually one of them."""

    def locate(self, messages: Sequence[Message], tools: Any = None) -> Located:
        """Render and locate everything. Raises RenderError with the reason when either is impossible."""
        text, blocks = self.template.render(messages, tools)
        chat = _Chat(self, messages, tools, text)
        contents = chat.contents
        if self.template.has_generation:
            turns = _blocks_by_turn(blocks, messages, chat.marked)
            return Located(text, chat.with_all_said(contents, turns), turns)
        assistants = (i for i, message in enumerate(messages) if message.get("role") == "assistant")
        turns = [(i, chat.turn(i)) for i in assistants]
        return Located(text, chat.with_all_said(_within(contents, turns), turns), turns)

    @cached_property
    def facts(self) -> TemplateFacts:
        user, assistant = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
        for before in ([user], [{"role": "system", "content": "s"}, user]):
            whole = Marks("", [*before, assistant]).render(self.template, None)
            if whole is not None and len(before) in whole.ends:
                return self._learn(before, whole)
        return TemplateFacts()

    def _learn(self, before: Sequence[Message], whole: Marked) -> TemplateFacts:
        start, end = whole.starts[len(before)], whole.ends[len(before)]
        stop = _end_of_turn(whole.text[end:], self.special_tokens)
        try:
            alone, _ = self.template.render(before)
            prompted, _ = self.template.render(before, add_generation_prompt=True)
        except RenderError:
            return TemplateFacts(stop)
        prompt = prompted[len(alone) :] if prompted.startswith(alone) else ""
        header = whole.text[len(alone) : start] if whole.text.startswith(alone) else ""
        return TemplateFacts(stop, prompt, header)

    @cached_property
    def close_of_turn(self) -> re.Pattern[str]:
        stop = self.facts.end_of_turn
        return re.compile(rf"\s*{re.escape(stop)}" if stop else "")

    @cached_property
    def closing(self) -> re.Pattern[str]:
        """Special tokens and white space at the end of a text."""
        return re.compile(rf"(?:\s|{_any_of(self.special_tokens).pattern})+\Z")

    @cached_property
    def boundaries(self) -> re.Pattern[str]:
        """A special token or a newline."""
        return _any_of([*self.special_tokens, "\n"])


class _Chat:
    """One chat being located."""

    def __init__(self, finder: SpanFinder, messages: Sequence[Message], tools: Any, text: str) -> None:
        self.finder, self.facts, self.template = finder, finder.facts, finder.template
        self.messages, self.tools, self.text = messages, tools, text
        self.marks = Marks(text, messages)
        self.marked = self._mark()

    def _mark(self) -> Marked:
        """Mark as many contents as leave the text as it is; a template may react to some."""
        every = self.marks.chosen
        for chosen in self.marks.choices:
            self.marks.chosen = chosen
            if (marked := self._unchanged(self.marks)) is not None:
                return marked
        self.marks.chosen = {i for i in every if self._unchanged(self.marks.only({i})) is not None}
        if (marked := self._unchanged(self.marks)) is not None:
            return marked
        self.marks.chosen = set()
        return Marked(self.text)

    def _unchanged(self, marks: Marks) -> Marked | None:
        """The text with marks, if it is the true one without them."""
        marked = marks.render(self.template, self.tools)
        return marked if marked is not None and marked.text == self.text else None

    @cached_property
    def contents(self) -> list[CharSpan | None]:
        """Span of each content, with the outer whitespace that the template keeps."""
        spans = self._spans(self.marked)
        if self.marks.have_outer_space:
            outer = self.marks.outermost().render(self.template, self.tools)
            if outer is not None and outer.text == self.text:
                return self._spans(outer)
            if outer is not None:
                widen(spans, self.marks, self.marked, outer)
        return spans

    def _spans(self, marked: Marked) -> list[CharSpan | None]:
        spans: list[CharSpan | None] = []
        for index in range(len(self.messages)):
            start, end = marked.starts.get(index), marked.ends.get(index)
            if start is None and end is not None:
                start = self._rewritten_start(index, end)
            spans.append(None if start is None or end is None or start > end else (start, end))
        return spans

    def _rewritten_start(self, index: int, end: int) -> int | None:
        """Start of what is left of a content whose beginning the template took away (old reasoning)."""
        content = self.messages[index].get("content")
        if not isinstance(content, str):
            return None
        kept = self.text[self.marked.last_end(index) : end]
        return end - common_prefix(kept[::-1], content.strip()[::-1])

    def with_all_said(
        self, contents: list[CharSpan | None], turns: list[tuple[int, CharSpan]]
    ) -> list[CharSpan | None]:
        """Contents with the whole of the turns that say more than a content located exactly."""
        said, whole = list(contents), set[int]()
        for index, (start, end) in turns:
            exact = index in self.marked.starts and index in self.marked.ends
            if exact and not any(self.messages[index][key] for key in self.messages[index].keys() - _BARE):
                continue
            closing = self.finder.closing.search(self.text, max(start, end - _CLOSING_CHARS), end)
            first = said[index] if index in whole else None  # a turn in several spans
            said[index] = (first or (start, end))[0], closing.start() if closing else end
            whole.add(index)
        return said

    def turn(self, index: int) -> CharSpan:
        """Trained span of the assistant message `index`."""
        start = self._turn_start(index)
        return start, self._turn_end(index, start)

    def _turn_start(self, index: int) -> int:
        prompt = None
        if index:
            prompt = self.marks.render(self.template, self.tools, index, add_generation_prompt=True)
        if prompt is None:  # nothing is before it, or what is cannot stand alone
            return self._after_prompt_text(index)
        here, there = self._common_anchor(index, prompt)
        literal = prompt.text[there:]
        content = self._exact(index)
        same = common_prefix(self.text[here : content[0] if content else len(self.text)], literal)
        if same == len(literal):
            return here + same if self.facts.prompt else self._after_header(index, here + same)
        if not self.facts.prompt:
            return self._after_prompt_text(index)
        kept = self._back_to_boundary(index, same, literal)
        return self._after_prompt_text(index) if kept is None else here + kept

    def _exact(self, index: int) -> CharSpan | None:
        """The content's span if its start is sure, too."""
        rewritten = index in self.marked.ends and index not in self.marked.starts
        return None if rewritten else self.contents[index]

    def _common_anchor(self, index: int, other: Marked) -> tuple[int, int]:
        """End of the last content before message `index` that both texts show: (place here, place there)."""
        last = max((i for i in self.marked.ends if i < index and i in other.ends), default=-1)
        return (self.marked.ends[last], other.ends[last]) if last >= 0 else (0, 0)

    def _back_to_boundary(self, index: int, same: int, literal: str) -> int | None:
        """The text leaves the generation prompt midway (at a think block, say): where the two still agree.

        Back to the end of a special token or line, so that an equal first letter is not taken for prompt.
        """
        before = self.marks.render(self.template, self.tools, index)
        if before is None:
            return None
        known = len(before.text) - self._common_anchor(index, before)[1]
        ends = [found.end() for found in self.finder.boundaries.finditer(literal, 0, same)]
        return ends[-1] if ends and known < ends[-1] else None

    def _after_header(self, index: int, start: int) -> int:
        """The template has no generation prompt: the turn begins with its content, or after its header."""
        if (content := self._exact(index)) is not None:
            return content[0]
        header = self.facts.header
        return start + len(header) if self.text.startswith(header, start) else start

    def _after_prompt_text(self, index: int) -> int:
        """The messages before do not render to a prefix of the text: look for the prompt's text itself."""
        prompt, content = self.facts.prompt, self._exact(index)
        if not prompt and content is not None:
            return content[0]
        if prompt and content is not None:
            low = self.marked.last_end(index)
            before = self.text[low : content[0]]
            if before.count(prompt) == 1:
                return low + before.index(prompt) + len(prompt)
            ends = [found.end() for found in self.finder.boundaries.finditer(prompt)]
            if any(before.endswith(prompt[:end]) for end in ends):  # left midway, just before the content
                return content[0]
        raise RenderError(
            f"cannot tell where the assistant's turn (message {index + 1}) begins: the template renders the "
            "messages before it in another way without it"
        )

    def _turn_end(self, index: int, start: int) -> int:
        stop, content = self.facts.end_of_turn, self.contents[index]
        low = start if content is None else max(start, content[1])
        high = self.marked.next_start(index, low)
        if content is not None and not self.messages[index].get("tool_calls"):
            close = self.finder.close_of_turn.match(self.text, low)
            if close or stop not in self.text[low:high]:
                return close.end() if close else low
        written, data = self.text.count(stop, low, high), self._in_data(index, stop)
        if stop and written == data + 1 and (not data or self._is_followed(index)):
            return self.text.rindex(stop, low, high) + len(stop)
        if stop and written and not data and not self.messages[index].get("tool_calls"):
            return self.text.index(stop, low) + len(stop)  # the others are those of messages not located
        return self._end_of_prefix(index, low, high)

    def _in_data(self, index: int, stop: str) -> int:
        """How often the end-of-turn token stands in the message's own data, outside a located content."""
        message = self.messages[index]
        located = index in self.marked.ends
        hidden = {key: value for key, value in message.items() if key != "content" or not located}
        return json.dumps(hidden, ensure_ascii=False).count(stop)

    def _is_followed(self, index: int) -> bool:
        """Nothing but this turn and the next header lies before the next located content."""
        return index + 1 == len(self.messages) or index + 1 in self.marked.starts

    def _end_of_prefix(self, index: int, low: int, high: int) -> int:
        """Several end-of-turn tokens follow, or none: look where the text ends with this message the last."""
        whole = self.marks.render(self.template, self.tools, index + 1)
        if whole is not None:
            here, there = self._common_anchor(index + 1, whole)
            tail = whole.text[there:].rstrip()
            end = here + len(tail)
            agrees = self.text.startswith(tail, here) and tail.endswith(self.facts.end_of_turn)
            if agrees and low <= end <= high:
                return end
        raise RenderError(f"cannot tell where the assistant's turn (message {index + 1}) ends")


def _within(contents: list[CharSpan | None], turns: list[tuple[int, CharSpan]]) -> list[CharSpan | None]:
    """An answer does not begin before its turn; one that the template rewrote may seem to."""
    clipped = list(contents)
    for index, (start, _) in turns:
        if (span := clipped[index]) is not None:
            clipped[index] = (max(span[0], min(start, span[1])), span[1])
    return clipped


def _end_of_turn(tail: str, special_tokens: Sequence[str]) -> str:
    """The special token that follows an answer, else the first word there; empty when nothing does."""
    after = tail.lstrip()
    found = _any_of(special_tokens).match(after) or re.compile(r"\S*").match(tail.lstrip(" \t"))
    return found.group() if found else ""


def _blocks_by_turn(
    blocks: list[CharSpan], messages: Sequence[Message], marked: Marked
) -> list[tuple[int, CharSpan]]:
    """Give each `{% generation %}` block to an assistant message.

    One block a message is the rule. Else a block belongs to the last assistant message that has all located
    contents of the messages before it in front of the block.
    """
    assistants = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    if len(blocks) == len(assistants):
        return list(zip(assistants, blocks, strict=True))
    if not assistants:
        raise RenderError("the template marks a `{% generation %}` block, but no message is the assistant's")
    floors = [(i, marked.last_end(i)) for i in assistants]
    owners = [max((i for i, floor in floors if floor <= start), default=assistants[0]) for start, _ in blocks]
    return list(zip(owners, blocks, strict=True))


def common_prefix(left: str, right: str) -> int:
    """Length of the longest common prefix, by bisection: a text can be long."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left.startswith(right[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def _any_of(strings: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or "(?!)")
