"""Where an assistant's turn lies, for templates whose loops do not tell: render the messages before it.

One or two renderings a turn, so this is slow on long chats; `chat_spans` asks here only when the template
writes its messages outside of a plain loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokpack.stages.render.spans.chat_marks import Marked, Marks
from tokpack.stages.render.template.chat_template import CharSpan, Message, RenderError

if TYPE_CHECKING:
    from tokpack.stages.render.spans.chat_spans import SpanFinder


class PrefixTurns:
    """Turns of one chat whose contents are located."""

    def __init__(
        self,
        finder: SpanFinder,
        tools: Any,
        text: str,
        marks: Marks,
        marked: Marked,
        contents: Sequence[CharSpan | None],
    ) -> None:
        self.finder, self.facts, self.template = finder, finder.facts, finder.template
        self.messages: Sequence[Message] = marks.messages
        self.tools, self.text, self.marks, self.marked, self.contents = tools, text, marks, marked, contents

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
        ends = self.finder.boundaries(literal[:same])
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
            ends = self.finder.boundaries(prompt)
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
