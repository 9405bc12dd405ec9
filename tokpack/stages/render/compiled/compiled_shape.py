"""How the chats of a shape are written: learned from what the template writes of its symbols, and from where
the reference finds the spans of its probe."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tokpack.stages.render.compiled.shape_keys import ChatBuilder
from tokpack.stages.render.compiled.symbols import Observed, Part, Slot
from tokpack.stages.render.pieces import ChatShape, Place
from tokpack.stages.render.reference import RenderedRow


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
    trailing: tuple[Slot, ...] = ()
    """Where a turn's words end with a value: it must not end as if with what closes the turn."""
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

    def leaves_end_open(self, values: Sequence[Any], closed: Callable[[str], bool]) -> bool:
        """Whether a value that ends a turn's words seems to hold its end; `closed`: whether a text does."""
        return any(
            isinstance(values[slot.index], str) and closed(slot.fill(values[slot.index]))
            for slot in self.trailing
        )

    def fits(self, values: Sequence[Any]) -> bool:
        for index, constants in self.constants:
            value = values[index]
            for constant in constants:
                if constant in value:
                    return False
        return not self.goes_on_as_prompt(values)


def constants_of(seen: Observed) -> tuple[tuple[int, tuple[str, ...]], ...]:
    return tuple((index, tuple(sorted(found))) for index, found in sorted(seen.constants.items()))


def located(
    parts: list[Part],
    seen: Observed,
    probe: ChatBuilder,
    row: RenderedRow,
    objects: frozenset[int],
    tools: int | None,
    prompt: str,
    whole: frozenset[int],
) -> Compiled | None:
    """None when the reference writes the probe otherwise, or a span ends within a value.

    `whole`: values that are all of a content, the ends of which are found exactly.
    """
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
        constants=constants_of(seen),
        leading=_leading(
            pieces, at, slots, [start for start, end in (*row.trained, *row.content) if start < end], prompt
        ),
        trailing=tuple(
            {
                slot: None
                for _, _, piece, offset in spans[1]
                if piece and not offset and (slot := slots[piece // 2 - 1]).index not in whole
            }
        ),
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
    """Of the first value of every trained span, and of every content, the characters with which the prompt
    may go on before it."""
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
