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
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError

from tokpack.stages.render.compiled.fragments import Fragments
from tokpack.stages.render.compiled.shape_keys import ChatBuilder, Key, Values
from tokpack.stages.render.compiled.symbol_values import OpaqueBlock
from tokpack.stages.render.compiled.symbolic_template import SymbolicTemplate
from tokpack.stages.render.compiled.symbols import Observed, Opaque, Part, Slot
from tokpack.stages.render.pieces import ChatShape, Place
from tokpack.stages.render.reference import RenderedRow
from tokpack.stages.render.spans.segments import CLOSE, OPEN
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


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """How to write the chats of a shape."""

    shape: ChatShape
    slots: tuple[Slot, ...]
    """Between the literals."""
    constants: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Values (by index) that must hold none of these strings."""
    leading: tuple[tuple[int, str], ...] = ()
    """Values (by index) that must not begin with this character: the generation prompt goes on so there, and
    what a value shares with it is not trained."""
    visible: frozenset[int] = frozenset()
    """Values that must not be blank; a shape with a text in its place sees to it."""
    objects: frozenset[int] = frozenset()
    """Values whose text is a fragment."""
    tools: int | None = None
    """The value that is the text of all tools, if they are written so."""
    verbatim: tuple[bool, ...] = ()
    """Slots that are written as they are."""
    told: tuple[tuple[str, int], ...] = ()
    """What the template leaves out of each chat, with counts."""
    error: str = ""
    """Why the template refuses all of them."""

    def is_of_tools(self, slot: int, values: int) -> bool:
        """Whether the slot at this place is written from tools; `values`: the number of a chat's values."""
        return self.slots[slot].index >= values

    def goes_on_as_prompt(self, values: Sequence[Any]) -> bool:
        """Whether a value may begin with the rest of the generation prompt."""
        return any(_begins(values[index], char) for index, char in self.leading)

    def fits(self, values: Sequence[Any]) -> bool:
        for index, constants in self.constants:
            value = values[index]
            for constant in constants:
                if constant in value:
                    return False
        return not self.goes_on_as_prompt(values)


_UNKNOWN = Compiled(ChatShape(("",), (), ()), ())


class TemplateCompiler:
    """Shapes of one template, compiled at first use. Safe to share between threads."""

    def __init__(
        self,
        template: ChatTemplate,
        reference: Reference,
        with_segments: bool = False,
        prompt: Callable[[], str] = str,
    ) -> None:
        """`prompt`: the generation prompt, asked for when a shape is compiled."""
        self._reference, self._with_segments, self._prompt = reference, with_segments, prompt
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
                texts = self.fill(compiled, values.found, tools)
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
        try:
            parts = list(self._symbolic.run(messages, given))
        except RenderError as error:
            return self._refused(error, seen, probe_messages, probe_given)
        for index in objects:
            parts = self._fragments.cut_object(parts, index)
            probe.values[index] = self._fragments.of_arguments(probe.values[index])
        if place is not None:
            parts = self._fragments.cut_text(parts, place, probe.values[place])
        row = self._reference(probe_messages, probe_given)
        prompt = "" if self._template.has_generation else self._prompt()
        return _located(parts, seen, probe, row, objects, place, prompt)

    def _refused(
        self, error: RenderError, seen: Observed, messages: Sequence[Message], tools: list[Any] | None
    ) -> Compiled | None:
        """A shape that the template raises an exception for, if the probe has the same."""
        try:
            self._reference(messages, tools)
        except RenderError as same:
            if str(same) == str(error) and isinstance(error.__cause__, TemplateError):
                return Compiled(_UNKNOWN.shape, (), _constants(seen), error=str(error))
        return None


def _is_cut(key: Any) -> bool:
    return isinstance(key, tuple) and (key[:1] == ("cut",) or any(map(_is_cut, key)))


def _constants(seen: Observed) -> tuple[tuple[int, tuple[str, ...]], ...]:
    return tuple((index, tuple(sorted(found))) for index, found in sorted(seen.constants.items()))


