"""Chats of apps: what they hold beside texts is read, told or refused."""

from __future__ import annotations

import json
import logging

import pytest
from layout_words import A2, Q2, A, Q, R, msgs
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq, written

import tokpack

GROK = {
    "conversation": {"id": "1"},
    "responses": [
        {"response": {"sender": "human", "message": Q}},
        {"response": {"sender": "ASSISTANT", "message": A}},
    ],
}
COPILOT = {
    "requesterUsername": "me",
    "requests": [
        {"message": {"text": Q}, "response": [{"kind": "toolInvocationSerialized"}, {"value": A}]},
        {"message": {"text": Q2}, "response": [{"value": A2}]},
    ],
}


@with_jq
@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"conversations": [GROK], "projects": []}, [Q, A]),
        (GROK, [Q, A]),
        (COPILOT, [Q, A, Q2, A2]),
    ],
    ids=["grok", "a chat of grok", "copilot"],
)
def test_an_export_is_refused_with_what_writes_its_chats(row, read, tmp_path):
    [(_, contents, _, _)] = documents_of_hint(tmp_path, [row])
    assert contents == read


def item(role, kind, text):
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


SESSIONS = {
    "Claude Code": [
        {"type": "summary", "sessionId": "s"},
        {"type": "user", "sessionId": "s", "message": {"role": "user", "content": Q}},
        {"type": "assistant", "sessionId": "s", "message": {"role": "assistant", "content": A}},
    ],
    "Codex": [
        {"timestamp": "t", "type": "session_meta", "payload": {"id": "s"}},
        {"timestamp": "t", "type": "response_item", "payload": item("user", "input_text", Q)},
        {"timestamp": "t", "type": "response_item", "payload": item("assistant", "output_text", A)},
    ],
}


@with_jq
@pytest.mark.parametrize("name", SESSIONS)
def test_the_steps_of_a_session_are_refused_with_what_joins_them(name, tmp_path):
    [(_, contents, _, _)] = documents_of_hint(tmp_path, SESSIONS[name], flags="-cs")
    assert contents == [Q, A]


@with_jq
def test_parts_of_one_answer_in_a_session_are_one_message_and_helpers_are_left_out(tmp_path):
    parts = [{"type": "thinking", "thinking": R}, {"type": "tool_use", "id": "t", "name": "ls", "input": {}}]
    steps = [{"sessionId": "s", "message": {"role": "user", "content": Q}}]
    steps += [{"sessionId": "s", "message": {"role": "assistant", "id": "m", "content": [p]}} for p in parts]
    steps += [{**steps[0], "isSidechain": True}]
    [(roles, _, extra, _)] = documents_of_hint(tmp_path, steps, flags="-cs")
    assert roles == ["user", "assistant"]
    answer = json.loads(extra)["messages"][1]
    assert (answer["reasoning_content"], answer["tool_calls"][0]["function"]["name"]) == (R, "ls")


@with_jq
def test_answers_of_a_batch_are_joined_with_their_requests(tmp_path):
    asked = {"custom_id": "1", "url": "/v1/chat/completions", "body": {"model": "x", "messages": msgs(Q)}}
    answer = {"choices": [{"message": {"role": "assistant", "content": A}}]}
    row = {"id": "b", "custom_id": "1", "response": {"status_code": 200, "body": answer}, "error": None}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked))
    options = ("--slurpfile", "asked", tmp_path / "asked.jsonl")
    [(_, contents, _, _)] = documents_of_hint(tmp_path, [row], *options)
    assert contents == [Q, A]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("key", ["images", "image", "audio", "video_path", "videos"])
def test_a_message_with_an_image_beside_its_text_sets_the_row_aside(key, container, tmp_path):
    asked = {"role": "user", "content": Q, key: ["a.png"]}
    rows = [{"messages": [asked, *msgs(Q, A)[1:]]}, {"messages": [{**asked, key: []}, *msgs(Q, A)[1:]]}]
    found, [reason], _ = documents(tmp_path, rows, container)
    assert reason == f"messages[1].{key} holds what is no text, and only text can be packed"
    assert [contents for _, contents, *_ in found] == [[Q, A]]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("chat", ["messages", "conversations", "pairs"])
def test_fields_of_messages_that_no_template_reads_are_named(chat, container, qwen, caplog, tmp_path):
    caplog.set_level(logging.INFO, "tokpack")
    answer = {"role": "assistant", "content": A, "inner_monologue": R, "mood": "calm", "reasoning_content": R}
    row = (
        {"prompt": msgs(Q), "chosen": [answer], "rejected": [{**answer, "content": "No."}]}
        if chat == "pairs"
        else {chat: [*msgs(Q), answer]}
    )
    tokpack.analyze(written(tmp_path, [row], container), tokenizer=str(qwen))
    said = [(record.levelname, record.getMessage().partition(": ")[2]) for record in caplog.records]
    path = "chosen" if chat == "pairs" else chat
    told = [text for level, text in said if level == "WARNING" and "fields of messages" in text]
    assert f"may matter: {path}.inner_monologue" in told[0]
    assert "mood" not in told[0]
    assert any(f"{path}.mood 'calm'" in text for level, text in said if level == "INFO")


def test_a_field_that_the_template_reads_is_not_named(qwen, caplog, tmp_path):
    caplog.set_level(logging.INFO, "tokpack")
    row = {"messages": [*msgs(Q), {"role": "assistant", "content": A, "analysis": R}]}
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}:{{ m.analysis }}{{ m.content }}\n{% endfor %}")
    report = tokpack.analyze(
        written(tmp_path, [row], "jsonl"), tokenizer=str(qwen), chat_template=str(template)
    )
    assert report.data["inputs"][0]["unread"] == {}
    assert not any("fields of messages" in record.getMessage() for record in caplog.records)


def test_calls_of_autogen_and_their_results_are_read(tmp_path):
    call = {"id": "c1", "name": "count", "arguments": '{"pond": 1}'}
    result = {"call_id": "c1", "name": "count", "content": "3", "is_error": False}
    talk = [
        {"source": "user", "type": "TextMessage", "content": Q},
        {"source": "assistant", "type": "ToolCallRequestEvent", "content": [call]},
        {"source": "assistant", "type": "ToolCallExecutionEvent", "content": [result]},
        {"source": "assistant", "type": "TextMessage", "content": A},
    ]
    [(roles, contents, extra, _)], aside, _ = documents(tmp_path, [{"messages": talk}])
    assert (roles, contents, aside) == (["user", "assistant", "tool", "assistant"], [Q, "", "3", A], [])
    function = {"name": "count", "arguments": '{"pond": 1}'}
    assert json.loads(extra)["messages"][1:3] == [
        {"tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"tool_call_id": "c1", "name": "count"},
    ]


@pytest.mark.parametrize(
    "part", [{"type": "driveDocument"}, {"type": "toolCallRequest", "name": "count"}, {"type": "toolStatus"}]
)
def test_what_lm_studio_keeps_beside_texts_sets_the_row_aside(part, tmp_path):
    steps = [
        {"type": "contentBlock", "content": [part]},
        {"type": "contentBlock", "content": [{"type": "text", "text": A}]},
    ]
    asked = {"versions": [{"type": "singleStep", "role": "user", "content": [{"type": "text", "text": Q}]}]}
    answer = {"versions": [{"type": "multiStep", "role": "assistant", "steps": steps}]}
    _, [reason], _ = documents(tmp_path, [{"messages": [asked, answer]}])
    assert f"content part of type '{part['type']}'" in reason
