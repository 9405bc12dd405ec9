"""Values that stand for a chat's data while a template runs once for all chats of a shape.

A `Symbol` is a text put together from literals and slots, a slot being the place of a value that each chat
fills in. What a template may do with any text without looking at it (join, strip, put into JSON) a symbol
does, too. What it asks of a text (is it empty, does it hold `</think>`?) is answered for texts that are not
blank and hold no such string, and the question is kept in `Observed`, so that other chats are known by it.
Everything else raises `Opaque`: the template looks at its data in a way that is not followed here.

    "<u>" + Symbol(slot 0).strip() + "</u>"  ->  ("<u>", slot 0 stripped, "</u>")
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NoReturn, SupportsIndex

from tokpack.frozen import frozen

WHITESPACE = "".join(chr(c) for c in range(0x3001) if chr(c).isspace())
"""What str.strip() takes away, which is more than the whitespace polars strips."""

Dumps = tuple[tuple[str, Any], ...]
"""Keyword arguments of `json.dumps`, in a form that can be compared."""


class Opaque(BaseException):
    """The template looks into its data in a way that is not followed; the message says how."""


@frozen
class Slot:
    """The value `index` of a chat, and how it is written."""

    index: int
    left: str = ""
    right: str = ""
    """Characters stripped from its ends."""
    dumps: Dumps | None = None
    """Then written as JSON, a text without its quotes."""
    number: bool = False

    def fill(self, value: Any) -> str:
        if isinstance(value, str):
            value = value.lstrip(self.left) if self.left else value
            value = value.rstrip(self.right) if self.right else value
        if self.dumps is not None:
            text = _encoder(self.dumps).encode(value)
            return text[1:-1] if isinstance(value, str) else text
        return value if isinstance(value, str) else str(value)

    def stripped(self, chars: str, *, left: bool, right: bool) -> Slot:
        """Raises Opaque when the characters are not those stripped before, more or fewer."""
        return replace(
            self,
            left=_either(self.left, chars) if left else self.left,
            right=_either(self.right, chars) if right else self.right,
        )

    @property
    def raw(self) -> bool:
        """Written as it is, up to its ends: what it holds decides what the text holds."""
        return self.dumps is None and not self.number


@cache
def _encoder(dumps: Dumps) -> json.JSONEncoder:
    return json.JSONEncoder(**dict(dumps))


Part = str | Slot


@dataclass
class Observed:
    """What a template asked about values, by their index."""

    constants: dict[int, set[str]] = field(default_factory=dict)
    """The value was held against these strings; the answers are those for values without them."""
    visible: set[int] = field(default_factory=set)
    """The value was taken to hold more than whitespace."""

    def lacks(self, slot: Slot, constant: str) -> None:
        self.constants.setdefault(slot.index, set()).add(constant)

    def shows(self, slot: Slot) -> None:
        self.visible.add(slot.index)


class Symbol(str):  # noqa: PLW1641 - it refuses to be hashed
    """A text with slots. As a `str` it is what the probe's values make of it."""

    _parts: tuple[Part, ...]
    _seen: Observed
    _size: int | None

    @staticmethod
    def of(parts: Iterable[Part], seen: Observed, size: int | None = None) -> str:
        """Literals joined where they meet; a plain string when there is no slot. `size`: its known length."""
        joined: list[Part] = []
        for part in parts:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part != "":
                joined.append(part)
        if all(isinstance(part, str) for part in joined):
            return "".join(map(str, joined))
        made = Symbol("".join(part if isinstance(part, str) else f"\x00{part.index}" for part in joined))
        made._parts, made._seen, made._size = tuple(joined), seen, size
        return made

    def _with(self, parts: Iterable[Part]) -> str:
        return Symbol.of(parts, self._seen)

    # Joining

    def __str__(self) -> str:
        return self

    def __add__(self, other: object) -> str:
        return self._with([*self._parts, *parts_of(other)]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return self._with([*parts_of(other), *self._parts]) if isinstance(other, str) else NotImplemented

    # Stripping

    def strip(self, chars: str | None = None, /) -> str:
        return self._stripped(chars, left=True, right=True)

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._stripped(chars, left=True)

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._stripped(chars, right=True)

    def _stripped(self, chars: str | None, *, left: bool = False, right: bool = False) -> str:
        chars = WHITESPACE if chars is None else str(chars)
        if isinstance(chars, Symbol) or not set(chars) <= set(WHITESPACE):
            raise Opaque("more than whitespace is stripped from data")
        parts = list(self._parts)
        if left:
            self._strip_end(parts, 0, chars)
        if right:
            self._strip_end(parts, -1, chars)
        return self._with(parts)

    def _strip_end(self, parts: list[Part], end: int, chars: str) -> None:
        while parts:
            part = parts[end]
            if isinstance(part, Slot):
                if part.raw:
                    if len(parts) > 1:
                        self._seen.shows(part)
                    parts[end] = part.stripped(chars, left=not end, right=bool(end))
                return
            parts[end] = part.rstrip(chars) if end else part.lstrip(chars)
            if parts[end]:
                return
            del parts[end]

    # Questions

    def __bool__(self) -> bool:
        if not any(isinstance(part, str) or not part.raw for part in self._parts):
            self._seen.shows(self._slots[0])
        return True

    @property
    def _slots(self) -> list[Slot]:
        return [part for part in self._parts if isinstance(part, Slot)]

    def __contains__(self, sought: object) -> bool:
        constant = _constant(sought)
        return not constant or self._number_of(constant) > 0

    def _number_of(self, constant: str) -> int:
        """How often the literals hold it, none of the slots holding it."""
        for slot in self._slots:
            if slot.dumps is not None or (slot.number and not constant.isalpha()):
                raise Opaque("a part of JSON or of a number is sought")
            if slot.raw:
                self._seen.lacks(slot, constant)
        literals = [part for part in self._parts if isinstance(part, str)]
        if len(self._parts) > 1 and any(_may_cross(literal, constant) for literal in literals):
            raise Opaque("a string is sought that may begin in a literal and end in data")
        if sum(isinstance(part, Slot) for part in self._parts) > 1 and len(constant) > 1:
            self._refuse_neighbors()
        return sum(literal.count(constant) for literal in literals)

    def _refuse_neighbors(self) -> None:
        pairs = zip(self._parts, self._parts[1:], strict=False)
        if any(isinstance(left, Slot) and isinstance(right, Slot) for left, right in pairs):
            raise Opaque("a string is sought in data joined to data")

    def startswith(self, sought: Any, *bounds: Any) -> bool:
        return self._has_end(sought, bounds, 0)

    def endswith(self, sought: Any, *bounds: Any) -> bool:
        return self._has_end(sought, bounds, -1)

    def _has_end(self, sought: Any, bounds: tuple[Any, ...], end: int) -> bool:
        if bounds:
            raise Opaque("a part of data is compared")
        if isinstance(sought, tuple):
            return any(self._has_end(one, (), end) for one in sought)
        constant = _constant(sought)
        self._number_of(constant)
        edge = self._parts[end]
        if isinstance(edge, str):
            return edge.endswith(constant) if end else edge.startswith(constant)
        return not constant

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._split(sep, int(maxsplit), from_right=False)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._split(sep, int(maxsplit), from_right=True)

    def _split(self, sep: str | None, most: int, from_right: bool) -> list[str]:
        if sep is None:
            raise Opaque("data is split at whitespace")
        constant = _constant(sep)
        self._number_of(constant)
        pieces: list[list[Part]] = [[]]
        for part in self._parts:
            first, *others = part.split(constant) if isinstance(part, str) else [part]
            pieces[-1].append(first)
            pieces += [[other] for other in others]
        texts = [self._with(piece) for piece in pieces]
        if most < 0 or most >= len(texts) - 1:
            return texts
        cut = len(texts) - 1 - most if from_right else most
        rest = texts[: cut + 1] if from_right else texts[cut:]
        whole = joined(text for i, piece in enumerate(rest) for text in ([constant] * (i > 0) + [piece]))
        return [whole, *texts[cut + 1 :]] if from_right else [*texts[:cut], whole]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        parts = self._split(sep, 1, from_right=False)
        return (parts[0], sep, parts[1]) if len(parts) == 2 else (self, "", "")

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        parts = self._split(sep, 1, from_right=True)
        return (parts[0], sep, parts[1]) if len(parts) == 2 else ("", "", self)

    def count(self, sought: str, *bounds: Any) -> int:
        if bounds or not sought:
            raise Opaque("a part of data is counted")
        return self._number_of(_constant(sought))

    def find(self, sought: str, *bounds: Any) -> int:
        if bounds or self._number_of(_constant(sought)):
            raise Opaque("a place in data is asked for")
        return -1

    rfind = find

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        constant = _constant(old)
        if int(count) >= 0 or isinstance(new, Symbol):
            raise Opaque("a part of data is replaced")
        self._number_of(constant)
        return self._with(p.replace(constant, new) if isinstance(p, str) else p for p in self._parts)

    def removeprefix(self, prefix: str, /) -> str:
        if not self.startswith(prefix):
            return self
        return self._with([str(self._parts[0])[len(prefix) :], *self._parts[1:]])

    def removesuffix(self, suffix: str, /) -> str:
        if not self.endswith(suffix):
            return self
        return self._with([*self._parts[:-1], str(self._parts[-1])[: -len(suffix) or None]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        if isinstance(other, Symbol):
            return self._is(other)
        literals = [part for part in self._parts if isinstance(part, str)]
        if not other.strip():
            if not any(literal.strip() for literal in literals):
                self._seen.shows(self._slots[0])
            return False
        if len(self._parts) > 1 or not self._slots[0].raw:
            raise Opaque("a text with data in it is compared")
        self._seen.lacks(self._slots[0], other)
        return False

    def _is(self, other: Symbol) -> bool:
        if self._parts == other._parts:
            return True
        if self._size is not None and other._size is not None:  # two of a chat's ids, one slot each
            return False
        raise Opaque("data is compared with data")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise Opaque("data is looked into")

    __hash__ = __iter__ = __len__ = __getitem__ = __repr__ = __format__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse


for _name in dir(str):
    if not _name.startswith("_") and _name not in vars(Symbol):
        setattr(Symbol, _name, Symbol._refuse)


def parts_of(text: str) -> tuple[Part, ...]:
    return text._parts if isinstance(text, Symbol) else (text,)


def joined(texts: Iterable[str]) -> str:
    """`"".join(texts)` that keeps slots."""
    texts = list(texts)
    symbols = [text for text in texts if isinstance(text, Symbol)]
    if not symbols:
        return "".join(texts)
    return Symbol.of([part for text in texts for part in parts_of(text)], symbols[0]._seen)


def _constant(sought: object) -> str:
    if not isinstance(sought, str) or isinstance(sought, Symbol):
        raise Opaque("data is sought in data")
    return sought


def _may_cross(literal: str, constant: str) -> bool:
    """Whether the constant may begin in the literal and end behind it, or the other way round."""
    sizes = range(1, min(len(literal), len(constant) - 1) + 1)
    return any(literal.endswith(constant[:n]) or literal.startswith(constant[-n:]) for n in sizes)


def _either(done: str, chars: str) -> str:
    """What stripping twice takes away, as one set."""
    if set(done) <= set(chars):
        return chars
    if set(chars) <= set(done):
        return done
    raise Opaque("different whitespace is stripped one after the other")
