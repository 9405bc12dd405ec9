"""Render: documents -> their text, with the byte spans to train on.

Chats are written by the model's own chat template, plain documents end to end. The reference path renders
each row with Jinja and locates its spans; rows of a shape that the template compiler knows are written all at
once from pieces, and proved equal to the reference on real rows of every batch.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.encoding.token_places import Bools
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.errors import UsageError
from tokpack.stages.render.chat_spans import SpanFinder
from tokpack.stages.render.chat_template import ChatTemplate, Message, RenderError
from tokpack.stages.render.pieces import Ints, Shape, Spans, Verbatim, assemble
from tokpack.stages.render.reference import (
    RenderedRow,
    RenderOptions,
    chat_reference,
    plain_reference,
    plain_shape,
    select_trained,
    to_messages,
)
from tokpack.stages.render.template_compiler import TemplateCompiler

__all__ = ["RenderOptions", "Rendered", "Renderer", "render"]

_PROOF_ROWS = 16
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
    """Prove every row of the fast path of tokenising as well."""
    errors: dict[int, str] = field(default_factory=dict)
    """Row -> why it could not be rendered; its text is empty."""
    counters: dict[str, int] = field(default_factory=dict)
    """Rows `compiled`, rows by `jinja`, rows `plain`, and `proofs` made."""


class Renderer:
    """Everything about rendering that outlives a batch. Safe to share between threads.

    `date` is the day that templates see, `warnings` are messages for the end of the run.
    """

    def __init__(self, tokenizer: Tokenizer, options: RenderOptions) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.date = _read_date(options.date)
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self.finder = self._finder(tokenizer.chat_template)
        self.tool_finder = self._finder(tokenizer.tool_template)
        self.compiler = None
        if self.finder:
            select = partial(select_trained, excluded=set(), loss=options.loss)
            self.compiler = TemplateCompiler(self.finder, select)
            if self.compiler.refused:
                self.warn(
                    f"every chat is rendered by Jinja, slowly: the template has {self.compiler.refused}"
                )
            if self.uses_date:
                self.warn(f"the chat template writes the date; it is {self.date} in every document")

    def _finder(self, source: str | None) -> SpanFinder | None:
        if source is None or self.options.render == "plain":
            return None
        kwargs = json.loads(json.dumps(dict(self.options.template_kwargs)))
        variables = {**self.tokenizer.special_tokens_map, **kwargs}
        return SpanFinder(ChatTemplate(source, variables, self.date), tuple(self.tokenizer.added_tokens))

    def warn(self, message: str) -> None:
        """Keep a message, once."""
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)

    @property
    def uses_date(self) -> bool:
        """The template's output depends on the day."""
        return self.finder is not None and self.finder.template.uses_date

    @property
    def marks_generation(self) -> bool:
        template = self.finder and self.finder.template
        return bool(template and template.has_generation and self.options.loss != "all")

    def reference(self, messages: Sequence[Message], tools: Any = None) -> RenderedRow:
        """One chat by Jinja, spans in bytes. Raises RenderError."""
        finder = self.finder if tools is None else self.tool_finder
        if finder is None:
            raise RenderError("no chat template")
        return chat_reference(finder, messages, tools, self.options.loss)


@dataclass
class _Plan:
    """How each row of a batch is written: `shape_of_row` is -1 for rows on their own."""

    shape_of_row: npt.NDArray[np.int32]
    plain: Bools
    shapes: list[Shape] = field(default_factory=list)
    roles: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, rows: Ints, shape: Shape, roles: tuple[str, ...]) -> None:
        self.shape_of_row[rows] = len(self.shapes)
        self.shapes.append(shape)
        self.roles.append(roles)


