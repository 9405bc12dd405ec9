"""Exports of chats: what was attached to a message is read with it, or its row is set aside."""

from __future__ import annotations

import json

import pytest
from rows_read import CONTAINERS, documents

NOTE = {"file_name": "a.txt", "extracted_content": "Three ducks."}
ANSWER = {"sender": "assistant", "text": "Three.", "attachments": [], "files": []}


def claude(text="How many?", parts=True, **more):
    said = {"sender": "human", "text": text, "attachments": [], "files": [], **more}
    return {
        "chat_messages": [said | ({"content": [{"type": "text", "text": text}]} if parts else {}), ANSWER]
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("parts", [True, False])
def test_the_text_of_an_attachment_follows_its_message(parts, container, tmp_path):
    rows = [claude(parts=parts, attachments=[NOTE, {**NOTE, "file_name": "b.txt"}]), claude(parts=parts)]
    [first, second], aside, _ = documents(tmp_path, rows, container)
    assert aside == []
    assert first[:2] == (
        ["user", "assistant"],
        ["How many?\n\na.txt:\nThree ducks.\n\nb.txt:\nThree ducks.", "Three."],
    )
    assert second[1] == ["How many?", "Three."]


@pytest.mark.parametrize(
    "more",
    [{"files": [{"file_name": "a.png"}]}, {"attachments": [{"file_name": "a.pdf", "extracted_content": ""}]}],
    ids=str,
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_without_its_text_sets_the_row_aside(more, container, tmp_path):
    found, [reason], _ = documents(tmp_path, [claude(**more), claude()], container)
    assert len(found) == 1
    assert "content part of type 'file'" in reason


def tree(*messages):
    nodes = {str(n): {"parent": str(n - 1) if n else None, "message": one} for n, one in enumerate(messages)}
    return {"mapping": nodes, "current_node": str(len(messages) - 1)}


def test_a_file_of_chatgpt_sets_the_row_aside(tmp_path):
    asked = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["See."]}}
    said = {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Seen."]}}
    with_file = asked | {"metadata": {"attachments": [{"name": "a.pdf"}]}}
    found, [reason], _ = documents(tmp_path, [tree(with_file, said), tree(asked, said)])
    assert [row[1] for row in found] == [["See.", "Seen."]]
    assert "'file'" in reason


@pytest.mark.parametrize("files", [[], [{"id": "x"}]])
def test_an_export_of_deepseek_is_read(files, tmp_path):
    asked = {"files": files, "fragments": [{"type": "REQUEST", "content": "How many?"}]}
    parts = [{"type": "THINK", "content": "I count."}, {"type": "RESPONSE", "content": "Three."}]
    found, aside, shape = documents(tmp_path, [tree(None, asked, {"files": [], "fragments": parts})])
    assert shape.layout.name == "ChatGPT export"
    if files:
        assert "'file'" in aside[0]
        return
    [(roles, contents, extra, _)] = found
    assert (roles, contents) == (["user", "assistant"], ["How many?", "Three."])
    assert json.loads(extra)["messages"][1] == {"reasoning_content": "I count."}


def test_a_part_of_another_kind_sets_the_row_aside(tmp_path):
    parts = [{"type": "SEARCH", "content": "x"}, {"type": "RESPONSE", "content": "Three."}]
    rows = [tree({"fragments": [{"type": "REQUEST", "content": "?"}]}, {"fragments": parts})]
    found, [reason], _ = documents(tmp_path, rows)
    assert found == []
    assert "'SEARCH'" in reason
