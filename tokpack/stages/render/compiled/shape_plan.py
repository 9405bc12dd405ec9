"""How each row of a batch is written: by the shape of its chat, or on its own.

Chats of roles and texts are found in whole columns. Where messages hold more (calls, reasoning), or tools
stand beside them, Python reads that alone: the texts of all other messages stay in their column. What is left
is looked at row by row, without Jinja, and what has no shape even so is for Jinja.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Bools
from tokpack.stages.render.compiled.compiled_shape import Compiled
from tokpack.stages.render.compiled.shape_keys import Key, Values, chat_key
from tokpack.stages.render.compiled.symbols import WHITESPACE, Slot
from tokpack.stages.render.compiled.template_compiler import MOST_MESSAGES, TemplateCompiler, are_tools
from tokpack.stages.render.pieces import ChatShape, Ints, is_columnar
from tokpack.stages.render.reference import add_fields, plain_shape, read_extra, to_messages
from tokpack.stages.render.spans.own_words import CLOSE
from tokpack.stages.render.template.chat_template import Explicit, RenderError

if TYPE_CHECKING:
    from tokpack.stages.render.renderer import Renderer, TemplateEngine
    from tokpack.stages.render.spans.chat_spans import SpanFinder

_ROLE_SEPARATOR = "\x1f"


class _InColumn(str):
    """Stands for a content that is not looked at here: as a text it holds nothing that is sought."""


_IN_COLUMN = _InColumn()


@dataclass
class ShapePlan:
    """How each row of a batch is written."""

    shape_of_row: npt.NDArray[np.int32]
    """-1 for rows on their own."""
    first: Ints
    """Where the row's contents begin, in all contents end to end."""
    plain: Bools
    base: int
    """Number of all contents; `texts` stand behind them."""
    shapes: list[ChatShape] = field(default_factory=list)
    compiled: list[Compiled | None] = field(default_factory=list)
    """Per shape; None for plain ones."""
    places: dict[int, Ints] = field(default_factory=dict)
    """Shape -> place of every text between its literals, int64[rows, slots], where they are not in order."""
    texts: list[str] = field(default_factory=list)
    """What is filled in beside the contents."""
    filled: dict[Compiled, int] = field(default_factory=dict)
    refused: dict[int, Compiled] = field(default_factory=dict)
    """Rows of a shape that the template refuses."""
    with_arguments: int = 0
    """Rows that bring arguments of the template."""
    overruled: int = 0
    """Those of them that bring other ones than the run's."""

    def add(self, rows: Ints, shape: ChatShape, compiled: Compiled | None = None) -> int:
        self.shape_of_row[rows] = len(self.shapes)
        self.shapes.append(shape)
        self.compiled.append(compiled)
        return len(self.shapes) - 1

    def keep(self, text: str) -> int:
        """The place of one more text."""
        self.texts.append(text)
        return self.base + len(self.texts) - 1

    def fill(self, row: int, compiled: Compiled, texts: list[str]) -> None:
        if compiled.error:
            self.refused[row] = compiled
            return
        if compiled not in self.filled:
            self.filled[compiled] = self.add(np.array([], np.int64), compiled.shape, compiled)
        self.shape_of_row[row] = self.filled[compiled]
        self.first[row] = self.base + len(self.texts)
        self.texts += texts


def plan_rows(documents: pl.DataFrame, contents: pl.Series, plain: Bools, renderer: Renderer) -> ShapePlan:
    """The plan of a batch; `contents` of all documents end to end."""
    lengths = documents["contents"].list.len().to_numpy().astype(np.int64)
    plan = ShapePlan(
        np.full(len(documents), -1, np.int32), np.cumsum(lengths) - lengths, plain, len(contents)
    )
    roles = documents["roles"].list.join(_ROLE_SEPARATOR)
    _plan_bare(documents, roles, contents, lengths, renderer, plan)
    _Fuller(documents, roles, contents, lengths, renderer, plan).fill()
    _fill_one_by_one(documents, renderer, plan)
    return plan