def render(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Render a batch; see the columns in `tokpack.stages.normalize.normalize`.

    Raises UsageError when the options cannot render a kind of document that is there.
    """
    flat = documents["contents"].list.explode(keep_nulls=True, empty_as_null=False)
    lengths = documents["contents"].list.len().to_numpy().astype(np.int64)
    first = np.cumsum(lengths) - lengths
    plan = _Plan(np.full(len(documents), -1, np.int32), _plain_rows(documents, renderer))
    _plan_shapes(documents, flat, lengths, renderer, plan)
    contents = flat.fill_null("")
    proofs = 0
    while True:
        verbatim, errors = Verbatim(), dict[int, str]()
        _render_one_by_one(documents, plan, renderer, verbatim, errors)
        text, trained, content = assemble(contents, first, plan.shape_of_row, plan.shapes, verbatim)
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
        )
        rows = _rows_to_prove(plan, renderer.options.paranoid)
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
    """Find the shapes of the rows that can be written from pieces."""
    alone = documents["extra"].is_not_null().to_numpy().copy()
    row_of = np.repeat(np.arange(len(documents)), lengths)
    alone[row_of[contents.is_null().to_numpy()]] = True
    compiler = renderer.compiler
    if compiler is not None:
        special = row_of[compiler.needs_jinja(contents).fill_null(False).to_numpy()]
        alone[special[~plan.plain[special]]] = True
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
    for kind, joined, count, plain, rows in groups.iter_rows():
        roles = tuple(joined.split(_ROLE_SEPARATOR))
        if len(roles) != count:  # no message, or a role that holds the separator
            continue
        if plain:
            shape = plain_shape(kind, roles, renderer.options)
        else:
            shape = compiler.shape(roles) if compiler is not None else None
        if shape is not None:
            plan.add(np.asarray(rows, np.int64), shape, roles)


def _rows_to_prove(plan: _Plan, paranoid: bool) -> Ints:
    """One row of every shape and a few more; they depend on the batch alone."""
    compiled = np.flatnonzero((plan.shape_of_row >= 0) & ~plan.plain)
    if paranoid or not len(compiled):
        return compiled
    _, firsts = np.unique(plan.shape_of_row[compiled], return_index=True)
    more = np.random.default_rng(len(compiled)).choice(
        compiled, min(_PROOF_ROWS, len(compiled)), replace=False
    )
    return np.union1d(compiled[firsts], more)


def _failed_shapes(
    documents: pl.DataFrame, rows: Ints, rendered: Rendered, plan: _Plan, renderer: Renderer
) -> list[int]:
    """Shapes with a row that Jinja writes in another way; they are left to Jinja from now on."""
    failed: set[int] = set()
    columns = documents[rows].select("roles", "contents").iter_rows()
    for row, (roles, contents) in zip(rows.tolist(), columns, strict=True):
        number = int(plan.shape_of_row[row])
        try:
            expected = renderer.reference(to_messages(roles, contents, None)[0])
        except RenderError:
            failed.add(number)
            continue
        got = (rendered.text[row].as_py(), rendered.trained.of_row(row), rendered.content.of_row(row))
        if (got[0], *map(_shown, got[1:])) != (expected[0], *map(_shown, expected[1:])):
            failed.add(number)
    for number in failed:
        roles = plan.roles[number]
        renderer.warn(f"chats of the roles {', '.join(roles)} are rendered by Jinja: a compiled one differed")
        if renderer.compiler is not None:
            renderer.compiler.refuse(roles)
    return sorted(failed)


def _shown(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [span for span in spans if span[0] < span[1]]


def _render_one_by_one(
    documents: pl.DataFrame,
    plan: _Plan,
    renderer: Renderer,
    verbatim: Verbatim,
    errors: dict[int, str],
) -> None:
    """The slow path: row by row in Python."""
    rows = np.flatnonzero(plan.shape_of_row < 0)
    columns = documents[rows].select("kind", "roles", "contents", "extra", "drop_reason")
    for row, (kind, roles, contents, extra, dropped) in zip(rows.tolist(), columns.iter_rows(), strict=True):
        text, trained, content = "", list[tuple[int, int]](), list[tuple[int, int]]()
        try:
            messages, tools = to_messages(roles, contents, extra, keep_null=dropped is None)
            if plan.plain[row]:
                text, trained, content = plain_reference(kind, messages, renderer.options)
            else:
                text, trained, content = renderer.reference(messages, tools)
        except RenderError as error:
            errors[row] = str(error)
        verbatim.add(row, text, trained, content)


def _read_date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else datetime.date.today()
    except ValueError:
        raise UsageError(f"{text!r} is not a date", where="date", hint="write YYYY-MM-DD") from None
