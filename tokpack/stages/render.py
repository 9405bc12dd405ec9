"""Render: documents -> their text, with the byte spans to train on.

Chats are written by the model's own chat template, plain documents end to end. The reference path renders
each row with Jinja and locates its spans; rows of a shape that the template compiler knows are written all at
once from pieces, and proved equal to the reference on real rows of every batch.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.errors import UsageError
from tokpack.stages.chat_spans import Located, SpanFinder
from tokpack.stages.chat_template import CharSpan, ChatTemplate, Message, RenderError
from tokpack.stages.pieces import Shape, Spans, Verbatim, assemble
from tokpack.tokenizer import Tokenizer

Loss = Literal["assistant", "last", "all"]
ByteSpans = list[tuple[int, int]]

_DIRECTIONS = ("train", "weight")
"""Keys of a message that are for us, not for the template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    render: Literal["auto", "chat", "plain"] = "auto"
    loss: Loss = "assistant"
    eos: bool = True
    """One EOS at the end of each plain document."""
    separator: str = ""
    """Between prompt and completion when they are rendered plain."""
    paranoid: bool = False
    """Prove every row against the reference, not a sample."""
    date: str = ""
    """Day that templates see in `strftime_now`, as YYYY-MM-DD; today when empty."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, `enable_thinking` for example."""


@dataclass(frozen=True)
class Rendered:
    """`text[i]` is the text of document i, without what the tokenizer adds to plain ones."""

    text: pa.LargeStringArray
    trained: Spans
    content: Spans
    plain: npt.NDArray[np.bool_]
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
    """Everything about rendering that outlives a batch. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, options: RenderOptions) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.date = _read_date(options.date)
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self.finder = self._finder(tokenizer.chat_template)
        self.tool_finder = self._finder(tokenizer.tool_template)
        if self.finder and self.finder.template.uses_date:
            self.warn(f"the chat template writes the date; it is {self.date} for every document")

    def _finder(self, source: str | None) -> SpanFinder | None:
        if source is None or self.options.render == "plain":
            return None
        kwargs = json.loads(json.dumps(dict(self.options.template_kwargs)))
        variables = {**self.tokenizer.special_tokens_map, **kwargs}
        return SpanFinder(ChatTemplate(source, variables, self.date), tuple(self.tokenizer.added_tokens))

    def warn(self, message: str) -> None:
        """Keep a message for the end of the run, once."""
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)

    @property
    def uses_date(self) -> bool:
        return self.finder is not None and self.finder.template.uses_date

    def reference(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, ByteSpans, ByteSpans]:
        """(text, trained spans, content spans) of one chat, in bytes. Raises RenderError."""
        finder = self.finder if tools is None else self.tool_finder
        if finder is None:
            raise RenderError("no chat template")
        excluded = {i for i, message in enumerate(messages) if _not_trained(message)}
        clean = [{k: v for k, v in message.items() if k not in _DIRECTIONS} for message in messages]
        located = finder.locate(clean, tools)
        trained = select_trained(located, clean, excluded, self.options.loss)
        contents = sorted(span for span in located.contents if span is not None)
        return located.text, to_bytes(located.text, trained), to_bytes(located.text, contents)


def render(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Render a batch; see the columns in `stages/normalize.py`.

    Raises UsageError when the options cannot render a kind of document that is there.
    """
    plain = _plain_rows(documents, renderer)
    contents = documents["contents"].list.explode(keep_nulls=True, empty_as_null=False).fill_null("")
    lengths = documents["contents"].list.len().to_numpy().astype(np.int64)
    first = np.cumsum(lengths) - lengths
    shapes: list[Shape] = []
    shape_of_row = np.full(len(documents), -1, np.int32)
    _plain_shapes(documents, np.flatnonzero(plain), renderer, shapes, shape_of_row)
    verbatim, errors = Verbatim(), dict[int, str]()
    rest = np.flatnonzero(shape_of_row < 0)
    _render_one_by_one(documents, rest, plain, renderer, verbatim, errors)
    text, trained, content = assemble(contents, first, shape_of_row, shapes, verbatim)
    return Rendered(
        text=text,
        trained=trained,
        content=content,
        plain=plain,
        eos=renderer.options.eos,
        reference_masks=_marks_generation(renderer),
        paranoid=renderer.options.paranoid,
        errors=errors,
        counters={"jinja": len(rest), "plain": int(plain.sum())},
    )


def _marks_generation(renderer: Renderer) -> bool:
    finder = renderer.finder
    return finder is not None and finder.template.has_generation and renderer.options.loss != "all"


def _plain_rows(documents: pl.DataFrame, renderer: Renderer) -> npt.NDArray[np.bool_]:
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
    plain = documents["kind"].is_in(kinds_plain).to_numpy()
    if plain.any() and renderer.options.eos and renderer.tokenizer.eos_id is None:
        raise UsageError(
            "plain documents end with EOS, and this tokenizer has none",
            where=renderer.tokenizer.name,
            hint="--no-eos leaves it out",
        )
    return plain