def _plan_bare(
    documents: pl.DataFrame,
    joined_roles: pl.Series,
    contents: pl.Series,
    lengths: Ints,
    renderer: Renderer,
    plan: ShapePlan,
) -> None:
    """Rows that hold roles and texts alone: whole groups at once."""
    alone = documents["extra"].is_not_null().to_numpy().copy()
    row_of = np.repeat(np.arange(len(documents)), lengths)
    alone[row_of[contents.is_null().to_numpy()]] = True
    frame = pl.DataFrame(
        {
            "kind": documents["kind"],
            "roles": joined_roles,
            "count": lengths,
            "plain": plan.plain,
            "row": np.arange(len(documents)),
        }
    ).filter(~alone)
    groups = frame.group_by("kind", "roles", "count", "plain", maintain_order=True).agg("row")
    found: list[Compiled] = []
    for kind, joined, count, plain, rows in groups.iter_rows():
        roles = tuple(joined.split(_ROLE_SEPARATOR))
        if len(roles) != count:  # no message, or a role that holds the separator
            continue
        if plain:
            if (shape := plain_shape(kind, roles, renderer.options)) is not None:
                plan.add(np.asarray(rows, np.int64), shape)
        elif (compiled := _compiled(renderer, roles)) is not None:
            found.append(compiled)
            plan.add(np.asarray(rows, np.int64), replace(compiled.shape, slots=compiled.slots), compiled)
    if renderer.options.loss_mask and plan.plain.any():
        thinking = row_of[contents.str.contains(CLOSE, literal=True).fill_null(False).to_numpy()]
        plan.shape_of_row[thinking[plan.plain[thinking]]] = -1
    if not found:
        return
    asked = _holds(contents, found)
    if any(shape.visible for shape in found):
        asked |= _is_blank(contents)
    rows = row_of[asked]
    plan.shape_of_row[rows[~plan.plain[rows]]] = -1


def _compiled(renderer: Renderer, roles: tuple[str, ...]) -> Compiled | None:
    """The shape of chats of these roles, where columns can be written by it."""
    compiler = renderer.engine.compiler
    if compiler is None or not 0 < len(roles) <= MOST_MESSAGES:
        return None
    compiled = compiler.shape(chat_key(roles))
    if compiled is None or compiled.error or not all(map(is_columnar, compiled.slots)):
        return None
    return compiled


def _holds(contents: pl.Series, shapes: Sequence[Compiled]) -> Bools:
    """Which contents may hold what any of the shapes asks for, or begin with what a prompt goes on with."""
    constants = {constant for shape in shapes for _, found in shape.constants for constant in found}
    leading = {char for shape in shapes for _, char in shape.leading}
    held = np.zeros(len(contents), bool)
    if constants:
        held |= contents.str.contains_any(sorted(constants)).fill_null(False).to_numpy()
    for char in sorted(leading):
        begins = contents.str.starts_with(char) | contents.str.strip_chars_start(WHITESPACE).str.starts_with(
            char
        )
        held |= begins.fill_null(False).to_numpy()
    return held


def _is_blank(contents: pl.Series) -> Bools:
    blank: Bools = contents.str.contains(rf"^[{re.escape(WHITESPACE)}]*$").fill_null(False).to_numpy()
    return blank


@dataclass(eq=False, slots=True)
class _Group:
    """Chats of one shape."""

    key: Key
    bare_roles: frozenset[str]
    """Of messages that hold a role and a text alone."""
    places: dict[int, int]
    """Index of a value -> the message whose content it is, left in its column."""
    tool_count: int
    """-1 for no tools given."""
    rows: list[int] = field(default_factory=list)
    values: list[list[Any]] = field(default_factory=list)
    """Of each row; `_IN_COLUMN` for contents."""
    tools: list[Any] = field(default_factory=list)
    """Of each row."""


