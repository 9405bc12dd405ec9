"""Message trees that no one wrote: they end in conversations, not in loops, tracebacks or endless memory."""

from __future__ import annotations

import json

import pytest

from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.read import streams
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources
from tokpack.stages.read.trees import conversations


def message(name, parent, text="x", **more):
    role = "prompter" if text == "q" else "assistant"
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, **more}


def texts(rows, every=True):
    found = (json.loads(line)["messages"] for line in conversations(rows, every))
    return [[message["content"] for message in messages] for messages in found]


ROOT = message("a", None, "q")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ([message("a", "a", "q"), message("b", "a")], [["q", "x"]]),
        ([message("b", "a"), message("a", "b", "q"), message("b", "b")], [["q", "x"]]),
        ([message("b", "c"), message("c", "b"), message("d", "a")], [["q", "x"]]),
        ([message("b", ["a"]), message("c", {"a": 1}), message("d", "a")], [["q", "x"]]),
        (
            [
                message(str(n), "a", str(n), rank=rank)
                for n, rank in enumerate(["x", 2, float("nan"), 1, [], -1])
            ],
            [["q", text] for text in "531024"],
        ),
    ],
)
def test_ids_that_come_back_and_ranks_of_any_kind(more, found):
    assert texts([ROOT, *more]) == found
    assert texts([ROOT, *more], every=False) == found[:1]


ROWS = [
    ROOT,
    message("b", "a", "second", rank=1, deleted=False),
    message("c", "a", "first", rank=0, deleted=False),
    message("d", "a", "gone", rank=-1, deleted=True),
    message("e", "nowhere", "orphan", rank=0, deleted=False),
]


@pytest.mark.parametrize("to", [lambda value: "" if value is None else str(value), lambda value: value])
def test_cells_of_csv_are_read_as_what_they_stand_for(to):
    rows = [{name: to(value) for name, value in row.items()} for row in ROWS]
    assert texts(rows) == [["q", "first"], ["q", "second"]]
    numbers = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "nowhere": 99}
    ids = [{k: numbers.get(v, v) if "_id" in k else v for k, v in row.items()} for row in rows]
    assert texts(ids) == [["q", "first"], ["q", "second"]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_messages_of_trees_are_told_from_texts(tmp_path, name):
    path = tmp_path / name
    columns = list(ROWS[1])
    lines = [columns, *([row.get(column) for column in columns] for row in ROWS)]
    as_csv = "".join(",".join("" if cell is None else str(cell) for cell in line) + "\n" for line in lines)
    path.write_text(as_csv if name.endswith("csv") else "".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(UsageError, match="each row is one message of a tree"):
        detect_shape(open_sources((SourceConfig(path=str(path)),))[0])
    path.write_text(path.read_text().replace("prompter", "assistant").replace("assistant", "prompter"))
    with pytest.raises(DataError) as told:
        detect_shape(open_sources((SourceConfig(path=str(path), format="tree"),))[0])
    assert "no tree has an answer" in str(told.value)


@pytest.mark.parametrize("replies", [5, "abc", {"a": 1}, [5, "x", None, []], None, True])
def test_replies_that_are_no_messages_are_none(replies):
    nested = {
        "message_tree_id": "t",
        "prompt": {**ROOT, "replies": [{**message("b", "a"), "replies": replies}]},
    }
    assert texts([nested]) == [["q", "x"]]


def test_paths_that_repeat_a_long_way_are_an_error_before_they_fill_the_disk(tmp_path, monkeypatch):
    rows = [ROOT]
    for number in range(3000):
        rows.append(message(f"{number}", f"{number - 1}" if number else "a"))
        rows.append(message(f"leaf {number}", f"{number}"))
    path = tmp_path / "tree.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(streams, "LEAST_BOMB", 1 << 20)
    monkeypatch.setattr(streams, "MOST_GROWTH", 10)
    sources = open_sources((SourceConfig(path=str(path), format="tree_paths"),))
    with pytest.raises(DataError, match="it unpacks to more than"):
        list(read_blocks(sources))
