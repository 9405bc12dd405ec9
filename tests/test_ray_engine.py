"""Pass 1 on a Ray cluster of two nodes leaves the bytes of one machine, whatever dies meanwhile."""

from __future__ import annotations

import errno
import gzip
import pickle
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from chats import messy_rows

import tokpack
from tokpack.engine import ray as engine
from tokpack.errors import DataError, OutputError, SettingError, UsageError
from tokpack.run import Run
from tokpack.schema import PACKED_SCHEMA
from tokpack.settings.config import Config
from tokpack.stages.write import Placement, RowContents, Shard
from tokpack.way import cluster as way
from tokpack.way.cluster import Piece, ShardPiece, make_piece, make_shard, tasks_of
from tokpack.way.store import TokenStore
from tokpack.way.store_record import read_record

OPTIONS = {"max_length": 128, "allow_bad": 0.2, "block_mb": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight items: streams of a file each."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(8):
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(messy_rows(300, seed=number))))
    return folder


@pytest.fixture(scope="module")
def alone(data, qwen, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS)
    return (out / "SHA256SUMS").read_bytes()


@pytest.fixture(scope="module")
def nodes(s3_keys):
    """A cluster of two nodes of one core each, whose environment has the keys of a bucket."""
    pytest.importorskip("ray", reason='pip install "tokpack[ray]"')
    from ray.cluster_utils import Cluster

    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_keys.items():
            patch.setenv(name, value)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": quick})
        nodes.add_node(num_cpus=1)
        yield nodes
        nodes.shutdown()


def packed_on(nodes, data, out, qwen):
    tokpack.pack(data, out, tokenizer=str(qwen), engine="ray", ray_address=nodes.address, **OPTIONS)
    assert not (out / ".work").exists()
    return (out / "SHA256SUMS").read_bytes()


