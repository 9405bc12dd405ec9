"""Index packed datasets: tokens once, rows as a plan, and for every reader the rows of an ordinary one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack import schema
from tokpack.errors import DataError, UsageError
from tokpack.export import export
from tokpack.on_disk import token_files
from tokpack.on_disk.sums import file_sha256, write_sums
from tokpack.on_disk.token_files import DIGEST_KEY, HEADER_BYTES, npy_header, token_files_digest
from tokpack.packed.folder import PackedFolder
from tokpack.stages import write, write_index
from trainer_plugin import PackedDataset

Both = tuple[PackedFolder, PackedFolder]


def pairs(number: int) -> list[bytes]:
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": "Answer. " * (i % 9 + 1),
            "rejected": "No, " * (i % 5 + 1),
        }
        for i in range(number)
    ]
    return [json.dumps(row).encode() for row in rows]


CASES: dict[str, dict[str, Any]] = {
    "chats": {"max_length": 250, "val": 0.1},
    "pieces": {"max_length": 64, "overlong": "split"},
    "dealt": {"max_length": 250, "world_size": 2, "rows_per_step": 2},
    "pairs": {"max_length": 128},
    "repeated": {"max_length": 250, "val": 0.1},
}


@pytest.fixture(scope="module")
def made(qwen, tmp_path_factory) -> dict[str, Both]:
    """Each case packed as whole rows and as an index."""
    folder = tmp_path_factory.mktemp("data")
    chats = write_rows(folder / "chats.jsonl", messy_rows(200))
    chosen = write_rows(folder / "pairs.jsonl", pairs(60))
    (folder / "run.toml").write_text(f'[[source]]\npath = "{chats}"\nrepeat = 2.5\n')
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "CHUNK_TOKENS", 4000)  # several record batches
        for case, options in CASES.items():
            data: Any = chosen if case == "pairs" else [] if case == "repeated" else chats
            more = {"config": folder / "run.toml"} if case == "repeated" else {}
            whole, index = (
                tokpack.pack(
                    data, folder / f"{case}-{form}", tokenizer=str(qwen), shard_format=form, **options, **more
                )
                for form in ("arrow", "index")
            )
            found[case] = (whole, index)
    return found


@pytest.fixture(scope="module")
def chats(made) -> Both:
    return made["chats"]


def assert_same_rows(one: PackedFolder, other: PackedFolder) -> None:
    assert one.table.equals(other.table)
    assert one.table.num_rows == len(one) == len(other)
    for row in range(len(one)):
        ours, theirs = one[row], other[row]
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            assert np.array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_whole_rows_and_verify(made, case):
    whole, index = made[case]
    assert_same_rows(whole, index)
    for part in (whole.validation, index.validation):
        assert (part is not None) == ("val" in CASES[case])
    if whole.validation is not None:
        assert_same_rows(whole.validation, index.validation)
    assert index.ledger == whole.ledger
    checks = tokpack.verify(index.folder)
    assert checks.ok, [check.faults for check in checks.checks]
    assert "token files" in [check.name for check in checks.checks]


@pytest.mark.parametrize("case", CASES)
def test_made_whole_it_has_the_shards_that_pack_writes(made, case, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "CHUNK_TOKENS", 4000)
    whole, index = made[case]
    again = tokpack.repack(index, tmp_path / "again", shard_format="arrow")
    assert again.manifest["shards"] == whole.manifest["shards"]
    assert "token_files" not in again.manifest
    assert tokpack.verify(again.folder).ok
    from_whole = tokpack.repack(whole, tmp_path / "index", shard_format="index")
    assert from_whole.manifest["shards"] == index.manifest["shards"]
    assert from_whole.manifest["token_files"] == index.manifest["token_files"]


@pytest.mark.parametrize("case", CASES)
def test_the_trainer_gathers_the_same_rows_and_figures(made, case):
    whole, index = (PackedDataset(packed.folder) for packed in made[case])
    order = np.random.default_rng(0).permutation(len(whole))
    shuffled = pickle.loads(pickle.dumps(index.select(order)))
    for place, row in enumerate(order):
        ours, theirs = shuffled[place], whole[int(row)]
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        assert all(ours[name].dtype == theirs[name].dtype for name in theirs)
    for figure in ("row_tokens", "row_documents", "row_trained", "row_pairs", "row_longest", "seq_lengths"):
        assert np.array_equal(getattr(index, figure)(), getattr(whole, figure)())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed", [{"max_length": 1000}, {"planner": "sequential"}, {"seed": 7}, {"world_size": 2}]
)
def test_planned_anew_it_shares_its_tokens(made, changed, tmp_path):
    for case in ("chats", "repeated"):
        whole, index = made[case]
        again = tokpack.repack(index, tmp_path / f"{case}-index", **changed)
        expected = tokpack.repack(whole, tmp_path / f"{case}-whole", **changed)
        assert_same_rows(expected, again)
        assert again.ledger == expected.ledger
        assert tokpack.verify(again.folder).ok
        assert again.manifest["token_files"] == index.manifest["token_files"]
        for name in schema.TOKEN_FILES:
            assert (again.folder / name).samefile(index.folder / name)


def test_where_no_link_can_be_made_the_token_files_are_copied(chats, tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    again = tokpack.repack(chats[1], tmp_path / "again", seed=3)
    assert not (again.folder / schema.TOKEN_FILES[1]).samefile(chats[1].folder / schema.TOKEN_FILES[1])
    assert tokpack.verify(again.folder).ok


def test_a_file_of_another_user_is_copied(tmp_path, monkeypatch):
    (tmp_path / "one").write_text("tokens")
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "one").stat().st_uid + 1)
    write_index.share_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "tokens"
    assert not (tmp_path / "two").samefile(tmp_path / "one")


def test_merge_joins_indexes_and_names_the_way_for_other_kinds(chats, made, tmp_path):
    whole, index = chats
    dealt = made["dealt"]
    merged = tokpack.merge([index, dealt[1]], tmp_path / "index")
    expected = tokpack.merge([whole, dealt[0]], tmp_path / "whole")
    assert_same_rows(expected, merged)
    assert tokpack.verify(merged.folder).ok
    with pytest.raises(UsageError, match="another layout") as caught:
        tokpack.merge([whole, dealt[1]], tmp_path / "mixed")
    assert "repack --shard-format arrow" in str(caught.value.hint)


def test_exports_are_the_same(chats, tmp_path):
    for to in ("trl", "megatron-bridge"):
        folders = [export(packed, to, tmp_path / f"{to}-{n}") for n, packed in enumerate(chats)]
        names = [
            p.relative_to(folders[0]) for p in folders[0].rglob("*") if p.suffix in (".arrow", ".parquet")
        ]
        assert names
        for name in names:
            mine, theirs = (file_sha256(folder / name) for folder in folders)
            assert mine == theirs


def test_inspect_and_view_show_the_same(chats):
    from tokpack.view.table import DocumentTable

    whole, index = chats
    assert str(whole.show(1)) == str(index.show(1))
    assert whole.row_of_document(9) == index.row_of_document(9)
    ours, theirs = DocumentTable(index), DocumentTable(whole)
    assert ours.pieces.equals(theirs.pieces)
    assert ours.trained.equals(theirs.trained)
    row = len(whole) // 2
    assert all(np.array_equal(ours.record(row)[name], theirs.record(row)[name]) for name in whole[0])


def test_pushed_and_fetched_it_is_the_same_and_its_files_go_when_it_is_replaced(chats, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    whole, index = chats
    url = f"file://{tmp_path / 'there'}"
    tokpack.push(index.folder, url)
    assert_same_rows(whole, tokpack.open_packed(url))
    assert "data_files" not in (tmp_path / "there" / "README.md").read_text()
    tokpack.push(whole.folder, url, overwrite=True)
    left = {path.name for path in (tmp_path / "there").rglob("*") if path.suffix in (".npy", ".index")}
    assert not left
    assert tokpack.verify(tmp_path / "there").ok


def copied(packed: PackedFolder, out: Path) -> Path:
    shutil.copytree(packed.folder, out)
    return out


@pytest.mark.parametrize("name", [*schema.TOKEN_FILES, write_index.SHARD])
def test_any_damage_is_found(chats, name, tmp_path):
    folder = copied(chats[1], tmp_path / "copy")
    path = folder / name
    original = path.read_bytes()
    for place in (3, len(original) // 2, len(original) - 2):
        path.write_bytes(original[:place] + bytes([original[place] ^ 16]) + original[place + 1 :])
        faults = [fault for check in tokpack.verify(folder).checks for fault in check.faults]
        assert any(fault.startswith(f"{name}: its bytes changed") for fault in faults)
        with pytest.raises(DataError, match="not those that were packed"):
            tokpack.repack(folder, tmp_path / "again")
    path.unlink()
    assert any(f"{name}: missing" in fault for c in tokpack.verify(folder).checks for fault in c.faults)
    with pytest.raises(DataError, match="missing"):
        PackedDataset(folder)


def with_plan(folder: Path, records: list[list[int]] | None, digest: bytes | None = None) -> None:
    """Rows of another's making, or the same of other token files, with sums that fit."""
    path = folder / write_index.SHARD
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        table, columns = stream.read_all(), stream.schema
    if digest is not None:
        columns = columns.with_metadata({DIGEST_KEY: digest})
    if records is not None:
        table = pa.table({"records": pa.array(records, pa.list_(pa.int64()))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, columns) as writer:
        writer.write_table(pa.Table.from_arrays(table.columns, schema=columns))
    altered(folder, lambda m: m["shards"][0].update(sha256=file_sha256(path)))


def altered(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    change(manifest)
    (folder / schema.MANIFEST).write_text(json.dumps(manifest))
    write_sums(folder, {})


@pytest.mark.parametrize(
    ("records", "digest", "fault"),
    [
        ([[0, 1 << 40]], None, "a piece that is not there"),
        ([[-1]], None, "a piece that is not there"),
        ([[0] * 1000], None, "more tokens together"),
        ([[0]], b"0" * 64, "of other token files"),
    ],
)
def test_a_foreign_plan_reaches_nothing_but_its_pieces(chats, records, digest, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "MOST_VALUES", 5000)
    folder = copied(chats[1], tmp_path / "copy")
    with_plan(folder, records, digest)
    for open_rows in (PackedDataset, lambda place: tokpack.open_packed(place)[0]):
        with pytest.raises(DataError, match=fault):
            open_rows(folder)
    assert not tokpack.verify(folder).ok


def test_rows_that_lie_are_found_though_all_sums_fit(chats, tmp_path):
    folder = copied(chats[1], tmp_path / "copy")
    marks = folder / schema.TOKEN_FILES[2]
    data = bytearray(marks.read_bytes())
    data[HEADER_BYTES] = 1  # the first token of the first document
    marks.write_bytes(bytes(data))
    altered(folder, lambda m: m["token_files"][2].update(sha256=file_sha256(marks)))
    files = json.loads((folder / schema.MANIFEST).read_text())["token_files"]
    with_plan(folder, None, token_files_digest(files).encode())
    faults = [fault for check in tokpack.verify(folder).checks for fault in check.faults]
    assert any("the first token of a document has a label" in fault for fault in faults)
    assert "piece 0 says another number of labels than it has" in faults
    assert not any("cannot be read" in fault for fault in faults)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["token_files"][0].update(file="../../etc/passwd"),
        lambda m: m["token_files"][0].update(file=m["token_files"][1]["file"]),
        lambda m: m.pop("token_files"),
        lambda m: m["token_files"].pop(),
    ],
)
def test_token_files_have_their_names_and_no_others(chats, change, tmp_path):
    folder = copied(chats[1], tmp_path / "copy")
    altered(folder, change)
    with pytest.raises(DataError):
        PackedDataset(folder)


