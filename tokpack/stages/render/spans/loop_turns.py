"""Where an assistant's turn lies, from the rounds of the template's own loop over the messages.

What the template writes in a message's round is that message's text. A turn begins after the generation
prompt, which is what `add_generation_prompt=True` leaves after the round before, and ends where the round
ends, all closers included and the whitespace after them left out:

    <|start|>user<|message|>Hi<|end|>  <|start|>assistant<|channel|>final<|message|>Hello<|return|>
    ─ round of message 0 ────────────  ─ prompt ────────^^^^^^^^^^^^^^^^^^^^^^ trained ^^^^^^^^^^^

Another message's text inside the round (Gemma 4 writes a tool's answer into the model's turn) is cut out with
the round of the inner loop that wrote it. One rendering shows all rounds; where the prompt depends on the
messages, one more is made per kind of message before it. So the cost of a chat grows with its length alone.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokpack.stages.render.spans.chat_marks import Marked, Marks, visible_texts
from tokpack.stages.render.spans.prefix_turns import common_prefix
from tokpack.stages.render.template.chat_template import CharSpan, Message, RenderError
from tokpack.stages.render.template.template_trace import Round

if TYPE_CHECKING:
    from tokpack.stages.render.spans.chat_spans import SpanFinder


class LoopTurns:
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
        self.finder, self.tools, self.text, self.marks = finder, tools, text, marks
        self.messages: Sequence[Message] = marks.messages
        self.contents = contents
        self.own = rounds_of_messages(marked.rounds, len(self.messages))
        self._rounds = marked.rounds  # in the order of their beginnings
        self._round_starts = [found.start for found in marked.rounds]
        self._prompts: dict[Any, set[str]] = {}
        self._asked: set[tuple[Any, int]] = set()
        self._blank = {i for i, message in enumerate(self.messages) if not visible_texts(message)}
        answers = {i for i, message in enumerate(self.messages) if message.get("role") == "assistant"}
        sides = ((False, marked.starts), (True, marked.ends))
        self._places = sorted(
            (place, not is_end, i)
            for is_end, side in sides
            for i, place in side.items()
            if i not in self._blank & answers
        )

    def turn(self, index: int) -> list[CharSpan] | None:
        """Trained spans of the assistant message `index`; none when it writes nothing, None when unknown."""
        own = self.own[index]
        if own is None:
            return None
        if own.start == own.end:
            return []
        start = self._start(index, own)
        end = self._end(index, own, start)
        return self._without_others(index, own, start, end)

    def _start(self, index: int, own: Round) -> int:
        finder = self.finder
        if not finder.facts.prompt:
            return self._after_header(index, own)
        if not index and (place := self._after_first_prompt(own)):
            return place
        written = self.text[own.start : own.end]
        if finder.prompt_is_constant:
            return own.start + self._follow(written, {finder.facts.prompt})
        kind = _kind_before(self.messages, index)
        prompts = self._prompts.setdefault(kind, {finder.facts.prompt})
        same = self._follow(written, prompts)
        if (kind, same) not in self._asked:
            self._asked.add((kind, same))
            prompts.add(self._prompt_before(index))
            same = self._follow(written, prompts)
            self._asked.add((kind, same))
        return own.start + same

    def _after_first_prompt(self, own: Round) -> int:
        """End of the prompt in the first round, which may begin with BOS or a system message; else 0."""
        content, prompt = self.contents[0], self.finder.facts.prompt
        at = self.text.find(prompt, own.start, content[0] if content else own.end)
        return at + len(prompt) if at >= 0 else 0

    def _follow(self, text: str, prompts: set[str]) -> int:
        """How much of a turn's text is prompt. White space before it does not count: what parts two messages
        may stand in the round of the first."""
        if same := self._same(text, prompts):
            return same
        own = text.lstrip()
        same = self._same(own, {prompt.lstrip() for prompt in prompts})
        return len(text) - len(own) + same if same else 0

    def _same(self, text: str, prompts: set[str]) -> int:
        """How far the text is a prompt.

        One that leaves the prompt midway (at a think block, say) is followed to the end of the last
        special token or line, so that an equal first letter is not taken for prompt.
        """
        whole = [len(prompt) for prompt in prompts if text.startswith(prompt)]
        if any(whole):
            return max(whole)
        places = [0]
        for prompt in prompts:
            same = common_prefix(text, prompt)
            places += self.finder.boundary_ends(prompt, same)
        return max(places)

    def _prompt_before(self, index: int) -> str:
        """What the template leaves after the messages before this one for the model to go on from."""
        usual = self.finder.facts.prompt
        if not index:
            return usual
        template, tools = self.finder.template, self.tools
        prompted = self.marks.render(template, tools, index, add_generation_prompt=True)
        if prompted is None:
            return usual
        last = rounds_of_messages(prompted.rounds, index)[-1]
        if last is not None:
            return prompted.text[last.end :]
        alone = self.marks.render(template, tools, index)
        if alone is None or not prompted.text.startswith(alone.text):
            return usual
        return prompted.text[len(alone.text) :]

    def _after_header(self, index: int, own: Round) -> int:
        """The template has no generation prompt: the turn begins with its content, or after its header."""
        content = self.contents[index]
        if content is not None and own.start <= content[0] <= own.end:
            return content[0]
        header = self.finder.facts.header
        return own.start + len(header) if self.text.startswith(header, own.start) else own.start

    def _end(self, index: int, own: Round, start: int) -> int:
        text, content = self.text, self.contents[index]
        end = own.start + len(text[own.start : own.end].rstrip())
        if content is not None and content[1] <= own.end:
            end = max(end, content[1])
        rest = text[own.end :].strip() if index + 1 == len(self.messages) else ""
        if rest and rest != self.finder.facts.always and self.finder.only_closers(text, own.end):
            return max(start, len(text.rstrip()))
        for opener in self.finder.openers_of_others if self.messages[index].get("tool_calls") else ():
            if text.endswith(opener, start, end):  # the tool's answer would begin here
                return end - len(opener)
        closer = self.finder.facts.end_of_turn
        if closer and not text.endswith(closer, start, end):  # some write it in the next message's round
            late = re.compile(rf"\s*{re.escape(closer)}").match(text, own.end)
            return late.end() if late and not self._ends_another(index, late.end()) else max(start, end)
        return max(start, end)

    def _ends_another(self, index: int, place: int) -> bool:
        """Whether it is the end of an answer that says nothing, or stands in what an answer says."""
        later = (i for i in range(index + 1, len(self.own)) if (own := self.own[i]) and own.start < own.end)
        after = next(later, None)
        if after is None or self.messages[after].get("role") != "assistant":
            return False
        own, content = self.own[after], self.contents[after]
        if content is not None and content[0] < place:
            return True
        return own is not None and own.start < place and not self.text[place : own.end].strip()

    def _without_others(self, index: int, own: Round, start: int, end: int) -> list[CharSpan]:
        """The turn without what other messages wrote in it."""
        spans: list[CharSpan] = []
        for hole in self._holes(index, own, start, end):
            if start < hole.start:
                spans.append((start, hole.start))
            start = max(start, hole.end)
        return [*spans, (start, end)] if start < end else spans

    def _holes(self, index: int, own: Round, start: int, end: int) -> Iterator[Round]:
        """What other messages wrote between two places of a turn."""
        for number in range(bisect_left(self._places, (start, True)), len(self._places)):
            place, is_start, other = self._places[number]
            if (place, is_start) >= (end, True):
                return
            if other == index or (other in self._blank and not start < place < end):
                continue
            hole = self._inner_round(own, place)
            if hole is None:
                role = self.messages[other].get("role")
                raise RenderError(
                    f"the template writes message {other + 1} ({role}) into the assistant's turn (message "
                    f"{index + 1}), and where it begins and ends cannot be told"
                )
            yield hole

    def openers_of_others(self) -> set[str]:
        """With what other messages begin inside of assistant's turns: special tokens, or what looks so."""
        found = set()
        for index, own in enumerate(self.own):
            if own is not None and self.messages[index].get("role") == "assistant":
                for hole in self._holes(index, own, own.start, own.end):
                    found.add(self.finder.mark_at(self.text, hole.start))
        return found - {""}

    def _inner_round(self, own: Round, place: int) -> Round | None:
        """The round just inside the own one that holds a place."""
        first = bisect_left(self._round_starts, own.start)
        for number in range(first, len(self._rounds)):
            found = self._rounds[number]
            if found.start > place:
                return None
            if found.depth == own.depth + 1 and found.start <= place <= found.end and found.start < found.end:
                return found
        return None


def rounds_of_messages(rounds: Sequence[Round], count: int) -> list[Round | None]:
    """Each message's one round that writes something, an empty one if none does; None where unclear."""
    written: list[list[Round]] = [[] for _ in range(count)]
    empty: list[Round | None] = [None] * count
    for found in rounds:
        if found.message is None:
            continue
        if found.start < found.end:
            written[found.message].append(found)
        else:
            empty[found.message] = found
    return [
        (those[0] if len(those) == 1 else None) if those else empty[index]
        for index, those in enumerate(written)
    ]


def _kind_before(messages: Sequence[Message], index: int) -> Any:
    """What a prompt may depend on: the message before, and whether there is one."""
    before: Message = messages[index - 1] if index else {}
    return before.get("role"), bool(before.get("tool_calls"))