def cut_off(function, items, address):
    """As the engine's own, whose driver is interrupted after three results."""
    for number, result in enumerate(engine.unordered_map(function, items, address)):
        yield result
        if number == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_driver_that_dies_and_a_node_that_dies_cost_nothing_but_time(
    data, alone, nodes, qwen, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(way, "unordered_map", cut_off)
        with pytest.raises(KeyboardInterrupt):
            packed_on(nodes, data, out, qwen)
    assert len(list((out / ".work").glob("*.docs.arrow"))) >= 3

    def one_node_less(function, items, address):
        results = engine.unordered_map(function, items, address)
        if function is make_piece:
            yield next(results)
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        yield from results

    monkeypatch.setattr(way, "unordered_map", one_node_less)
    assert packed_on(nodes, data, out, qwen) == alone


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_pass_two_is_a_task_a_shard_and_a_node_that_dies_costs_nothing_but_time(
    data, nodes, qwen, tmp_path, monkeypatch, parts
):
    monkeypatch.setattr("tokpack.stages.write.BYTES_PER_TOKEN", 32)  # several shards of little data
    options = OPTIONS | {"shard_mb": 1, "parts": parts, "val": 0.1, "tokenizer": str(qwen)}
    alone = tokpack.pack(data, tmp_path / "alone", **options)
    assert len(alone.manifest["shards"]) > 2
    later, asked = nodes.add_node(num_cpus=1), []

    def one_node_less(function, items, address):
        asked.append((function, len(items)))
        results = engine.unordered_map(function, items, address)
        if function is make_shard:
            yield next(results)
            nodes.remove_node(later, allow_graceful=False)
        yield from results

    monkeypatch.setattr(way, "unordered_map", one_node_less)
    out = tmp_path / "out"
    tokpack.pack(data, out, engine="ray", ray_address=nodes.address, **options)
    assert asked[1:] == [(make_shard, len(alone.manifest["shards"]))]
    assert (out / "SHA256SUMS").read_bytes() == (alone.folder / "SHA256SUMS").read_bytes()
    assert not (out / ".work").exists()


def test_a_node_that_cannot_write_the_output_says_its_name(tmp_path):
    nothing = np.empty(0, np.int64)
    pieces = Placement(*[nothing] * 7)
    rows = RowContents(nothing, np.zeros(1, np.int64))
    shard = Shard("data-00000-of-00001.arrow", 0, 0)
    away = tmp_path / "elsewhere"
    piece = ShardPiece(shard, tmp_path, away, [], rows, pieces, PACKED_SCHEMA, False)
    with pytest.raises(OutputError, match=r"on node .*No such file"):
        make_shard(piece)


@pytest.mark.slow
def test_nodes_without_a_shared_folder_leave_their_blocks_in_a_bucket(
    data, alone, nodes, qwen, s3_bucket, tmp_path, monkeypatch
):
    """The driver dies, then a node does."""
    out, work = tmp_path / "out", f"{s3_bucket}/work"
    options = {"engine": "ray", "ray_address": nodes.address, "work_dir": work} | OPTIONS
    later = nodes.add_node(num_cpus=1)

    with monkeypatch.context() as patch:
        patch.setattr(way, "unordered_map", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tokpack.pack(data, out, tokenizer=str(qwen), **options)
    fs, root = fsspec.core.url_to_fs(work)
    fs.invalidate_cache()
    assert len(fs.glob(f"{root}/*.docs.arrow")) >= 3
    assert not list((out / ".work").glob("*.docs.arrow"))

    def one_node_less(function, items, address):
        results = engine.unordered_map(function, items, address)
        yield next(results)
        nodes.remove_node(later, allow_graceful=False)
        yield from results

    monkeypatch.setattr(way, "unordered_map", one_node_less)
    tokpack.pack(data, out, tokenizer=str(qwen), **options)
    assert (out / "SHA256SUMS").read_bytes() == alone
    fs.invalidate_cache()
    assert fs.find(root) == []


@pytest.mark.slow
def test_what_a_node_raises_is_told_and_who_is_late_is_tried_again(nodes, tmp_path, monkeypatch):
    def refuse(item):
        raise SettingError("not {name}", where="plan.planner", hint=str(item))

    with pytest.raises(SettingError, match=r"not plan.planner\n  at: plan.planner\n  hint: 7"):
        list(engine.unordered_map(refuse, [7], nodes.address))

    def late_once(item):
        mark = tmp_path / f"{item}"
        if item == 0 and not mark.exists():
            mark.touch()
            time.sleep(600)
        return item

    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 1.0)
    nodes.add_node(num_cpus=1)
    assert sorted(engine.unordered_map(late_once, range(4), nodes.address)) == [0, 1, 2, 3]


def test_a_node_that_does_not_see_the_store_says_its_name(tmp_path):
    with pytest.raises(UsageError, match=r"on node .*: the token store is not there\n") as caught:
        make_piece(Piece("a", Config(), tmp_path, tmp_path / "elsewhere", (0,)))
    assert "a folder that all nodes see" in str(caught.value)


@pytest.fixture
def begun(qwen, tmp_path, monkeypatch):
    """A task, and the store of its run in which nothing is committed; paths are relative to `tmp_path`."""
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(messy_rows(20, seed=1)))
    (tmp_path / "model").symlink_to(qwen)
    config = Config.from_dict({"source": [{"path": "a.jsonl"}], "tokenize": {"tokenizer": "model"}})
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        store = TokenStore(tmp_path / "store", Run.start(config, 1).fingerprint())
    monkeypatch.chdir(tmp_path / "store")  # as on a node: anywhere
    return Piece(tmp_path.name, config, tmp_path, store.place, (0,)), store


def test_relative_paths_are_those_of_the_command(begun):
    piece, store = begun
    size, _ = make_piece(piece)
    assert size
    assert list(store.folder.glob("*.docs.arrow"))
    assert Path.cwd() == store.folder


