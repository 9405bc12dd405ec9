"""Render: documents -> their text, with the byte spans to train on.

Chats are written by the model's own chat template, plain documents end to end. The reference path renders
each row with Jinja and locates its spans; rows of a shape that the template compiler knows are written all at
once from pieces, and proved equal to the reference on real rows of every batch.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from jinja2 import meta

from tokpack.encoding.token_places import Bools
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.errors import UsageError
from tokpack.schema import SEGMENTS
from tokpack.stages.render.chat_spans import SpanFinder
from tokpack.stages.render.chat_template import ChatTemplate, Explicit, Message, RenderError
from tokpack.stages.render.left_out import TEMPLATE_ARGUMENTS, UNCLOSED_TURNS
from tokpack.stages.render.message_fields import message_fields
from tokpack.stages.render.pieces import Ints, Spans, ValuedSpans, Verbatim, assemble
from tokpack.stages.render.reference import (
    Loss,
    RenderedRow,
    RenderOptions,
    chat_reference,
    plain_reference,
    to_messages,
)
from tokpack.stages.render.shape_plan import Plan, plan_rows
from tokpack.stages.render.template_compiler import Compiled, TemplateCompiler

__all__ = ["RenderOptions", "Rendered", "Renderer", "render"]

_PROOF_ROWS = 16
_REFUSALS_A_PROOF = 256
"""Of so many rows in a batch one asks the template, although its shape was refused before."""
_MOST_ENGINES = 32
"""Rows may bring arguments of their own; engines for so many kinds of them are kept."""


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
    segments: ValuedSpans | None = None
    """What the answers are made of; None where that is not asked for, or no row has any."""
    weights: ValuedSpans | None = None
    """Answers whose weight is not 1; None where there are none."""
    loss_mask: tuple[int, ...] = ()
    """Numbers of the segments that are not trained."""


class Engine:
    """Renders with one set of arguments of the template. Safe to share between threads."""

    def __init__(self, finder: SpanFinder | None, tool_finder: SpanFinder | None, loss: Loss) -> None:
        self.finder, self.tool_finder, self._loss = finder, tool_finder, loss
        self.compiler = self._compiler(finder)
        self.tool_compiler = self.compiler if tool_finder is finder else self._compiler(tool_finder)

    def _compiler(self, finder: SpanFinder | None) -> TemplateCompiler | None:
        if finder is None:
            return None
        segments = finder.with_segments
        prompt = finder.facts.prompt if segments else ""
        return TemplateCompiler(finder.template, self.reference, segments, prompt)

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
        return SpanFinder(
            template,
            tuple(self.tokenizer.added_tokens),
            self.options.tool_arguments,
            with_segments=bool(self.options.loss_mask),
        )

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


def render(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Render a batch; see the columns in `tokpack.stages.normalize.normalize`.

    Raises UsageError when the options cannot render a kind of document that is there.
    """
    flat = documents["contents"].list.explode(keep_nulls=True, empty_as_null=False)
    plan = plan_rows(documents, flat, _plain_rows(documents, renderer), renderer)
    contents = pl.concat([flat.fill_null(""), pl.Series(plan.texts, dtype=pl.String)], rechunk=False)
    proofs = 0
    while True:
        verbatim, errors = Verbatim(), dict[int, str]()
        told = _render_one_by_one(documents, plan, renderer, verbatim, errors)
        whole = assemble(contents, plan.first, plan.shape_of_row, plan.shapes, verbatim, plan.places)
        counters = {
            "compiled": int(((plan.shape_of_row >= 0) & ~plan.plain).sum()),
            "jinja": int(((plan.shape_of_row < 0) & ~plan.plain).sum()),
            "plain": int(plan.plain.sum()),
        }
        rendered = Rendered(
            text=whole.text,
            trained=whole.trained,
            content=whole.content,
            segments=whole.segments,
            weights=whole.weights,
            loss_mask=tuple(i for i, name in enumerate(SEGMENTS, 1) if name in renderer.options.loss_mask),
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


def _rows_to_prove(plan: Plan, renderer: Renderer) -> Ints:
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
    documents: pl.DataFrame, rows: Ints, rendered: Rendered, plan: Plan, renderer: Renderer
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
        if _as_rendered(rendered, row) != _as_expected(expected):
            failed[number] = roles
        elif (compiled := plan.compiled[number]) is not None:
            renderer.proven.add(compiled)
    for number, roles in failed.items():
        renderer.warn(
            f"chats of the roles {', '.join(map(str, roles))} are rendered by Jinja: a compiled one differed"
        )
        if (compiled := plan.compiled[number]) is not None:
            renderer.refuse(compiled)
    refused = {compiled for number in failed if (compiled := plan.compiled[number]) is not None}
    return sorted({*failed, *(i for i, compiled in enumerate(plan.compiled) if compiled in refused)})


def _as_rendered(rendered: Rendered, row: int) -> tuple[Any, ...]:
    valued = (rendered.segments, rendered.weights)
    return (
        rendered.text[row].as_py(),
        _shown(rendered.trained.of_row(row)),
        _shown(rendered.content.of_row(row)),
        *(spans.of_row(row) if spans is not None else [] for spans in valued),
    )


def _as_expected(row: RenderedRow) -> tuple[Any, ...]:
    valued = [(start, end, float(np.float32(value))) for start, end, value in row.weights]
    return row.text, _shown(row.trained), _shown(row.content), [*row.segments], valued


def _shown(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [span for span in spans if span[0] < span[1]]


def _render_one_by_one(
    documents: pl.DataFrame,
    plan: Plan,
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
            verbatim.add(row, rendered)
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
        verbatim.add(row, rendered)
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
    documents: pl.DataFrame, plan: Plan, renderer: Renderer, one_by_one: Counter[str]
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
