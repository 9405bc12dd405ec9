"""`tokpack inspect`: which row is shown, and where its documents came from."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from rich.console import Console

import tokpack
from tokpack.errors import UsageError
from tokpack.packed.folder import PackedFolder
from tokpack.packed.viewer import choose_row, origin_of, row_view, source_ranges


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    return [
        write_rows(folder / f"{name}.jsonl", messy_rows(count, seed=count))
        for name, count in (("first", 60), ("second", 40))
    ]


@pytest.fixture(scope="module")
def packed(inputs, qwen, tmp_path_factory) -> PackedFolder:
    out = tmp_path_factory.mktemp("out") / "packed"
    paths = [str(path) for path in inputs]
    return tokpack.pack(paths, out, tokenizer=str(qwen), max_length=256, val=0.15)


def shown(packed: PackedFolder, row: int) -> str:
    console = Console(width=200, no_color=True, file=io.StringIO())
    console.print(row_view(packed, row))
    return console.file.getvalue()


def test_longest_and_worst_fill_name_the_rows_that_they_say(packed):
    rows = [packed[row] for row in range(len(packed))]
    longest = [row["seq_lengths"].max() for row in rows]
    tokens = [len(row["input_ids"]) for row in rows]
    assert longest[choose_row(packed, longest=True)] == max(longest)
    assert tokens[choose_row(packed, worst_fill=True)] == min(tokens)


def test_a_source_names_the_first_row_that_holds_a_document_of_it(packed):
    assert source_ranges(packed) == {"first.jsonl": (0, 60), "second.jsonl": (60, 100)}
    row = choose_row(packed, source="second.jsonl")
    assert (packed[row]["doc_ids"] >= 60).any()
    assert not any((packed[earlier]["doc_ids"] >= 60).any() for earlier in range(row))
    with pytest.raises(UsageError, match=r"no input named 'secnd\.jsonl'") as caught:
        choose_row(packed, source="secnd.jsonl")
    assert "second.jsonl" in str(caught.value.hint)


def test_the_origin_leads_to_the_line_of_the_input(packed, inputs):
    lines = {path.name: path.read_bytes().splitlines() for path in inputs}
    for part in (packed, packed.validation):
        ranges = source_ranges(part)
        for row in range(len(part)):
            for doc in part[row]["doc_ids"].tolist():
                number, name = origin_of(ranges, doc).removeprefix("number ").split(" of ")
                answer = json.loads(lines[name][int(number) - 1])["messages"][-1]["content"]
                text = packed.tokenizer.decode(part[row]["input_ids"].tolist())
                assert unicodedata.normalize("NFC", answer.strip()) in text
                assert f"document {doc}: " in shown(part, row)
                assert f"number {number} of {name}" in shown(part, row)
    left_out = packed.dropped.row(0, named=True)
    assert origin_of(ranges, left_out["doc_id"]) == f"number {left_out['row']} of {left_out['source']}"
    assert origin_of(ranges, 100) == ""


def test_a_document_held_out_is_found_in_the_validation_part(packed):
    doc = int(packed.validation[0]["doc_ids"][0])
    with pytest.raises(UsageError, match=f"document {doc} is in no row") as caught:
        choose_row(packed, doc=doc)
    assert f"tokpack inspect {packed.folder / 'validation'} --doc {doc}" in str(caught.value.hint)
    assert choose_row(packed.validation, doc=doc) == 0


def test_a_number_beyond_the_input_was_never_read(packed):
    with pytest.raises(UsageError) as caught:
        choose_row(packed, doc=100)
    assert caught.value.hint == "documents are 0 to 99"


@pytest.mark.slow
def test_one_document_is_no_plural(inputs, qwen, tmp_path):
    alone = tokpack.pack(inputs[0], tmp_path / "alone", tokenizer=str(qwen), max_length=256, planner="none")
    assert "tokens, 1 document  trained" in shown(alone, 0)


def test_a_packed_dataset_without_rows_says_so(qwen, tmp_path):
    data = write_rows(tmp_path / "one.jsonl", [b'{"text": "held out is nothing of so little"}'])
    empty = tokpack.pack(data, tmp_path / "packed", tokenizer=str(qwen), val=1e-9).validation
    with pytest.raises(UsageError, match="the packed dataset has no rows"):
        choose_row(empty)


def test_two_wishes_are_refused(packed):
    with pytest.raises(UsageError, match="--row and --longest"):
        choose_row(packed, 0, longest=True)


def test_a_validation_folder_alone_is_shown_without_origins(packed, tmp_path):
    shutil.copytree(packed.folder / "validation", tmp_path / "alone")
    text = shown(PackedFolder(tmp_path / "alone"), 0)
    assert "trained" in text
    assert "first.jsonl" not in text


def test_without_color_lines_of_trained_tokens_have_a_mark_in_the_margin(packed):
    plain = str(packed.show(0)).splitlines()
    assert any(line.startswith("| so ") for line in plain), plain
    assert any(line.startswith("  <|im_start|>user") for line in plain)
    assert not any(line.startswith("|") and "<|im_start|>" in line for line in plain)
    console = Console(width=200, force_terminal=True, color_system="standard", file=io.StringIO())
    console.print(packed.show(0))
    assert "\n| " not in console.file.getvalue()
    assert "<pre" in packed.show(0)._repr_html_()
    with pytest.raises(UsageError, match="no row 10000"):
        packed.show(10_000)


def test_the_command_shows_a_document_that_was_left_out(packed, capsys):
    from tokpack.cli.packed import inspect

    doc, reason = packed.dropped.filter(packed.dropped["reason"] == "exact_duplicate").row(0)[0::3][:2]
    inspect(packed.folder, doc=doc)
    text = capsys.readouterr().out
    assert f"document {doc}  left out: {reason}" in text
    assert "the document that it repeats" in text
    twin = packed.dropped.filter(packed.dropped["doc_id"] == doc)["detail"][0]
    assert f"\ndocument {twin}\n" in text
    with pytest.raises(UsageError, match="document 4000 is in no row"):
        inspect(packed.folder, doc=4000)


def test_of_a_row_of_very_many_documents_the_first_are_shown(qwen, tmp_path, monkeypatch):
    monkeypatch.setattr("tokpack.packed.viewer.MOST_DOCUMENTS", 3)
    rows = [{"text": f"number {number}"} for number in range(9)]
    packed = tokpack.pack(rows, tmp_path / "packed", tokenizer=str(qwen), max_length=256)
    text = shown(packed, 0)
    assert "9 documents" in text
    assert text.count("document ") == 3
    assert text.rstrip().endswith("... 6 more documents")
