"""Where each message's content and each assistant turn land in the rendered chat: the reference.

An assistant turn is trained from the end of the generation prompt, which is what `add_generation_prompt=True`
puts after the messages before it, to the end of its end-of-turn token. So a think block belongs to the turn
wherever the prompt leaves it to the model. A template that marks the assistant's part itself, with
`{% generation %}`, is taken at its word.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
                                    generation prompt ─────^^^^^^^^^^^^^^^ trained

What cannot be located is an error. A chat is rendered two or three times; the compiler asks once per shape.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from tokpack.settings.config import ToolArguments
from tokpack.stages.messages import is_data
from tokpack.stages.render.left_out import UNKNOWN_SEGMENTS, Unwritten, left_out
from tokpack.stages.render.spans.chat_marks import TAG, Marked, Marks, widen
from tokpack.stages.render.spans.loop_turns import LoopTurns, rounds_of_messages
from tokpack.stages.render.spans.own_words import OwnWords
from tokpack.stages.render.spans.prefix_turns import PrefixTurns, common_prefix
from tokpack.stages.render.spans.segments import Segment, Segments
from tokpack.stages.render.spans.special_strings import SpecialStrings
from tokpack.stages.render.template.chat_template import CharSpan, ChatTemplate, Message, RenderError
from tokpack.stages.render.template.prompt_analysis import prompt_is_constant
from tokpack.stages.render.template.template_forms import Forms, tool_chat

_BARE: Final = {"role", "content", "name"}
"""Keys of a message whose content is all it says."""
_CLOSING_CHARS: Final = 100
"""What closes a turn is looked for in so many characters."""
_MOST_PROMPTS: Final = 1024
_LIKE_SPECIAL: Final = re.compile(r"<[^<>\s]{0,40}[|｜][^<>\s]{0,40}>")
"""With a bar, as no tag that an answer begins with."""


@dataclass(frozen=True)
class Located:
    """A rendered chat; all positions in characters of `text`."""

    text: str
    contents: list[CharSpan | None]
    """Of each message its content; of an assistant's that says more (reasoning, calls), or that the template
    writes in another form, its turn without what closes it; else None."""
    turns: list[tuple[int, CharSpan]]
    """(index of the assistant message, trained span) in the order of the text."""
    told: Counter[str] = field(default_factory=Counter)
    """What the template leaves out, with counts."""
    segments: list[Segment] = field(default_factory=list)
    """What the turns are made of, where that is asked for."""


@dataclass(frozen=True)
class TemplateFacts:
    """What a template writes around an assistant's content, learned from a chat of two messages."""

    end_of_turn: str = ""
    prompt: str = ""
    """What the model is given to go on from, behind the messages; empty when the template writes nothing."""
    always: str = ""
    """What of it is written without `add_generation_prompt=True`, too (Command A)."""
    header: str = ""
    """Between the rendering of the messages before and the assistant's content."""
    known: bool = False
    """The template rendered that chat, and showed where its contents are."""


