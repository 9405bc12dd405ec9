"""Templates get calls and contents in the form that they read; what they leave out is told, never trained."""

from __future__ import annotations

import json

import families
import pytest
from encode_helpers import document, frame, small_tokenizer, template

from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.render.spans.chat_spans import SpanFinder
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError
from tokpack.stages.render.template.template_forms import Forms

OBJECT = {"town": "Rome", "days": 2}
TEXT = json.dumps(OBJECT)
LOOP = "{% for m in messages %}<{{ m.role }}>"
CALLS = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} "
END = "]{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
AS_JSON = LOOP + "{{ m.content or '' }}" + CALLS + "{{ c.function.arguments | tojson }}" + END
ADDED = LOOP + "{{ m.content or '' }}" + CALLS + "{{ '' + c.function.arguments }}" + END
BOTH = (
    LOOP
    + "{{ m.content or '' }}"
    + CALLS
    + "{% set a = c.function.arguments %}{{ a if a is string else a | tojson }}"
    + END
)
ITEMS = (
    LOOP
    + "{{ m.content or '' }}"
    + CALLS
    + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}"
    + END
)
PRINTED = LOOP + "{{ m.content or '' }}" + CALLS + "{{ c.function.arguments }}" + END
PARTS = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    "</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASK = {"role": "user", "content": "Weather?"}
TELL = {"role": "assistant", "content": "Fine."}


def calling(arguments, **more):
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call], **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("forms") / "tokenizer"


def rendered(folder, source, *chats, tools=None, **options):
    tokenizer = small_tokenizer(folder, chat_template=source)
    return render(
        frame(document(chat, tools) for chat in chats), Renderer(tokenizer, RenderSettings(**options))
    )


def trained(result, row=0):
    raw = result.text[row].as_py().encode()
    return [raw[a:b].decode() for a, b in result.trained.of_row(row)]


@pytest.mark.parametrize(
    ("source", "from_object", "from_text"),
    [
        (AS_JSON, TEXT, TEXT),
        (ADDED, TEXT, TEXT),
        (BOTH, TEXT, '{"town":"Rome"}'),
        (ITEMS, "town=Rome;days=2;", "town=Rome;days=2;"),
        (PRINTED, TEXT, TEXT),
    ],
    ids=["as JSON", "added", "both", "items", "printed"],
)
def test_arguments_come_in_the_form_that_the_template_writes_well(folder, source, from_object, from_text):
    text = '{"town":"Rome"}' if source == BOTH else TEXT
    result = rendered(folder, source, [ASK, calling(OBJECT, content="")], [ASK, calling(text, content="")])
    assert trained(result, 0) == [f"[look {from_object}]</s>"]
    assert trained(result, 1) == [f"[look {from_text}]</s>"]


def test_the_raw_form_can_be_asked_for(folder):
    chat = [ASK, calling(TEXT, content="")]
    assert trained(rendered(folder, AS_JSON, chat, tool_arguments="as-is")) == [
        f"[look {json.dumps(TEXT)}]</s>"
    ]
    assert trained(rendered(folder, AS_JSON, chat, tool_arguments="object")) == [f"[look {TEXT}]</s>"]
    chat = [ASK, calling(OBJECT, content="")]
    assert trained(rendered(folder, BOTH, chat, tool_arguments="string")) == [f"[look {TEXT}]</s>"]


