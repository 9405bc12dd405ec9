"""The template families that trl ships, chats of every kind, and what is right for them.

trl's `*_training.jinja` mark the assistant's part with `{% generation %}`. Where such a variant writes
another text than the template that the model came with, or there is none, the tags are put into that template
here, by hand.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

CALL_ARGUMENTS = {"city": "Paris", "days": 3, "units": {"temp": "C"}}
ARGUMENTS_TEXT = '{"city": "Paris", "days": 3, "units": {"temp": "C"}}'
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Looks up the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city."}},
                "required": ["city"],
            },
        },
    }
]


def call(arguments: Any = None, number: int = 1) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": CALL_ARGUMENTS if arguments is None else arguments}
    return {"id": f"call{number}", "type": "function", "function": function}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def answer_of(number: int = 1) -> dict[str, Any]:
    content = f"Sunny, {20 + number} degrees"
    return {"role": "tool", "name": "get_weather", "tool_call_id": f"call{number}", "content": content}


SYSTEM = {"role": "system", "content": "Be brief, please."}
ASK, TELL = (
    {"role": "user", "content": "Hello there, who?"},
    {"role": "assistant", "content": "Only me, friend."},
)
MORE, THEN = (
    {"role": "user", "content": "And the weather?"},
    {"role": "assistant", "content": "It is fine today."},
)
THOUGHT = {"reasoning_content": "The user wants a name."}

CHATS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "plain": ([ASK, TELL], None),
    "system": ([SYSTEM, ASK, TELL], None),
    "multi-turn": ([ASK, TELL, MORE, THEN], None),
    "tool call, object": ([MORE, calling(call())], TOOLS),
    "tool call, string": ([MORE, calling(call(ARGUMENTS_TEXT))], TOOLS),
    "parallel calls": (
        [MORE, calling(call(), call({"city": "Rome"}, 2)), answer_of(), answer_of(2), THEN],
        TOOLS,
    ),
    "tool answer": ([MORE, calling(call()), answer_of(), THEN], TOOLS),
    "tools, then more": ([SYSTEM, MORE, calling(call()), answer_of(), THEN, ASK, TELL], TOOLS),
    "reasoning": ([ASK, {**TELL, **THOUGHT}], None),
    "earlier reasoning": ([ASK, {**TELL, **THOUGHT}, MORE, {**THEN, **THOUGHT}], None),
    "ends on a user turn": ([ASK, TELL, MORE], None),
}


@cache
def folder() -> Path | None:
    spec = importlib.util.find_spec("trl")
    return Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None


@cache
def names() -> tuple[str, ...]:
    """Templates that models came with."""
    here = folder()
    every = sorted(path.stem for path in here.glob("*.jinja")) if here else []
    return tuple(name for name in every if not name.endswith("_training"))


def stock(name: str) -> str:
    """The template's text; skips where the installed trl is without it."""
    here = folder()
    path = here / f"{name}.jinja" if here else None
    if path is None or not path.is_file():
        pytest.skip(f"the installed trl has no template {name}")
    return path.read_text(encoding="utf-8")