@dataclass(frozen=True)
class SpanFinder:
    """Renders chats with one template and locates their spans. Safe to share between threads."""

    template: ChatTemplate
    special_tokens: tuple[str, ...] = ()
    """Strings that the tokenizer takes whole; the end-of-turn token is usually one of them."""
    tool_arguments: ToolArguments = "auto"
    """Form in which calls hand over their arguments."""
    with_segments: bool = False
    """Find out what the turns are made of."""
    _boundary_ends: dict[str, list[int]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self.template, self.tool_arguments)

    def locate(self, messages: Sequence[Message], tools: Any = None) -> Located:
        """Render and locate everything. Raises RenderError with the reason when either is impossible."""
        messages, tools = self.forms.give(messages), self.forms.give_tools(tools)
        text, blocks = self.template.render(messages, tools)
        chat = _Chat(self, messages, tools, text)
        contents = chat.contents
        if self.template.has_generation:
            turns = _blocks_by_turn(blocks, messages, chat.marked)
            left = chat.left_out(turns)
            segments = chat.segments(turns, left)
            return Located(text, chat.with_all_said(contents, turns), turns, left.counts, segments)
        turns = chat.turns()
        left = chat.left_out(turns)
        turns = [(i, span) for i, span in turns if i not in left.empty]
        segments = chat.segments(turns, left)
        said = chat.with_all_said(_within(contents, turns), turns)
        return Located(text, said, turns, left.counts, segments)

    @cached_property
    def facts(self) -> TemplateFacts:
        user, assistant = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
        for chat in ([user, assistant], [{"role": "system", "content": "s"}, user, assistant]):
            *before, answer = self.forms.give(chat)
            marks = Marks("", [*before, answer])
            whole = marks.render(self.template, None)
            if whole is not None and len(before) in whole.ends:
                return self._learn(marks, whole)
        return TemplateFacts()

    def _learn(self, marks: Marks, whole: Marked) -> TemplateFacts:
        before = marks.messages[:-1]
        start, end = whole.starts[len(before)], whole.ends[len(before)]
        stop = _end_of_turn(whole.text[end:], self._special)
        own = rounds_of_messages(whole.rounds, len(before) + 1)[-1]
        header = whole.text[own.start : start] if own is not None else ""
        try:
            alone, _ = self.template.render(before)
            prompted, _ = self.template.render(before, add_generation_prompt=True)
        except RenderError:
            return TemplateFacts(stop, header=header, known=True)
        prompt = prompted[len(alone) :] if prompted.startswith(alone) else ""
        if own is None and whole.text.startswith(alone):
            header = whole.text[len(alone) : start]
        always = self._written_always(marks, header)
        return TemplateFacts(stop, always + prompt, always.strip(), header, known=True)

    def _written_always(self, marks: Marks, header: str) -> str:
        """What stands behind a question without being asked for, where an answer begins with it."""
        before = len(marks.messages) - 1
        alone = marks.render(self.template, None, before)
        last = rounds_of_messages(alone.rounds, before)[-1] if alone is not None else None
        behind = alone.text[last.end :] if alone is not None and last is not None else ""
        return behind if behind.strip() and header.lstrip().startswith(behind.strip()) else ""

    @property
    def closes_turns(self) -> bool:
        """The template writes something at the end of an answer, or answers are not known to it."""
        return bool(self.facts.end_of_turn) or not self.facts.known

    @cached_property
    def prompt_is_constant(self) -> bool:
        return prompt_is_constant(self.template.tree)

    @cached_property
    def _closers(self) -> tuple[str, ...]:
        eos = self.template.variables.get("eos_token")
        return (*self.special_tokens, *([eos] if isinstance(eos, str) and eos else []))

    @cached_property
    def any_special(self) -> SpecialStrings:
        return SpecialStrings(self._closers)

    def only_closers(self, text: str, start: int) -> bool:
        """From there on, it is nothing but special tokens and whitespace."""
        return self.any_special.closing(text, start, len(text)) == start

    @cached_property
    def openers_of_others(self) -> frozenset[str]:
        """With what a tool's answer begins inside of the turn that called it: a special token, or what is
        one in the template's own vocabulary."""
        chat = self.forms.give(tool_chat())
        try:
            text, _ = self.template.render(chat)
            probe = _Chat(self, chat, None, text)
            return frozenset(probe.by_loop.openers_of_others())
        except RenderError:
            return frozenset()

    @cached_property
    def close_of_turn(self) -> re.Pattern[str]:
        stop = self.facts.end_of_turn
        return re.compile(rf"\s*{re.escape(stop)}" if stop else "")

    @cached_property
    def _special(self) -> SpecialStrings:
        return SpecialStrings(self.special_tokens)

    def closing(self, text: str, start: int, end: int) -> int:
        """Where what ends there in special tokens and white space alone begins, not before `start`."""
        return self._special.closing(text, start, end)

    def mark_at(self, text: str, start: int) -> str:
        """The special token that begins there, or what looks like one; empty when none does."""
        found = _LIKE_SPECIAL.match(text, start)
        return self.any_special.at(text, start) or (found.group() if found else "")

    def last_closer(self, text: str, start: int, end: int, closers: Collection[str] | None) -> int:
        """Where the special token that ends there begins, one of `closers` if given; `end` without one."""
        whole, end = end, start + len(text[start:end].rstrip())
        if token := self.any_special.before(text, start, end, closers):
            return end - len(token)
        stop = self.facts.end_of_turn
        return end - len(stop) if stop and text.endswith(stop, start, end) else whole

    def boundary_ends(self, prompt: str, same: int) -> list[int]:
        """Where special tokens, tags and lines end in the first characters of a generation prompt."""
        key = prompt[:same]
        if key not in self._boundary_ends:
            if len(self._boundary_ends) >= _MOST_PROMPTS:
                self._boundary_ends.clear()
            self._boundary_ends[key] = self.boundaries(key)
        return self._boundary_ends[key]

    def boundaries(self, text: str) -> list[int]:
        """Where special tokens, tags, and lines end."""
        marks = {found.end() for found in TAG.finditer(text)}
        return sorted(marks.union(self._boundaries.ends(text)))

    @cached_property
    def _boundaries(self) -> SpecialStrings:
        return SpecialStrings([*self.special_tokens, "\n"])