def _tool_text(slot: Slot, tools: list[Any], number: int) -> str:
    if not isinstance(tools, SharedTools):
        return slot.fill(tools[number])
    key = (slot.dumps, number)
    if key not in tools.written:
        tools.written[key] = slot.fill(tools[number])
    text: str = tools.written[key]
    return text


def _located(
    parts: list[Part],
    seen: Observed,
    probe: ChatBuilder,
    row: RenderedRow,
    objects: frozenset[int],
    tools: int | None,
    prompt: str,
) -> Compiled | None:
    """None when the reference writes the probe otherwise, or a span ends within a value."""
    literals, slots = [""], list[Slot]()
    for part in parts:
        if isinstance(part, Slot):
            slots.append(part)
            literals.append("")
        else:
            literals[-1] += part
    texts = [slot.fill(probe.values[slot.index]) for slot in slots]
    pieces = [literals[0].encode()]
    for text, literal in zip(texts, literals[1:], strict=True):
        pieces += [text.encode(), literal.encode()]
    if b"".join(pieces) != row.text.encode():
        return None
    at = [0, *accumulate(map(len, pieces))]
    valued = (row.segments, row.weights)
    bare = (row.trained, row.content, *([span[:2] for span in spans] for spans in valued))
    places = [[_place(at, *span) for span in spans if span[0] < span[1]] for spans in bare]
    if any(None in found for found in places):
        return None
    spans = [tuple(place for place in found if place is not None) for found in places]
    segments, weights = (
        tuple(zip(found, [span[2] for span in given if span[0] < span[1]], strict=True))
        for found, given in zip(spans[2:], valued, strict=True)
    )
    shape = ChatShape(tuple(literals), spans[0], spans[1], segments=segments, weights=weights)
    left_out = tuple(row.told.items())
    return Compiled(
        shape=shape,
        slots=tuple(slots),
        constants=_constants(seen),
        leading=_leading(pieces, at, slots, [start for start, end in row.trained if start < end], prompt),
        visible=frozenset(seen.visible),
        objects=objects,
        tools=tools,
        told=left_out,
        verbatim=tuple(
            slot == Slot(slot.index) and isinstance(probe.values[slot.index], str) for slot in slots
        ),
    )


def _leading(
    pieces: list[bytes], at: list[int], slots: list[Slot], starts: list[int], prompt: str
) -> tuple[tuple[int, str], ...]:
    """Of the first value of every trained span the characters with which the prompt may go on before it."""
    found = set()
    for start in starts:
        piece = bisect_left(at, start)
        piece += not piece % 2
        before = b"".join(pieces[max(0, piece - 3) : piece]).decode("utf-8", "ignore")
        ends = [end for end in range(1, len(prompt)) if before.endswith(prompt[:end])]
        if piece < len(pieces):
            found |= {(slots[piece // 2].index, prompt[end]) for end in ends}
    return tuple(sorted(found))


def _begins(value: Any, char: str) -> bool:
    """With the character, be it after white space, which a template may strip."""
    return isinstance(value, str) and (value.startswith(char) or value.lstrip().startswith(char))


def _place(at: list[int], start: int, end: int) -> Place | None:
    """A span as a shape writes it; None when it begins or ends inside a value."""
    ends = []
    for point in (start, end):
        piece = bisect_left(at, point, 1) - 1  # the first piece that ends at the point or behind it
        if piece % 2:
            if point != at[piece + 1]:
                return None
            piece += 1
        ends += [piece, point - at[piece]]
    return ends[0], ends[1], ends[2], ends[3]


def _pattern(compiled: Compiled, before: re.Pattern[str] | None) -> re.Pattern[str]:
    """Of everything that the shape asks for, and of what chats were cut at before."""
    constants = {constant for _, found in compiled.constants for constant in found}
    longest_first = sorted(constants, key=lambda constant: (-len(constant), constant))
    nothing = [rf"{OPEN}\s*{CLOSE}"] if CLOSE in constants else []  # no reasoning: a shape of its own
    choices = [*nothing, *map(re.escape, longest_first), *([before.pattern[1:-1]] if before else [])]
    return re.compile(f"({'|'.join(choices)})")


def are_tools(tools: Any) -> bool:
    return tools is None or (isinstance(tools, list) and all(isinstance(t, dict) and t for t in tools))
