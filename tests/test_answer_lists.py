"""Answers in objects and lists: one is read, several are refused with what writes a row for each."""

from __future__ import annotations

import json

import pytest
from layout_words import A, B, Q, msgs
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq

from tokpack.errors import UsageError

C = "Go away."


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "form",
    [
        lambda text: {"text": text},
        lambda text: {"content": text, "model": "x"},
        lambda text: {"response": text, "score": 1.0},
        lambda text: [text],
        lambda text: [{"text": text}],
        lambda text: [{"content": text}],
        answer,
        lambda text: [answer(text)],
        lambda text: {"from": "gpt", "value": text},
        lambda text: json.dumps({"role": "assistant", "content": text}),
    ],
)
@pytest.mark.parametrize("asked", [Q, [Q], {"text": Q}, {"role": "user", "content": Q}, msgs(Q)], ids=str)
def test_one_answer_in_an_object_or_a_list_is_read(form, asked, container, tmp_path):
    rows = [{"prompt": asked, "chosen": form(A), "rejected": form(B)}]
    found, aside, _ = documents(tmp_path, rows, container)
    assert aside == []
    assert [list(zip(*one[:2], strict=True)) for one in found] == [
        [("user", Q), ("assistant", text)] for text in (A, B)
    ]


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_object_of_two_texts_is_set_aside(container, tmp_path):
    side = {"text": A, "answer": B}
    _, [reason], _ = documents(tmp_path, [{"prompt": Q, "chosen": side, "rejected": B}], container)
    assert reason == "chosen is an object, not an answer or a list of messages"


SEVERAL = [
    [B, C],
    [{"text": B}, {"text": C}],
    [answer(B), answer(C)],
    [[answer(B)], [answer(C)]],
]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("rejected", SEVERAL, ids=str)
def test_several_answers_on_a_side_are_refused_or_set_aside(rejected, container, tmp_path):
    row = {"prompt": Q, "chosen": A, "rejected": rejected}
    with pytest.raises(UsageError, match="rejected may hold several answers") as error:
        documents(tmp_path, [row], container)
    assert "--map rejected=rejected.0" in error.value.hint
    (tmp_path / "asked").mkdir()
    _, [reason], _ = documents(tmp_path / "asked", [row], container, format="preference")
    assert reason == "rejected holds 2 answers: --map rejected=rejected.0 takes the first of each"
    (tmp_path / "first").mkdir()
    found, _, _ = documents(tmp_path / "first", [row], container, map={"rejected": "rejected.0"})
    assert [contents for _, contents, *_ in found] == [[Q, A], [Q, B]]


def test_steps_of_an_answer_with_calls_are_one_answer(tmp_path):
    call = {"type": "function", "function": {"name": "count", "arguments": {}}}
    chosen = [{**answer(""), "tool_calls": [call]}, {"role": "tool", "content": "3"}, answer(A)]
    found, aside, _ = documents(tmp_path, [{"prompt": Q, "chosen": chosen, "rejected": [answer(B)]}])
    assert ([roles for roles, *_ in found], aside) == (
        [["user", "assistant", "tool", "assistant"], ["user", "assistant"]],
        [],
    )


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", [str, answer], ids=["texts", "messages"])
def test_messages_that_wait_for_an_answer_are_the_prompt_of_pairs(form, container, tmp_path):
    row = {"messages": msgs("Hi", "Hello.", Q), "chosen": form(A), "rejected": form(B)}
    found, aside, _ = documents(tmp_path, [row], container)
    assert ([contents for _, contents, *_ in found], aside) == (
        [["Hi", "Hello.", Q, text] for text in (A, B)],
        [],
    )


@with_jq
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": Q, "chosen": A, "rejected": [B, C]},
        {"prompt": Q, "responses": [B, A], "best": 1},
        {"question": Q, "answers": [{"text": B}, {"text": A}], "chosen": 1, "rejected": 0},
        {"info": {"post": Q}, "summaries": [{"text": A}, {"text": B}], "choice": 0},
    ],
    ids=str,
)
def test_the_command_of_the_hint_writes_pairs(row, tmp_path):
    found = documents_of_hint(tmp_path, [row])
    assert [contents for _, contents, *_ in found][:2] == [[Q, A], [Q, B]]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("column", "scores"),
    [("score", [2.0, 9.0]), ("ranks", [2, 1]), ("ranking", [2, 1]), ("rewards", [-1.5, 0.5])],
)
def test_lists_of_answers_with_scores_or_ranks_are_read_as_pairs(column, scores, container, tmp_path):
    row = {"prompt": Q, "responses": [B, A], column: scores}
    with pytest.raises(UsageError) as error:
        documents(tmp_path, [row], container)
    assert "--format ranked" in error.value.hint
    (tmp_path / "ranked").mkdir()
    found, _, _ = documents(tmp_path / "ranked", [row], container, format="ranked")
    assert [contents for _, contents, *_ in found] == [[Q, A], [Q, B]]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ({"text": f"{Q} {A}", "summary": A}, "--map prompt=text,completion=summary trains summary alone"),
        ({"text": f"{Q} {A}", "label": "good one"}, ""),
        ({"text": f"{Q} {A}", "target": "x"}, ""),
    ],
)
def test_a_text_beside_its_answer_is_told(row, note, tmp_path):
    _, _, shape = documents(tmp_path, [row])
    assert note in "".join(shape.notes)
    assert bool(note) == bool(shape.notes)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"repo": "x", "path": "a.py", "code": "def f(): pass", "docstring": "Do it."}, "prompt=docstring"),
        ({"source": "web", "target": A}, "--map text=target"),
        ({"input": Q, "label": A}, "--map prompt=input,completion=label"),
        (
            {"sql_prompt": Q, "sql": "SELECT 1", "sql_explanation": A},
            "--map prompt=sql_prompt,completion=sql;",
        ),
        ({"instruction": "Translate.", "source": Q, "target": A}, "instruction=instruction,input=source"),
    ],
)
def test_columns_that_may_be_meant_otherwise_are_not_taken_for_files_or_sources(row, hint, tmp_path):
    with pytest.raises(UsageError) as error:
        documents(tmp_path, [row])
    assert hint in error.value.hint
