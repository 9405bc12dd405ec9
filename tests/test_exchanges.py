"""Requests and responses, odd keys and what logs say twice; and hints that name where a chat stands."""

from __future__ import annotations

import json

import pytest
from layout_exchanges import _answer, _choices
from layout_words import TOOL, A, B, Q, R, S, msgs, share, turns
from normalizing import run

from tokpack.errors import UsageError


def documents(folder, *rows, **config):
    """(roles and contents, extra) of each row."""
    found, quarantined, shape = run(folder, rows, **config)
    assert [entry.reason for entry in quarantined] == []
    read = [
        (list(zip(roles, contents, strict=True)), json.loads(extra or "{}"))
        for roles, contents, extra in found.select("roles", "contents", "extra").rows()
    ]
    return read, shape


def refused(folder, *rows):
    with pytest.raises(UsageError) as error:
        run(folder, rows)
    return error.value.hint


def test_of_several_choices_the_first_is_read_and_said(tmp_path):
    [(document, _)], shape = documents(tmp_path, {"messages": msgs(Q), "response": _choices(A, B)})
    assert document == turns(Q, A)
    assert "of several choices the first is read" in shape.notes[-1]


def test_tools_and_system_of_later_requests_are_read_too(tmp_path):
    first = {"request": {"messages": msgs(Q)}, "response": _answer()}
    last = {"request": {"messages": msgs(Q), "tools": [TOOL], "system": S}, "response": _answer()}
    read, _ = documents(tmp_path, *[first] * 110, last)
    assert read[-1] == (turns(Q, A, system=S), {"tools": [TOOL]})


def test_spans_among_many_others_are_refused_with_what_picks_them_out(tmp_path):
    span = {"attributes": {"llm.input_messages": msgs(Q), "llm.output_messages": [_answer()]}}
    hint = refused(tmp_path, *[span, {"attributes": {"tool.name": "count"}}] * 10)
    assert """jq -c 'select(tostring | test("input.messages|gen_ai.prompt"))' FILE""" in hint
    hint = refused(tmp_path, {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "a"}]}]}]})
    assert ".resourceSpans[].scopeSpans[].spans[] | select" in hint


def test_a_span_without_messages_among_many_is_set_aside(tmp_path):
    span = {"attributes": {"llm.input_messages": msgs(Q), "llm.output_messages": [_answer()]}}
    found, quarantined, _ = run(tmp_path, [span] * 40 + [{"attributes": {"tool.name": "count"}}])
    assert (len(found), [entry.row for entry in quarantined]) == (40, [41])


def test_attributes_that_are_no_messages_are_no_spans(tmp_path):
    row = {"prompt": Q, "completion": A, "attributes": {"length": 3}}
    assert documents(tmp_path, row)[0] == [(turns(Q, A), {})]


def test_a_request_without_a_response_is_set_aside(tmp_path):
    rows = [{"messages": msgs(Q), "response": held} for held in (_choices(A), {"error": "no room"}, None)]
    found, quarantined, _ = run(tmp_path, rows)
    assert (len(found), len(quarantined)) == (1, 2)


def test_an_exchange_in_metadata_does_not_stand_before_prompt_and_completion(tmp_path):
    told = {"request": {"messages": msgs(B)}, "response": _answer(B)}
    [(document, _)], _ = documents(tmp_path, {"prompt": Q, "completion": A, "metadata": told})
    assert document == turns(Q, A)


def test_a_list_of_several_answers_that_is_no_list_of_choices_is_not_cut_to_the_first(tmp_path):
    hint = refused(tmp_path, {"asked": {"messages": msgs(Q)}, "said": {"all": [_answer(), _answer(B)]}})
    assert hint.startswith("said.all holds several")
    hint = refused(tmp_path, {"conversations": [share(Q, A), share(Q, B)]})
    assert hint == "conversations holds several chats or answers: write each in a row of its own"


def test_hints_name_where_a_chat_or_an_answer_stands(tmp_path):
    assert "--map messages=data.chat.messages,tools=data.chat.tools" in refused(
        tmp_path, {"data": {"chat": {"messages": msgs(Q, A), "tools": [TOOL]}}}
    )
    assert "--map messages=body.messages,completion=COLUMN" in refused(
        tmp_path, {"custom_id": "a", "method": "POST", "body": {"messages": msgs(Q)}}
    )
    assert "--map prompt=COLUMN,completion=response.body.choices.0.message" in refused(
        tmp_path, {"number": "a", "response": {"status_code": 200, "body": _choices(A)}}
    )
    assert refused(tmp_path, {"messages": ["Hi", "Hello."]}).startswith("messages is a list of texts")
    assert "role" not in refused(tmp_path, {"rows": [{"rolle": "nutzer", "inhalt": Q}], "role": "x"})