OPENERS = {
    "deepseekv3": (
        "<｜Assistant｜><think>\n",
        "<｜Assistant｜><think>",
        "<｜Assistant｜>",
        "<｜tool▁outputs▁end｜>",
    ),
    "deepseek_r1_distill": ("<｜Assistant｜>", "<｜tool▁outputs▁end｜>"),
    "gptoss": ("<|start|>assistant",),
    "muse_glimmer": ("<|start|>assistant",),
    "qwen2_5": ("\n",),
    "llava_next": (" ",),  # it has no generation prompt: a turn begins with its content
    "qwen3_5_nothink": ("<think>\n\n</think>\n\n", "<think>\n", "<think>"),
    **dict.fromkeys(("qwen3_5_think", "qwen3_6", "qwen3_8"), ("<think>\n", "<think>")),
    **dict.fromkeys(
        ("nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "nemotron_3_5_lightning"),
        ("<think>\n", "<think>"),
    ),
}
"""What the generation prompt writes, and trl's tags include: given to the model, so it is not trained."""

_GENERATION = ("{%- generation %}", "{%- endgeneration %}")


def _swap(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the template changed: {old!r} is not there"
        text = text.replace(old, new)
    return text


def _qwen(text: str) -> str:
    """Tags for the templates that write a think block into the newest turns alone."""
    begin, end = _GENERATION
    head = "'<|im_start|>' + message.role + '\\n"
    first = re.search(r"\{%- if [^\n]*loop\.index0 > ns\.last_query_index[^\n]*%\}", text)
    assert first is not None
    at = text.index('message.role == "assistant"')
    stop = text.index('message.role == "tool"')
    inside = text[first.start() : stop]
    inside = _swap(inside, (head + "<think>", "'<think>"), (head + "' + content", "content"))
    last = inside.rindex("<|im_end|>\\n' }}") + len("<|im_end|>\\n' }}")
    inside = inside[:last] + end + inside[last:]
    assert at < first.start()
    return text[: first.start()] + "{{- " + head + "' }}" + begin + inside + text[stop:]


def _deepseek(text: str) -> str:
    begin, end = "{% generation %}", "{% endgeneration %}"
    body = "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}"
    return _swap(
        text,
        (body, begin + body + end),
        (
            "{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
            begin + "{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}" + end,
        ),
        ("{%- for tool in message['tool_calls']", begin + "{%- for tool in message['tool_calls']"),
    )


def _deepseek_v3(text: str) -> str:
    close = "{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}"
    return _swap(_deepseek(text), (close, close + "{% endgeneration %}"))


def _deepseek_r1(text: str) -> str:
    is_said = "{%- if message['role'] == 'assistant' and message['content'] is not"
    close = "{%- endif %}{%- endfor %}{%- endif %}" + is_said
    return _swap(
        _deepseek(text),
        (close, close.replace("{%- endfor %}", "{%- endfor %}{% endgeneration %}")),
    )


def _glm(text: str) -> str:
    return _swap(
        text,
        (
            "{%- if loop.index0 > ns.last_user_index and",
            "{%- generation -%}\n{%- if loop.index0 > ns.last_user_index and",
        ),
        (
            "{% endif %}\n{%- elif m.role == 'tool' -%}",
            "{% endif %}{%- endgeneration -%}\n{%- elif m.role == 'tool' -%}",
        ),
    )


def _gemma4(text: str) -> str:
    """As trl tags DiffusionGemma: a tool's answer is not the model's."""
    begin, end = _GENERATION
    at = text.index("Loop through messages")
    head, body = text[:at], text[at:]
    calls = re.search(r"\{%- for \w+ in message(?:\['tool_calls'\]|\.get\('tool_calls'\)) -%\}", body)
    done = "{%- set ns.prev_message_type = 'tool_call' -%}"
    assert calls is not None
    body = _swap(body, (calls.group(), begin + calls.group()), (done, end + done))
    for thought in dict.fromkeys(re.findall(r"\{\{- '<\|channel>thought\\n' \+ .*? -\}\}", body)):
        body = _swap(body, (thought, begin + thought + end))
    if "{{- captured_content -}}" in body:
        body = _of_model(body, "{{- captured_content -}}")
    else:
        texts = ("message['content']", "item['text']")
        body = _swap(
            body,
            *(
                (f"{{{{- strip_thinking({x}) -}}}}", begin + f"{{{{- strip_thinking({x}) -}}}}" + end)
                for x in texts
            ),
        )
    return head + _of_model(body, "{{- '<turn|>\\n' -}}")


def _of_model(text: str, output: str) -> str:
    begin, end = _GENERATION
    both = f"{{%- if role == 'model' -%}}{begin}{output}{end}{{%- else -%}}{output}{{%- endif -%}}"
    return _swap(text, (output, both))


def _llama(text: str) -> str:
    begin, end = _GENERATION
    head = "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    said = "message['content'] | trim + '<|eot_id|>' }}"
    is_answer = "{%- if message.role == 'assistant' %}"
    tagged = is_answer + begin + "{{- " + said + end + "{%- else %}{{- " + said + "{%- endif %}"
    named, ended = '{{- \'{"name": "\' + tool_call.name', '{{- "}" }}'
    text = _swap(
        text, (head + "+ " + said, head + " }}" + tagged), (named, begin + named), (ended, ended + end)
    )
    closed = '{{- "<|eot_id|>" }}\n'
    at = text.index(closed, text.index(ended))
    return text[:at] + begin + closed.rstrip() + end + "\n" + text[at + len(closed) :]


BY_HAND = {
    **dict.fromkeys(("qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8"), _qwen),
    "deepseekv3": _deepseek_v3,
    "deepseek_r1_distill": _deepseek_r1,
    "glm4moe": _glm,
    **dict.fromkeys(("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"), _gemma4),
    "llama3_1": _llama,
    "llama3_2": _llama,
}


