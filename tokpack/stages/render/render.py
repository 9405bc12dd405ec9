"""Render: documents -> their text, with the byte spans to train on.

Chats are written by the model's own chat template, plain documents end to end. The reference path renders
each row with Jinja and locates its spans; rows of a shape that the template compiler knows are written all at
once from pieces, and proved equal to the reference on real rows of every batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack.arrays import Bools
from tokpack.errors import UsageError
from tokpack.schema import SEGMENTS
from tokpack.stages.render.compiled.compiled_shape import Compiled
from tokpack.stages.render.compiled.shape_plan import ShapePlan, plan_rows
from tokpack.stages.render.left_out import OVERRULED, TEMPLATE_ARGUMENTS, UNCLOSED_TURNS
from tokpack.stages.render.pieces import Ints, Spans, ValuedSpans, Verbatim, assemble, most_text
from tokpack.stages.render.reference import (
    RenderedRow,
    RenderSettings,
    plain_reference,
    to_messages,
)
from tokpack.stages.render.renderer import Renderer
from tokpack.stages.render.tagged import without_tags
from tokpack.stages.render.template.chat_template import RenderError

__all__ = ["RenderSettings", "Rendered", "Renderer", "render"]

_PROOF_ROWS = 4
_REFUSALS_A_PROOF = 256
"""Of so many rows in a batch one asks the template, although its shape was refused before."""


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


def render(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Render a batch; see the columns in `tokpack.stages.normalize.normalize`.

    Raises UsageError when the options cannot render a kind of document that is there, BlockSizeError when the
    template writes too much.
    """
    documents, tagged = without_tags(documents, renderer)
    flat = documents["contents"].list.explode(keep_nulls=True, empty_as_null=False)
    plan = plan_rows(documents, flat, _plain_rows(documents, renderer), renderer)
    contents = pl.concat([flat.fill_null(""), pl.Series(plan.texts, dtype=pl.String)], rechunk=False)
    proofs = 0
    while True:
        verbatim, errors = Verbatim(most_text(contents)), dict[int, str]()
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
            told=_told(documents, plan, renderer, told + Counter(tagged)),
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


def _rows_to_prove(plan: ShapePlan, renderer: Renderer) -> Ints:
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
    documents: pl.DataFrame, rows: Ints, rendered: Rendered, plan: ShapePlan, renderer: Renderer
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
    plan: ShapePlan,
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
    documents: pl.DataFrame, plan: ShapePlan, renderer: Renderer, one_by_one: Counter[str]
) -> dict[str, int]:
    """What the template left out of the documents that are not dropped, with counts above zero."""
    told = Counter(one_by_one)
    told[TEMPLATE_ARGUMENTS], told[OVERRULED] = plan.with_arguments, plan.overruled
    kept = documents["drop_reason"].is_null().to_numpy()
    rows = np.bincount(plan.shape_of_row[kept & (plan.shape_of_row >= 0)], minlength=len(plan.shapes))
    for number, compiled in zip(rows.tolist(), plan.compiled, strict=True):
        for name, count in compiled.told if compiled is not None else ():
            told[name] += number * count
    if renderer.finder is not None and not renderer.finder.closes_turns:
        chats = documents["roles"].filter(pl.Series(kept & ~plan.plain))
        told[UNCLOSED_TURNS] = int(chats.list.count_matches("assistant").sum())
    return {name: number for name, number in told.items() if number}