def _plain_shapes(
    documents: pl.DataFrame,
    rows: npt.NDArray[np.int64],
    renderer: Renderer,
    shapes: list[Shape],
    shape_of_row: npt.NDArray[np.int32],
) -> None:
    """Contents end to end with the separator between; a chat must be one prompt and one answer."""
    if not len(rows):
        return
    frame = documents[rows].select("kind", roles=pl.col("roles").list.join("\x1f"), row=pl.Series(rows))
    marked = documents[rows]["extra"].is_not_null().to_numpy()
    for (kind, joined), group in frame.filter(~marked).group_by("kind", "roles", maintain_order=True):
        shape = plain_shape(str(kind), str(joined).split("\x1f"), renderer.options)
        if shape is not None:
            shape_of_row[group["row"].to_numpy()] = len(shapes)
            shapes.append(shape)


def plain_shape(kind: str, roles: Sequence[str], options: RenderOptions) -> Shape | None:
    """The shape of a plain document; None when it is a chat of several turns."""
    if kind == "chat" and list(roles) not in (["user", "assistant"], ["system", "user", "assistant"]):
        return None
    literals = ("", *[options.separator] * (len(roles) - 1), "")
    everything = ((0, 0, 2 * len(roles) + 1, 0),)
    answers = tuple((2 * i + 1, 0, 2 * i + 2, 0) for i, role in enumerate(roles) if role == "assistant")
    whole = kind == "text" or options.loss == "all"
    return Shape(literals, everything if whole else answers[-1:] if options.loss == "last" else answers)


def _render_one_by_one(
    documents: pl.DataFrame,
    rows: npt.NDArray[np.int64],
    plain: npt.NDArray[np.bool_],
    renderer: Renderer,
    verbatim: Verbatim,
    errors: dict[int, str],
) -> None:
    """The slow path: row by row in Python."""
    columns = documents[rows].select("kind", "roles", "contents", "extra", "drop_reason")
    for row, (kind, roles, contents, extra, dropped) in zip(rows.tolist(), columns.iter_rows(), strict=True):
        text, trained, content = "", list[CharSpan](), list[CharSpan]()
        try:
            messages, tools = to_messages(roles, contents, extra, keep_null=dropped is None)
            if plain[row]:
                text, trained, content = _plain_reference(kind, messages, renderer.options)
            else:
                text, trained, content = renderer.reference(messages, tools)
            text.encode()
        except RenderError as error:
            errors[row] = str(error)
        except UnicodeEncodeError:
            errors[row] = "a message holds half of a surrogate pair, which is no Unicode text"
            text, trained, content = "", [], []
        verbatim.add(row, text, trained, content)


def _plain_reference(
    kind: str, messages: Sequence[Message], options: RenderOptions
) -> tuple[str, ByteSpans, ByteSpans]:
    shape = plain_shape(kind, [message["role"] for message in messages], options)
    if shape is None:
        raise RenderError(
            f"rendered plain, a document is one prompt and one answer; this one has {len(messages)} messages"
        )
    contents = [message["content"] or "" for message in messages]
    if not all(isinstance(content, str) for content in contents):
        raise RenderError("content parts cannot be rendered plain")
    kept = [span for span in shape.trained if not _not_trained(messages[span[0] // 2])]
    pieces = [shape.literals[0].encode()]
    for content, literal in zip(contents, shape.literals[1:], strict=True):
        pieces += [content.encode(), literal.encode()]
    at = [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]
    trained = [(at[first] + start, at[last] + end) for first, start, last, end in kept]
    written = [(at[i], at[i + 1]) for i in range(1, len(pieces), 2)]
    return b"".join(pieces).decode(), trained, written


def to_messages(
    roles: Sequence[str], contents: Sequence[str | None], extra: str | None, keep_null: bool = True
) -> tuple[list[dict[str, Any]], Any]:
    """(messages, tools) of one document. A content of null is no content, or "" unless `keep_null`."""
    messages: list[dict[str, Any]] = [
        {"role": role, "content": content if content is not None or keep_null else ""}
        for role, content in zip(roles, contents, strict=True)
    ]
    if extra is None:
        return messages, None
    try:
        more = json.loads(extra)
    except ValueError as error:
        raise RenderError(f"`extra` is not JSON: {error}") from None
    for message, added in zip(messages, more.get("messages") or [], strict=False):
        message.update(added or {})
    return messages, more.get("tools")


def select_trained(
    located: Located, messages: Sequence[Message], excluded: set[int], loss: Loss
) -> list[CharSpan]:
    """The spans that `loss` trains, in the order of the text."""
    if loss == "all":
        return _without(len(located.text), [span for i, span in located.turns if i in excluded])
    last = max((i for i, message in enumerate(messages) if message.get("role") == "assistant"), default=-1)
    return [span for i, span in located.turns if i not in excluded and (loss == "assistant" or i == last)]


def _without(length: int, holes: list[CharSpan]) -> list[CharSpan]:
    spans, start = [], 0
    for low, high in sorted(holes):
        if start < low:
            spans.append((start, low))
        start = max(start, high)
    return [*spans, (start, length)] if start < length else spans


def to_bytes(text: str, spans: Sequence[CharSpan]) -> ByteSpans:
    """Character spans as UTF-8 byte spans."""
    if text.isascii():
        return list(spans)
    place, done, length = {0: 0}, 0, 0
    for char in sorted({end for span in spans for end in span}):
        length += len(text[done:char].encode("utf-8", "surrogatepass"))
        place[char], done = length, char
    return [(place[start], place[end]) for start, end in spans]


def _not_trained(message: Message) -> bool:
    return message.get("train") is False or message.get("weight") == 0


def _read_date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else datetime.date.today()
    except ValueError:
        raise UsageError(f"{text!r} is not a date", where="date", hint="write YYYY-MM-DD") from None
