"""Chats of every shape, and settings to prepare them with, drawn by seed."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import families

Chat = dict[str, Any]
BATCH = 24
LONG = 1 << 20
"""A capacity that cuts nothing."""
WORDS = (
    "so",
    "Paris",
    "x",
    "12",
    "well then",
    "caf\u00e9",
    "\u4f60\u597d",
    "\U0001f600",
    "ok.",
    "a b c",
    "yes",
)
ODD = (
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\x1f", "\u2028", "\x00", "\ufeff"),
    *("e\u0301", "\u212b", "\ufb01", "\u0130", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U00100000"),
    *("assistant", "user\n", "\u2581", "tool", "get_weather"),
    *("{{ x }}", "{% y %}", "\\n", '"', "'", "<b>", "&amp;", "None", "null", "[1]", '{"a": 1}', "```"),
)
MARKS = (
    *(
        "<think>",
        "</think>",
        "<think>\n\n</think>\n\n",
        "<think>why</think>",
        "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    *(
        "<|end|>",
        "<|start|>assistant",
        "<|channel|>final<|message|>",
        "<turn|>",
        "<|eot_id|>",
        "<end_of_turn>",
    ),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<|tool_call>", "<tool_call|>"),
    *("<|endoftext|>", "</s>", "<s>", "[INST]", "[/INST]", "<\uff5cAssistant\uff5c>"),
    *(
        "<|channel>thought\n",
        "<channel|>",
        "/nothink",
        "<|user|>",
        "<|assistant|>",
    ),
)
"""What templates write around messages: who looks for the ends of a text may take these for them."""
NAMES = ("get_weather", "f", "search-web", "a.b")
FORMS = {"as-is": 1, "object": 1, "string": 1, "auto": 7}
MASKS = (
    "",
    "",
    "",
    "none",
    "template",
    "thinking",
    "tool_calls",
    "thinking,tool_calls",
    "template,thinking,tool_calls",
)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "enable_thinking": (True, False),
    "preserve_thinking": (True, False),
    "truncate_history_thinking": (True, False),
    "reasoning_effort": ("low", "high"),
    "tools_in_user_message": (True, False),
    "date_string": ("1 Jan 2026",),
}
"""Variables of templates, and what they are set to."""


def text(draw: random.Random, some: bool = False) -> str:
    """A few words, or odd bits, or nothing unless `some`."""
    kind = draw.random()
    if kind < 0.5:
        found = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
    elif kind < 0.6:
        found = draw.choice("axI7\u00e9.")
    else:
        found = "".join(draw.choices((*ODD, *MARKS, *WORDS), k=draw.choice([0, 1, 1, 2, 3, 5])))
    return found or ("x" if some else "")


def value(draw: random.Random, depth: int = 0) -> Any:
    simple: list[Any] = [text(draw), text(draw), 0, 3, -2.5, True, None, 1e20, ""]
    if depth > 1 or draw.random() < 0.7:
        return draw.choice(simple)
    if draw.random() < 0.5:
        return [value(draw, depth + 1) for _ in range(draw.randrange(3))]
    return {draw.choice(("a", "b", "ü", "c d")): value(draw, depth + 1) for _ in range(draw.randrange(3))}


def call(draw: random.Random, number: int) -> dict[str, Any]:
    given: Any = {
        draw.choice(("city", "n", "more", "a b")): value(draw) for _ in range(draw.choice([0, 1, 1, 2]))
    }
    if draw.random() < 0.4:
        given = json.dumps(given, ensure_ascii=draw.random() < 0.5)
    function = {"name": draw.choice(NAMES), "arguments": given}
    return {"id": f"call{number:05}", "type": "function", "function": function}


def tool(draw: random.Random) -> dict[str, Any]:
    properties = {
        name: {"type": draw.choice(("string", "integer", "object")), "description": text(draw)}
        for name in ("city", "n")[: draw.randrange(3)]
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    function = {"name": draw.choice(NAMES), "description": text(draw, True), "parameters": parameters}
    return {"type": "function", "function": function}


def outline(draw: random.Random) -> list[tuple[str, Any]]:
    """Kinds of messages: a shape that several chats have."""
    kinds: list[tuple[str, Any]] = [("system", None)] * (draw.random() < 0.4)
    for _ in range(draw.choice([1, 1, 1, 2, 2, 3])):
        kinds.append(("user", None))
        for _ in range(draw.choice([0, 0, 0, 1, 1, 2])):
            calls = draw.choice([1, 1, 1, 2, 3])
            kinds.append(
                ("call", (calls, draw.choice(["text", "text", "empty", "null", "none"]), thinks(draw)))
            )
            kinds += [("tool", draw.choice(["text", "text", "text", "text", "object"]))] * draw.choice(
                [calls, calls, 0, 1]
            )
        if draw.random() < 0.9:
            kinds.append(("assistant", thinks(draw)))
    if draw.random() < 0.1 and len(kinds) > 1:
        kinds.pop()
    return kinds


def thinks(draw: random.Random) -> str:
    return draw.choice(["", "", "", "reasoning_content", "reasoning", "thinking", "inline"])


def chat(draw: random.Random, kinds: Sequence[tuple[str, Any]], tools: Any) -> Chat:
    messages: list[dict[str, Any]] = []
    numbers: list[int] = []
    count = 0
    for kind, more in kinds:
        message: dict[str, Any] = {"role": "assistant" if kind == "call" else kind, "content": text(draw)}
        if kind == "call":
            many, said, thought = more
            numbers = list(range(count, count + many))
            count += many
            message["tool_calls"] = [call(draw, number) for number in numbers]
            if said != "text":
                message["content"] = "" if said == "empty" else None
            if said == "none":
                del message["content"]
            add_thought(draw, message, thought)
        elif kind == "assistant":
            add_thought(draw, message, more)
        elif kind == "tool":
            number = numbers.pop(0) if numbers else 0
            message |= {"name": draw.choice(NAMES), "tool_call_id": f"call{number:05}"}
            if more == "object":
                message["content"] = draw.choice([{"a": 1, "b": text(draw)}, [1, "x"], 7, None])
        messages.append(message)
    row: Chat = {"messages": messages}
    return row | {"tools": tools} if tools is not None else row


def add_thought(draw: random.Random, message: dict[str, Any], name: str) -> None:
    if name == "inline" and isinstance(message.get("content"), str):
        message["content"] = f"<think>\n{text(draw)}\n</think>\n\n{message['content']}"
    elif name and name != "inline":
        message[name] = text(draw)


def in_parts(draw: random.Random, row: Chat) -> Chat:
    """The chat with some contents in text parts."""
    messages = []
    for message in row["messages"]:
        content = message.get("content")
        if isinstance(content, str) and draw.random() < 0.7:
            ends = sorted(draw.choices(range(len(content) + 1), k=draw.choice([0, 0, 1, 2])))
            texts = [content[low:high] for low, high in pairwise([0, *ends, len(content)])]
            content = [{"type": "text", "text": text} for text in texts]
        messages.append({**message, "content": content} if "content" in message else message)
    return {**row, "messages": messages}


@dataclass(frozen=True)
class Batch:
    """Rows of one template with the settings of their run."""

    name: str
    seed: Any
    rows: list[Chat]
    render: dict[str, Any]
    truncate: dict[str, Any]


def batch(name: str, seed: Any, size: int = BATCH) -> Batch:
    """Chats of a few shapes, several of each, mixed, and settings; all of it by the seed."""
    draw = random.Random(f"{name} {seed}")
    shapes = []
    for _ in range(max(1, size // 4)):
        kinds = outline(draw)
        called = any(kind == "call" for kind, _ in kinds)
        tools = [tool(draw) for _ in range(draw.choice([1, 1, 2]))] if called or draw.random() < 0.2 else None
        if draw.random() < 0.1:
            tools = None if called else []
        shapes.append((kinds, tools))
    rows = [chat(draw, *draw.choice(shapes)) for _ in range(size)]
    apart = random.Random(f"{name} {seed} parts")
    rows = [in_parts(apart, row) if apart.random() < 0.15 else row for row in rows]
    read = [key for key in ARGUMENTS if key in families.stock(name)]
    render: dict[str, Any] = {
        "tool_arguments": draw.choices(list(FORMS), list(FORMS.values()))[0],
        "loss_mask": draw.choice(MASKS),
        "loss": draw.choice(["assistant"] * 5 + ["last"]),
        "paranoid": draw.random() < 0.5,
        "date": str(datetime.date.today()),
    }
    if read and draw.random() < 0.4:
        key = draw.choice(read)
        render["template_kwargs"] = {key: draw.choice(ARGUMENTS[key])}
    if read and draw.random() < 0.2:
        for row in rows[::3]:
            key = draw.choice(read)
            row["chat_template_kwargs"] = {key: draw.choice(ARGUMENTS[key])}
    truncate: dict[str, Any] = {"max_length": LONG}
    if draw.random() < 0.2:
        truncate = {
            "max_length": draw.randint(20, 150),
            "overlong": draw.choice(["turns", "right", "left", "drop"]),
        }
    return Batch(name, seed, rows, render, truncate)
