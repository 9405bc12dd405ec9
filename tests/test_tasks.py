"""Rows that are tasks are refused with what writes them; pairs of texts, tabs and Baize's marks are read."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys

import pytest
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq, written

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


WHAT = "Which swims?"
BOTH = "A. A duck\nB. A stone"
COUNTED = {"option1": "A duck", "option2": "A stone"}
LABELED = {"text": ["A duck", "A stone"], "label": ["1", "2"]}
EXAMS = {
    "HellaSwag": (
        {
            "ctx": "A man",
            "endings": ["swims.", "sinks."],
            "activity_label": "x",
            "label": "0",
            "split": "train",
        },
        ("A man\nA. swims.\nB. sinks.", "A"),
    ),
    "Winogrande": ({"sentence": "_ swims.", **COUNTED, "answer": "2"}, (f"_ swims.\n{BOTH}", "B")),
    "MedMCQA": (
        {"question": WHAT, "opa": "A duck", "opb": "A stone", "opc": "Sand", "cop": 1, "exp": "It sinks so."},
        (f"{WHAT}\n{BOTH}\nC. Sand", "B"),
    ),
    "a letter each": (
        {"question": WHAT, "A": "A duck", "B": "A stone", "C": "Sand", "D": None, "answer": "A"},
        (f"{WHAT}\n{BOTH}\nC. Sand", "A"),
    ),
    "PIQA": (
        {"goal": "To swim,", "sol1": "float", "sol2": "sink", "label": 0},
        ("To swim,\nA. float\nB. sink", "A"),
    ),
    "SIQA": (
        {
            "context": "A pond.",
            "question": WHAT,
            "answerA": "A duck",
            "answerB": "A stone",
            "answerC": "Sand",
            "label": "3",
        },
        (f"A pond.\n{WHAT}\n{BOTH}\nC. Sand", "C"),
    ),
    "RACE": (
        {**EXAM, "options": EXAM["choices"], "choices": None, "article": "A pond."},
        (f"A pond.\n{WHAT}\n{BOTH}", "A"),
    ),
    "MedQA": (
        {"question": WHAT, "options": {"A": "A duck", "B": "A stone"}, "answer": "A duck", "answer_idx": "A"},
        (f"{WHAT}\n{BOTH}", "A duck"),
    ),
    "keys and values": (
        {
            "question": WHAT,
            "options": [{"key": "A", "value": "A duck"}, {"key": "B", "value": "A stone"}],
            "answer_idx": "B",
        },
        (f"{WHAT}\n{BOTH}", "B"),
    ),
    "numbers as names": (
        {"question": WHAT, "choices": LABELED, "answerKey": "1"},
        (f"{WHAT}\n1. A duck\n2. A stone", "1"),
    ),
    "letters in the choices": (
        {"question": WHAT, "options": ["A)A duck", "B)A stone"], "rationale": "x", "correct": "B"},
        (f"{WHAT}\nA)A duck\nB)A stone", "B"),
    ),
    "OpenBookQA": (
        {"question_stem": WHAT, "choices": {**LABELED, "label": ["A", "B"]}, "answerKey": "B"},
        (f"{WHAT}\n{BOTH}", "B"),
    ),
    "columns with spaces": (
        {"Question": WHAT, "Option A": "A duck", "Option B": "A stone", "Correct Option": "", "Answer": "B"},
        (f"{WHAT}\n{BOTH}", "B"),
    ),
}


@with_jq
@pytest.mark.parametrize("name", EXAMS)
def test_an_exam_is_written_with_its_choices(name, tmp_path):
    row, said = EXAMS[name]
    [(roles, contents, _, _)] = documents_of_hint(tmp_path, [row])
    assert (roles, tuple(contents)) == (["user", "assistant"], said)


COMMANDS = re.compile(r"python -c \".*?\"|(?:gzip -dc FILE \| )?jq .*? > rows\.jsonl")


@with_jq
@pytest.mark.parametrize(
    ("kind", "container"),
    [
        *(("exam", name) for name in ("json", "jsonl.gz", "parquet", "saved", "csv")),
        ("channel", "json"),
        ("one exam", "json"),
    ],
)
def test_the_commands_of_a_hint_read_the_file_at_hand(kind, container, tmp_path):
    said = {"type": "message", "user": "Ann", "text": "Hi", "ts": "1.0"}
    rows = {"exam": [EXAM, EXAM], "one exam": [EXAM], "channel": [said, said]}[kind]
    path = written(tmp_path, rows, container)
    with pytest.raises(UsageError) as error:
        documents(tmp_path, rows, container)
    commands = COMMANDS.findall(str(error.value.hint))
    assert len(commands) == (2 if container in ("parquet", "saved", "csv") else 1)
    for command in commands:
        ready = command.replace("python", sys.executable).replace("FILE", str(path))
        subprocess.run(["bash", "-c", ready], check=True, cwd=tmp_path)
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    exam = {"prompt": f"{WHAT}\n{BOTH}", "completion": "A"}
    talk = {"messages": [{"role": "Ann", "content": "Hi"}] * 2}
    assert made == ([talk] if kind == "channel" else [exam] * len(rows))


def test_a_hint_that_leaves_choices_out_is_given_where_the_answer_says_one_in_full(tmp_path):
    for answer, left_out in (("A duck", True), ("A", False), (0, False)):
        with pytest.raises(UsageError) as error:
            documents(tmp_path, [{**EXAM, "answer": answer}])
        assert ("leaves them out" in error.value.hint) == left_out


QA = {"question": "How many ducks?", "answers": [{"text": "three", "answer_start": 0}], "id": "1"}
NONE = {"question": "How many geese?", "answers": [], "is_impossible": True, "id": "2"}
PARAGRAPH = {"context": "Three ducks.", "qas": [QA, NONE]}
ABOUT = ["Three ducks.\nHow many ducks?", "three"]
COQA = {"story": "Three ducks.", "questions": ["How many ducks?", "Geese?"]}
SHORT = {"start_token": [0], "text": ["three"]}
NATURAL = {
    "id": "1",
    "document": {"title": "Ducks", "html": "<p>", "tokens": {"token": ["Three"]}},
    "question": {"text": "How many ducks?", "tokens": ["How"]},
    "annotations": {"id": ["1", "2"], "short_answers": [{"start_token": [], "text": []}, SHORT]},
}
SIMPLE = {
    "question_text": "How many ducks?",
    "document_text": "There are three ducks",
    "annotations": [{"short_answers": [{"start_token": 2, "end_token": 3}]}],
}
READINGS = {
    "SQuAD, a file": ({"version": "1.1", "data": [{"title": "T", "paragraphs": [PARAGRAPH]}]}, ABOUT),
    "SQuAD, a page a row": ({"title": "T", "paragraphs": [PARAGRAPH]}, ABOUT),
    "SQuAD, a paragraph a row": (PARAGRAPH, ABOUT),
    "CoQA": ({**COQA, "answers": {"input_text": ["three", "none"]}}, [*ABOUT, "Geese?", "none"]),
    "QuAC": ({**COQA, "answers": {"texts": [["three", "3"], ["none"]]}}, [*ABOUT, "Geese?", "none"]),
    "lists": (
        {"questions": ["How many ducks?", "Geese?"], "answers": ["three", "none"]},
        ["How many ducks?", "three", "Geese?", "none"],
    ),
    "Natural Questions": (NATURAL, ["How many ducks?", "three"]),
    "Natural Questions, simplified": (SIMPLE, ["How many ducks?", "three"]),
}


@with_jq
@pytest.mark.parametrize("name", READINGS)
def test_questions_in_lists_are_written_a_row_each_or_as_a_conversation(name, tmp_path):
    row, said = READINGS[name]
    [(roles, contents, _, _)] = documents_of_hint(tmp_path, [row])
    assert (roles, contents) == ([("user", "assistant")[i % 2] for i in range(len(said))], said)


def said_by(name, text, **more):
    author = {"id": name, "name": name, "nickname": name, "isBot": False}
    return {
        "id": "1",
        "type": "Default",
        "timestamp": "2024-01-01",
        "content": text,
        "author": author,
        **more,
    }


def test_a_channel_of_discord_is_refused_with_what_writes_its_speakers_as_roles(tmp_path):
    said = [said_by("Ann", "How many ducks?"), said_by("Bob", "Three.", attachments=[])]
    with pytest.raises(UsageError) as error:
        documents(tmp_path, [{"guild": {"name": "Pond"}, "channel": {"id": "2"}, "messages": said}])
    assert "--map user=NAME,assistant=NAME" in error.value.hint


@with_jq
@pytest.mark.parametrize("name", ["discord", "slack"])
def test_what_the_hint_for_a_channel_writes_is_read_when_speakers_are_named(name, tmp_path):
    said = [said_by("Ann", "How many ducks?"), said_by("Bob", ""), said_by("Bob", "Three.")]
    rows = [{"channel": {"id": "2"}, "messages": said}]
    if name == "slack":
        first = {"type": "message", "user": "Ann", "text": "How many ducks?", "ts": "1.0", "team": "T"}
        other = {"type": "message", "user": "Ann", "text": "Bye.", "ts": "1.5"}
        rows = [
            {**first, "thread_ts": "1.0"},
            other,
            {**first, "user": "Bob", "text": "Three.", "thread_ts": "1.0"},
        ]
    flags = "-cs" if name == "slack" else "-c"
    found = documents_of_hint(tmp_path, rows, flags=flags, map={"user": "Ann", "assistant": "Bob"})
    assert found[0][:2] == (["user", "assistant"], ["How many ducks?", "Three."])


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
