"""Rows of any kind: one breaks no run, and what becomes of it does not depend on its neighbors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokpack.errors import DataError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.json_lines import DEEPEST, nesting, odd_lines
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.faults import UNREADABLE
from tokpack.stages.read.sources import Source

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well, hi"}]
SHAREGPT = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "well, hi"}]
ROWS = {
    "messages": {"messages": CHAT, "id": 7, "more": {"a": [1.5, None, {"b": "x"}]}},
    "sharegpt": {"conversations": SHAREGPT, "tools": None, "system": ""},
    "alpaca": {"instruction": "say hello", "input": "", "output": "hello", "history": [["q", "a"]]},
    "prompt_completion": {"prompt": "say hello", "completion": "hello", "id": "2020-01-01"},
    "text": {"text": "caf\u00e9 \U0001f642", "unused": {"a": {"a": []}}},
    "preference": {"prompt": "say hello", "chosen": "hello", "rejected": "no"},
    "tokens": {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "unused": "x"},
}
BITS = [
    *[b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"/", b" ", b"\t", b"\r", b"{}", b"[]", b"{}{}"],
    *[b"null", b"true", b"1", b"-", b"1e5", b"0.5", b"1e400", b"9" * 5000, b"NaN", b"Infinity"],
    *[b"\\u0000", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00"],
    *[b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\0", b"\x0b"],
    *[b'{"a":' * 150, b"}" * 150, b"[" * 150, b"]" * 150],
    *[b'"text":1,', b'"tools":[],', b'"history":1,', b'"system":1,', b'"tokpack:unreadable":1,'],
    *[b'"input_ids":["\\ud800"],', b'"\\ud800":1,'],
]


@st.composite
def mutated(draw, row: bytes) -> bytes:
    """A line that differs from `row` in up to three places."""
    line = row
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(line)))
        end = start + draw(st.integers(0, 4))
        line = line[:start] + draw(st.sampled_from([b"", *BITS])) + line[end:]
    return line


def fates(lines: list[bytes], form: str, folder: Path) -> list[list[Any]]:
    """What becomes of each line of a block: its documents, or why it is none."""
    path = folder / "rows.jsonl"
    path.write_bytes(b"{}\n" + b"\n".join(lines) + b"\n")  # a mark at the file's start is the file's
    source = Source(path.name, str(path), "jsonl", "", SourceConfig(path=str(path)))
    shape = Shape.of(form, {}, list(ROWS[form]))
    (block,) = read_blocks([source])
    if form == TOKENS:
        found, tokens = take_tokens(block, source, shape, 100)
        parts = [np.split(part, tokens.offsets[1:-1]) for part in (tokens.input_ids, tokens.flags)]
        told = [(ids.tolist(), flags.tolist()) for ids, flags in zip(*parts, strict=True)]
    else:
        found = normalize(block, source, shape)
        told = found.documents.select("kind", "roles", "contents", "extra").rows()
    by_row: dict[int, list[Any]] = {row: [] for row in range(1, block.lines + 1)}
    for row, document in zip(found.documents["row"].to_list(), told, strict=False):
        by_row[row].append(document)
    for bad in found.quarantined:
        by_row[bad.row].append(bad.record()["reason"])
    return [by_row[row] for row in range(2, block.lines + 1)]


def row_by_row(lines: list[bytes], form: str, folder: Path) -> list[list[Any]]:
    with (
        patch("tokpack.stages.normalize.normalize.read_json_lines", return_value=None),
        patch("tokpack.stages.normalize.token_columns.read_json_lines", return_value=None),
    ):
        return fates(lines, form, folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", ROWS)
@settings(max_examples=40)
@given(data=st.data())
def test_what_becomes_of_a_row_does_not_depend_on_its_neighbors(tmp_path_factory, form, data):
    row = json.dumps(ROWS[form], ensure_ascii=False).encode()
    lines = [line for line in data.draw(st.lists(mutated(row), max_size=5)) if line.strip()]
    folder = tmp_path_factory.getbasetemp()
    together = fates([row, *lines, row], form, folder)
    alone = [fate for line in lines for fate in fates([line], form, folder)]
    assert together[1:-1] == alone
    assert together == row_by_row([row, *lines, row], form, folder)
    assert all(
        len(fate) == (2 if form == "preference" and isinstance(fate[0], tuple) else 1) for fate in together
    )


KILLERS = [
    b"null",
    b"null\n",
    b"null\n{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'"\\',
    b"\0null",
    b"-",
    b"{}null",
]


@pytest.mark.slow
def test_no_block_kills_the_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_row_fates import *\n"
        "for form, killer in [(form, killer) for form in ROWS for killer in KILLERS]:\n"
        "    row = json.dumps(ROWS[form]).encode()\n"
        "    inside = row[:-1] + b',\"x\":' + killer + b'}'\n"
        "    for lines in ([killer], [row, killer], [killer, row], [inside]):\n"
        "        fates(lines, form, Path(sys.argv[2]))\n"
        "print('alive')"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr


@pytest.mark.parametrize(
    ("line", "odd"),
    [
        (b'{"a": 1}', False),
        (b' \t{"a": "\xc3\xa9"} \r', False),
        (b"[" * 101 + b"{}", True),
        (b'{"a": "' + b"[" * 500 + b'"}', False),
        (b'{"a": "\\"' + b"[" * 500 + b'"}', False),
        (b'{"a": ' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}", False),
        (b'{"a": ' + b"[ " * DEEPEST + b"] " * DEEPEST + b"}", True),
        (b'{"a": "]]]]", "b": ' + b'{"]]]": [' * 60 + b"}", True),
        (b'{"a": ' + b"1" * 2000 + b"}", False),
        (b'{"a": ' + b"1" * 6500 + b"}", True),
        (b'{"a": "\xe9"}', True),
        (b'{"a": 1}\0', True),
        (b'{"a": 1} \0 }', True),
        (b"\xef\xbb\xbf{}", True),
        (b"null", True),
        (b"{", True),
        (b" " * 100 + b"{}", True),
    ],
)
def test_only_plain_lines_reach_arrows_reader(line, odd):
    plain = b'{"b": [1, {"c": "\\u00e9"}]}'
    assert odd_lines(line).tolist() == [odd]
    assert odd_lines(b"\n".join([plain, line, plain, line, plain])).tolist() == [
        False,
        odd,
        False,
        odd,
        False,
    ]


@pytest.mark.slow
@given(
    st.recursive(st.text(max_size=5) | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=20)
)
def test_nesting_is_counted_outside_of_strings(value):
    def depth(value: Any) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert nesting(json.dumps(value).encode()) == depth(value)


def test_a_mark_before_a_line_counts_for_nothing_where_files_were_joined(tmp_path):
    row = json.dumps(ROWS["text"]).encode()
    assert fates([b"\xef\xbb\xbf" + row], "text", tmp_path) == fates([row], "text", tmp_path)


CALLED = b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":%b}'


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [
        ("alpaca", b'{"instruction":"q","output":"a","history":1}', "history is a number, not a list of"),
        ("alpaca", b'{"instruction":"q","output":"a","history":{"a":1}}', "history is an object, not a list"),
        ("tokens", b'{"input_ids":["\\ud800"]}', r'input_ids[0] is "\ud800", not an integer'),
        ("messages", b'{"messages":[{"role":"u","content":[{"type":"\\u202e\\ud83d"}]}]}', r"\u202e\ud83d"),
        ("text", b'{"text":1,"tokpack:unreadable":{"reason":"x","raw":"y"}}', "text is a number"),
        ("messages", CALLED % b'["search"]', "tools[1] is a string, not an object"),
        ("messages", CALLED % b'"search"', "tools is not JSON"),
        ("messages", CALLED % b'[{"name":"f"},["f"]]', "tools[2] is a list, not an object"),
    ],
)
def test_what_cannot_be_read_is_set_aside_with_a_reason_that_can_be_printed(tmp_path, form, row, reason):
    (fate,) = fates([row], form, tmp_path)
    assert reason in fate[0]
    assert fate[0].isprintable()


@pytest.mark.parametrize("container", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_column_named_like_the_one_for_faults_means_nothing(tmp_path, container):
    row = {"text": "a", UNREADABLE: "b"}
    path, table = tmp_path / f"a.{container}", pa.table({key: [value] for key, value in row.items()})
    if container == "csv":
        pacsv.write_csv(table, path)
    elif container == "parquet":
        pq.write_table(table, path)
    elif container == "arrow":
        pa.feather.write_feather(table, path)
    else:
        path.write_text(json.dumps([row] if container == "json" else row))
    source = Source(path.name, str(path), container, "", SourceConfig(path=str(path)))
    if container == "csv":
        with pytest.raises(DataError, match="two columns are named 'tokpack:unreadable'"):
            list(read_blocks([source]))
        return
    (block,) = read_blocks([source])
    found = normalize(block, source, Shape.of("text", {}, list(row)))
    assert found.documents["contents"].to_list() == [["a"]]
    assert found.quarantined == []
