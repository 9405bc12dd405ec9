"""A packed dataset from anybody: every command ends in an answer, nothing outside is read, run or written."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from few import a_few
from foreign_folders import alter, pack_both, sign

import tokpack
from tokpack.errors import DataError, TokpackError, UsageError
from tokpack.export import export
from tokpack.on_disk.manifest import read_manifest
from tokpack.on_disk.sums import file_sha256
from tokpack.packed.viewer import choose_row, row_view
from tokpack.report.compare import compare
from tokpack.schema import DROPPED_SCHEMA
from trainer_plugin.rows.dataset import PackedDataset

ABSURD: list[Any] = [
    *(None, True, -1, 1 << 40, 1 << 70, 10**400, 0.5, 1e308, "12", "", "x" * 100_000, "\x00", "../../x"),
    *("/etc/passwd", [], [[[]]], {}, {"a": {"b": None}}, [None], ["x"], "hostile_module:run", "\ud800"),
]


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> dict[str, Path]:
    return pack_both(tmp_path_factory.mktemp("packed"), qwen)


@pytest.fixture
def copied(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed["arrow"], tmp_path / "theirs" / "packed"))


def commands(folder: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """What can be done with a packed dataset. `out` is a folder for results."""
    return {
        "open": lambda: repr(tokpack.open_packed(folder)),
        "verify": lambda: tokpack.verify(folder),
        "inspect": lambda: row_view(tokpack.open_packed(folder), choose_row(tokpack.open_packed(folder))),
        "compare": lambda: compare(folder, folder),
        "repack": lambda: tokpack.repack(folder, out / "repacked", max_length=4096),
        "merge": lambda: tokpack.merge([folder, folder], out / "merged"),
        "export": lambda: export(folder, "trl", out / "exported"),
        "bridge": lambda: export(folder, "megatron-bridge", out / "bridge"),
        "train": lambda: [row["labels"].sum() for row in PackedDataset(folder)],
        "validation": lambda: len(PackedDataset(folder).validation() or ()),
    }


def state(folder: Path) -> dict[str, Any]:
    """Everything below a folder that a command could have changed."""
    found = {}
    for inside, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(inside, name)
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def answers(folder: Path, tmp_path: Path, names: tuple[str, ...] = ()) -> dict[str, Exception | None]:
    """The outcome of each command: None, or the error, which must be one of ours with a documented code."""
    out = tmp_path / "results"
    outcomes: dict[str, Exception | None] = {}
    for name, run in commands(folder, out).items():
        if names and name not in names:
            continue
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        before = state(folder.parent)
        try:
            run()
            outcomes[name] = None
        except TokpackError as error:
            outcomes[name] = error
        assert getattr(outcomes[name], "exit_code", 0) in (0, 1, 2, 65, 73), f"{name}: {outcomes[name]!r}"
        assert len(str(outcomes[name])) < 2000, name
        assert state(folder.parent) == before, f"{name} wrote beside its output"
        assert {path.name for path in out.iterdir()} <= {"repacked", "merged", "exported", "bridge"}
    return outcomes


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a manifest, at any depth; of lists the first element."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(manifest: Any, way: tuple[Any, ...], value: Any) -> Any:
    if not way:
        return value
    manifest = copy.deepcopy(manifest)
    inside = manifest
    for key in way[:-1]:
        inside = inside[key]
    inside[way[-1]] = value
    return manifest


def test_an_untouched_dataset_passes_every_command(copied, tmp_path):
    assert all(outcome is None for outcome in answers(copied, tmp_path).values())


@pytest.mark.slow
def test_every_field_of_a_manifest_with_any_value_ends_in_an_answer_of_every_command(copied, tmp_path):
    original = json.loads((copied / "manifest.json").read_text())
    ways = list(places(original))
    tries = [
        (way, value) for number, way in enumerate(ways) for value in (ABSURD[number % 21], ABSURD[number % 5])
    ]
    step = max(1, len(tries) // int(os.environ.get("TOKPACK_HOSTILE", "25")))
    for way, value in tries[::step]:
        (copied / "manifest.json").write_text(json.dumps(put(original, way, value)))
        sign(copied)
        answers(copied, tmp_path)


@pytest.mark.slow
def test_every_field_that_is_read_is_checked_by_form_and_the_error_names_it(copied):
    original = json.loads((copied / "manifest.json").read_text())
    free = {"source", "read", "clean", "dedup", "near_dup", "decontaminate", "render", "tokenize", "select"}
    optional = {"eos_token_id", "pad_token_id", "sha256", "size_bytes"}
    taken, checked = [], 0
    for way in places(original):
        if not way or way[0] == "format_version" or (way[0] == "config" and free & set(way[1:2])):
            continue
        for value in (None, [[[]]], -(1 << 80), "\x00" * 70_000):
            if (value is None and way[-1] in optional) or (
                value == -(1 << 80) and way[-1] in ("gap", "fill")
            ):
                continue
            (copied / "manifest.json").write_text(json.dumps(put(original, way, value)))
            named = next(str(key) for key in reversed(way) if isinstance(key, str))
            try:
                read_manifest(copied)
                taken.append((way, str(value)[:20]))
            except DataError as error:
                taken += [] if named in error.what else [(way, error.what)]
            checked += 1
    assert not taken
    assert checked > 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(rows="12"), "rows"),
        (lambda m: m.update(capacity=1 << 70), "capacity"),
        (lambda m: m["ledger"]["documents"].update(read=1 << 40), "ledger.documents.read"),
        (lambda m: m["shards"][0].update(file="/etc/passwd"), "shards[0].file"),
        (lambda m: m["shards"][0].update(file="../data-00000-of-00001.arrow"), "shards[0].file"),
        (lambda m: m["shards"][0].update(sha256="../../../x"), "shards[0].sha256"),
        (lambda m: m["shards"][0].update(sha256="0" * 64), "different sums"),
        (lambda m: m["shards"].append(m["shards"][0]), "twice"),
        (lambda m: m["plan"].update(gap=float("inf")), "Infinity"),
        (lambda m: m["config"]["plan"].update(unknown=1), "config.plan"),
        (lambda m: m.pop("ledger"), "ledger"),
    ],
)
def test_a_manifest_that_tokpack_cannot_have_written_is_an_error_that_names_the_key(change, named, copied):
    alter(copied, change)
    for read in (tokpack.open_packed, PackedDataset):
        with pytest.raises(DataError) as error:
            read(copied)
        assert named in error.value.what


def test_lists_of_any_depth_and_endless_numbers_are_data_errors(copied):
    for text in (
        "[" * 100_000,
        "[]",
        "12",
        '"x"',
        "9" * 10_000,
        "{" * 99,
        '{"format_version": true}',
        "\ufeff{}",
    ):
        (copied / "manifest.json").write_text(text)
        with pytest.raises(DataError):
            read_manifest(copied)


@pytest.mark.slow
def test_code_is_never_taken_from_a_manifest(copied, tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(
        "import os; os.environ['HOSTILE'] = 'ran'\ndef run(lengths, capacity): 0"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HOSTILE", raising=False)
    for name in ("hostile_module:run", "os:system", "some_entry_point"):
        alter(copied, lambda m, name=name: m["config"]["plan"].update(planner=name))
        with pytest.raises(UsageError, match="code is never taken from a packed dataset") as error:
            tokpack.repack(copied, tmp_path / "out")
        assert "--planner" in error.value.hint
        answers(copied, tmp_path)
    assert "HOSTILE" not in os.environ
    tokpack.repack(copied, tmp_path / "out", planner="bfd")


@pytest.mark.parametrize(
    "name",
    [
        "data-00000-of-00001.arrow",
        "tokenizer/tokenizer.json",
        "tokenizer/secret.json",
        "dropped.parquet",
        "validation",
    ],
)
def test_links_are_refused_and_what_they_point_to_goes_nowhere(name, copied, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"token": "mine"}')
    path = copied / name
    if path.is_dir():
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    outcomes = answers(copied, tmp_path)
    found = tokpack.verify(copied)
    assert not found.ok
    assert any(name in fault for check in found.checks for fault in check.faults)
    assert outcomes.pop("verify") is None
    assert all(isinstance(outcome, DataError) and "link" in outcome.what for outcome in outcomes.values())


def test_pipes_in_place_of_files_are_refused_without_waiting_for_them(copied, tmp_path):
    for name in ("dropped.parquet", "tokenizer/tokenizer.json"):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        with pytest.raises(DataError, match="no regular file"):
            tokpack.open_packed(copied)
        assert not tokpack.verify(copied).ok


def test_verify_names_what_lies_in_a_folder_and_belongs_to_nothing(copied):
    strays = [
        "cache-0123456789abcdef.arrow",
        "SHA256SUMS.old",
        ".worked",
        "tokenizer/run.json",
        "validation/cache-1",
    ]
    for name in strays:
        (copied / name).write_text("x")
    (copied / ".work").mkdir()
    faults = [fault for check in tokpack.verify(copied).checks for fault in check.faults]
    for name in [*strays, ".work/"]:
        assert any(fault.startswith(name) for fault in faults), name


@pytest.mark.parametrize("which", ["lengths", "nulls", "columns"])
def test_rows_whose_columns_do_not_fit_each_other_are_never_gathered(which, copied, tmp_path):
    path = copied / "data-00000-of-00001.arrow"
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        table = stream.read_all().combine_chunks()
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    lengths = columns["seq_lengths"]
    if which == "lengths":
        longer = pa.array([10**9] * len(lengths.flatten()), pa.int32())
        columns["seq_lengths"] = pa.ListArray.from_arrays(lengths.offsets, longer)
    elif which == "nulls":
        columns["labels"] = pa.array([None, *columns["labels"].to_pylist()[1:]], columns["labels"].type)
    else:
        columns["doc_ids"] = columns["doc_ids"].cast(pa.list_(pa.int32()))
    written = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, written.schema) as stream:
        stream.write_table(written)

    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"][0]["sha256"] = file_sha256(path)

    alter(copied, change)
    outcomes = answers(copied, tmp_path)
    assert not tokpack.verify(copied).ok
    for name in ("repack", "merge", "export", "train"):
        assert isinstance(outcomes[name], DataError), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", a_few(["report.json", "run.json", "dropped.parquet", "quarantine.jsonl", "state.json"])
)
def test_damaged_files_beside_the_rows_are_data_errors(name, copied, tmp_path):
    for content in (
        b"",
        b"[1",
        b"{}",
        b'{"doc_id": []}\n',
        b"\x00" * 100,
        b"PAR1" + b"\xff" * 50 + b"PAR1",
        b"[" * 99_999,
    ):
        (copied / name).write_bytes(content)
        sign(copied)
        answers(copied, tmp_path, ("open", "verify", "inspect", "compare", "repack", "merge"))


def test_a_record_of_what_was_dropped_that_grows_without_end_is_an_error(copied, tmp_path):
    count, zeros = 200_000, pa.array(np.zeros(200_000, np.int32))
    long = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * (1 << 19)]))
    number = pa.array(np.zeros(count, np.int64))
    columns = [long if pa.types.is_string(kind) else number for kind in DROPPED_SCHEMA.types]
    pq.write_table(
        pa.table(columns, names=DROPPED_SCHEMA.names), copied / "dropped.parquet", store_schema=False
    )
    sign(copied)
    outcomes = answers(copied, tmp_path, ("repack", "merge"))
    assert all(isinstance(outcome, DataError) for outcome in outcomes.values()), outcomes
    assert not tokpack.verify(copied).ok


OFFSETS = {
    "far outside": lambda offsets: [*offsets[:-1], 1 << 30],
    "outside in the middle": lambda offsets: [offsets[0], 1 << 30, *offsets[2:]],
    "below zero": lambda offsets: [-(1 << 20), *offsets[1:]],
    "decreasing": lambda offsets: [offsets[0], offsets[2], offsets[1], *offsets[3:]],
}


@pytest.mark.parametrize("how", OFFSETS)
@pytest.mark.parametrize("column", ["input_ids", "labels", "seq_lengths", "doc_ids"])
def test_offsets_that_lead_out_of_a_shard_are_an_error_of_every_command(how, column, copied, tmp_path):
    path = copied / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    with pa.ipc.open_stream(data) as stream:
        array = next(iter(stream)).column(column)
    offsets = array.buffers()[1].to_pybytes()[: 4 * (len(array) + 1)]
    wrong = np.array(OFFSETS[how](array.offsets.to_pylist()), np.int32).tobytes()
    shared = [at for at in range(0, len(data), 8) if data.startswith(offsets, at)]
    at = shared[PAIRED[column].index(column)]
    path.write_bytes(data[:at] + wrong + data[at + len(wrong) :])
    alter(copied, lambda manifest: manifest["shards"][0].update(sha256=file_sha256(path)))
    outcomes = answers(copied, tmp_path)
    assert not tokpack.verify(copied).ok
    for name in ("inspect", "repack", "merge", "export", "bridge", "train"):
        assert isinstance(outcomes[name], DataError), name


PAIRED = {name: pair for pair in (("input_ids", "labels"), ("seq_lengths", "doc_ids")) for name in pair}
"""Columns whose rows are of one length have equal offsets."""


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_shard_that_was_cut_before_it_is_opened_is_an_error(form, packed, tmp_path):
    folder = Path(shutil.copytree(packed[form], tmp_path / "theirs" / "packed"))
    path = folder / f"data-00000-of-00001.{form}"
    data = path.read_bytes()
    for length in (0, 8, len(data) // 2, len(data) - 9):
        path.write_bytes(data[:length])
        alter(folder, lambda manifest: manifest["shards"][0].update(sha256=file_sha256(path)))
        outcomes = answers(folder, tmp_path, ("inspect", "repack", "merge", "export", "train"))
        assert not tokpack.verify(folder).ok
        assert all(isinstance(outcome, DataError) for outcome in outcomes.values()), (length, outcomes)
