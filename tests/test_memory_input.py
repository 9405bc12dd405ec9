"""Data in memory gives the packed dataset that a file of the same rows gives."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.stages.read.memory import ROWS, in_files

datasets, pd = pytest.importorskip("datasets"), pytest.importorskip("pandas")

LINES = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} plus {n}? Say it in one word, if you can."},
            {"role": "assistant", "content": "" if n % 50 == 7 else f"It is {n + n % 90}."},
        ]
    }
    for n in range(300)
]
FORMS = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
    "pandas": pd.DataFrame,
    "arrow": pa.Table.from_pylist,
    "batches": lambda rows: pa.Table.from_pylist(rows).to_reader(max_chunksize=7),
    "datasets": datasets.Dataset.from_list,
    "shuffled back": lambda rows: datasets.Dataset.from_list(rows[::-1]).select(range(len(rows) - 1, -1, -1)),
    "iterable": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
}


def sums(packed: tokpack.PackedFolder) -> list[str]:
    return [shard["sha256"] for shard in packed.manifest["shards"]]


@pytest.fixture(scope="module")
def from_file(qwen, tmp_path_factory) -> tokpack.PackedFolder:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES))
    return tokpack.pack(str(folder / "rows.jsonl"), folder / "packed", tokenizer=qwen, max_length=128)


QUICK = ("list", "polars", "datasets")


@pytest.mark.parametrize(
    "form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_rows_in_memory_are_packed_as_those_of_a_file(form, from_file, qwen, tmp_path):
    packed = tokpack.pack(FORMS[form](LINES), tmp_path / "out", tokenizer=qwen, max_length="128")
    assert sums(packed) == sums(from_file)
    assert packed.dropped.select("doc_id", "row", "reason").rows() == (
        from_file.dropped.select("doc_id", "row", "reason").rows()
    )
    assert packed.manifest["ledger"]["documents"] == from_file.manifest["ledger"]["documents"]
    assert packed.manifest["inputs"][0]["name"] in ("rows.arrow", "rows.jsonl")


HALF = [
    ({"unread": "\ud83d"}, None),
    ({"\ud83d": 1}, None),
    (
        {"messages": [LINES[0]["messages"][0], {"role": "assistant", "content": "\ud83d"}]},
        "messages[2].content holds",
    ),
    (
        {"tools": [{"name": "f", "description": "\ud83d"}]},
        "a tool, a message or an argument of the template holds",
    ),
    ({"chat_template_kwargs": {"x": "\ud83d"}}, "a tool, a message or an argument of the template holds"),
]


def test_half_a_surrogate_pair_sets_a_row_in_memory_aside_as_one_of_a_file(qwen, tmp_path):
    rows = [LINES[n + 1] | more for n, (more, _) in enumerate(HALF)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, data in enumerate((rows, str(tmp_path / "rows.jsonl"))):
        out = tmp_path / f"out{number}"
        tokpack.pack(data, out, tokenizer=qwen, max_length=128, allow_bad=1.0)
        lines = (out / "quarantine.jsonl").read_text().splitlines()
        reasons = {json.loads(line)["doc_id"]: json.loads(line)["reason"] for line in lines}
        wanted = {n: f"{reason} half a surrogate pair" for n, (_, reason) in enumerate(HALF) if reason}
        assert reasons == wanted


def test_equal_rows_are_found_already_there_and_others_are_not(qwen, tmp_path, caplog):
    settings = {"tokenizer": qwen, "max_length": 128}
    tokpack.pack(pl.DataFrame(LINES), tmp_path / "out", **settings)
    with caplog.at_level("INFO", "tokpack"):
        tokpack.pack(pl.DataFrame(LINES).rechunk(), tmp_path / "out", **settings)
    assert "already there" in caplog.text
    with pytest.raises(UsageError, match=r"overwrite|another"):
        tokpack.pack(pl.DataFrame(LINES[1:]), tmp_path / "out", **settings)


def test_several_are_sources_of_their_own_beside_files(qwen, tmp_path):
    file = tmp_path / "more.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in LINES[:5]))
    packed = tokpack.pack([pl.DataFrame(LINES), file, LINES[:9]], tmp_path / "out", tokenizer=qwen)
    assert [entry["name"] for entry in packed.manifest["inputs"]] == [
        "rows.arrow",
        "more.jsonl",
        "rows.jsonl",
    ]
    assert packed.manifest["ledger"]["documents"]["read"] == 314


def test_clean_takes_rows_in_memory(tmp_path):
    report = tokpack.clean(datasets.Dataset.from_list(LINES), tmp_path / "kept.jsonl")
    assert report.data["ledger"]["documents"]["kept"] == 294
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 294


def test_the_scratch_file_depends_on_the_rows_alone_and_is_gone_afterwards():
    table = pa.Table.from_pylist(
        [
            {"text": f"row {n}", "tags": [str(n)] * (n % 3), "note": None if n % 5 else {"n": n}}
            for n in range(3 * ROWS + 5)
        ]
    )
    chunked = pa.concat_tables([table.slice(0, 10), table.slice(10, ROWS), table.slice(10 + ROWS)])
    contents = []
    for form in (table, chunked, table.to_reader(max_chunksize=100)):
        with in_files(form) as [path]:
            contents.append(Path(path).read_bytes())
        assert not Path(path).exists()
    assert len(set(contents)) == 1


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (7, UsageError, "int is no data"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(LINES[:2])}), UsageError, "'train'"),
        ([{"text": object()}], DataError, "row 0 of the list"),
        (pd.DataFrame({"text": ["a", 1, [2]]}), DataError, "fit no Arrow table"),
        (pl.DataFrame(), UsageError, "no columns"),
    ],
)
def test_what_is_no_data_is_said_with_the_next_step(data, error, said):
    with pytest.raises(error, match=said) as caught, in_files(data):
        pass
    assert caught.value.hint


def test_a_key_that_a_dict_lacks_stays_away_and_paths_stay_as_they_are(tmp_path):
    rows = [{"text": "a"}, {"text": "b", "meta": None}]
    with in_files(rows) as [path]:
        assert [json.loads(line) for line in Path(path).read_text().splitlines()] == rows
    with in_files([tmp_path, "b.jsonl"]) as paths:
        assert paths == [str(tmp_path), "b.jsonl"]


def test_what_was_left_out_of_rows_in_memory_is_not_sought_in_a_file(qwen, tmp_path):
    rows = [*LINES[:5], LINES[0]]
    packed = tokpack.pack(rows, tmp_path / "out", tokenizer=str(qwen), max_length=512)
    (doc,) = packed.dropped.filter(packed.dropped["reason"] == "exact_duplicate")["doc_id"]
    with pytest.raises(DataError, match="data in memory") as caught:
        packed.dropped_text(doc)
    assert "see that row" in str(caught.value.hint)
    details = {check.name: check.detail for check in tokpack.verify(packed.folder).checks}
    assert details["inputs"] == "0 of 0 still there, unchanged; 1 in memory, not compared"