class _Fuller:
    """Finds and fills the shapes of rows that hold more than roles and texts, in whole groups."""

    def __init__(
        self,
        documents: pl.DataFrame,
        roles: pl.Series,
        contents: pl.Series,
        lengths: Ints,
        renderer: Renderer,
        plan: ShapePlan,
    ) -> None:
        self._documents, self._contents, self._lengths = documents, contents, lengths
        self._engine: TemplateEngine = renderer.engine
        self._plan, self._joined = plan, roles
        self._shared: dict[int, int] = {}
        """id() of a text of tools -> its place."""

    def fill(self) -> None:
        plan = self._plan
        rows = np.flatnonzero(
            self._documents["extra"].is_not_null().to_numpy() & (plan.shape_of_row < 0) & ~plan.plain
        )
        if self._engine.finder is None or not len(rows):
            return
        groups = self._groups(rows)
        shapes = [(group, compiled) for group in groups if (compiled := self._shape(group)) is not None]
        row_of = np.repeat(np.arange(len(self._documents)), self._lengths)
        asked = set(row_of[_holds(self._contents, [shape for _, shape in shapes])].tolist())
        for group, compiled in shapes:
            self._fill_group(group, compiled, asked)

    def _groups(self, rows: Ints) -> list[_Group]:
        more: list[tuple[int, list[int], list[Any], Any]] = []
        extras = self._documents["extra"].gather(rows).to_list()
        for row, extra, length in zip(rows.tolist(), extras, self._lengths[rows].tolist(), strict=True):
            try:
                held = read_extra(extra)
            except RenderError:
                continue
            if held.get("chat_template_kwargs") or not 0 < length <= MOST_MESSAGES:
                continue
            fields = held.get("messages") or []
            at = [place for place, added in enumerate(fields[:length]) if added]
            more.append((row, at, fields, held.get("tools")))
        filled = [self._plan.first[row] + place for row, at, _, _ in more for place in at]
        texts = iter(self._contents.gather(pl.Series(filled, dtype=pl.Int64)).to_list())
        unfit = self._unfit_rows(np.array(filled, np.int64))
        dropped = self._documents["drop_reason"].is_not_null().to_list()
        joined = self._joined.to_list()
        groups: dict[Any, _Group] = {}
        for row, at, fields, tools in more:
            messages = [{"content": "" if (t := next(texts)) is None and dropped[row] else t} for _ in at]
            if row not in unfit:
                self._group(groups, row, joined[row], at, messages, fields, tools)
        return list(groups.values())

    def _unfit_rows(self, filled: Ints) -> set[int]:
        """Rows in which a message that is a text alone has a blank one, or none."""
        unfit = _is_blank(self._contents) | self._contents.is_null().to_numpy()
        unfit[filled] = False
        return set(np.repeat(np.arange(len(self._documents)), self._lengths)[unfit].tolist())

    def _group(
        self,
        groups: dict[Any, _Group],
        row: int,
        joined: str,
        at: list[int],
        messages: list[dict[str, Any]],
        fields: list[Any],
        tools: Any,
    ) -> None:
        """Put a row into the group of its shape."""
        engine = self._engine
        finder = engine.finder if tools is None else engine.tool_finder
        roles = tuple(joined.split(_ROLE_SEPARATOR))
        if finder is None or len(roles) != self._lengths[row]:
            return
        forms = finder.forms
        whole = [{"role": roles[place], **held} for place, held in zip(at, messages, strict=True)]
        for place, held in zip(at, whole, strict=True):
            add_fields(held, fields[place])
        given, given_tools = forms.give(whole), forms.give_tools(tools)
        if Explicit in map(type, given) or not are_tools(given_tools):
            return
        values, keys, behind = Values(), [], 0
        for place, message in zip(at, given, strict=True):
            values.found += [_IN_COLUMN] * (place - behind)
            keys.append(values.message_key(message))
            behind = place + 1
        values.found += [_IN_COLUMN] * (len(roles) - behind)
        count = -1 if given_tools is None else len(given_tools)
        key = (joined, tuple(at), tuple(keys), count)
        if key not in groups:
            groups[key] = _new_group(roles, dict(zip(at, keys, strict=True)), values.found, count)
        group = groups[key]
        group.rows.append(row)
        group.values.append(values.found)
        group.tools.append(given_tools)

    def _shape(self, group: _Group) -> Compiled | None:
        """How to write the chats of the group, where columns can be written by it."""
        finder, compiler = self._by(group)
        if compiler is None or not all(map(finder.forms.takes_texts, group.bare_roles)):
            return None
        compiled = compiler.common_shape(group.key, group.tool_count, len(group.rows))
        if compiled is None or not all(
            is_columnar(slot) for slot in compiled.slots if slot.index in group.places
        ):
            return None
        return compiled

    def _by(self, group: _Group) -> tuple[SpanFinder, TemplateCompiler | None]:
        engine = self._engine
        with_tools = group.tool_count >= 0
        finder = engine.tool_finder if with_tools else engine.finder
        assert finder is not None
        return finder, engine.tool_compiler if with_tools else engine.compiler

    def _fill_group(self, group: _Group, compiled: Compiled, asked: set[int]) -> None:
        _, compiler = self._by(group)
        assert compiler is not None
        own = [i for i, slot in enumerate(compiled.slots) if slot.index not in group.places]
        shared = [i for i in own if compiled.is_of_tools(i, len(group.values[0]))]
        rows, places = list[int](), list[list[int]]()
        for row, values, tools in zip(group.rows, group.values, group.tools, strict=True):
            if row in asked or not compiled.fits(values):
                continue
            if compiled.error:
                self._plan.refused[row] = compiled
            elif compiled.leaves_end_open(values, compiler.closed):
                continue
            elif (texts := compiler.fill(compiled, values, tools, own)) is not None:
                rows.append(row)
                places.append(self._keep(own, texts, shared))
        if rows:
            self._add(group, compiled, np.array(rows, np.int64), own, np.array(places, np.int64))

    def _keep(self, own: list[int], texts: list[str], shared: list[int]) -> list[int]:
        """Places of the texts; one of tools is kept once where rows have equal ones."""
        places = []
        for i, text in zip(own, texts, strict=True):
            if i in shared:
                if id(text) not in self._shared:
                    self._shared[id(text)] = self._plan.keep(text)
                places.append(self._shared[id(text)])
            else:
                places.append(self._plan.keep(text))
        return places

    def _add(self, group: _Group, compiled: Compiled, rows: Ints, own: list[int], places: Ints) -> None:
        plan = self._plan
        table = np.empty((len(rows), len(compiled.slots)), np.int64)
        table[:, own] = places.reshape(len(rows), len(own))
        slots = []
        for i, slot in enumerate(compiled.slots):
            if slot.index in group.places:
                table[:, i] = plan.first[rows] + group.places[slot.index]
                slots.append(replace(slot, index=0))
            else:
                slots.append(Slot(0))
        number = plan.add(rows, replace(compiled.shape, slots=tuple(slots)), compiled)
        plan.places[number] = table


