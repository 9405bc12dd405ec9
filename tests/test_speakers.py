"""Who speaks: names that the user gives a role, and a system that answers where no assistant does."""

from __future__ import annotations

import json

import pytest
from rows_read import CONTAINERS, documents

from tokpack.errors import UsageError

TEXTS = ["Food?", "Where?", "Here.", "Fine."]
WHO = {"user": "Patient", "assistant": "Doctor"}


def chat(first, second, keys=("role", "content")):
    return [{keys[0]: (first, second)[i % 2], keys[1]: text} for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("column", "keys"),
    [
        ("messages", ("role", "content")),
        ("conversations", ("from", "value")),
        ("turns", ("speaker", "utterance")),
    ],
)
def test_speakers_get_the_roles_that_the_user_gives_them(column, keys, container, tmp_path):
    rows = [{column: chat("Patient", "DOCTOR ", keys)}] * 2
    given = WHO | ({"messages": "turns"} if column == "turns" else {})
    found, aside, _ = documents(tmp_path, rows, container, map=given)
    assert aside == []
    assert [row[:2] for row in found] == [(["user", "assistant"] * 2, TEXTS)] * 2


def test_also_of_messages_in_a_text_and_of_those_with_more(tmp_path):
    calling = [*chat("Patient", "Doctor")[:3], {"role": "Doctor", "content": "Fine.", "train": False}]
    rows = [{"messages": json.dumps(chat("Patient", "Doctor"))}, {"messages": calling}]
    found, _, _ = documents(tmp_path, rows, map=WHO)
    assert [row[0] for row in found] == [["user", "assistant"] * 2] * 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_also_of_pairs(container, tmp_path):
    said = chat("Patient", "Doctor")
    row = {"prompt": said[:3], "chosen": said[3:], "rejected": [{"role": "Doctor", "content": "No."}]}
    found, aside, _ = documents(tmp_path, [row], container, map=WHO)
    assert aside == []
    assert [row[0] for row in found] == [["user", "assistant"] * 2] * 2


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_a_system_that_answers_is_refused_with_the_flag(keys, container, tmp_path):
    rows = [{"conversations": chat("user", "system", keys)}]
    with pytest.raises(UsageError, match="nothing is there to train") as error:
        documents(tmp_path, rows, container)
    assert "--map assistant=system" in error.value.hint
    (tmp_path / "again").mkdir()
    [(roles, *_)], _, _ = documents(tmp_path / "again", rows, container, map={"assistant": "system"})
    assert roles == ["user", "assistant"] * 2


def test_a_column_of_system_messages_stays_one(tmp_path):
    row = {"system": "Be brief.", "messages": chat("user", "system")}
    [(roles, *_)], _, _ = documents(tmp_path, [row], map={"assistant": "system"})
    assert roles == ["system", *["user", "assistant"] * 2]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, *chat("user", "assistant")],
        [*chat("user", "assistant"), {"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": "Hi"}],
    ],
)
def test_other_chats_with_a_system_are_read(messages, tmp_path):
    assert len(documents(tmp_path, [{"messages": messages}])[0]) == 1


def test_one_chat_with_an_assistant_is_enough(tmp_path):
    rows = [{"messages": chat("user", "system")}, {"messages": chat("user", "assistant")}]
    assert len(documents(tmp_path, rows)[0]) == 2


def test_a_name_that_nobody_has_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="nobody is called 'Docter'") as error:
        documents(tmp_path, [{"messages": chat("Patient", "Doctor")}], map={"assistant": "Docter"})
    assert "Doctor" in error.value.hint


def test_unknown_speakers_are_named_with_the_flag(tmp_path):
    [(roles, *_)], _, shape = documents(tmp_path, [{"messages": chat("Patient", "Doctor")}])
    assert roles == ["Patient", "Doctor"] * 2
    assert "--map user=NAME,assistant=NAME" in shape.notes[0]
