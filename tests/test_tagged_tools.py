"""Tools in the tags of Hermes: those of an answer stand once; calls as text are told."""

from __future__ import annotations

import families
import pytest
from encode_helpers import document, frame, small_tokenizer

from tokpack.stages.render.render import Renderer, RenderSettings, render

TAGGED = "<tool_response>\n{}\n</tool_response>"
CALL = '<tool_call>\n{"name": "count", "arguments": {"pond": "north"}}\n</tool_call>'
ASK = {"role": "user", "content": "How many ducks?"}
SAY = {"role": "assistant", "content": "Three."}
BARE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"


def answered(*answers):
    tools = [{"role": "tool", "content": answer} for answer in answers]
    return [ASK, {"role": "assistant", "content": CALL}, *tools, SAY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tagged") / "tokenizer"


def rendered(folder, source, *chats):
    tokenizer = small_tokenizer(folder, chat_template=source)
    return render(frame(map(document, chats)), Renderer(tokenizer, RenderSettings()))


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
@pytest.mark.parametrize("answer", ['{"ducks": 3}', "three, or\n\nfour"])
def test_the_tags_of_an_answer_stand_once_where_the_template_writes_them(folder, family, answer):
    source = families.stock(family)
    result = rendered(
        folder,
        source,
        answered(answer),
        answered(TAGGED.format(answer)),
        answered(TAGGED.format(answer) + "\n"),
    )
    once, *tagged = result.text.to_pylist()
    assert tagged == [once, once]
    assert once.count("<tool_response>") == 1
    assert result.told == {"tool_answers_in_tags": 2}


def test_two_answers_in_one_message_are_written_as_two_messages_are(folder):
    source = families.stock("qwen3")
    both = TAGGED.format(1) + "\n" + TAGGED.format(2)
    one, two = rendered(folder, source, answered(both), answered("1", "2")).text.to_pylist()
    assert one == two


def test_tags_stay_where_the_template_writes_none_and_in_what_others_say(folder):
    bare = rendered(folder, BARE, answered(TAGGED.format(3)))
    assert TAGGED.format(3) in bare.text[0].as_py()
    said = [{"role": "user", "content": TAGGED.format(3)}, SAY]
    assert rendered(folder, families.stock("qwen3"), said).text[0].as_py().count("<tool_response>") == 1
    part = rendered(folder, families.stock("qwen3"), answered("see " + TAGGED.format(3)))
    assert part.text[0].as_py().count("<tool_response>") == 2


def test_a_dropped_document_is_not_counted(folder):
    row = document(answered(TAGGED.format(3)), drop_reason="no_answer")
    tokenizer = small_tokenizer(folder, chat_template=families.stock("qwen3"))
    assert render(frame([row]), Renderer(tokenizer, RenderSettings())).told == {}


@pytest.mark.parametrize(("family", "told"), [("qwen3", {}), ("llama3_1", {"tool_calls_as_text": 1})])
def test_calls_as_text_are_told_where_the_template_writes_calls_in_another_form(folder, family, told):
    chat = [ASK, {"role": "assistant", "content": f"Let me look.\n{CALL}"}]
    result = rendered(folder, families.stock(family), chat, [ASK, SAY])
    assert CALL in result.text[0].as_py()
    assert result.told == told


OTHER_CALLS = [
    '<functioncall> {"name": "count", "arguments": "{}"}',
    'functools[{"name": "count", "arguments": {}}]',
    '[TOOL_CALLS] [{"name": "count", "arguments": {}}]',
    '<|python_tag|>{"name": "count", "parameters": {}}',
    '<function=count>{"pond": "north"}</function>',
]


@pytest.mark.parametrize("family", ["qwen2_5", "gemma4"])
@pytest.mark.parametrize("call", OTHER_CALLS)
def test_calls_in_the_form_of_another_template_are_told(folder, family, call):
    chat = [ASK, {"role": "assistant", "content": call}]
    mentioned = [{"role": "user", "content": f"What is {call}?"}, SAY]
    result = rendered(folder, families.stock(family), chat, mentioned, [ASK, SAY])
    assert result.told == {"tool_calls_as_text": 1}


def test_a_call_as_the_template_writes_it_is_no_other(folder):
    call = "<tool_call>\n<function=count>\n</function>\n</tool_call>"
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
        "<function={{ c.function.name }}>\n</function>\n</tool_call>{% endfor %}</s>{% endfor %}"
    )
    assert rendered(folder, source, [ASK, {"role": "assistant", "content": call}]).told == {}
    assert rendered(folder, BARE, [ASK, {"role": "assistant", "content": call}]).told != {}
