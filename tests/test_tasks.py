"""Rows that are tasks are refused with what writes them; pairs of texts, tabs and Baize's marks are read."""

from __future__ import annotations

import gzip

import pytest
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq

from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources

STEPS = {"prompt": "2+2?", "completions": ["Add.", "It is 4."], "labels": [True, True]}
EXAM = {"question": "Which swims?", "choices": ["A duck", "A stone"], "answer": "A"}
PERSONA = {
    "personality": ["i like ponds", "i count"],
    "candidates": ["no", "three ducks"],
    "history": ["hi", "hello", "how many ?"],
}
COMMIT = {"commit": "a1", "old_contents": "a = 1", "new_contents": "a = 2", "subject": "Make a two"}
REPOSITORY = {"repo_name": "x/y", "files": [{"path": "a.py", "content": "a = 1"}]}
GAP = {"path": "a.py", "prefix": "def f():\n", "middle": "  return 1", "suffix": "\n# end"}
REFUSED = {
    "steps": (STEPS, "process reward"),
    "signs": ({"input": "2+2? Step 1: 4 ки", "label": "2+2? Step 1: 4 +"}, "process reward"),
    "rated steps": (
        {"question": {"problem": "2+2?"}, "label": {"steps": [{"completions": [{"text": "4"}]}]}},
        "process reward",
    ),
    "classes": ({"premise": "A man.", "hypothesis": "A cat.", "label": 1}, "prompt=premise,input=hypothesis"),
    "bench": ({"question_id": 81, "turns": ["Write.", "Again."]}, "have a model answer them"),
    "persona": (PERSONA, ".candidates[-1]"),
    "coig": ({"textbox_question": "1?", "textbox_answer": "C"}, "prompt=textbox_question"),
    "exam": (EXAM, "writes them into the prompt"),
    "exam of numbers": ({**EXAM, "answer": 1}, "writes them into the prompt"),
    "exam in objects": (
        {"question": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
        "writes them into the prompt",
    ),
    "gap": (
        {"prefix": "def f():", "middle": "return 1", "suffix": "# end"},
        "prompt=prefix,completion=middle",
    ),
    "gap after a prompt": (
        {"prompt": "def f():", "completion": "return 1", "suffix": "# end"},
        "prompt=prompt,completion=completion leaves suffix out",
    ),
    "commit": (COMMIT, "--map prompt=old_contents,input=subject,completion=new_contents"),
    "repository": (REPOSITORY, "writes a file a row"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_task_is_refused_with_what_writes_its_rows(name, container, tmp_path):
    row, hint = REFUSED[name]
    with pytest.raises(UsageError) as error:
        documents(tmp_path, [row, row], container)
    assert hint in error.value.hint


@with_jq
@pytest.mark.parametrize(
    ("row", "read"),
    [
        (STEPS, [("user", "2+2?"), ("assistant", "Add.\nIt is 4.")]),
        (EXAM, [("user", "Which swims?\nA. A duck\nB. A stone"), ("assistant", "A")]),
        ({**EXAM, "answer": 1}, [("user", "Which swims?\nA. A duck\nB. A stone"), ("assistant", "B")]),
        (
            PERSONA,
            [
                ("system", "i like ponds i count"),
                ("user", "hi"),
                ("assistant", "hello"),
                ("user", "how many ?"),
                ("assistant", "three ducks"),
            ],
        ),
        (
            GAP,
            [("text", "<|fim_prefix|>def f():\n<|fim_suffix|>\n# end<|fim_middle|>  return 1")],
        ),
        (REPOSITORY, [("text", "a = 1")]),
    ],
    ids=["steps", "exam", "numbers", "persona", "gap", "repository"],
)
def test_the_command_of_the_hint_writes_what_is_read(row, read, tmp_path):
    [(roles, contents, _, _)] = documents_of_hint(tmp_path, [row])
    assert list(zip(roles, contents, strict=True)) == read


@pytest.mark.parametrize(
    "row",
    [
        {**EXAM, "question": "Which swims? A duck or A stone"},
        {**EXAM, "answer": "The duck swims, since stones sink."},
        {"prompt": "Hi", "completion": "Hello.", "options": ["a", "b"]},
        {"prompt": "Hi", "completion": "Hello.", "label": 1},
        {"instruction": "Say.", "output": "Hello.", "turns": 3},
        {"prompt": "Hi", "completion": "Hello.", "suffix": ""},
        {"prompt": "Hi", "completion": "Hello.", "files": ["a.py"]},
    ],
    ids=str,
)
def test_what_is_no_task_is_read(row, tmp_path):
    found, aside, _ = documents(tmp_path, [row])
    assert (len(found), aside) == (1, [])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_pairs_of_a_role_and_a_text_are_messages(column, container, tmp_path):
    row = {column: [["system", "Be brief."], ["human", "Hi"], ["gpt", "Hello."]]}
    [(roles, contents, _, _)], _, _ = documents(tmp_path, [row], container)
    assert roles == ["system", "user", "assistant"]
    assert contents == ["Be brief.", "Hi", "Hello."]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("more", ["<noinput>", "<no input>", "nan", "", None], ids=str)
@pytest.mark.parametrize("weight", [{}, {"weight": 1.0}], ids=["by column", "row by row"])
def test_an_input_that_says_that_there_is_none_is_none(more, weight, container, tmp_path):
    row = {"instruction": "Say hello.", "input": more, "output": "Hello.", **weight}
    rows = [row, {**row, "input": "Loud."}]
    [none, one], _, _ = documents(tmp_path, rows, container)
    assert [none[1][0], one[1][0]] == ["Say hello.", "Say hello.\nLoud."]


def test_pairs_of_questions_and_answers_are_no_roles(tmp_path):
    [(roles, contents, _, _)], _, _ = documents(
        tmp_path, [{"conversations": [["user", "Who?"], ["Hi", "Hello."]]}]
    )
    assert (roles, contents) == (["user", "assistant"] * 2, ["user", "Who?", "Hi", "Hello."])


def test_the_marks_of_baize_are_taken_apart(tmp_path):
    text = "The conversation between human and AI assistant.\n[|Human|] Hi\n[|AI|] Hello.\n[|Human|] "
    with pytest.raises(UsageError) as error:
        documents(tmp_path, [{"input": text}])
    assert "--map messages=input" in error.value.hint
    [(roles, contents, _, _)], _, _ = documents(tmp_path, [{"input": text}], map={"messages": "input"})
    assert roles == ["system", "user", "assistant"]
    assert contents == ["The conversation between human and AI assistant.", "Hi", "Hello."]


@pytest.mark.parametrize("ending", ["tsv", "tab", "tsv.gz"])
def test_cells_between_tabs_are_read(ending, tmp_path):
    data = b'prompt\tcompletion\nHi, you\tHello,\nWho?\t"Me\nagain"\nbroken\n'
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    [source] = open_sources((SourceConfig(path=str(path)),))
    [block] = read_blocks([source])
    found = normalize(block, source, detect_shape(source))
    assert found.documents["contents"].to_list() == [["Hi, you", "Hello,"], ["Who?", "Me\nagain"]]
    assert [one.reason for one in found.quarantined] == ["the header has 2 cells, the row 1"]


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.csv", "q\ta\nHi\tHo\n", ".tsv"),
        ("a.csv", "q\ta\nHi\tHo, so\n", ".tsv"),
        ("a.tsv", "q,a\nHi,Ho\n", ".csv"),
    ],
)
def test_cells_under_the_wrong_name_are_named(name, text, hint, tmp_path):
    (tmp_path / name).write_text(text)
    [source] = open_sources((SourceConfig(path=str(tmp_path / name)),))
    with pytest.raises((UsageError, DataError)) as error:
        detect_shape(source)
    assert f"name it {hint}" in error.value.hint