@cache
def tagged(name: str) -> str:
    """The template with generation tags: it writes what the stock one writes."""
    if name in BY_HAND:
        return BY_HAND[name](stock(name))
    here = folder()
    assert here is not None
    training = here / f"{name}_training.jinja"
    if training.is_file():
        return training.read_text(encoding="utf-8")
    text = stock(name)
    assert "generation" in text, f"{name} has no tags: put them in by hand"
    return text


_MARKER = re.compile(
    r"<\|[^|<>\s]+\|?>|<[a-z_]+\|>|<｜[^｜\s]+｜>|</?(?:start_of_turn|end_of_turn|end_of_utterance|image|think|tool_call|tool_response)>"
    r"|\[/?(?:INST|gMASK)\]|<sop>"
)


def without_markers(text: str) -> str:
    """What a turn holds beside special tokens and white space."""
    return _MARKER.sub("", text.replace("<|channel|>final<|message|>", "").replace("</s>", "")).strip()


@cache
def markers() -> tuple[str, ...]:
    """What the families' models have as special tokens."""
    return tuple(sorted({found for name in names() for found in _MARKER.findall(stock(name))}))


OBJECTS = {
    *("qwen2_5", "llama3_1", "llama3_2", "gptoss", "muse_glimmer", "glm4moe", "diffusion_gemma"),
    *(
        name
        for name in names()
        if name.startswith(("gemma4", "nemotron", "qwen3_5", "qwen3_6", "qwen3_8", "lfm2_"))
    ),
}
"""Families whose template writes arguments well as objects alone."""
TEXTS = {"deepseekv3", "deepseek_r1_distill"}
"""Families whose template writes arguments as JSON texts alone."""
PARTS = {"smolvlm", "idefics3", "llava_next"}
"""Families whose template reads content parts alone."""


_WITH_ANSWERS = ("parallel calls", "tool answer", "tools, then more")
_ALTERNATE = "Conversation roles must alternate"
_REFUSALS = {
    **{(name, kind): _ALTERNATE for name in ("cohere", "cohere2", "gemma3") for kind in _WITH_ANSWERS},
    **{("gemma", kind): _ALTERNATE for kind in _WITH_ANSWERS[:2]},
    **{("gemma", kind): "System role not supported" for kind in ("system", "tools, then more")},
    **{(name, "parallel calls"): "only supports single tool-calls" for name in ("llama3_1", "llama3_2")},
    **{("llava_next", kind): "Only user and assistant roles" for kind in _WITH_ANSWERS},
    **{
        (name, kind): "leaves out the content of message"
        for name in ("phi3", "phi3_5")
        for kind in _WITH_ANSWERS
    },
}


def refusal(name: str, kind: str) -> str:
    """Why the family's template cannot take a chat of this kind; empty when it can."""
    return _REFUSALS.get((name, kind), "")


def wanted_form(name: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat in the form that the family's template reads."""
    shown = json.loads(json.dumps(messages))
    for message in shown:
        if name in PARTS and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        for made in message.get("tool_calls", ()):
            function = made["function"]
            if name in OBJECTS and isinstance(function["arguments"], str):
                function["arguments"] = json.loads(function["arguments"])
            if name in TEXTS and not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"])
    return shown


def trained_by_tokpack(mask: list[int], tokens: list[str], name: str) -> tuple[list[int], int]:
    """(trl's mask by tokpack's three rules, number of turns left empty).

    Not trained are the generation prompt, whitespace after the end, and turns of which the template wrote
    nothing but their end.
    """
    kept, empty = list(mask), 0
    edges = [0, *[i for i in range(1, len(mask)) if mask[i] != mask[i - 1]], len(mask)]
    for low, high in pairwise(edges):
        if not mask[low]:
            continue
        start = low + _tokens_of_prompt(tokens[low:high], name)
        end = high
        while end > start and not tokens[end - 1].strip():
            end -= 1
        if not without_markers("".join(tokens[start:end])):
            empty, end = empty + 1, start
        kept[low:start] = [0] * (start - low)
        kept[end:high] = [0] * (high - end)
    return kept, empty


def _tokens_of_prompt(tokens: list[str], name: str) -> int:
    for opener in OPENERS.get(name, ()):
        for count in range(1, len(tokens) + 1):
            if "".join(tokens[:count]) == opener:
                return count
    return 0
