"""Chats with tools, calls and reasoning from pieces: the same as by Jinja, on real templates."""

from __future__ import annotations

import json
import random

import families
import pytest
from encode_helpers import document, frame, small_tokenizer

from tokpack.stages.render.reference import to_messages
from tokpack.stages.render.render import Renderer, RenderSettings, render

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
    source = families.stock(name)
    rng = random.Random(3)
    documents = frame([chat(rng, number % 4) for number in range(60)])
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=source)
    renderer = Renderer(tokenizer, RenderSettings(paranoid=True, date="2026-01-02"))
    rendered = render(documents, renderer)
    assert not any("differed" in warning for warning in renderer.warnings)
    taken = len(documents) - len(rendered.errors)
    assert rendered.counters["compiled"] >= taken // 2
    assert rendered.counters["proofs"] >= rendered.counters["compiled"]


@pytest.mark.parametrize(
    "tools",
    [
        [],
        [{"name": "f", "required": ["a"], "messages": [{"content": '], "messages": ['}]}],
        [{"name": '"}]}'}, {"name": "g", "messages": ["x"]}],
    ],
)
@pytest.mark.parametrize("messages", [None, [{}, {"tool_calls": [{"messages": [1], "b": []}]}]])
@pytest.mark.parametrize("more", [{}, {"chat_template_kwargs": {"a": [1], "messages": [{}]}}])
def test_extra_is_taken_apart_as_json_reads_it(tools, messages, more):
    whole = {"tools": tools, **more, **({"messages": messages} if messages else {})}
    for _ in range(2):
        made, given, kwargs = to_messages(["user", "assistant"], ["q", "a"], json.dumps(whole))
        assert (given, kwargs) == (tools, more.get("chat_template_kwargs", {}))
        assert made[1].get("tool_calls") == (messages[1]["tool_calls"] if messages else None)


def test_chats_of_a_shape_that_the_template_refuses_have_its_reason_and_others_their_text(tmp_path):
    source = (
        "{% for m in messages %}{% if m.tool_calls and 'late' in messages[0].content %}"
        "{{ raise_exception('no calls to ' + m.role) }}{% elif m.tool_calls and not m.content %}"
        "{{ raise_exception('a call alone') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    )
    rng = random.Random(5)

    def asked(question, answer):
        calls = {"role": "assistant", "content": answer, "tool_calls": [call(rng)]}
        return document([{"role": "user", "content": question}, calls])

    chats = [asked("too late" if n % 4 == 0 else f"soon {n}", "" if n % 2 else "said") for n in range(24)]
    renderer = Renderer(small_tokenizer(tmp_path / "t", chat_template=source), RenderSettings())
    for _ in range(2):
        rendered = render(frame(chats), renderer)
        assert rendered.errors == {
            n: "no calls to assistant" if n % 4 == 0 else "a call alone" for n in range(24) if n % 4 != 2
        }
        assert [bool(text) for text in rendered.text.to_pylist()] == [n % 4 == 2 for n in range(24)]
    assert any(compiled.error == "a call alone" for compiled in renderer.proven)
