"""Render: documents -> their text, with the byte spans to train on.

Chats are written by the model's own chat template, plain documents end to end. The reference path renders
each row with Jinja and locates its spans; rows of a shape that the template compiler knows are written all at
once from pieces, and proved equal to the reference on real rows of every batch.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from jinja2 import meta

from tokpack.encoding.token_places import Bools
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.errors import UsageError
from tokpack.stages.render.chat_spans import SpanFinder
from tokpack.stages.render.chat_template import ChatTemplate, Explicit, Message, RenderError
from tokpack.stages.render.left_out import TEMPLATE_ARGUMENTS, UNCLOSED_TURNS
from tokpack.stages.render.message_fields import message_fields
from tokpack.stages.render.pieces import Ints, Shape, Spans, Verbatim, assemble, is_columnar
from tokpack.stages.render.reference import (
    Loss,
    RenderedRow,
    RenderOptions,
    chat_reference,
    plain_reference,
    plain_shape,
    to_messages,
)
from tokpack.stages.render.shape_keys import chat_key
from tokpack.stages.render.symbols import WHITESPACE
from tokpack.stages.render.template_compiler import MOST_MESSAGES, Compiled, TemplateCompiler

__all__ = ["RenderOptions", "Rendered", "Renderer", "render"]

_PROOF_ROWS = 16
_REFUSALS_A_PROOF = 256
"""Of so many rows in a batch one asks the template, although its shape was refused before."""
_MOST_ENGINES = 32
"""Rows may bring arguments of their own; engines for so many kinds of them are kept."""
_ROLE_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Rendered:
    """`text[i]` is the text of document i, without what the tokenizer adds to plain ones."""

    text: pa.LargeStringArray
    trained: Spans
    content: Spans
    plain: Bools
    """Rows that get the tokenizer's BOS, and EOS when `eos`."""
    eos: bool
    reference_masks: bool
    """The template marks `{% generation %}`: masks follow transformers to the letter."""
    paranoid: bool = False
    """Prove every row of the fast path of tokenizing as well."""
    errors: dict[int, str] = field(default_factory=dict)
    """Row -> why it could not be rendered; its text is empty."""
    counters: dict[str, int] = field(default_factory=dict)
    """Rows `compiled`, rows by `jinja`, rows `plain`, and `proofs` made."""
    told: dict[str, int] = field(default_factory=dict)
    """What the template left out of the documents that are not dropped, with counts."""


class Engine:
    """Renders with one set of arguments of the template. Safe to share between threads."""

    def __init__(self, finder: SpanFinder | None, tool_finder: SpanFinder | None, loss: Loss) -> None:
        self.finder, self.tool_finder, self._loss = finder, tool_finder, loss
        self.compiler = self._compiler(finder)
        self.tool_compiler = self.compiler if tool_finder is finder else self._compiler(tool_finder)

    def _compiler(self, finder: SpanFinder | None) -> TemplateCompiler | None:
        return TemplateCompiler(finder.template, self.reference) if finder is not None else None

    def reference(self, messages: Sequence[Message], tools: Any = None) -> RenderedRow:
        """One chat by Jinja, spans in bytes. Raises RenderError."""
        finder = self.finder if tools is None else self.tool_finder
        if finder is None:
            raise RenderError("no chat template")
        return chat_reference(finder, messages, tools, self._loss)

    def write(self, messages: Sequence[Message], tools: Any) -> tuple[Compiled, list[str]] | None:
        """The shape of a chat and the texts for its slots; None when it is left to Jinja."""
        finder, compiler = self.finder, self.compiler
        if tools is not None:
            finder, compiler = self.tool_finder, self.tool_compiler
        if finder is None or compiler is None:
            return None
        given = finder.forms.give(messages)
        if Explicit in map(type, given):
            return None
        return compiler.write(given, finder.forms.give_tools(tools))