def _new_group(roles: tuple[str, ...], keys: dict[int, Key], values: list[Any], tools: int) -> _Group:
    """`keys`: of the messages that hold more."""
    bare = [place for place in range(len(roles)) if place not in keys]
    indices = [index for index, value in enumerate(values) if value is _IN_COLUMN]
    return _Group(
        key=tuple([keys.get(place) or chat_key([role])[0] for place, role in enumerate(roles)]),
        bare_roles=frozenset(roles[place] for place in bare),
        places=dict(zip(indices, bare, strict=True)),
        tool_count=tools,
    )


def _fill_one_by_one(documents: pl.DataFrame, renderer: Renderer, plan: ShapePlan) -> None:
    """Find the shapes of all other chats: row by row in Python, without Jinja."""
    rows = np.flatnonzero((plan.shape_of_row < 0) & ~plan.plain)
    columns = documents[rows].select("roles", "contents", "extra", "drop_reason")
    for row, (roles, contents, extra, dropped) in zip(rows.tolist(), columns.iter_rows(), strict=True):
        if row in plan.refused:
            continue
        try:
            messages, tools, kwargs = to_messages(roles, contents, extra, keep_null=dropped is None)
        except RenderError:
            continue
        plan.with_arguments += bool(kwargs) and dropped is None
        plan.overruled += dropped is None and renderer.is_overruled(kwargs)
        if (found := renderer.engine_for(kwargs).write(messages, tools)) is not None:
            plan.fill(row, found[0], found[1])
