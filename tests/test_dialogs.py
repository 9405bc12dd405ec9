"""Conversations without roles, or in pieces, are refused with a command that writes them as messages."""

from __future__ import annotations

import json

import pytest
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq

from tokpack.errors import UsageError

SAID = ["A room?", "Which part of town?", "The north.", "It is booked."]
ROLES = ["user", "assistant"] * 2
TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}


def talk(*texts, **more):
    return {"dialogue_id": "a.json", "services": ["hotel"], "turns": [*texts], **more}


NUMBERED = [{"turn_id": str(i), "speaker": i % 2, "utterance": text} for i, text in enumerate(SAID)]
OF_LISTS = {key: [turn[key] for turn in NUMBERED] for key in NUMBERED[0]}
DIALOGS = {
    "MultiWOZ 2.2": {"dialogue_id": "a.json", "services": ["hotel"], "turns": OF_LISTS},
    "objects": {"dialogue_id": "a.json", "turns": NUMBERED},
    "texts of numbers": {"turns": [{**turn, "speaker": str(turn["speaker"])} for turn in NUMBERED]},
    "JSON": {"dialogue_id": "a.json", "turns": json.dumps(NUMBERED)},
    "MultiWOZ 2.1": {"log": [{"text": text, "metadata": {}} for text in SAID], "goal": {"hotel": {"a": 1}}},
    "no speaker": {"dialogue": [{"utterance": text, "act": "inform"} for text in SAID]},
}


@with_jq
@pytest.mark.parametrize("name", DIALOGS)
def test_turns_of_numbers_or_of_nobody_are_written_as_messages(name, tmp_path):
    rows = [DIALOGS[name]] * 2
    found = documents_of_hint(tmp_path, rows)
    assert [(roles, contents) for roles, contents, *_ in found] == [(ROLES, SAID)] * 2


def turns(column, speaker, place):
    return [
        {
            column: f"c{chat}",
            place: str(i + 1),
            "context": "proud",
            "prompt": "I was",
            **who,
            "utterance": text,
        }
        for chat in range(2)
        for i, text in enumerate(SAID)
        for who in [{speaker: str(20 + i % 2)} if speaker != "role" else {"role": ROLES[i]}]
    ]


@with_jq
@pytest.mark.parametrize(
    "rows",
    [
        turns("conv_id", "speaker_idx", "utterance_idx"),
        [*reversed(turns("dialogue_id", "speaker", "turn_idx"))],
        turns("conversation_id", "role", "id"),
    ],
    ids=["Empathetic Dialogues", "backwards", "roles"],
)
def test_files_of_a_row_for_each_turn_are_written_as_conversations(rows, tmp_path):
    found = documents_of_hint(tmp_path, rows, flags="-cs")
    assert [(roles, contents) for roles, contents, *_ in found] == [(ROLES, SAID)] * 2


@pytest.mark.parametrize(
    "more", [{"conv_id": "a"}, {"turn_idx": 1}, {}], ids=["no place", "no conversation", "neither"]
)
def test_texts_that_are_no_turns_are_packed(more, tmp_path):
    found, aside, shape = documents(tmp_path, [{"text": text, **more} for text in SAID])
    assert (shape.format, len(found), aside) == ("text", 4, [])


@with_jq
@pytest.mark.parametrize("definition", [["Add."], "Add."], ids=str)
def test_tasks_of_natural_instructions_are_written_a_row_for_each(definition, tmp_path):
    task = {
        "Definition": definition,
        "Positive Examples": [{"input": "0+1", "output": "1", "explanation": "a sum"}],
        "Negative Examples": [{"input": "0+1", "output": "2", "explanation": "no sum"}],
        "Instances": [{"id": f"t-{i}", "input": f"{i}+1", "output": [f"{i + 1}", "x"]} for i in range(3)],
    }
    found = documents_of_hint(tmp_path, [task])
    assert [contents for _, contents, *_ in found] == [[f"Add.\n{i}+1", f"{i + 1}"] for i in range(3)]


@with_jq
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_messages_that_declare_tools_are_put_beside_the_others(form, tmp_path):
    role, content = ("role", "content") if form == "messages" else ("from", "value")
    column = "messages" if form == "messages" else "conversations"
    chat = [("tool_declare", json.dumps([TOOL])), ("user", "Ducks?"), ("assistant", "Three.")]
    rows = [{column: [{role: who, content: text} for who, text in chat]}]
    [(roles, contents, extra, reason)] = documents_of_hint(tmp_path, rows)
    assert (roles, contents, reason) == (["user", "assistant"], ["Ducks?", "Three."], None)
    assert json.loads(extra)["tools"] == [TOOL]


def test_some_messages_that_declare_tools_are_told_of(tmp_path):
    plain = [{"role": "user", "content": "Ducks?"}, {"role": "assistant", "content": "Three."}]
    declared = {"role": "tool_declare", "content": json.dumps([TOOL])}
    _, _, shape = documents(tmp_path, [{"messages": plain}, {"messages": [declared, *plain]}])
    assert "hold tools" in str(shape.notes)


PAIR = {
    "chosen": {"role": "assistant", "content": "Yes."},
    "rejected": {"role": "assistant", "content": "No."},
}
ASK, THIRD = {"role": "user", "content": "Ducks?"}, {"role": "assistant", "content": "Perhaps."}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_messages_that_end_on_a_third_answer_set_their_row_alone_aside(place, container, tmp_path):
    rows = [{"messages": [ASK, THIRD] if i == place else [ASK], **PAIR} for i in range(4)]
    found, aside, _ = documents(tmp_path, rows, container)
    assert aside == ["messages end on an answer that is neither chosen nor rejected"]
    assert len(found) == 6


@with_jq
def test_messages_that_all_end_on_a_third_answer_are_refused(tmp_path):
    rows = [{"messages": [ASK, THIRD], **PAIR}] * 2
    found = documents_of_hint(tmp_path, rows)
    assert [contents for _, contents, *_ in found] == [["Ducks?", "Yes."], ["Ducks?", "No."]] * 2
    with pytest.raises(UsageError, match="neither chosen nor rejected"):
        documents(tmp_path, rows)