def test_a_link_among_the_token_files_is_refused(chats, tmp_path):
    folder = copied(chats[1], tmp_path / "copy")
    place = folder / schema.TOKEN_FILES[1]
    place.rename(tmp_path / "elsewhere.npy")
    place.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(DataError, match="is a link"):
        tokpack.open_packed(folder)


def test_numpy_reads_the_token_files(chats):
    ids, trained = (np.load(chats[1].folder / name, mmap_mode="r") for name in schema.TOKEN_FILES[1:])
    assert (ids.dtype, trained.dtype, len(ids)) == (np.int32, np.uint8, len(trained))
    assert ids.sum() == sum(row["input_ids"].sum() for row in PackedDataset(chats[0].folder))
    assert len(npy_header("<i4", 1 << 40)) == HEADER_BYTES


@pytest.mark.parametrize("where", ["tokpack.way.output.finish", "tokpack.way.pass_two.write_packed"])
def test_a_run_cut_off_in_pass_2_goes_on_to_the_same_bytes(qwen, tmp_path, monkeypatch, where):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(40))

    def pack(name: str) -> str:
        options = {"tokenizer": str(qwen), "max_length": 250, "val": 0.1, "shard_format": "index"}
        return (tokpack.pack(data, tmp_path / name, **options).folder / schema.SUMS).read_text()

    with monkeypatch.context() as patch:
        patch.setattr(where, lambda *given, **options: 1 / 0)  # the validation part is written by then
        with pytest.raises(ZeroDivisionError):
            pack("cut off")
    assert pack("cut off") == pack("whole")