@pytest.mark.parametrize("odd", ["not JSON", "[1]", '"text"', "{"])
def test_arguments_that_are_no_object_are_given_as_they_are(odd):
    forms = Forms(ChatTemplate(AS_JSON))
    assert forms.give([ASK, calling(odd)])[1]["tool_calls"][0]["function"]["arguments"] == odd
    assert forms.give([ASK, calling("")])[1]["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("more", [{}, {"content": None}, {"content": ""}])
def test_a_call_without_content_is_written_by_templates_that_ask_for_one(folder, more):
    needs = AS_JSON.replace("{{ m.content or '' }}", "{{ m.content + '' }}")
    null = AS_JSON.replace("{{ m.content or '' }}", "{{ '' if m.content is none else m.content + '' }}")
    for source in (AS_JSON, needs, null):
        result = rendered(folder, source, [ASK, calling(OBJECT, **more)])
        assert not result.errors
        assert trained(result) == [f"[look {TEXT}]</s>"]


def test_texts_become_parts_where_the_template_reads_parts_alone_and_the_other_way_round(folder):
    in_parts = [
        {**message, "content": [{"type": "text", "text": message["content"]}]} for message in (ASK, TELL)
    ]
    for source in (PARTS, AS_JSON):
        for chat in ([ASK, TELL], in_parts):
            result = rendered(folder, source, chat)
            assert result.text[0].as_py() == "<user>Weather?</s><assistant>Fine.</s>"
            assert trained(result) == ["Fine.</s>"]


def test_a_content_that_the_template_leaves_out_is_an_error_with_message_and_role(folder):
    known = AS_JSON.replace(LOOP, LOOP.replace("%}<", "%}{% if m.role in ['user', 'assistant'] %}<")).replace(
        "</s>", "</s>{% endif %}"
    )
    chats = [
        [{"role": "system", "content": "Be good"}, ASK, TELL],
        [ASK, calling(OBJECT, content=""), {"role": "tool", "content": "Sun"}, TELL],
        [ASK, calling(OBJECT, content=""), {"role": "tool", "content": "s"}, TELL],  # `<user>` has the letter
        [ASK, TELL],
    ]
    result = rendered(folder, known, *chats)
    assert result.errors == {
        0: "the template leaves out the content of message 1 (system)",
        1: "the template leaves out the content of message 3 (tool)",
        2: "the template leaves out the content of message 3 (tool)",
    }


def test_calls_and_reasoning_that_the_template_never_reads_are_counted_and_empty_turns_not_trained(folder):
    silent = [ASK, calling(OBJECT, content=""), {"role": "tool", "content": "Sun"}, TELL]
    thoughtful = [ASK, {**TELL, "reasoning_content": "Look outside."}]
    said = [ASK, calling(OBJECT, content="One moment")]
    result = rendered(folder, template("smollm2", tagged=False), *[silent] * 5, thoughtful, said)
    assert result.told == {
        "tool_calls_not_rendered": 6,
        "reasoning_not_rendered": 1,
        "turns_left_empty": 5,
    }
    assert trained(result, 0) == trained(result, 4) == ["Fine.<|im_end|>"]
    assert trained(result, 6) == ["One moment<|im_end|>"]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["e", "assistant", "im_end"])
def test_calls_and_reasoning_are_not_taken_for_written_because_the_template_has_words_like_them(
    folder, rows, name
):
    silent = [ASK, calling(OBJECT, content="", reasoning_content=f" {name}\n"), TELL]
    silent[1]["tool_calls"][0]["function"]["name"] = name
    result = rendered(folder, template("smollm2", tagged=False), *[silent] * rows)
    counters = ("tool_calls_not_rendered", "reasoning_not_rendered", "turns_left_empty")
    assert result.told == dict.fromkeys(counters, rows)
    assert trained(result, 0) == ["Fine.<|im_end|>"]
    talking = AS_JSON.replace("{{ m.content", "{{ m.reasoning_content | default('') | trim }}{{ m.content")
    result = rendered(folder, talking, *[silent] * rows)
    assert result.told == {}
    assert trained(result, 0) == [f"{name}[{name} {TEXT}]</s>", "Fine.</s>"]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("written", [True, False])
def test_a_call_is_not_taken_for_written_because_the_answer_speaks_of_it(folder, rows, written):
    source = AS_JSON if written else template("smollm2", tagged=False)
    chat = [ASK, calling(OBJECT, content="I look with look.", reasoning_content="look?")]
    told = rendered(folder, source, *[chat] * rows).told
    missing = {} if written else {"tool_calls_not_rendered": rows}
    assert told == {"reasoning_not_rendered": rows, **missing}


@pytest.mark.parametrize("rows", [1, 5])
def test_reasoning_is_not_taken_for_written_because_the_answer_repeats_it(folder, rows):
    chat = [ASK, {"role": "assistant", "content": "Fine. Fine.", "reasoning_content": "Fine."}]
    assert rendered(folder, AS_JSON, *[chat] * rows).told == {"reasoning_not_rendered": rows}
    thinking = AS_JSON.replace(
        "{{ m.content or '' }}", "{{ m.reasoning_content or '' }}{{ m.content or '' }}"
    )
    assert rendered(folder, thinking, *[chat] * rows).told == {}


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("arguments", [{"town": "No. Rome"}, {"No.": 2}, {"town": ["No. Rome"]}])
def test_reasoning_is_not_taken_for_written_because_the_call_repeats_it(folder, rows, arguments):
    chat = [ASK, calling(arguments, content="", reasoning_content=" No.\n"), TELL]
    assert rendered(folder, AS_JSON, *[chat] * rows).told == {"reasoning_not_rendered": rows}
    thinking = AS_JSON.replace("{{ m.content", "{{ m.reasoning_content or '' }}{{ m.content")
    assert rendered(folder, thinking, *[chat] * rows).told == {}


