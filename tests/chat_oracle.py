"""What is right for any chat of a family: transformers renders it, trl's tags say what is trained.

docs/templates.md has the rules that differ from trl's masks; they are applied to the spans of the tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import families

ANY = -1
"""A label that is not known."""
Span = tuple[int, int]
TAGGED = re.compile(r"\A\s*<tool_response>\s*(.*?)\s*</tool_response>\s*\Z", re.DOTALL)
"""A tool's answer between the tags that a template writes by itself."""


class Refused(Exception):
    """The template raises."""


@dataclass
class Right:
    """A chat by transformers; `mask` holds 1 for trained tokens, ANY where it is not known whose they are."""

    text: str
    ids: list[int]
    mask: list[int]

    def agrees(self, ids: list[int], mask: list[int], part: slice = slice(None)) -> bool:
        """Whether these are the ids and labels of a part of it."""
        pairs = zip(self.mask[part], mask, strict=False)
        return self.ids[part] == ids and all(right in (ANY, got) for right, got in pairs)


def forms(name: str, row: dict[str, Any], wanted: str) -> Iterator[list[dict[str, Any]]]:
    """The chat in every form that docs/templates.md lets a template be given, the likely ones first."""
    if wanted == "auto":
        wanted = "object" if name in families.OBJECTS else "string" if name in families.TEXTS else "as-is"
    seen = []
    for none in ("missing", "", None):
        for data in (True, False):
            messages = [given(name, message, wanted, none, data) for message in row["messages"]]
            if messages not in seen:
                seen.append(messages)
                yield messages


def given(name: str, message: dict[str, Any], wanted: str, none: Any, data: bool) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(json.dumps(message))
    for made in shown.get("tool_calls", ()):
        made["function"]["arguments"] = in_form(made["function"]["arguments"], wanted)
    content = shown.get("content")
    if content is None and shown["role"] == "tool":
        shown["content"] = content = ""
    elif content is None:
        shown.pop("content", None)
        if none != "missing":
            shown["content"] = none
    if is_parts(content):
        shown["content"] = content = parts_or_text(name, shown["role"], content)
    if shown["role"] == "tool" and not isinstance(content, str) and not data and not is_parts(content):
        shown["content"] = content = json.dumps(content, ensure_ascii=False)
    if shown["role"] == "tool" and isinstance(content, str) and "<tool_response>" in families.stock(name):
        shown["content"] = TAGGED.sub(r"\1", content)
    if name in families.PARTS and isinstance(shown.get("content"), str):
        shown["content"] = [{"type": "text", "text": shown["content"]}]
    return shown


def is_parts(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(part, dict) and "type" in part for part in content)


def parts_or_text(name: str, role: str, parts: list[dict[str, Any]]) -> Any:
    """Text parts as they stand, or joined where the template does not write them all."""
    whole = "".join(part["text"] for part in parts)
    if role == "tool" and "<tool_response>" in families.stock(name) and TAGGED.match(whole):
        return whole
    return parts if writes_parts(name, role) else whole


@cache
def writes_parts(name: str, role: str) -> bool:
    """Whether a template writes all text parts of a message of that role."""
    from transformers.utils.chat_template_utils import render_jinja_template

    message = {"role": role, "content": [{"type": "text", "text": text} for text in ("zqone", "zqtwo")]}
    if role == "tool":
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
        answer = {**message, "tool_call_id": "c1", "name": "f"}
        chat = [families.ASK, families.calling(call), answer, families.TELL]
    else:
        chat = {
            "system": [message, families.ASK, families.TELL],
            "user": [message, families.TELL],
            "assistant": [families.ASK, message],
        }[role]
    chat = families.wanted_form(name, chat)
    with suppress(Exception):
        template = families.stock(name)
        text = render_jinja_template([chat], chat_template=template, bos_token="", eos_token="")[0][0]
        return "zqone" in text and "zqtwo" in text and not re.search("""['"]type""", text)
    return False


def in_form(arguments: Any, wanted: str) -> Any:
    if wanted == "string" and not isinstance(arguments, str):
        return json.dumps(arguments, ensure_ascii=False)
    if wanted == "object" and isinstance(arguments, str):
        return json.loads(arguments)
    return arguments


