"""Compile a chat template, one shape of chats at a time.

The shape of a chat is its list of roles. The reference renders and locates one probe chat of the shape; what
stands between its contents are the literals, and every chat of the shape is `literal, content, literal, ...`.
More probes, with whitespace around the contents, show what the template strips. `analyse` says which contents
could make the template act otherwise, and real rows of each batch are proved against the reference.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from tokpack.stages.render.chat_spans import Located, SpanFinder
from tokpack.stages.render.chat_template import CharSpan, Message, RenderError
from tokpack.stages.render.pieces import WHITESPACE, Shape, Strip
from tokpack.stages.render.template_analysis import analyse

_MOST_MESSAGES = 256
"""Longer chats are too rare in one shape to be worth compiling."""

# Whitespace in front of a probe's content, mirrored behind it, so chosen that stripping different sets of
# characters leaves different things.
_EDGES = ("\n \r\t\xa0", " \n\t\xa0", "\r\n \t\xa0")
_STRIPPED_SETS = ("", WHITESPACE, "\n", " ", " \n", "\r\n", " \t\n\r")

Select = Callable[[Located, Sequence[Message]], list[CharSpan]]


class TemplateCompiler:
    """Shapes of one template, compiled at first use. Safe to share between threads.

    `select` picks the trained spans of a located chat.
    """

    def __init__(self, finder: SpanFinder, select: Select) -> None:
        self._finder, self._select = finder, select
        self._analysis = analyse(finder.template.tree)
        source = finder.template.source
        self._may_strip = "strip" in source or "trim" in source
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._lock = threading.Lock()

    @property
    def refused(self) -> str:
        """Why no chat can be compiled; empty when some can."""
        return self._analysis.opaque

    def shape(self, roles: tuple[str, ...]) -> Shape | None:
        """How to write chats of these roles; None when only Jinja knows."""
        with self._lock:
            if roles not in self._shapes:
                self._shapes[roles] = self._compile(roles)
            return self._shapes[roles]

    def refuse(self, roles: tuple[str, ...]) -> None:
        """A proof failed: leave the shape to Jinja."""
        with self._lock:
            self._shapes[roles] = None

    def needs_jinja(self, contents: pl.Series) -> pl.Series:
        """Which contents may make the template act in another way than on a probe."""
        found = pl.repeat(False, len(contents), dtype=pl.Boolean, eager=True)
        if self._analysis.constants:
            found = contents.str.contains_any(sorted(self._analysis.constants))
        if self._analysis.empty_matters:
            found = found | contents.str.contains(rf"^[{re.escape(WHITESPACE)}]*$")
        return found

    def _compile(self, roles: tuple[str, ...]) -> Shape | None:
        if self.refused or not 0 < len(roles) <= _MOST_MESSAGES:
            return None
        try:
            plain = _probe(self._finder, roles, "")
            edged = [_probe(self._finder, roles, edge) for edge in _EDGES] if self._may_strip else []
        except RenderError:
            return None
        if plain is None:
            return None
        strips: list[Strip | None] = [_strip(edged, number) for number in range(len(roles)) if edged]
        places = [plain.place(*span) for span in self._select(plain.located, plain.messages)]
        if None in strips or None in places or any(p is None or p.literals != plain.literals for p in edged):
            return None
        trained = tuple(place for place in places if place is not None)
        return Shape(plain.literals, trained, tuple(strip for strip in strips if strip is not None))


@dataclass(frozen=True)
class _Probe:
    """A located chat in which every content stands once and in order; `spans` with kept whitespace."""

    messages: list[dict[str, str]]
    located: Located
    spans: list[CharSpan]
    edge: str

    @property
    def gaps(self) -> list[CharSpan]:
        """Where the literals are."""
        return list(pairwise([0, *(place for span in self.spans for place in span), len(self.located.text)]))[
            ::2
        ]

    @property
    def literals(self) -> tuple[str, ...]:
        return tuple(self.located.text[start:end] for start, end in self.gaps)

    def place(self, start: int, end: int) -> tuple[int, int, int, int] | None:
        """A span as `Shape.trained` writes it; None when it begins or ends inside a content."""
        places = []
        for point in (start, end):
            gap = next((i for i, (low, high) in enumerate(self.gaps) if low <= point <= high), None)
            if gap is None:
                return None
            places += [2 * gap, len(self.located.text[self.gaps[gap][0] : point].encode())]
        return places[0], places[1], places[2], places[3]

    def kept(self, number: int) -> tuple[str, str]:
        """What is left of the whitespace before and after a content."""
        text = self.located.text[slice(*self.spans[number])]
        core = self.messages[number]["content"].strip()
        head, _, tail = text.partition(core)
        return head, tail


def _probe(finder: SpanFinder, roles: tuple[str, ...], edge: str) -> _Probe | None:
    """None when a content is missing from the text, moved, or written in another form."""
    messages = [
        {"role": role, "content": f"{edge}content{number}.{edge[::-1]}"} for number, role in enumerate(roles)
    ]
    located = finder.locate(messages)
    spans = [span for span in located.contents if span is not None]
    shown = [located.text[start:end].strip() for start, end in spans]
    ordered = all(left[1] <= right[0] for left, right in pairwise(spans))
    if shown != [message["content"].strip() for message in messages] or not ordered:
        return None
    return _Probe(messages, located, spans, edge)


def _strip(edged: Sequence[_Probe | None], number: int) -> Strip | None:
    """What the template strips from the content `number`; None when nothing known explains the probes."""
    sides = []
    for side in (0, 1):
        kept = [(probe.edge, probe.kept(number)[side]) for probe in edged if probe is not None]
        if side:
            kept = [(edge, rest[::-1]) for edge, rest in kept]
        fits = (chars for chars in _STRIPPED_SETS if all(edge.lstrip(chars) == rest for edge, rest in kept))
        sides.append(next(fits, None))
    left, right = sides
    return None if left is None or right is None else Strip(left, right)
