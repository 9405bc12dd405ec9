"""Rendering one document at a time: the reference, and the slow path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from tokpack.frozen import frozen
from tokpack.settings.config import ToolArguments
from tokpack.stages.messages import HOLDS_DATA, PART_SIZES, UNREAD_REASONING
from tokpack.stages.render.left_out import LEFT_OUT_UNREAD
from tokpack.stages.render.pieces import ChatShape, ValuedSpan
from tokpack.stages.render.spans.chat_spans import Located, SpanFinder
from tokpack.stages.render.spans.segments import inline_segments
from tokpack.stages.render.template.chat_template import CharSpan, Message, RenderError
from tokpack.stages.render.template.template_forms import SharedTools

Loss = Literal["assistant", "last", "all", "completion"]
"""`completion`, for preference pairs: the last assistant turn, or, where messages say `"train": false`, every
assistant turn that does not."""
ByteSpans = list[tuple[int, int]]


class RenderedRow(NamedTuple):
    text: str
    trained: ByteSpans
    content: ByteSpans
    told: Mapping[str, int] = MappingProxyType({})
    """What the template leaves out, with counts; see `tokpack.stages.render.left_out`."""
    segments: Sequence[ValuedSpan] = ()
    """What the answers are made of, where that is asked for; see `tokpack.stages.render.spans.segments`."""
    weights: Sequence[ValuedSpan] = ()
    """Answers whose weight is not 1."""


_TOOLS = '{"tools": ['
_BETWEEN = '], "messages": ['
"""Ends the tools in `extra`; within a text of JSON its quotes would be escaped."""
_SHARED = 1024
"""Texts of tools that are kept decoded."""
_LONGEST_SHARED = 1 << 14
"""Characters; longer texts are decoded each time."""
_DIRECTIONS = ("train", "weight", UNREAD_REASONING)
"""Keys of a message that are for us, not for the template."""


@frozen(kw_only=True)
class RenderSettings:
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
    tool_arguments: ToolArguments = "auto"
    """Form in which calls hand over their arguments."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, `enable_thinking` for example."""
    loss_mask: tuple[str, ...] = ()
    """Segments that are not trained; `none` only finds out how large they are."""


def chat_reference(finder: SpanFinder, messages: Sequence[Message], tools: Any, loss: Loss) -> RenderedRow:
    """One chat by its template. Raises RenderError."""
    if not messages:
        raise RenderError("a chat without messages")
    excluded = {i for i, message in enumerate(messages) if _not_trained(message)}
    clean = [{k: v for k, v in message.items() if k not in _DIRECTIONS} for message in messages]
    located = finder.locate(clean, tools)
    located.told[LEFT_OUT_UNREAD] += sum(UNREAD_REASONING in message for message in messages)
    try:
        located.text.encode()
    except UnicodeEncodeError:
        raise RenderError("it holds half of a surrogate pair, which is no Unicode text") from None
    trained = select_trained(located, clean, excluded, loss)
    contents = sorted(span for span in located.contents if span is not None)
    text = located.text
    weights = [(*span, w) for i, span in located.turns if (w := weight_of(messages[i])) not in (0, 1)]
    return RenderedRow(
        text,
        to_bytes(text, trained),
        to_bytes(text, contents),
        located.told,
        _valued_to_bytes(text, located.segments),
        _valued_to_bytes(text, weights),
    )


