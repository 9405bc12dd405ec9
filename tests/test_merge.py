"""Merged, every document of the parts is there once, under its new number; verification passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import UsageError
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.sums import covered_files
from tokpack.packed.folder import PackedFolder

CAPACITY = 250


@pytest.fixture(scope="module")
def parts(qwen, tmp_path_factory) -> list[PackedFolder]:
    """Two packed inputs of one name; the first has a validation part."""
    made = []
    for number, (count, options) in enumerate([(300, {"val": 0.1}), (150, {"overlong": "split"})]):
        folder = tmp_path_factory.mktemp(f"part{number}")
        data = write_rows(folder / "chats.jsonl", messy_rows(count, seed=number))
        made.append(
            tokpack.pack(data, folder / "packed", tokenizer=str(qwen), max_length=CAPACITY, **options)
        )
    return made


@pytest.fixture(scope="module")
def merged(parts, tmp_path_factory) -> PackedFolder:
    return tokpack.merge(parts, tmp_path_factory.mktemp("merged") / "out")


def rows_of(packed: PackedFolder, base: int = 0) -> list[tuple]:
    """Each row as plain values, its documents numbered from `base`."""
    rows = []
    for number in range(len(packed)):
        row = packed[number]
        row["doc_ids"] = row["doc_ids"] + base
        rows.append(tuple(tuple(row[name].tolist()) for name in sorted(row)))
    return rows


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in covered_files(folder)}


def test_the_merged_packed_dataset_verifies(merged):
    result = tokpack.verify(merged.folder)
    assert result.ok, [check.faults for check in result.checks]
    assert next(check for check in result.checks if check.name == "inputs").detail.startswith("2 of 2")


def test_every_row_is_there_once_with_its_documents_renumbered(parts, merged):
    base = parts[0].ledger["documents"]["read"]
    assert base == 300
    expected = rows_of(parts[0]) + rows_of(parts[1], base)
    found = rows_of(merged)
    assert found != expected
    assert sorted(found) == sorted(expected)


def test_with_keep_order_rows_stand_as_they_were_packed(parts, tmp_path):
    merged = tokpack.merge(parts, tmp_path / "out", keep_order=True)
    assert rows_of(merged) == rows_of(parts[0]) + rows_of(parts[1], 300)


def test_parts_dealt_alike_are_dealt_again_and_others_are_not(parts, tmp_path):
    dealt = [tokpack.repack(part, tmp_path / f"dealt{n}", world_size=2) for n, part in enumerate(parts, 1)]
    figures = tokpack.merge(dealt, tmp_path / "both").manifest["plan"]["dealt"]
    assert figures["idle_share"] < figures["idle_share_shuffled"]
    for name, mixed, options in [("one", [dealt[0], parts[1]], {}), ("kept", dealt, {"keep_order": True})]:
        manifest = tokpack.merge(mixed, tmp_path / name, **options).manifest
        assert "dealt" not in manifest["plan"]
        assert manifest["config"]["plan"]["world_size"] == 0


def test_the_report_adds_the_reports_of_the_parts(parts, merged):
    reports = [json.loads((a.folder / "report.json").read_text()) for a in (*parts, merged)]
    first, second, both = reports
    assert both["ledger"] == merged.ledger
    assert both["plan"]["rows"] == len(merged)
    assert both["lengths"]["documents"] == first["lengths"]["documents"] + second["lengths"]["documents"]
    assert both["counters"] == {
        key: first["counters"].get(key, 0) + second["counters"].get(key, 0) for key in both["counters"]
    }
    full = "nothing cleaned, padded to capacity"
    rows = [next(line["tokens"] for line in r["slots"] if line["name"] == full) for r in reports]
    assert rows[2] == rows[0] + rows[1]


def test_places_are_not_told_of_the_examples_of_a_report_without_them(parts, tmp_path):
    older = shutil.copytree(parts[0].folder, tmp_path / "older")
    path = older / "report.json"
    report = json.loads(path.read_text())
    for drop in report["drops"]:
        drop.pop("places", None)
    path.write_text(json.dumps(report))
    merged = tokpack.merge([older, parts[1]], tmp_path / "out")
    with_old = {drop["reason"] for drop in report["drops"] if drop["examples"]}
    assert with_old
    made = json.loads((merged.folder / "report.json").read_text())
    assert [drop["places"] for drop in made["drops"] if drop["reason"] in with_old] == [[]] * len(with_old)


def test_the_ledger_is_the_sum_of_the_parts_and_sources_of_one_name_stay_apart(parts, merged):
    ledgers.check(merged.ledger)
    for section in ("documents", "tokens"):
        for key, value in merged.ledger[section].items():
            ours = [part.ledger[section][key] for part in parts]
            if isinstance(value, int):
                assert value == sum(ours)
            else:
                reasons = set().union(*ours)
                assert value == {r: sum(part.get(r, 0) for part in ours) for r in reasons}
    assert list(merged.ledger["sources"]) == ["chats.jsonl", "chats.jsonl#2"]
    assert merged.ledger["sources"]["chats.jsonl#2"] == parts[1].ledger["sources"]["chats.jsonl"]
    assert [entry["name"] for entry in merged.manifest["inputs"]] == ["chats.jsonl", "chats.jsonl#2"]


def test_the_record_of_what_was_left_out_follows_the_new_numbers(parts, merged):
    second = merged.dropped.filter(pl.col("source") == "chats.jsonl#2")
    expected = parts[1].dropped
    assert second["doc_id"].to_list() == (expected["doc_id"] + 300).to_list()
    assert second["row"].to_list() == expected["row"].to_list()
    copies = second.filter(pl.col("reason") == "exact_duplicate")
    assert len(copies)
    originals = expected.filter(pl.col("reason") == "exact_duplicate")["detail"]
    assert copies["detail"].to_list() == [str(int(detail) + 300) for detail in originals]
    others = second.filter(pl.col("reason") != "exact_duplicate")["detail"].to_list()
    assert others == expected.filter(pl.col("reason") != "exact_duplicate")["detail"].to_list()
    lines = [json.loads(line) for line in (merged.folder / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == sum(part.ledger["documents"]["quarantined"] for part in parts)
    assert {line["source"] for line in lines if line["doc_id"] >= 300} == {"chats.jsonl#2"}


def test_the_validation_part_of_the_one_that_has_it_comes_along(parts, merged):
    assert parts[0].validation is not None
    assert merged.validation is not None
    assert sorted(rows_of(merged.validation)) == sorted(rows_of(parts[0].validation))


def test_three_parts_and_the_same_bytes_each_time(parts, merged, tmp_path):
    again = tokpack.merge(parts, tmp_path / "again")
    assert bytes_of(again.folder) == bytes_of(merged.folder)
    three = tokpack.merge([merged, parts[1], parts[0]], tmp_path / "three")
    assert tokpack.verify(three.folder).ok
    assert list(three.ledger["sources"]) == [f"chats.jsonl{end}" for end in ("", "#2", "#3", "#4")]
    assert three.manifest["tokens"] == 2 * merged.manifest["tokens"]
    ids = np.concatenate([three[row]["doc_ids"] for row in range(len(three))])
    assert int(ids.max()) < three.ledger["documents"]["read"] == 900


@pytest.mark.parametrize(
    ("options", "difference"),
    [({"max_length": 300}, "capacity: 300"), ({"max_length": CAPACITY, "loss": "all"}, "loss: all")],
)
def test_parts_that_do_not_fit_together_are_refused_with_the_difference(
    parts, qwen, tmp_path, options, difference
):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(30))
    other = tokpack.pack(data, tmp_path / "packed", tokenizer=str(qwen), **options)
    with pytest.raises(UsageError, match=f"another {difference}"):
        tokpack.merge([parts[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_chat_template_is_refused(parts, qwen, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}", encoding="utf-8"
    )
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(30))
    options = {"tokenizer": str(qwen), "max_length": CAPACITY, "chat_template": str(template)}
    other = tokpack.pack(data, tmp_path / "packed", **options)
    with pytest.raises(UsageError, match=r"another (tokenizer|chat template)"):
        tokpack.merge([parts[0], other], tmp_path / "out")


def test_the_output_may_not_be_a_part_and_one_part_is_not_enough(parts, tmp_path):
    for out in (parts[0].folder, parts[0].folder / "in", parts[0].folder.parent):
        with pytest.raises(UsageError, match="a packed dataset that is read"):
            tokpack.merge(parts, out, overwrite=True)
    with pytest.raises(UsageError, match="two packed datasets"):
        tokpack.merge(parts[:1], tmp_path / "out")


def test_what_was_made_of_the_same_file_is_merged_with_a_warning(parts, tmp_path, caplog):
    tokpack.merge([parts[0], parts[1], parts[0].folder], tmp_path / "out")
    place = parts[0].folder
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"chats.jsonl is in {place} and in {place}: its documents may be trained twice"
    ]


def test_a_merged_packed_dataset_is_replaced_only_when_asked(parts, tmp_path):
    out = tokpack.merge(parts, tmp_path / "out", keep_order=True).folder
    with pytest.raises(UsageError, match="exists already"):
        tokpack.merge(parts, out)
    assert rows_of(tokpack.merge(parts, out, overwrite=True)) != rows_of(parts[0]) + rows_of(parts[1], 300)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        tokpack.merge(parts, out, overwrite=True)