@pytest.mark.parametrize("keys", [("Role", "Content"), ("From", "Value"), ("ROLE", "CONTENT")], ids=str)
def test_keys_of_messages_may_be_in_capitals(keys, tmp_path):
    role, content = keys
    row = {"messages": [{role: who, content: text} for who, text in turns(Q, A)]}
    assert documents(tmp_path, row)[0] == [(turns(Q, A), {})]
    assert documents(tmp_path, {"messages": msgs(Q, A)}, row)[0] == [(turns(Q, A), {})] * 2


def test_messages_may_be_numbered(tmp_path):
    row = {"conversations": {str(i): turn for i, turn in enumerate(share(Q, A))}}
    assert documents(tmp_path, row)[0] == [(turns(Q, A), {})]


@pytest.mark.parametrize("said", [f"{R} I count them all.", f"<think>{R} I count them all.</think>Three."])
def test_thoughts_that_the_content_says_too_are_not_said_twice(said, tmp_path):
    answer = {"role": "assistant", "content": said, "thought": f"{R} I count them all."}
    assert documents(tmp_path, {"messages": [*msgs(Q), answer]})[0] == [(turns(Q, said), {})]
    other = {**answer, "content": A}
    [(_, extra)], _ = documents(tmp_path, {"messages": [*msgs(Q), other]})
    assert extra["messages"][1] == {"reasoning_content": f"{R} I count them all."}


def test_tools_as_python_prints_them_in_a_system_message_are_not_given_again(tmp_path):
    system = {"from": "system", "value": f"Call these: <tools> {[TOOL]} </tools>"}
    row = {"conversations": [system, *share(Q, A)], "tools": json.dumps([TOOL])}
    [(_, extra)], shape = documents(tmp_path, row)
    assert extra == {}
    assert shape.notes == ("system messages hold the tools already: tools is not given again",)


def test_the_label_of_glaives_system_messages_is_no_text_of_theirs(tmp_path):
    row = {"system": f"SYSTEM: {S}", "chat": f"USER: {Q}\n\n\nASSISTANT: {A} <|endoftext|>"}
    [(document, _)], _ = documents(tmp_path, row, map={"messages": "chat"})
    assert document[0] == ("system", S)


def test_messages_that_are_not_read_are_named_where_they_differ(tmp_path):
    _, shape = documents(tmp_path, {"messages": msgs(Q, A), "other": msgs(Q, B), "again": msgs(Q, A)})
    assert shape.notes == ("other holds other messages than messages: --map messages=other takes them",)


def test_a_system_prompt_in_a_message_is_its_text(tmp_path):
    row = {
        "trajectory": [
            {"role": "system", "system_prompt": S, "text": None},
            {"role": "user", "system_prompt": None, "text": Q},
            {"role": "ai", "system_prompt": None, "text": A},
        ]
    }
    assert "--map messages=trajectory" in refused(tmp_path, row)
    [(document, _)], _ = documents(tmp_path, row, map={"messages": "trajectory"})
    assert document == turns(Q, A, system=S)


def test_hints_know_what_columns_are_called_elsewhere(tmp_path):
    row = {"anweisung": Q, "kontext": "Am Teich, an dem es viele gibt.", "antwort": A}
    assert "prompt=anweisung,input=kontext,completion=antwort" in refused(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"inputs": {"messages": msgs(Q)}, "outputs": {"output": A}},
            "outputs.output may be its answer: --map messages=inputs.messages,completion=outputs.output",
        ),
        (
            {"context": msgs(Q), "original_response": B, "edited_response": A},
            "--map messages=context,completion=COLUMN; texts stand in original_response, edited_response",
        ),
        ({"chat of mine": share(Q, A)}, "--map 'messages=chat of mine'"),
        ({"Open Question": Q, "True Answer": A}, "try --map 'prompt=Open Question,completion=True Answer';"),
        (
            {"question": Q, "answer": True, "passage": "x"},
            "jq -c '.answer |= tostring' FILE > rows.jsonl writes it",
        ),
        (
            {"question": Q, "query": "SELECT 1", "query_toks": ["SELECT", "1"]},
            "prompt=question,completion=query;",
        ),
        ({"question": Q, "spans": {"answers": ["3"], "types": ["number"]}}, "completion=spans.answers.0"),
    ],
    ids=["one answer", "two answers", "a chat of spaces", "spaces", "truth", "tokens", "types"],
)
def test_a_hint_is_a_command_that_works(row, hint, tmp_path):
    assert hint in refused(tmp_path, row)