class _Chat:
    """One chat being located."""

    def __init__(self, finder: SpanFinder, messages: Sequence[Message], tools: Any, text: str) -> None:
        self.finder, self.facts, self.template = finder, finder.facts, finder.template
        self.messages, self.tools, self.text = messages, tools, text
        self.marks = Marks(text, messages)
        self.marked = self._mark()

    def _mark(self) -> Marked:
        """Mark as many contents as leave the text as it is."""
        every = self.marks.chosen
        for chosen in self.marks.choices:
            self.marks.chosen = chosen
            if (marked := self._unchanged(self.marks)) is not None:
                return marked
        self.marks.chosen = harmless = self._harmless(sorted(every))
        marks = self.marks.between_tags(every - harmless, self.template.source)
        if (between := self._unchanged(marks)) is not None and marks.take_tags(between):
            self.marks = marks
            return between
        for chosen in (harmless, set[int]()):
            self.marks.chosen = chosen
            if (marked := self._unchanged(self.marks)) is not None:
                return replace(marked, absent=marked.absent | marks.lost(between))
        return Marked(self.text)

    def _harmless(self, indices: list[int]) -> set[int]:
        """Which of the contents the template does not react to, by halves."""
        if not indices or self._unchanged(self.marks.only(set(indices))) is not None:
            return set(indices)
        if len(indices) == 1:
            return set()
        middle = len(indices) // 2
        return self._harmless(indices[:middle]) | self._harmless(indices[middle:])

    def _unchanged(self, marks: Marks) -> Marked | None:
        """The text with marks, if it is the true one without them."""
        marked = marks.render(self.template, self.tools)
        return marked if marked is not None and marked.text == self.text else None

    @cached_property
    def contents(self) -> list[CharSpan | None]:
        """Span of each content, with the outer whitespace that the template keeps."""
        spans = self._spans(self.marked)
        if self.marks.have_outer_space:
            marks = self.marks.outermost(self.marked.starts.keys() & self.marked.ends.keys())
            outer = marks.render(self.template, self.tools)
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
            closing = self.finder.closing(self.text, max(start, end - _CLOSING_CHARS), end)
            if (own := contents[index]) is not None:  # white space and tokens at its end are said
                closing = max(closing, min(own[1], end))
            first = said[index] if index in whole else None  # a turn in several spans
            said[index] = (first or (start, end))[0], closing
            whole.add(index)
        return self._with_data(said)

    def _with_data(self, said: list[CharSpan | None]) -> list[CharSpan | None]:
        """The same with answers of tools that are data and that the template writes as JSON."""
        end = 0
        for index, message in enumerate(self.messages):
            if (span := said[index]) is None and is_data(message.get("content")):
                written = json.dumps(message["content"], ensure_ascii=False)
                limit = next((later[0] for later in said[index + 1 :] if later), len(self.text))
                start = self.text.find(written, end, limit)
                span = said[index] = (start, start + len(written)) if start >= 0 else None
            end = max(end, span[1]) if span else end
        return said

    @cached_property
    def by_loop(self) -> LoopTurns:
        return LoopTurns(self.finder, self.tools, self.text, self.marks, self.marked, self.contents)

    @cached_property
    def by_prefix(self) -> PrefixTurns:
        return PrefixTurns(self.finder, self.tools, self.text, self.marks, self.marked, self.contents)

    @cached_property
    def words(self) -> OwnWords:
        return OwnWords(self.template, self.messages, self.tools, self.text)

    def turns(self) -> list[tuple[int, CharSpan]]:
        """(assistant message, trained span) in the order of the text; a message may have several, or none."""
        turns: list[tuple[int, CharSpan]] = []
        for index, message in enumerate(self.messages):
            if message.get("role") == "assistant":
                spans = self.by_loop.turn(index)
                turns += [(index, s) for s in ([self.by_prefix.turn(index)] if spans is None else spans)]
        return turns

    def segments(self, turns: list[tuple[int, CharSpan]], left: Unwritten) -> list[Segment]:
        """What the turns are made of; those of which it is not known are counted in `left`."""
        if not self.finder.with_segments or not turns:
            return []
        given = (self.finder, self.messages, self.tools, self.text, self.contents)
        segments = Segments(*given, self.marked.absent | left.without_content, self.words)
        found = segments.find(turns)
        left.counts[UNKNOWN_SEGMENTS] += segments.unknown
        return found

    def left_out(self, turns: list[tuple[int, CharSpan]]) -> Unwritten:
        """What of the messages the template did not write. Raises RenderError."""
        extents = [(0, len(self.text))] * len(self.messages)
        for index, own in enumerate(self.by_loop.own):
            if own is not None:
                extents[index] = (own.start, own.end)
        for index, (start, end) in turns:
            extents[index] = (min(start, extents[index][0]), max(end, extents[index][1]))
        told = (self.text, self.messages, self.marked, extents, self.words)
        return left_out(*told, wants_objects=self.finder.forms.wants_objects)


def _within(contents: list[CharSpan | None], turns: list[tuple[int, CharSpan]]) -> list[CharSpan | None]:
    """An answer does not begin before its turn; one that the template rewrote may seem to."""
    clipped = list(contents)
    for index, (start, _) in reversed(turns):
        if (span := clipped[index]) is not None:
            clipped[index] = (max(span[0], min(start, span[1])), span[1])
    return clipped


def _end_of_turn(tail: str, special: SpecialStrings) -> str:
    """The special token that follows an answer, else the first word there; empty when nothing does."""
    word = re.compile(r"\S*").match(tail.lstrip(" \t"))
    return special.at(tail.lstrip()) or (word.group() if word else "")


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