@pytest.mark.parametrize("rows", [1, 5])
def test_nor_a_call_because_another_one_has_its_name_as_argument(folder, rows):
    one_call = AS_JSON.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    chat = [ASK, calling({"town": "find"}, content=""), TELL]
    chat[1]["tool_calls"].append({"type": "function", "function": {"name": "find", "arguments": OBJECT}})
    assert rendered(folder, one_call, *[chat] * rows).told == {"tool_calls_not_rendered": rows}
    assert rendered(folder, AS_JSON, *[chat] * rows).told == {}


CUTTING = (
    LOOP + "{% set c = m.content %}"
    "{% if m.role == 'assistant' %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ c }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_think_blocks_that_the_template_takes_away_are_counted_and_what_is_left_empty_not_trained(folder):
    def told(said):
        return [ASK, {"role": "assistant", "content": said}, ASK, TELL]

    chats = [told("<think>Look.</think>Fine."), told("<think>Look.</think>"), told("<think>\n</think>Fine.")]
    for many in (1, 5):
        result = rendered(folder, CUTTING, *(chat for chat in chats for _ in range(many)))
        assert result.told == {"reasoning_not_rendered": 2 * many, "turns_left_empty": many}
        assert [trained(result, row * many) for row in range(3)] == [
            ["Fine.</s>", "Fine.</s>"],
            ["Fine.</s>"],
            ["Fine.</s>", "Fine.</s>"],
        ]


def test_what_an_answer_begins_with_is_not_the_end_of_the_call_before(folder):
    answer = {"role": "tool", "name": "look", "content": "Sun"}
    chat = [ASK, calling(OBJECT, content=""), answer, {**TELL, "content": "<turn|>So."}]
    result = rendered(folder, families.stock("gemma4"), chat)
    text = result.text[0].as_py().encode()
    said = [text[a:b].decode() for a, b in result.content.of_row(0)]
    assert not any("Sun" in part for part in said if part.startswith("<|tool_call>"))


def test_the_end_of_an_answer_left_empty_is_not_trained_as_that_of_the_call_before(folder):
    answer = {"role": "tool", "name": "look", "content": "Sun"}
    empty = {"role": "assistant", "content": "", "reasoning_content": "No more."}
    result = rendered(
        folder, families.stock("gemma4"), [ASK, calling(OBJECT, content=""), answer, empty, ASK, TELL]
    )
    assert result.told["turns_left_empty"] == 1
    assert [text.partition("{")[0] for text in trained(result)] == ["<|tool_call>call:look", "Fine.<turn|>"]


@pytest.mark.parametrize("behind", ["\n\n", "\n\n "])
def test_a_think_block_alone_is_reasoning_that_the_template_takes_away_with_what_stands_behind_it(
    folder, behind
):
    stripping = CUTTING.replace("split('</think>')[-1]", "split('</think>')[-1].lstrip('\\n')")
    chat = [ASK, {"role": "assistant", "content": f"<think>Look.</think>{behind}"}, ASK, TELL]
    result = rendered(folder, stripping, chat)
    assert result.told == {"reasoning_not_rendered": 1, "turns_left_empty": 1}
    assert trained(result) == ["Fine.</s>"]


def test_a_tool_that_answers_nothing_inside_the_answer_is_not_trained(folder):
    inside = (
        "{% for m in messages %}{% if m.role != 'tool' %}<{{ m.role }}>{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]"
        "{% endfor %}{% if m.tool_calls %}{% for t in messages if t.role == 'tool' %}"
        "<tool>{{ t.content }}</tool>{% endfor %}{% endif %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    for answer in ("Sun", " ", ""):
        chat = [ASK, calling(OBJECT, content=""), {"role": "tool", "content": answer}, TELL]
        result = rendered(folder, inside, *[chat] * 4)
        for row in range(4):
            assert trained(result, row) == [f"[look {TEXT}]", "</s>", "Fine.</s>"]


def test_what_stands_before_an_answer_that_begins_the_chat_is_not_trained(folder):
    begun = (
        "{% for m in messages %}{% if loop.first %}<s><system>Be good.</s>{% endif %}<{{ m.role }}>"
        "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    result = rendered(folder, begun, *[[TELL, ASK, TELL]] * 4)
    assert [trained(result, row) for row in range(4)] == [["Fine.</s>", "Fine.</s>"]] * 4


def test_answers_that_the_template_does_not_close_are_counted(folder):
    open_ended = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}{% endfor %}"
    result = rendered(
        folder, open_ended + "{% if add_generation_prompt %}<assistant>\n{% endif %}", [ASK, TELL] * 2
    )
    assert result.told == {"turns_not_closed": 2}
    assert trained(result) == ["Fine.", "Fine."]


def test_a_run_warns_of_what_the_template_leaves_out_and_the_report_counts_it(folder, tmp_path, caplog):
    from tokpack import api

    small_tokenizer(folder)
    silent = [ASK, calling(OBJECT, content=""), {"role": "tool", "content": "Sun"}, TELL]
    rows = [json.dumps({"messages": silent, "chat_template_kwargs": {"mood": mood}}) for mood in ("a", "b")]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "chat.jinja").write_text(template("smollm2", tagged=False))
    out = tmp_path / "out"
    kwargs = {"thinking": False}
    api.pack(
        str(tmp_path / "rows.jsonl"),
        out=out,
        tokenizer=str(folder),
        chat_template=str(tmp_path / "chat.jinja"),
        template_kwargs=kwargs,
        exact_key="off",
    )
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert (
        "2 tool calls are left out by the chat template; --chat-template FILE takes one that writes them"
    ) in warned
    assert "2 turns are left empty by the chat template and are not trained" in warned
    counters = json.loads((out / "report.json").read_text())["counters"]
    assert counters["tool_calls_not_rendered"] == counters["with_template_arguments"] == 2
    assert json.loads((out / "manifest.json").read_text())["config"]["render"]["template_kwargs"] == kwargs


def located(finder, chat, tools=None):
    """(text, "") or ("", why it is refused)."""
    try:
        return finder.locate(chat, tools).text, ""
    except RenderError as error:
        return "", str(error)


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", families.names())
def test_calls_without_content_are_refused_no_more_than_with_an_empty_one_and_write_no_none(name):
    finder = SpanFinder(ChatTemplate(families.stock(name), {"bos_token": "<s>", "eos_token": "</s>"}))
    thoughtful = calling(OBJECT, **families.THOUGHT)
    for turn, more in ((calling(OBJECT), [families.answer_of(), TELL]), (thoughtful, [])):
        _, refused = located(finder, [ASK, {**turn, "content": ""}, *more])
        for missing in (turn, {**turn, "content": None}):
            text, why = located(finder, [ASK, missing, *more])
            assert why == refused
            assert "None" not in text
            assert name != "deepseek_r1_distill" or "look" in text


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", families.names())
def test_tools_without_their_wrapper_are_written_where_those_with_it_are(name):
    finder = SpanFinder(ChatTemplate(families.stock(name), {"bos_token": "<s>", "eos_token": "</s>"}))
    bare = [tool["function"] for tool in families.TOOLS]
    wrapped, refused = located(finder, [ASK, TELL], families.TOOLS)
    for tools in (bare, [{"type": "function", **tool} for tool in bare]):
        text, why = located(finder, [ASK, TELL], tools)
        assert why == refused
        for part in ("get_weather", "Looks up the weather.", "A city."):
            assert (part in text) == (part in wrapped)


def test_bare_tools_from_pieces_are_wrapped_as_those_by_jinja_are(folder):
    source = "{% for t in tools %}[{{ t.function.name }}]{% endfor %}" + AS_JSON
    bare = [tool["function"] for tool in families.TOOLS]
    result = rendered(folder, source, *[[ASK, TELL]] * 2, tools=bare, paranoid=True)
    assert not result.errors
    assert all(text.startswith("[get_weather]<user>Weather?") for text in result.text.to_pylist())


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", families.names())
def test_a_tool_that_answers_nothing_is_written_as_one_that_answers_an_empty_text(name):
    finder = SpanFinder(ChatTemplate(families.stock(name), {"bos_token": "<s>", "eos_token": "</s>"}))
    tool = families.answer_of()
    expected = located(finder, [ASK, calling(OBJECT), {**tool, "content": ""}, TELL])
    assert located(finder, [ASK, calling(OBJECT), {**tool, "content": None}, TELL]) == expected
    assert "None" not in expected[0]