def plain_reference(kind: str, messages: Sequence[Message], options: RenderSettings) -> RenderedRow:
    """One document end to end. Raises RenderError."""
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
    answers = [2 * i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"]
    weights = [  # with the end of the text behind an answer
        (at[first] + start, at[last] + end, w)
        for first, start, last, end in kept
        if (w := weight_of(messages[first // 2])) not in (0, 1)
    ]
    segments: list[ValuedSpan] = []
    for i in answers if options.loss_mask and kind != "text" else ():
        inside = _valued_to_bytes(contents[i // 2], inline_segments(contents[i // 2]))
        segments += [(at[i] + start, at[i] + end, number) for start, end, number in inside]
    return RenderedRow(b"".join(pieces).decode(), trained, written, segments=segments, weights=weights)


def plain_shape(kind: str, roles: Sequence[str], options: RenderSettings) -> ChatShape | None:
    """The shape of a plain document; None when it is a chat of several turns."""
    if kind == "chat" and list(roles) not in (["user", "assistant"], ["system", "user", "assistant"]):
        return None
    literals = ("", *[options.separator] * (len(roles) - 1), "")
    everything = ((0, 0, 2 * len(roles) + 1, 0),)
    answers = tuple((2 * i + 1, 0, 2 * i + 2, 0) for i, role in enumerate(roles) if role == "assistant")
    whole = kind == "text" or options.loss == "all"
    last = options.loss in ("last", "completion")
    written = tuple((2 * i + 1, 0, 2 * i + 2, 0) for i in range(len(roles)))
    return ChatShape(literals, everything if whole else answers[-1:] if last else answers, written)


def to_messages(
    roles: Sequence[str], contents: Sequence[str | None], extra: str | None, keep_null: bool = True
) -> tuple[list[dict[str, Any]], Any, dict[str, Any]]:
    """(messages, tools, arguments of the template) of one document.

    A content of null is no content, or "" unless `keep_null`.
    """
    messages: list[dict[str, Any]] = [
        {"role": role, "content": content if content is not None or keep_null else ""}
        for role, content in zip(roles, contents, strict=True)
    ]
    if extra is None:
        return messages, None, {}
    more = read_extra(extra)
    for message, added in zip(messages, more.get("messages") or [], strict=False):
        if added:
            add_fields(message, added)
    return messages, more.get("tools"), more.get("chat_template_kwargs") or {}


def add_fields(message: dict[str, Any], added: Mapping[str, Any]) -> None:
    """Further fields of a message, and the content itself where it is data or parts."""
    message.update(added)
    if (sizes := message.pop(PART_SIZES, None)) and isinstance(message["content"], str):
        message["content"] = _in_parts(message["content"], sizes)
    if message.pop(HOLDS_DATA, False) and isinstance(message["content"], str):
        with suppress(ValueError):  # personal data is masked in the text
            message["content"] = json.loads(message["content"])


def _in_parts(text: str, sizes: Any) -> Any:
    """As it is where it is not the text any more whose parts had these sizes."""
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        return text
    ends = list(accumulate(sizes))
    if ends[-1] != len(text):
        return text
    return [{"type": "text", "text": text[end - size : end]} for size, end in zip(sizes, ends, strict=True)]


def read_extra(extra: str) -> dict[str, Any]:
    """The object in `extra`; tools before messages are read once where rows have equal ones."""
    if extra.startswith(_TOOLS):
        head, between, rest = extra.partition(_BETWEEN)
        if len(head) <= _LONGEST_SHARED:
            with suppress(ValueError):  # what stands between is in the tools
                others = json.loads("{" + between[3:] + rest) if between else {}
                return {"tools": _tools_of(head if between else head[:-2]), **others}
    try:
        more: dict[str, Any] = json.loads(extra)
    except ValueError as error:
        raise RenderError(f"`extra` is not JSON: {error}") from None
    return more


@lru_cache(_SHARED)
def _tools_of(head: str) -> list[Any]:
    """Not to be changed: other rows have the same."""
    (tools,) = json.loads(f"{head}]}}").values()
    return SharedTools(tools)


def select_trained(
    located: Located, messages: Sequence[Message], excluded: set[int], loss: Loss
) -> list[CharSpan]:
    """The spans that `loss` trains, in the order of the text."""
    if loss == "all":
        return _without(len(located.text), [span for i, span in located.turns if i in excluded])
    last = max((i for i, message in enumerate(messages) if message.get("role") == "assistant"), default=-1)
    every = loss == "assistant" or (loss == "completion" and excluded)
    return [span for i, span in located.turns if i not in excluded and (every or i == last)]


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


def _valued_to_bytes(text: str, spans: Sequence[ValuedSpan]) -> list[ValuedSpan]:
    places = to_bytes(text, [(start, end) for start, end, _ in spans])
    return [(*place, value) for place, (_, _, value) in zip(places, spans, strict=True)]


def weight_of(message: Message) -> float:
    """By how much the tokens of an answer count in the loss."""
    weight = message.get("weight", 1)
    return float(weight) if isinstance(weight, int | float) else 1.0


def _not_trained(message: Message) -> bool:
    return message.get("train") is False or message.get("weight") == 0
