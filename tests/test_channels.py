"""Messages of gpt-oss's channels are parts of one answer; what cannot be read whole is set aside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from layout_words import A, Q, R, msgs
from normalizing import run

ASKED = msgs(Q)[0]


def said(channel: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "channel": channel, "content": content, **more}


def read(tmp_path: Any, *messages: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Role, content and the rest of each message of a row behind a plain one."""
    documents, quarantined, _ = run(tmp_path, [{"messages": msgs(Q, A)}, {"messages": [ASKED, *messages]}])
    assert not quarantined
    roles, contents, extra = documents.select("roles", "contents", "extra").row(1)
    more = json.loads(extra or "{}").get("messages") or [{}] * len(roles)
    return list(zip(roles, contents, more, strict=True))[1:]


def reason(tmp_path: Any, *messages: dict[str, Any]) -> str:
    _, [one], _ = run(tmp_path, [{"messages": msgs(Q, A)}, {"messages": [ASKED, *messages]}])
    return one.reason


def test_analysis_is_reasoning_and_never_an_answer(tmp_path):
    assert read(tmp_path, said("analysis", R), said("final", A)) == [
        ("assistant", A, {"reasoning_content": R})
    ]
    assert read(tmp_path, said("analysis", R)) == [("assistant", "", {"reasoning_content": R})]
    twice = read(tmp_path, said("analysis", R), said("analysis", "Three."), said("final", A))
    assert twice == [("assistant", A, {"reasoning_content": f"{R}\nThree."})]


def test_thoughts_behind_an_answer_are_of_the_next(tmp_path):
    found = read(tmp_path, said("final", "Wait."), said("analysis", R), said("final", A))
    assert found == [("assistant", "Wait.", {}), ("assistant", A, {"reasoning_content": R})]


def test_a_recipient_makes_a_call_whatever_the_role_of_its_answer_is_called(tmp_path):
    call = said("commentary", [{"type": "text", "text": "{}"}], recipient="functions.count")
    answers = (
        {"role": "tool", "name": "functions.count", "channel": "commentary", "content": "3"},
        {"role": "functions.count", "recipient": "assistant", "content": "3"},
    )
    function = {"name": "count", "arguments": "{}"}
    for answer in answers:
        found = read(tmp_path, said("commentary", "Let me look."), call, answer, said("final", A))
        assert found == [
            ("assistant", "Let me look.", {"tool_calls": [{"type": "function", "function": function}]}),
            ("tool", "3", {"name": "count"}),
            ("assistant", A, {}),
        ]


def test_other_channels_and_recipients_are_words_like_others(tmp_path):
    found = read(tmp_path, {**said("chat", A), "recipient": "Ann"})
    assert found == [("assistant", A, {"channel": "chat", "recipient": "Ann"})]


def test_what_is_trained_is_said_of_a_whole_answer(tmp_path):
    untrained = read(tmp_path, said("analysis", R, train=False), said("final", A, train=False))
    assert untrained == [("assistant", A, {"reasoning_content": R, "train": False})]
    told = reason(tmp_path, said("analysis", R, train=False), said("final", A))
    assert (
        told == "messages[2]: content part of type 'answer that is trained in part'; only text can be packed"
    )


SET_ASIDE = {
    "call of python": said("analysis", "print(1)", recipient="python"),
    "web_search_tool_result": {
        "role": "assistant",
        "content": [
            {"type": "server_tool_use", "id": "t1", "name": "web_search", "input": {"query": Q}},
            {"type": "web_search_tool_result", "tool_use_id": "t1", "content": [{"encrypted_content": "x"}]},
        ],
    },
    "custom": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t1", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}],
    },
}


@pytest.mark.parametrize("what", SET_ASIDE)
def test_what_no_template_writes_is_set_aside_by_its_name(what, tmp_path):
    told = reason(tmp_path, SET_ASIDE[what], *msgs(Q, A)[1:])
    assert told.startswith("messages[2]")
    assert f"of type '{what}'" in told


def test_a_text_beside_calls_is_read_under_any_key(tmp_path):
    call = {"name": "count", "parameters": {"pond": 1}}
    found = read(tmp_path, {"role": "CHATBOT", "message": "Let me look.", "tool_calls": [call]})
    assert [(role, text) for role, text, _ in found] == [("assistant", "Let me look.")]
