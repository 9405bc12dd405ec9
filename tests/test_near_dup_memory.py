"""The join within little memory: the same decisions, and nothing left on the disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from alike import (
    UNHURRIED,
    assert_same,
    batch_of,
    batches_of,
    brute_force,
    brute_force_on,
    conversations,
    families,
    thresholds,
)
from chats import write_rows
from commands import run
from hypothesis import given
from hypothesis import strategies as st

import tokpack
from tokpack.errors import OutputError
from tokpack.free_memory import free_bytes, own_bytes
from tokpack.settings.parsing import parse_memory
from tokpack.stages.near_dup.near_dup import find_near_duplicates
from tokpack.stages.scratch import Scratch

tables = st.sampled_from([1, 1 << 10, 1 << 30])
blocks = st.sampled_from([1, 2, 7, 40, 1 << 26])


@UNHURRIED
@given(families(), thresholds, st.integers(1, 6), tables, blocks)
def test_small_tables_and_blocks_equal_comparing_all_pairs(documents, threshold, n, table_bytes, block):
    with tempfile.TemporaryDirectory() as folder:
        found = find_near_duplicates(
            [batch_of(documents)],
            threshold,
            n,
            table_bytes=table_bytes,
            block=block,
            folder=Path(folder),
        )
        assert list(Path(folder).iterdir()) == []
    assert_same(found, brute_force(documents, threshold, n))


@pytest.mark.slow
@UNHURRIED
@given(
    conversations(),
    thresholds,
    st.sampled_from(["both", "prompt", "answer", "all"]),
    st.integers(0, 25),
    tables,
    blocks,
)
def test_prompt_and_answer_in_small_tables_and_blocks_too(
    conversations, threshold, on, cut, table_bytes, block
):
    batches = batches_of(conversations, cut)
    found = find_near_duplicates(batches, threshold, on=on, table_bytes=table_bytes, block=block, threads=3)
    if on == "all":
        assert_same(found, brute_force(conversations[0], threshold, 5))
        return
    partner, least, kind = brute_force_on(*conversations, threshold, on)
    assert found.partner.tolist() == partner
    assert found.jaccard.tolist() == least
    assert found.kind.tolist() == kind
    for d in np.flatnonzero(found.kind).tolist():
        assert found.partner[found.alike[d]] == -1
        assert found.alike[d] < d


@pytest.mark.slow
def test_memory_does_not_change_which_searches_are_cut_short(tmp_path):
    random = np.random.default_rng(0)
    batch = batch_of(random.integers(0, 3, (600, 120)).tolist())
    options = {"candidate_limit": 5, "block": 5_000}
    whole = find_near_duplicates([batch], 0.5, **options)
    small = find_near_duplicates([batch], 0.5, **options, table_bytes=1, folder=tmp_path, threads=1)
    assert whole.bounded.any()
    for name in ("partner", "parts", "bounded", "kind", "alike"):
        assert (getattr(whole, name) == getattr(small, name)).all(), name


def test_scratch_arrays_have_no_name_and_outlive_their_release(tmp_path):
    scratch = Scratch(tmp_path)
    array = scratch.zeros((1000, 2), np.int64)
    assert not array.any()
    array[:, 1] = np.arange(1000)
    scratch.release()
    assert list(tmp_path.iterdir()) == []
    assert array[:, 1].tolist() == list(range(1000))
    assert scratch.zeros(0, np.int32).shape == (0,)


def test_what_is_written_into_a_scratch_file_stands_in_its_array(tmp_path):
    for scratch in (Scratch(tmp_path), Scratch()):
        for dtype in (np.int32, np.uint8, np.float32):
            array, write = scratch.written(1000, dtype)
            write(990, np.arange(10).astype(dtype))
            write(3, np.arange(4, 8).astype(dtype))
            write(5, np.empty(0, dtype))
            assert array[990:].tolist() == list(range(10))
            assert array[:8].tolist() == [0, 0, 0, 4, 5, 6, 7, 0]
        assert scratch.written(0, np.int32)[0].shape == (0,)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_search_leaves_nothing(tmp_path):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        array = Scratch(tmp_path).full(1 << 16, 7, np.int64)
        os.write(writer, b"!" if array.all() else b"?")
        signal.pause()
    assert os.read(reader, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """40 chats, each a second time with one word more."""
    rows = []
    for number in range(40):
        words = [f"w{number * 50 + k}" for k in range(50)]
        for more in ([], ["x"]):
            turns = ("user", words[:20]), ("assistant", [*words[20:], *more])
            rows.append({"messages": [{"role": role, "content": " ".join(text)} for role, text in turns]})
    lines = [json.dumps(row).encode() for row in rows]
    return write_rows(tmp_path_factory.mktemp("twins") / "rows.jsonl", lines)


def test_the_bytes_of_a_packed_dataset_do_not_depend_on_memory(twins, qwen, tmp_path, monkeypatch):
    options = {"tokenizer": str(qwen), "near_dup": 0.8}
    plain = tokpack.pack(twins, tmp_path / "plain", **options)
    assert plain.manifest["ledger"]["documents"]["dropped"] == {"near_duplicate": 40}
    monkeypatch.setattr("tokpack.way.decide.LEAST_TABLE", 1)
    monkeypatch.setattr("tokpack.way.decide.own_bytes", lambda: 1 << 60)
    small = tokpack.pack(twins, tmp_path / "small", **options, memory="1G")
    assert (small.folder / "SHA256SUMS").read_bytes() == (plain.folder / "SHA256SUMS").read_bytes()


def test_a_full_disk_is_told_and_the_command_goes_on_when_there_is_room(twins, qwen, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "full")

    arguments = [twins, tmp_path / "packed"]
    options = {"tokenizer": str(qwen), "near_dup": 0.8}
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OutputError, match="No space left") as error:
            tokpack.pack(*arguments, **options)
    assert error.value.exit_code == 73
    assert tokpack.pack(*arguments, **options).manifest["ledger"]["documents"]["dropped"]


@pytest.mark.parametrize(
    ("text", "megabytes"), [("8G", 8000), ("1.5gb", 1500), ("900M", 900), ("1200", 1200), ("2TiB", 2_000_000)]
)
def test_memory_is_written_with_a_unit(text, megabytes):
    assert parse_memory(text) == megabytes


def test_memory_that_is_none_is_a_usage_error(twins, tmp_path):
    for value, told in (("much", "cannot read 'much' as memory"), ("10M", "1,000 MB (1G) or more")):
        ended = run("pack", twins, "-o", tmp_path / "a", "-t", "x", "--memory", value)
        assert ended.returncode == 2
        assert told in ended.stderr
        assert "--memory" in ended.stderr


def test_free_memory_is_that_of_the_machine_and_of_its_cgroups(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/job/step\n")
    assert free_bytes(proc, groups) == 8_192_000
    job = groups / "job"
    (job / "step").mkdir(parents=True)
    for folder, limit in ((job, "5000000"), (job / "step", "max")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("3000000")
        (folder / "memory.stat").write_text("anon 1\nactive_file 100\ninactive_file 900000\n")
    assert free_bytes(proc, groups) == 2_900_100
    (proc / "self" / "cgroup").write_text("4:memory:/of/outside\n1:cpu:/\n")
    top = groups / "memory"
    top.mkdir()
    (top / "memory.limit_in_bytes").write_text("4000000")
    (top / "memory.usage_in_bytes").write_text("3000000")
    (top / "memory.stat").write_text(
        "active_file 1\ninactive_file 2\ntotal_active_file 3\ntotal_inactive_file 4\n"
    )
    assert free_bytes(proc, groups) in (1_000_003, 1_000_007)
    assert free_bytes(tmp_path, tmp_path) == 4 << 30
    assert own_bytes() > 1 << 20
