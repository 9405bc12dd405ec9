"""Chats with tools, calls and reasoning from pieces: the same as by Jinja, on real templates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from encode_helpers import document, frame, small_tokenizer

from tokpack.stages.render.render import Renderer, RenderOptions, render

TEMPLATES = (
    "qwen2_5_training",
    "qwen3",
    "llama3_1",
    "gptoss_training",
    "glm4moe_training",
    "cohere2_training",
)
WORDS = ("so", 'a "quote"', "back\\slash", "  ", "\n", "é你", "<b>", "7", "\u2028")


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5))) + "."


def tool(rng: random.Random) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"place": {"type": "string", "description": text(rng)}}}
    function = {"name": f"tool_{rng.randint(0, 9)}", "description": text(rng), "parameters": parameters}
    return {"type": "function", "function": function}


def call(rng: random.Random) -> dict[str, object]:
    arguments = {"place": text(rng), "count": rng.choice([0, 3, 2.5]), "more": [text(rng), None, {"x": True}]}
    return {"type": "function", "function": {"name": f"tool_{rng.randint(0, 9)}", "arguments": arguments}}


def chat(rng: random.Random, kind: int) -> dict[str, object]:
    messages: list[dict[str, object]] = [{"role": "user", "content": text(rng)}]
    if kind == 1:
        messages.append({"role": "assistant", "content": "", "tool_calls": [call(rng)]})
        messages.append({"role": "tool", "content": text(rng).strip()})
    last: dict[str, object] = {"role": "assistant", "content": text(rng)}
    if kind == 2:
        last["reasoning_content"] = text(rng)
    if kind == 3:
        last["content"] = f"<think>{text(rng)}</think>{text(rng)}"
    return document([*messages, last], tools=[tool(rng)] if kind < 2 else None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_tool_and_reasoning_chats_are_compiled_and_those_of_jinja(name, tmp_path):
    trl = pytest.importorskip("trl")
    source = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    rng = random.Random(3)
    documents = frame([chat(rng, number % 4) for number in range(60)])
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=source)
    renderer = Renderer(tokenizer, RenderOptions(paranoid=True, date="2026-01-02"))
    rendered = render(documents, renderer)
    assert not any("differed" in warning for warning in renderer.warnings)
    taken = len(documents) - len(rendered.errors)
    assert rendered.counters["compiled"] >= taken // 2
    assert rendered.counters["proofs"] >= rendered.counters["compiled"]
