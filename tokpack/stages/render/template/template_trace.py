"""Which message a template is writing: its own loops tell.

A second copy of the template notes, with one character in the text, where each round of a loop begins and
ends, and which message the round is about. One rendering then shows every message's text, however many there
are:

    {% for m in messages %}<u>{{ m.content }}</u>{% endfor %}   ->   <u>Hi</u><u>Yo</u>
                                                       rounds        ─ 0 ────── 1 ────

Loops inside macros and captured blocks are left alone: the template may look at what they wrote. So are those
that write nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from tokpack.frozen import frozen

NOTE = "tokpack_note"
"""The function that the copy calls; a template cannot know its name."""


@frozen
class Round:
    """One round of a loop, in characters of the text; `depth` counts the loops around it."""

    start: int
    end: int
    depth: int
    message: int | None
    """Index of the message that the loop is at; None when it runs over something else."""


@dataclass(slots=True)
class Trace:
    """What the notes of one rendering say, in the order of their characters."""

    mark: str
    index_of: dict[int, int]
    """Message objects by id."""
    notes: list[tuple[int, bool, int | None]] = field(default_factory=list)
    """(depth, does a round begin, message)"""


current: ContextVar[Trace | None] = ContextVar("tokpack_template_trace", default=None)


def note(depth: int, begins: bool, value: Any = None) -> str:
    """Called by the copy of the template: what to write there."""
    trace = current.get()
    if trace is None:
        return ""
    trace.notes.append((depth, begins, trace.index_of.get(id(value))))
    return trace.mark


def traced(tree: nodes.Template) -> nodes.Template:
    """Put the notes into a template's syntax tree, which is changed."""
    _walk(tree.body, 0)
    return tree


def _walk(body: Iterable[nodes.Node], depth: int) -> None:
    loops = {id(node) for node in body if isinstance(node, nodes.For) and _writes(node)}
    for node in list(body):
        if isinstance(node, nodes.For) and id(node) in loops:
            _walk(node.body, depth + 1)
            _walk(node.else_, depth)
            node.body.insert(0, _noted(depth, True, node.target))
            node.body.append(_noted(depth, False))
        elif isinstance(node, nodes.If):
            for part in (node.body, node.else_, node.elif_):
                _walk(part, depth)
        elif isinstance(node, nodes.With) or _is_generation(node):
            _walk(node.body, depth)  # type: ignore[attr-defined]  # both have one
    for place in reversed([i for i, node in enumerate(body) if id(node) in loops]):
        body.insert(place + 1, _noted(depth, False))  # type: ignore[attr-defined]  # a round may end early


def _writes(loop: nodes.For) -> bool:
    """A loop that only counts and looks ahead writes nothing; some do for every message."""
    return not loop.recursive and next(loop.find_all(nodes.Output), None) is not None


def _is_generation(node: nodes.Node) -> bool:
    return isinstance(node, nodes.CallBlock) and isinstance(node.call.node, nodes.ExtensionAttribute)


def _noted(depth: int, begins: bool, target: nodes.Node | None = None) -> nodes.Output:
    given: list[nodes.Expr] = [nodes.Const(depth), nodes.Const(begins)]
    if isinstance(target, nodes.Name):
        given.append(nodes.Name(target.name, "load"))
    return nodes.Output([nodes.Call(nodes.Name(NOTE, "load"), given, [], None, None)])


def rounds(notes: Sequence[tuple[int, bool, int | None]], places: Sequence[int]) -> list[Round]:
    """Rounds in the order of their beginnings; `places[k]` is where the note k stands."""
    found: list[Round] = []
    open_rounds: list[tuple[int, int, int | None, int]] = []
    for (depth, begins, message), place in zip(notes, places, strict=True):
        while open_rounds and open_rounds[-1][0] >= depth:
            old_depth, start, about, slot = open_rounds.pop()
            found[slot] = Round(start, place, old_depth, about)
        if begins:
            open_rounds.append((depth, place, message, len(found)))
            found.append(Round(place, place, depth, message))
    return found
