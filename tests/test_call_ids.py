"""Mistral's templates take ids of calls of nine letters or digits alone: others are written as such."""

from __future__ import annotations

import json
import re

import pytest
from encode_helpers import byte_level, document, frame, open_here, tokenizer_folder

from tokpack.stages.render.render import Renderer, RenderSettings, render

_CHECK = (
    "{%- if not ID is defined or ID|length != 9 %}"
    '{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}'
)
MISTRAL = (
    "{{ bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{%- elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS]["
    "{%- for c in m.tool_calls %}{%- set out = c.function|tojson %}{{- out[:-1] }}"
    + _CHECK.replace("ID", "c.id")
    + "{{- ', \"id\": \"' + c.id + '\"}' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}"
    "]{{ eos_token }}{%- elif m.role == 'tool' %}[TOOL_RESULTS]{\"content\": {{ m.content }}, "
    + _CHECK.replace("ID", "m.tool_call_id")
    + '"call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]{%- else %}{{ m.content }}{{ eos_token }}{%- endif %}'
    "{%- endfor %}"
)
"""As Mistral 7B v0.3 and Nemo have it."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return open_here(tokenizer_folder(byte_level(), root / "folder"), root / "snapshot", MISTRAL)


def texts(tokenizer, *chats):
    rendered = render(frame([document(chat) for chat in chats]), Renderer(tokenizer, RenderSettings()))
    assert not rendered.errors
    return [text.as_py() for text in rendered.text]


def chat(call_ids, answer_ids, arguments=None):
    calls = [
        {"type": "function", "function": {"name": "tide", "arguments": arguments or {"pond": n}}}
        | ({"id": name} if name else {})
        for n, name in enumerate(call_ids)
    ]
    answers = [
        {"role": "tool", "content": str(n)} | ({"tool_call_id": name} if name else {})
        for n, name in enumerate(answer_ids)
    ]
    called = {"role": "assistant", "tool_calls": calls}
    return [{"role": "user", "content": "Hi"}, called, *answers, {"role": "assistant", "content": "Two."}]


@pytest.mark.parametrize("ids", [["call_abcdefgh"], ["a", "b"], ["call_x", None], [None, None]], ids=str)
def test_calls_and_answers_get_ids_that_the_template_takes(ids, opened):
    [text] = texts(opened, chat(ids, ids))
    called = re.findall(r'"id": "(\w+)"', text)
    assert called == re.findall(r'"call_id": "(\w+)"', text)
    assert all(re.fullmatch("[A-Za-z0-9]{9}", name) for name in called)
    assert len(set(called)) == len(ids)


def test_answers_in_another_order_keep_their_call(opened):
    [text] = texts(opened, chat(["call_1", "call_2"], ["call_2", "call_1"]))
    first, second = re.findall(r'"id": "(\w+)"', text)
    assert re.findall(r'"call_id": "(\w+)"', text) == [second, first]


def test_ids_that_the_template_takes_stay(opened):
    [text] = texts(opened, chat(["abcdef123"], ["abcdef123"]))
    assert text.count("abcdef123") == 2


def test_arguments_are_written_as_objects_there_too(opened):
    as_object, as_text = texts(
        opened, *(chat(["abcdef123"], ["abcdef123"], given) for given in ({"a": 1}, json.dumps({"a": 1})))
    )
    assert as_text == as_object
    assert '"arguments": {"a": 1}' in as_text
