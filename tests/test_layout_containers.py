"""Rows of every layout give the documents of JSON lines from every container, or are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys

import polars as pl
import pyarrow as pa
import pytest
from layout_cases import CASES
from layout_words import TOOL, A, B, Q, S, msgs
from rows_read import documents, documents_of

from tokpack.errors import DataError, UsageError

PRINTED = "what Python prints, not JSON"


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_cells(rows, write):
    """CSV, in whose cells `write` puts what is no text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for row in rows:
        held = [row.get(name) for name in names]
        writer.writerow(["" if v is None else v if isinstance(v, str) else write(v) for v in held])
    return out.getvalue().encode()


def as_arrow(rows):
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


WRITTEN = {
    "jsonl": ("rows.jsonl", as_lines),
    "json": ("rows.json", lambda rows: json.dumps(rows, indent=2).encode()),
    "jsonl.gz": ("rows.jsonl.gz", lambda rows: gzip.compress(as_lines(rows))),
    "jsonl.zst": ("rows.jsonl.zst", lambda rows: pa.compress(as_lines(rows), "zstd", asbytes=True)),
    "arrow": ("rows.arrow", as_arrow),
    "csv": ("rows.csv", lambda rows: as_cells(rows, json.dumps)),
    "printed": ("rows.csv", lambda rows: as_cells(rows, repr)),
}


def fate(folder, container, case, way):
    """The documents of a case, why rows were set aside, or the refusal and its hint."""
    name, write = WRITTEN[container]
    (folder / name).write_bytes(write([case.row]))
    try:
        found, aside, _ = documents_of(folder / name, **way)
    except (UsageError, DataError) as error:
        return str(error).partition("\n")[0].partition(":")[2], str(error.hint)
    return found, aside


ASKED = [(case, way) for case in CASES for way in ([case.way, {}] if case.refused else [case.way])]
"""With what the user says of them, and without."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Each with its fate as JSON lines."""
    folder = tmp_path_factory.mktemp("lines")
    return [(case, way, fate(folder, "jsonl", case, way)) for case, way in ASKED]


@pytest.mark.parametrize("container", [name for name in WRITTEN if name not in ("jsonl", "printed")])
def test_every_layout_gives_the_same_documents_from_every_container(container, asked, tmp_path):
    others = {}
    for case, way, expected in asked if container == "csv" else asked[::6]:
        found = fate(tmp_path, container, case, way)
        refused = isinstance(expected[0], str)
        if found[0] != expected[0] if refused else found != expected:
            others[case.name] = found
    if container == "csv":  # lists and objects of turns are texts there
        assert "--map messages=" in others.pop("UltraChat")[1]
        assert "--map messages=" in others.pop("MOSS")[1]
    assert others == {}


def test_cells_as_python_prints_them_are_refused_in_every_layout_unless_nothing_reads_them(asked, tmp_path):
    others = {}
    for case, way, expected in asked:
        found = fate(tmp_path, "printed", case, way)
        if found[0] != expected[0] and PRINTED not in str(found):
            others[case.name] = found
    assert others == {}


@pytest.mark.parametrize("mark", [",", "\t"], ids=["csv", "tsv"])
def test_the_command_for_what_python_prints_writes_what_is_read(mark, tmp_path):
    rows = [
        {"messages": msgs(Q, A), "tools": [TOOL], "id": 1},
        {"messages": msgs(Q, B), "tools": None, "id": 2},
    ]
    name = "rows.csv" if mark == "," else "rows.tsv"
    cells = [{key: value if value is None else repr(value) for key, value in row.items()} for row in rows]
    pl.DataFrame(cells).write_csv(tmp_path / name, separator=mark)
    with pytest.raises(UsageError) as error:
        documents_of(tmp_path / name)
    command = re.match(r'(python -c ".*?" > rows\.jsonl) writes', str(error.value.hint))[1]
    ready = command.replace("python", sys.executable).replace("FILE", name)
    subprocess.run(["bash", "-c", ready], check=True, cwd=tmp_path)
    made = documents_of(tmp_path / "rows.jsonl")[0]
    (tmp_path / "plain").mkdir()
    assert made == documents(tmp_path / "plain", rows)[0]


def test_what_numpy_prints_is_refused_with_what_to_save_instead(tmp_path):
    cell = "[{'role': 'user', 'content': 'Hi'}\n {'role': 'assistant', 'content': 'Hello.'}]"
    pl.DataFrame({"messages": [cell]}).write_csv(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match=PRINTED) as error:
        documents_of(tmp_path / "rows.csv")
    assert error.value.hint.startswith("save it as Parquet, or DataFrame.to_json(")


@pytest.mark.parametrize("way", [{"format": "prompt_completion"}, {"map": {"completion": "output"}}])
def test_cells_that_the_user_says_are_texts_are_read_as_such(way, tmp_path):
    pl.DataFrame({"prompt": ["Print."], "q": ["Print."], "output": ["{'a': 1}"]}).write_csv(
        tmp_path / "rows.csv"
    )
    found = documents_of(tmp_path / "rows.csv", **way)[0]
    assert [contents for _, contents, *_ in found] == [["Print.", "{'a': 1}"]]


@pytest.mark.parametrize(
    ("system", "read"),
    [
        ([{"type": "text", "text": S, "cache_control": {"type": "ephemeral"}}], S),
        ({"role": "system", "parts": [{"text": S}]}, S),
        ({"rules": ["be brief"]}, None),
        ([{"name": "count", "text": "x"}], None),
    ],
    ids=["parts", "a message", "an object", "other objects"],
)
@pytest.mark.parametrize(
    "more", [{"messages": msgs(Q, A)}, {"prompt": Q, "completion": A}], ids=["chat", "texts"]
)
def test_a_system_message_as_json_is_read_where_it_is_one_of_a_service(system, read, more, tmp_path):
    [(roles, contents, *_)], _, _ = documents(tmp_path, [{"system": json.dumps(system), **more}])
    assert (roles[0], contents[0]) == ("system", read or json.dumps(system))


def test_an_array_of_long_rows_is_recognized_by_all_of_its_first_rows(tmp_path):
    long = {"prompt": Q, "completion": "x" * 100_000}
    (tmp_path / "rows.json").write_text(json.dumps([long, {**long, "label": False}]))
    with pytest.raises(UsageError, match="label calls 1 of the first 2 answers bad"):
        documents_of(tmp_path / "rows.json")