class Oracle:
    """transformers with a tokenizer, asked for one template."""

    def __init__(self, auto: Any, name: str) -> None:
        self.auto, self.name = auto, name
        self.stock, self.tagged = families.stock(name), families.tagged(name)
        self.own_tags = "endgeneration" in self.stock
        self._openers: dict[str, tuple[str, ...]] = {}

    def render(
        self, template: str, messages: Any, tools: Any, kwargs: Any, **more: Any
    ) -> tuple[str, list[Any]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        given = {**self.auto.special_tokens_map, **kwargs}
        try:
            texts, spans = render_jinja_template(
                [messages], tools=tools, chat_template=template, **given, **more
            )
        except Exception as error:
            raise Refused(str(error) or type(error).__name__) from error
        return texts[0], spans[0] if spans else []

    def ask(self, messages: Any, tools: Any, kwargs: Any, loss: str) -> Right:
        """Raises Refused."""
        out, _ = self.render(self.stock, messages, tools, kwargs)
        tagged, spans = self.render(self.tagged, messages, tools, kwargs, return_assistant_tokens_mask=True)
        encoded = self.auto(out, add_special_tokens=False)
        ids, places = encoded["input_ids"], encoded.encodings[0].offsets
        valued = [(span, 1) for span in spans]
        if out != tagged:  # trl's variant writes another text
            valued = [((0, len(out)), ANY)]
        elif not self.own_tags:
            valued = self._by_our_rules(out, spans, messages, kwargs)
        if loss == "last":
            one_each = len(valued) == sum(message["role"] == "assistant" for message in messages)
            one_each = one_each and "<|tool_response>" not in self.stock  # several write one turn there
            valued = valued[-1:] if one_each else [(span, ANY) for span, _ in valued]
        mask = [0] * len(ids)
        for (start, end), number in valued:
            for i, (low, high) in enumerate(places):
                if low < end and high > start:
                    mask[i] = number
        return Right(out, ids, mask)

    def _by_our_rules(self, out: str, spans: Any, messages: Any, kwargs: Any) -> list[tuple[Span, int]]:
        """Without what the prompt writes, white space behind the end, and turns left empty."""
        found = []
        spans = self._joined(
            out, spans, self.prompt_after_answer(kwargs) if "<tool_response|>" in out else ""
        )
        answers: list[Any] = [message for message in messages if message["role"] == "assistant"]
        owners = answers if len(answers) == len(spans) else [None] * len(spans)
        for (low, high), owner in zip(spans, owners, strict=True):
            openers = self.openers(kwargs)
            if "<tool_response|>" in out[out.rfind("<|turn>", 0, low) : low]:
                openers = (self.prompt_after_answer(kwargs),)
            written = (len(one) for one in openers if one and out.startswith(one, low, high))
            start = low + next(written, 0)
            end = start + len(out[start:high].rstrip())
            bare = not families.without_markers(out[start:end])
            if owner is None:
                found.append(((start, end), ANY if bare else 1))
            elif not (bare and is_lost(owner, out[start:end])):
                found.append(((start, end), 1))
        return found

    def _joined(self, out: str, spans: Any, after_answer: str) -> list[tuple[int, int]]:
        """Spans of one turn that touch as one: Phi-3 closes the last answer twice."""
        openers = tuple(filter(None, (*families.OPENERS.get(self.name, ()), after_answer)))
        joined: list[tuple[int, int]] = []
        for start, end in spans:
            new = bool(openers) and out.startswith(openers, start)
            closed = joined and out[joined[-1][0] : joined[-1][1]].endswith("\n")
            goes_on = joined and joined[-1][1] == start and not new
            goes_on = goes_on and (not closed or out[start:end] == self.auto.eos_token)
            joined.append((joined.pop()[0] if goes_on else start, end))
        return joined

    def prompt_after_answer(self, kwargs: Any) -> str:
        """What the generation prompt is after a tool's answer."""
        chat = [families.ASK, families.calling(families.call()), families.answer_of()]
        alone, _ = self.render(self.stock, chat, None, kwargs)
        prompted, _ = self.render(self.stock, chat, None, kwargs, add_generation_prompt=True)
        return prompted.removeprefix(alone)

    def openers(self, kwargs: Any) -> tuple[str, ...]:
        """What spans of the tags begin with and the generation prompt writes."""
        key = json.dumps(kwargs)
        if key not in self._openers:
            usual = families.OPENERS.get(self.name, ())
            if "think" in key:
                user = [{"role": "user", "content": "u"}]
                prompt, _ = self.render(self.stock, user, None, kwargs, add_generation_prompt=True)
                block = re.search(r"\n?<think>\s*(</think>\s*)?$", prompt)
                whole = block.group() if block else ""
                tries = (whole, whole.lstrip(), "<think>\n", "\n<think>", "<think>")
                usual = tuple(one for one in tries if one and whole.lstrip().startswith(one.lstrip()))
            self._openers[key] = usual
        return self._openers[key]


def is_lost(message: dict[str, Any], turn: str) -> bool:
    """The message has a call or reasoning, and nothing of it is in the turn."""
    block, _, rest = said(message).rpartition("</think>")
    more = message.get("tool_calls") or thoughts(message) or block
    told = [
        said(message),
        block.replace("<think>", ""),
        rest,
        *thoughts(message),
    ]
    marks = (text.strip() for text in told if not families.without_markers(text))
    return bool(more) and not any(text and text in turn for text in marks)


def said(message: dict[str, Any]) -> str:
    """The text of a content."""
    content = message.get("content") or ""
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return "".join(part["text"] for part in content)
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def thoughts(message: dict[str, Any]) -> list[str]:
    """Its reasoning under every name."""
    found = [message.get(key) or "" for key in ("reasoning_content", "reasoning", "thinking")]
    return [text.strip() for text in found if text.strip()]