@pytest.mark.slow
def test_the_flag_writes_one_and_overwrite_takes_all_of_it_away(qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(60))
    command = ("pack", str(data), "-t", str(qwen), "-o", str(tmp_path / "out"), "-q")
    run(*command, "--index-only")
    assert (tmp_path / "out" / "tokens" / "input_ids.npy").is_file()
    run(*command, "--overwrite")
    assert not (tmp_path / "out" / "tokens").exists()
    assert tokpack.verify(tmp_path / "out").ok


def test_weights_of_tokens_are_refused_with_the_way_out(qwen, tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": f"Answer {number}.", "weight": 0.5},
            ]
        }
        for number in range(3)
    ]
    options: dict[str, Any] = {"tokenizer": str(qwen), "max_length": 64}
    with pytest.raises(UsageError, match="no weights of tokens") as caught:
        tokpack.pack(rows, tmp_path / "index", shard_format="index", **options)
    assert "shard-format arrow" in str(caught.value.hint)
    assert caught.value.where == "rows.jsonl:1"
    assert not list((tmp_path / "index" / ".work").glob("batch-*")), "refused before the work, not after it"
    whole = tokpack.pack(rows, tmp_path / "whole", **options)
    with pytest.raises(UsageError, match="no weights of tokens"):
        tokpack.repack(whole, tmp_path / "again", shard_format="index")
