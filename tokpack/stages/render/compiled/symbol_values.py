"""Numbers, lengths and objects that stand for a chat's data, beside the texts of `symbols`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from tokpack.stages.render.compiled.symbols import Dumps, Observed, Opaque, Slot, Symbol, joined


class _Number:
    """A number of the data that is not zero: it can be written, and that is all."""

    _text: str

    def __str__(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return True

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise Opaque("a number of the data is looked at")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __repr__ = _refuse
    __format__ = __index__ = __int__ = __float__ = __abs__ = __neg__ = __round__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = _refuse


class Whole(_Number, int):
    """An integer of the data."""


class Real(_Number, float):
    """A number with a point."""


def number(index: int, seen: Observed, real: bool) -> Any:
    made = Real(1.5) if real else Whole(1)
    made._text = Symbol.of([Slot(index, number=True)], seen)
    return made


class SymbolLength(int):  # noqa: PLW1641
    """The length of a symbol: all that can be asked is whether it is zero."""

    _symbol: Symbol

    @staticmethod
    def of(symbol: Symbol) -> int:
        if symbol._size is not None:
            return symbol._size
        made = SymbolLength(1)
        made._symbol = symbol
        return made

    def __bool__(self) -> bool:
        return bool(self._symbol)

    def __gt__(self, other: object) -> bool:
        return self._positive(other, 0)

    def __ge__(self, other: object) -> bool:
        return self._positive(other, 1)

    def __ne__(self, other: object) -> bool:
        return self._positive(other, 0)

    def __eq__(self, other: object) -> bool:
        return not self._positive(other, 0)

    def __lt__(self, other: object) -> bool:
        return not self._positive(other, 1)

    def __le__(self, other: object) -> bool:
        return not self._positive(other, 0)

    def _positive(self, other: object, than: int) -> bool:
        if type(other) is not int or other != than:
            raise Opaque("the length of data is compared")
        return bool(self)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise Opaque("the length of data is used")

    __hash__ = __str__ = __repr__ = __format__ = __index__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _refuse


class OpaqueObject(dict[str, Any]):
    """An object of the data that is not empty, written as JSON and not looked into."""

    _slot: Slot
    _seen: Observed

    @staticmethod
    def of(index: int, seen: Observed) -> OpaqueObject:
        made = OpaqueObject(block="")
        made._slot, made._seen = Slot(index), seen
        return made

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise OpaqueBlock("an object of the data is looked into")

    def __bool__(self) -> bool:
        return True

    __len__ = __iter__ = __getitem__ = __contains__ = __eq__ = __ne__ = __repr__ = __or__ = _refuse
    get = items = keys = values = pop = copy = setdefault = update = popitem = _refuse


class OpaqueBlock(Opaque):
    """It is an object that is looked into."""


def to_json(value: Any, dumps: Dumps) -> str:
    """`json.dumps(value, **dumps)` of data with symbols in it."""
    options = dict(dumps)
    if isinstance(value, OpaqueObject):
        return Symbol.of([replace(value._slot, dumps=dumps)], value._seen)
    if isinstance(value, Symbol):
        if not all(slot.raw for slot in value._slots):
            raise Opaque("JSON becomes JSON once more")
        inner = [
            replace(part, dumps=dumps) if isinstance(part, Slot) else json.dumps(part, **options)[1:-1]
            for part in value._parts
        ]
        return Symbol.of(['"', *inner, '"'], value._seen)
    if isinstance(value, _Number):
        return value._text
    if not is_symbolic(value):
        return json.dumps(value, **options)
    if options["indent"] is not None:
        raise Opaque("data becomes indented JSON")
    comma, colon = options["separators"] or (", ", ": ")
    if isinstance(value, Mapping):
        items = sorted(value.items()) if options["sort_keys"] else value.items()
        fields = [(json.dumps(key, **options) + colon, inner) for key, inner in items]
    else:
        fields = [("", inner) for inner in value]
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    texts = [opening]
    for place, (head, inner) in enumerate(fields):
        texts += [comma if place else "", head, to_json(inner, dumps)]
    return joined([*texts, closing])


def is_symbolic(value: Any) -> bool:
    """Whether the value is, or holds, something that stands for data."""
    if isinstance(value, Symbol | _Number | OpaqueObject | SymbolLength):
        return True
    if isinstance(value, Mapping):
        return any(is_symbolic(inner) for pair in value.items() for inner in pair)
    return isinstance(value, list | tuple) and any(map(is_symbolic, value))