class Renderer:
    """Everything about rendering that outlives a batch. Safe to share between threads.

    `date` is the day that templates see, `warnings` are messages for the end of the run.
    """

    def __init__(self, tokenizer: Tokenizer, options: RenderOptions) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.date = _read_date(options.date)
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self.engine = self.engine_for({})
        self.finder, self.tool_finder = self.engine.finder, self.engine.tool_finder
        self.proven: set[Compiled] = set()
        """Shapes of which a real row was the same by Jinja."""
        if self.uses_date:
            self.warn(f"the chat template writes the date; it is {self.date} in every document")

    def engine_for(self, kwargs: Mapping[str, Any]) -> Engine:
        """What renders chats with these arguments of the template beside the run's own."""
        if not kwargs and self._engines:
            return self.engine
        key = json.dumps(kwargs, sort_keys=True)
        with self._lock:
            if key not in self._engines:
                if len(self._engines) >= _MOST_ENGINES:  # the first one is the run's own
                    del self._engines[next(islice(self._engines, 1, None))]
                self._engines[key] = self._new_engine(kwargs)
            return self._engines[key]

    def _new_engine(self, kwargs: Mapping[str, Any]) -> Engine:
        chat, tool = self.tokenizer.chat_template, self.tokenizer.tool_template
        finder = self._finder(chat, kwargs)
        return Engine(finder, finder if tool == chat else self._finder(tool, kwargs), self.options.loss)

    def _finder(self, source: str | None, kwargs: Mapping[str, Any]) -> SpanFinder | None:
        if source is None or self.options.render == "plain":
            return None
        given = json.loads(json.dumps({**self.options.template_kwargs, **kwargs}))
        template = ChatTemplate(source, {**self.tokenizer.special_tokens_map, **given}, self.date)
        return SpanFinder(template, tuple(self.tokenizer.added_tokens), self.options.tool_arguments)

    def refuse(self, compiled: Compiled) -> None:
        """A proof failed: leave the shape to Jinja."""
        with self._lock:
            engines = list(self._engines.values())
        for engine in engines:
            for compiler in (engine.compiler, engine.tool_compiler):
                if compiler is not None:
                    compiler.refuse(compiled)

    def warn(self, message: str) -> None:
        """Keep a message, once."""
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)

    @property
    def message_fields(self) -> frozenset[str] | None:
        """Names among which are all fields of messages that a template reads; None: any may be."""
        found: set[str] = set()
        for finder in (self.finder, self.tool_finder):
            fields = message_fields(finder.template.tree) if finder else frozenset()
            if fields is None:
                return None
            found |= fields
        return frozenset(found)

    def unread_arguments(self, names: Sequence[str]) -> list[str]:
        """Those of the arguments that no template of this run reads."""
        finders = [finder for finder in (self.finder, self.tool_finder) if finder]
        read = {name for finder in finders for name in meta.find_undeclared_variables(finder.template.tree)}
        return [name for name in names if name not in read]

    @property
    def uses_date(self) -> bool:
        """The template's output depends on the day."""
        return self.finder is not None and self.finder.template.uses_date

    @property
    def marks_generation(self) -> bool:
        template = self.finder and self.finder.template
        return bool(template and template.has_generation and self.options.loss != "all")

    def reference(
        self, messages: Sequence[Message], tools: Any = None, kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> RenderedRow:
        """One chat by Jinja, spans in bytes. Raises RenderError."""
        return self.engine_for(kwargs).reference(messages, tools)


@dataclass
class _Plan:
    """How each row of a batch is written."""

    shape_of_row: npt.NDArray[np.int32]
    """-1 for rows on their own."""
    first: Ints
    """Where the row's contents begin, in all contents end to end."""
    plain: Bools
    shapes: list[Shape] = field(default_factory=list)
    compiled: list[Compiled | None] = field(default_factory=list)
    """Per shape; None for plain ones."""
    texts: list[str] = field(default_factory=list)
    """Contents of rows that are filled in one by one, behind all others."""
    filled: dict[Compiled, int] = field(default_factory=dict)
    refused: dict[int, Compiled] = field(default_factory=dict)
    """Rows of a shape that the template refuses."""
    with_arguments: int = 0
    """Rows that bring arguments of the template."""

    def add(self, rows: Ints, shape: Shape, compiled: Compiled | None = None) -> None:
        self.shape_of_row[rows] = len(self.shapes)
        self.shapes.append(shape)
        self.compiled.append(compiled)

    def fill(self, row: int, compiled: Compiled, texts: list[str], base: int) -> None:
        if compiled.error:
            self.refused[row] = compiled
            return
        if compiled not in self.filled:
            self.filled[compiled] = len(self.shapes)
            self.shapes.append(compiled.shape)
            self.compiled.append(compiled)
        self.shape_of_row[row] = self.filled[compiled]
        self.first[row] = base + len(self.texts)
        self.texts += texts


def render(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Render a batch; see the columns in `tokpack.stages.normalize.normalize`.

    Raises UsageError when the options cannot render a kind of document that is there.
    """
    flat = documents["contents"].list.explode(keep_nulls=True, empty_as_null=False)
    lengths = documents["contents"].list.len().to_numpy().astype(np.int64)
    first = np.cumsum(lengths) - lengths
    plan = _Plan(np.full(len(documents), -1, np.int32), first, _plain_rows(documents, renderer))
    _plan_shapes(documents, flat, lengths, renderer, plan)
    _fill_shapes(documents, len(flat), renderer, plan)
    contents = pl.concat([flat.fill_null(""), pl.Series(plan.texts, dtype=pl.String)], rechunk=False)
    proofs = 0
    while True:
        verbatim, errors = Verbatim(), dict[int, str]()
        told = _render_one_by_one(documents, plan, renderer, verbatim, errors)
        text, trained, content = assemble(contents, plan.first, plan.shape_of_row, plan.shapes, verbatim)
        counters = {
            "compiled": int(((plan.shape_of_row >= 0) & ~plan.plain).sum()),
            "jinja": int(((plan.shape_of_row < 0) & ~plan.plain).sum()),
            "plain": int(plan.plain.sum()),
        }
        rendered = Rendered(
            text=text,
            trained=trained,
            content=content,
            plain=plan.plain,
            eos=renderer.options.eos,
            reference_masks=renderer.marks_generation,
            paranoid=renderer.options.paranoid,
            errors=errors,
            counters=counters,
            told=_told(documents, plan, renderer, told),
        )
        rows = _rows_to_prove(plan, renderer)
        proofs += len(rows)
        counters["proofs"] = proofs
        failed = _failed_shapes(documents, rows, rendered, plan, renderer)
        if not failed:
            return rendered
        plan.shape_of_row[np.isin(plan.shape_of_row, failed)] = -1


def _plain_rows(documents: pl.DataFrame, renderer: Renderer) -> Bools:
    """Which rows are rendered plain."""
    mode, templated = renderer.options.render, renderer.finder is not None
    kinds = set(documents["kind"].unique())
    wants_template = {"auto": {"chat"}, "chat": {"chat", "prompt_completion"}, "plain": set[str]()}[mode]
    if not templated and (refused := kinds & wants_template):
        raise UsageError(
            f"{refused.pop()} documents need a chat template, and this tokenizer has none",
            where=renderer.tokenizer.name,
            hint="give one with --chat-template FILE",
        )
    kinds_plain = ["text"] if templated else ["text", "prompt_completion", "chat"]
    plain: Bools = documents["kind"].is_in(kinds_plain).to_numpy()
    if plain.any() and renderer.options.eos and renderer.tokenizer.eos_id is None:
        raise UsageError(
            "plain documents end with EOS, and this tokenizer has none",
            where=renderer.tokenizer.name,
            hint="--no-eos leaves it out",
        )
    return plain


def _plan_shapes(
    documents: pl.DataFrame, contents: pl.Series, lengths: Ints, renderer: Renderer, plan: _Plan
) -> None:
    """Find the shapes of rows that hold roles and texts alone: whole groups at once."""
    alone = documents["extra"].is_not_null().to_numpy().copy()
    row_of = np.repeat(np.arange(len(documents)), lengths)
    alone[row_of[contents.is_null().to_numpy()]] = True
    frame = pl.DataFrame(
        {
            "kind": documents["kind"],
            "roles": documents["roles"].list.join(_ROLE_SEPARATOR),
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
    asked = _asked_for(contents, found)
    if asked is not None:
        rows = row_of[asked.fill_null(False).to_numpy()]
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


def _asked_for(contents: pl.Series, shapes: list[Compiled]) -> pl.Series | None:
    """Which contents may hold what any of the shapes asks for; None when they ask for nothing."""
    constants = {constant for shape in shapes for _, found in shape.constants for constant in found}
    blank = any(shape.visible for shape in shapes)
    held = contents.str.contains_any(sorted(constants)) if constants else None
    if not blank:
        return held
    empty = contents.str.contains(rf"^[{re.escape(WHITESPACE)}]*$")
    return empty if held is None else empty | held


def _fill_shapes(documents: pl.DataFrame, base: int, renderer: Renderer, plan: _Plan) -> None:
    """Find the shapes of chats that hold more: row by row in Python, without Jinja."""
    rows = np.flatnonzero((plan.shape_of_row < 0) & ~plan.plain)
    columns = documents[rows].select("roles", "contents", "extra", "drop_reason")
    for row, (roles, contents, extra, dropped) in zip(rows.tolist(), columns.iter_rows(), strict=True):
        try:
            messages, tools, kwargs = to_messages(roles, contents, extra, keep_null=dropped is None)
        except RenderError:
            continue
        plan.with_arguments += bool(kwargs) and dropped is None
        if (found := renderer.engine_for(kwargs).write(messages, tools)) is not None:
            plan.fill(row, found[0], found[1], base)


def _rows_to_prove(plan: _Plan, renderer: Renderer) -> Ints:
    """One row of every shape that was not proved before, and a few more."""
    compiled = np.flatnonzero((plan.shape_of_row >= 0) & ~plan.plain)
    if renderer.options.paranoid or not len(compiled):
        return compiled
    numbers, firsts = np.unique(plan.shape_of_row[compiled], return_index=True)
    new = [plan.compiled[number] not in renderer.proven for number in numbers]
    more = np.random.default_rng(len(compiled)).choice(
        compiled, min(_PROOF_ROWS, len(compiled)), replace=False
    )
    return np.union1d(compiled[firsts[new]], more)


def _failed_shapes(
    documents: pl.DataFrame, rows: Ints, rendered: Rendered, plan: _Plan, renderer: Renderer
) -> list[int]:
    """Shapes with a row that Jinja writes in another way; they are left to Jinja from now on."""
    failed: dict[int, list[str]] = {}
    columns = documents[rows].select("roles", "contents", "extra", "drop_reason").iter_rows()
    for row, (roles, contents, extra, dropped) in zip(rows.tolist(), columns, strict=True):
        number = int(plan.shape_of_row[row])
        try:
            expected = renderer.reference(*to_messages(roles, contents, extra, keep_null=dropped is None))
        except RenderError:
            failed[number] = roles
            continue
        got = (rendered.text[row].as_py(), rendered.trained.of_row(row), rendered.content.of_row(row))
        if (got[0], *map(_shown, got[1:])) != (expected[0], *map(_shown, expected[1:3])):
            failed[number] = roles
        elif (compiled := plan.compiled[number]) is not None:
            renderer.proven.add(compiled)
    for number, roles in failed.items():
        renderer.warn(
            f"chats of the roles {', '.join(map(str, roles))} are rendered by Jinja: a compiled one differed"
        )
        if (compiled := plan.compiled[number]) is not None:
            renderer.refuse(compiled)
    return sorted(failed)


def _shown(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [span for span in spans if span[0] < span[1]]


def _render_one_by_one(
    documents: pl.DataFrame,
    plan: _Plan,
    renderer: Renderer,
    verbatim: Verbatim,
    errors: dict[int, str],
) -> Counter[str]:
    """The slow path: row by row in Python. Returns what the template left out, with counts."""
    told: Counter[str] = Counter()
    rows = np.flatnonzero(plan.shape_of_row < 0)
    columns = documents[rows].select("kind", "roles", "contents", "extra", "drop_reason")
    for row, (kind, roles, contents, extra, dropped) in zip(rows.tolist(), columns.iter_rows(), strict=True):
        rendered = RenderedRow("", [], [])
        refused = plan.refused.get(row)
        if refused is not None and _is_proven(refused, row, renderer):
            errors[row] = refused.error
            verbatim.add(row, *rendered[:3])
            continue
        try:
            messages, tools, kwargs = to_messages(roles, contents, extra, keep_null=dropped is None)
            if plan.plain[row]:
                rendered = plain_reference(kind, messages, renderer.options)
            else:
                rendered = renderer.reference(messages, tools, kwargs)
        except RenderError as error:
            errors[row] = str(error)
        if refused is not None:
            _prove_refused(refused, errors.get(row), renderer)
        if dropped is None:
            told.update(rendered.told)
        verbatim.add(row, rendered.text, rendered.trained, rendered.content)
    return told


def _is_proven(refused: Compiled, row: int, renderer: Renderer) -> bool:
    """Whether the template's refusal is taken as known; now and then it is asked again."""
    return refused in renderer.proven and not renderer.options.paranoid and row % _REFUSALS_A_PROOF > 0


def _prove_refused(refused: Compiled, error: str | None, renderer: Renderer) -> None:
    if error == refused.error:
        renderer.proven.add(refused)
    else:
        renderer.proven.discard(refused)
        renderer.refuse(refused)


def _told(
    documents: pl.DataFrame, plan: _Plan, renderer: Renderer, one_by_one: Counter[str]
) -> dict[str, int]:
    """What the template left out of the documents that are not dropped, with counts above zero."""
    told = Counter(one_by_one)
    told[TEMPLATE_ARGUMENTS] = plan.with_arguments
    kept = documents["drop_reason"].is_null().to_numpy()
    rows = np.bincount(plan.shape_of_row[kept & (plan.shape_of_row >= 0)], minlength=len(plan.shapes))
    for number, compiled in zip(rows.tolist(), plan.compiled, strict=True):
        for name, count in compiled.told if compiled is not None else ():
            told[name] += number * count
    if renderer.finder is not None and not renderer.finder.closes_turns:
        chats = documents["roles"].filter(pl.Series(kept & ~plan.plain))
        told[UNCLOSED_TURNS] = int(chats.list.count_matches("assistant").sum())
    return {name: number for name, number in told.items() if number}


def _read_date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else datetime.date.today()
    except ValueError:
        raise UsageError(f"{text!r} is not a date", where="date", hint="write YYYY-MM-DD") from None
