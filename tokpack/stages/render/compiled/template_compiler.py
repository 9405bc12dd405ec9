"""Compile a chat template, one shape of chats at a time.

The template runs once on symbols (`symbolic_template`): that shows the literals it writes and which values
of the chat it writes between them, stripped or as JSON. The reference renders and locates a probe chat of the
shape: its text must be the same, and its spans become places in the literals. Chats that hold what the
template asked for (`</think>` in a content) have a shape of their own, cut there. Real rows of each batch are
proved against the reference.

Some templates look into tools, or into the arguments of calls. Their text is then cut out of a small chat
that the template writes for them: once for equal tools, once for arguments of one form.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from jinja2 import TemplateError

from tokpack.stages.render.compiled.compiled_shape import Compiled, constants_of, located
from tokpack.stages.render.compiled.fragments import Fragments
from tokpack.stages.render.compiled.shape_keys import ChatBuilder, Key, Values
from tokpack.stages.render.compiled.symbol_values import OpaqueBlock
from tokpack.stages.render.compiled.symbolic_template import SymbolicTemplate
from tokpack.stages.render.compiled.symbols import Observed, Opaque, Part, Slot, parts_of
from tokpack.stages.render.pieces import ChatShape
from tokpack.stages.render.reference import RenderedRow
from tokpack.stages.render.spans.own_words import CLOSE, OPEN
from tokpack.stages.render.template.chat_template import REASONING_KEYS, ChatTemplate, Message, RenderError
from tokpack.stages.render.template.template_forms import SharedTools

MOST_MESSAGES = 256
"""Longer chats are too rare in one shape to be worth compiling."""
MOST_WRITTEN = 1 << 26
"""Characters that all compiled shapes together write by themselves; chats of further ones go to Jinja."""
_ALONE = 2
_CUTS = 2
"""How often a chat is cut at what its shape asks for, to find a shape that fits."""

Reference = Callable[[Sequence[Message], Any], RenderedRow]


_UNKNOWN = Compiled(ChatShape(("",), (), ()), ())


class TemplateCompiler:
    """Shapes of one template, compiled at first use. Safe to share between threads."""

    def __init__(
        self,
        template: ChatTemplate,
        reference: Reference,
        with_segments: bool = False,
        prompt: Callable[[], str] = str,
        closed: Callable[[str], bool] = lambda text: text != text.rstrip(),
    ) -> None:
        """`prompt`: the generation prompt, asked for when a shape is compiled. `closed`: whether a text ends
        in white space or a special token."""
        self._reference, self._with_segments, self._prompt = reference, with_segments, prompt
        self.closed = closed
        self._template, self._symbolic = template, SymbolicTemplate(template)
        self._fragments = Fragments(template, self._symbolic)
        self._shapes: dict[tuple[Key, int], Compiled | None] = {}
        self._met: Counter[tuple[Key, int]] = Counter()
        self._written = 0
        self._open_objects = self._open_tools = False
        self._lock = threading.RLock()
        self.opaque: set[str] = set()
        """Why shapes could not be compiled."""

    def shape(self, key: Key, tools: int = -1) -> Compiled | None:
        """How to write chats of this shape with so many tools (-1: none given).

        None when only Jinja knows.
        """
        with self._lock:
            if (key, tools) not in self._shapes:
                if self._written > MOST_WRITTEN:
                    return None
                found = self._shapes[key, tools] = self._compile(key, tools)
                self._written += sum(map(len, found.shape.literals)) if found else 0
            return self._shapes[key, tools]

    def learned(self, proven: Set[Compiled]) -> dict[str, Any]:
        """What another compiler of the same template can `take`: shapes that are proved, what fragments stand
        between, and what the template looks into. It can be pickled."""
        with self._lock:
            return {
                "shapes": {key: shape for key, shape in self._shapes.items() if shape in proven},
                "opens": (self._open_objects, self._open_tools),
                "fragments": self._fragments.learned(),
            }

    def take(self, learned: Mapping[str, Any]) -> Iterable[Compiled]:
        """Returns the shapes: they are proved."""
        shapes: dict[tuple[Key, int], Compiled] = learned["shapes"]
        with self._lock:
            self._shapes.update(shapes)
            self._open_objects, self._open_tools = learned["opens"]
            self._fragments.take(learned["fragments"])
        return shapes.values()

    def refuse(self, compiled: Compiled) -> None:
        """A proof failed: leave the shape to Jinja."""
        with self._lock:
            for key, known in self._shapes.items():
                if known is compiled:
                    self._shapes[key] = None

    def write(self, messages: Sequence[Message], tools: Any) -> tuple[Compiled, list[str]] | None:
        """The shape of a chat and the texts for its slots; None when it is left to Jinja.

        So are the first chats of every shape: many stay alone in it, and then compiling does not pay.
        """
        if not 0 < len(messages) <= MOST_MESSAGES or not are_tools(tools):
            return None
        count = -1 if tools is None else len(tools)
        cut: re.Pattern[str] | None = None
        for _ in range(1 + _CUTS):
            values = Values(cut)
            key = values.key(messages)
            compiled = self.common_shape(key, count)
            if compiled is None:
                return None
            if compiled.fits(values.found):
                if compiled.error:
                    return compiled, []
                open_end = compiled.leaves_end_open(values.found, self.closed)
                texts = None if open_end else self.fill(compiled, values.found, tools)
                return None if texts is None else (compiled, texts)
            if compiled.goes_on_as_prompt(values.found):
                return None
            cut = _pattern(compiled, cut)
        return None

    def common_shape(self, key: Key, tools: int, chats: int = 1) -> Compiled | None:
        """`shape`, when with these chats more than a few were met in it."""
        known = self._shapes.get((key, tools), _UNKNOWN)
        if known is not _UNKNOWN:
            return known
        with self._lock:
            self._met[key, tools] += chats
            common = self._met[key, tools] > _ALONE
        return self.shape(key, tools) if common else None

    def fill(
        self, compiled: Compiled, values: list[Any], tools: Any, which: Sequence[int] | None = None
    ) -> list[str] | None:
        """Texts for the slots at `which`, or for all; None when only Jinja knows. Changes `values`."""
        first_tool = len(values)
        try:
            for index in compiled.objects:
                values[index] = self._fragments.of_arguments(values[index])
            if compiled.tools is not None:
                values.append(self._fragments.of_tools(tools))
                first_tool, tools = first_tool + 1, None
        except (Opaque, RenderError):
            return None
        texts = []
        for i in range(len(compiled.slots)) if which is None else which:
            slot = compiled.slots[i]
            if compiled.verbatim[i]:
                texts.append(values[slot.index])
            elif slot.index < first_tool:
                texts.append(slot.fill(values[slot.index]))
            else:
                texts.append(_tool_text(slot, tools, slot.index - first_tool))
        return texts

    def _compile(self, key: Key, tools: int) -> Compiled | None:
        thinks = self._with_segments and OPEN in self._prompt()
        if thinks and _is_cut(key):  # how much of a block is the prompt's is in the data
            return None
        while True:
            try:
                return self._trace(key, tools)
            except OpaqueBlock as reason:
                if tools > 0 and not self._open_tools:
                    self._open_tools = True
                elif not self._open_objects:
                    self._open_objects = True
                else:
                    self.opaque.add(str(reason))
                    return None
            except Opaque as reason:
                self.opaque.add(str(reason))
                return None
            except (RenderError, RecursionError):
                return None

    def _trace(self, key: Key, tools: int) -> Compiled | None:
        seen = Observed()
        chat, probe = ChatBuilder(seen, self._open_objects), ChatBuilder()
        messages, probe_messages = chat.messages(key), probe.messages(key)
        if self._with_segments or any(not m.keys().isdisjoint(REASONING_KEYS) for m in messages):
            # think blocks matter, whether the template asks for them or not
            texts = [index for index, value in enumerate(probe.values) if isinstance(value, str)]
            seen.constants |= {index: {OPEN, CLOSE} for index in texts}
        objects = frozenset(chat.objects if self._open_objects else ())
        given: list[Any] | None = None if tools < 0 else []
        probe_given: list[Any] | None = None if tools < 0 else []
        place = None
        if tools > 0 and self._open_tools:
            given = probe_given = self._fragments.sample_tools
            place = len(probe.values)
            probe.values.append(self._fragments.of_tools(given))
        elif tools > 0:
            given, probe_given = [chat.tool() for _ in range(tools)], [probe.tool() for _ in range(tools)]
        whole = _whole(messages)
        try:
            parts = list(self._symbolic.run(messages, given))
        except RenderError as error:
            return self._refused(error, seen, probe_messages, probe_given)
        for index in objects:
            parts = self._fragments.cut_object(parts, index)
            probe.values[index] = self._fragments.of_arguments(probe.values[index])
        if place is not None:
            parts = self._fragments.cut_text(parts, place, probe.values[place])
        _know_blocks(messages, parts, whole, seen)
        row = self._reference(probe_messages, probe_given)
        prompt = "" if self._template.has_generation else self._prompt()
        return located(parts, seen, probe, row, objects, place, prompt, whole)

    def _refused(
        self, error: RenderError, seen: Observed, messages: Sequence[Message], tools: list[Any] | None
    ) -> Compiled | None:
        """A shape that the template raises an exception for, if the probe has the same."""
        try:
            self._reference(messages, tools)
        except RenderError as same:
            if str(same) == str(error) and isinstance(error.__cause__, TemplateError):
                return Compiled(_UNKNOWN.shape, (), constants_of(seen), error=str(error))
        return None


def _whole(messages: Sequence[Message]) -> frozenset[int]:
    """Values that are all of a text of a content."""
    texts = (parts_of(text) for message in messages for text in _texts(message))
    return frozenset(parts[0].index for parts in texts if len(parts) == 1 and isinstance(parts[0], Slot))


def _know_blocks(
    messages: Sequence[Message], parts: Sequence[Part], whole: frozenset[int], seen: Observed
) -> None:
    """Of answers that the template does not write as they are think blocks are looked for: see `left_out`."""
    written = {part.index for part in parts if isinstance(part, Slot)}
    for message in messages:
        if message.get("role") == "assistant":
            slots = [part for text in _texts(message) for part in parts_of(text) if isinstance(part, Slot)]
            for slot in slots:
                if slot.index not in whole & written:
                    seen.constants.setdefault(slot.index, set()).update((OPEN, CLOSE))


def _texts(message: Message) -> list[str]:
    """Of a content."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return [text for text in texts if isinstance(text, str)]


def _is_cut(key: Any) -> bool:
    return isinstance(key, tuple) and (key[:1] == ("cut",) or any(map(_is_cut, key)))


def _tool_text(slot: Slot, tools: list[Any], number: int) -> str:
    if not isinstance(tools, SharedTools):
        return slot.fill(tools[number])
    key = (slot.dumps, number)
    if key not in tools.written:
        tools.written[key] = slot.fill(tools[number])
    text: str = tools.written[key]
    return text


def _pattern(compiled: Compiled, before: re.Pattern[str] | None) -> re.Pattern[str]:
    """Of everything that the shape asks for, and of what chats were cut at before."""
    constants = {constant for _, found in compiled.constants for constant in found}
    longest_first = sorted(constants, key=lambda constant: (-len(constant), constant))
    nothing = [rf"{OPEN}\s*{CLOSE}"] if CLOSE in constants else []  # no reasoning: a shape of its own
    choices = [*nothing, *map(re.escape, longest_first), *([before.pattern[1:-1]] if before else [])]
    return re.compile(f"({'|'.join(choices)})")


def are_tools(tools: Any) -> bool:
    return tools is None or (isinstance(tools, list) and all(isinstance(t, dict) and t for t in tools))