def test_a_node_with_another_tokenizer_or_version_leaves_the_store_as_it_is(begun):
    """Also where nothing is committed yet."""
    piece, store = begun
    before = read_record(store.folder / "run.json")
    other = replace(piece, key="other", config=replace(piece.config, seed=7))
    with pytest.raises(UsageError, match=r"on node .*different: seed \(0 then, 7 now\)"):
        make_piece(other)
    assert read_record(store.folder / "run.json") == before
    assert not list(store.folder.glob("batch*"))


def test_a_full_disk_of_a_node_is_told_with_its_name(begun, monkeypatch):
    piece, store = begun

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"on node .*: No space left on device\n") as caught:
        make_piece(piece)
    assert caught.value.where == str(store.folder)
    assert "free some space" in caught.value.hint


@pytest.mark.parametrize("cores", [1, 2, 48, 1000])
@pytest.mark.parametrize(
    "sizes", [[], [0, 0], [8_000_000] * 86, [8_000_000] * 20_000, [*range(1, 400), 10**12]]
)
def test_tasks_hold_every_item_once_the_largest_first_and_the_last_are_small(sizes, cores):
    tasks = tasks_of(sizes, cores)
    numbers = [number for task in tasks for number in task]
    assert sorted(numbers) == list(range(len(sizes)))
    assert [sizes[number] for number in numbers] == sorted(sizes, reverse=True)
    total = [sum(sizes[number] for number in task) for task in tasks]
    for place, (task, size) in enumerate(zip(tasks, total, strict=True)):
        share = sum(total[place:]) // (way.TASKS_A_CORE * cores)
        assert len(task) == 1 or size - sizes[task[-1]] < min(share, max(way.TASK_BYTES, sum(total) // 1024))
    assert len(tasks) <= way.MOST_TASKS + len(sizes[:1]) + 40 * cores


@pytest.mark.slow
def test_all_nodes_work_until_the_last_tasks(nodes):
    """By Ray's usual strategy the node of the command was given most of them, and all of the last ones."""

    def node_of(item):
        import ray

        time.sleep(0.1)
        return ray.get_runtime_context().get_node_id()

    list(engine.unordered_map(node_of, range(8), nodes.address))  # processes are there
    found = sum(
        (Counter(engine.unordered_map(node_of, range(40), nodes.address)) for _ in range(3)), Counter()
    )
    assert max(found.values()) <= 90  # of 120, also beside other work; it were some 96


@pytest.mark.slow
def test_an_item_is_asked_for_when_its_task_goes_to_the_cluster(nodes, monkeypatch):
    class Asked(list):
        def __getitem__(self, number):
            asked.append(number)
            return super().__getitem__(number)

    asked = []
    monkeypatch.setattr(engine, "FEWEST_AHEAD", 2)
    results = engine.unordered_map(str, Asked(range(40)), nodes.address)
    first = int(next(results))
    assert len(asked) < 20
    assert sorted([first, *map(int, results)]) == list(range(40))


def test_what_is_read_in_order_is_refused(qwen, tmp_path):
    (tmp_path / "keep.txt").write_text("1\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 3)
    with pytest.raises(UsageError, match="leave out --engine ray"):
        tokpack.pack(
            tmp_path / "a.jsonl",
            tmp_path / "out",
            tokenizer=str(qwen),
            engine="ray",
            keep=str(tmp_path / "keep.txt"),
        )


@pytest.mark.slow
def test_what_the_nodes_made_is_no_unfinished_run(data, qwen, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(way, "unordered_map", lambda function, items, address: map(function, items))
    monkeypatch.setattr(way, "cluster", nullcontext)
    monkeypatch.setattr(way, "cores", lambda ray: 2)
    caplog.set_level("INFO", "tokpack")
    tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), engine="ray", **OPTIONS)
    assert "unfinished" not in caplog.text


@pytest.mark.parametrize("error", [DataError("a", where="b", hint="c"), SettingError("{name}", where="plan")])
def test_errors_travel_between_processes(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), found.hint) == (type(error), str(error), error.hint)
