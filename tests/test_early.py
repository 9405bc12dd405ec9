"""Helpers that start with the command are used where they are needed, and end where they are not."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.encoding import fast_plan
from tokpack.encoding.early import _load, load_early
from tokpack.encoding.reference_process import start_early, started_early
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.engine import early, processes
from tokpack.run import Run
from tokpack.settings.options import make_config
from tokpack.way import helpers


def calling(number):
    call = {"type": "function", "function": {"name": "find", "arguments": {"word": f"w{number}"}}}
    messages = [
        {"role": "user", "content": f"Find fox {number}. " + "The quick brown fox jumps. " * 20},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": f'{{"found": {number}}}'},
        {"role": "assistant", "content": f"There are {number}."},
    ]
    return {"messages": messages}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "calls.jsonl", [json.dumps(calling(number)).encode() for number in range(3000)])
    write_rows(folder / "few.jsonl", messy_rows(50))
    return folder


@pytest.fixture(scope="module")
def more(folder):
    """Two larger files beside them."""
    write_rows(folder / "plain.jsonl", messy_rows(9000))
    chats = [{"messages": calling(number)["messages"][::3]} for number in range(6000)]
    texts = [
        {"text": f"Foxes, number {number}: " + chat["messages"][0]["content"]}
        for number, chat in enumerate(chats)
    ]
    for name, rows in (("chats.jsonl", chats), ("texts.jsonl", texts)):
        write_rows(folder / name, [json.dumps(row).encode() for row in rows])
    pl.DataFrame([calling(number) for number in range(30_000)]).write_parquet(
        folder / "calls.parquet", compression="uncompressed"
    )
    return folder


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(early, "BLOCK", 1 << 18)
    monkeypatch.setattr(early, "_started", [])
    yield
    early.dismiss()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "workers", "copies", "count"),
    [
        (["calls.jsonl"], 2, False, 2),
        (["calls.parquet"], 4, False, 4),
        (["calls.jsonl", "plain.jsonl"], 64, False, 9),
        (["plain.jsonl"], 2, False, 0),
        (["plain.jsonl"], 2, True, 2),
        (["calls.jsonl"], 1, True, 0),
        ([".", "missing.jsonl", "s3://a/b", "-", "a\0b"], 2, True, 0),
        ([], 2, True, 0),
    ],
)
def test_helpers_start_for_large_files(files, workers, copies, count, more, small_blocks, monkeypatch):
    monkeypatch.chdir(more)
    monkeypatch.setattr(early, "COPIES", copies)
    monkeypatch.setattr(early, "start_helpers", lambda count, *ready: [None] * count)
    early.start(files, workers)
    assert early.waiting() == count
    early._started.clear()


def sums(data, out, qwen, workers):
    settings = {"tokenizer": str(qwen), "max_length": 1024, "block_mb": 1, "clean": "off"}
    tokpack.pack(data, out, **settings, workers=workers)
    return (out / "SHA256SUMS").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calls.jsonl", "chats.jsonl", "texts.jsonl"])
def test_one_that_has_started_is_used_for_fewer_blocks_and_leaves_the_same_bytes(
    name, more, qwen, small_blocks, monkeypatch, tmp_path
):
    if not early.COPIES and name != "calls.jsonl":
        pytest.skip("each helper would load its own vocabulary")
    data = more / name
    by_threads = sums(data, tmp_path / "threads", qwen, 1)
    monkeypatch.setattr(early, "FEWEST", 1)
    monkeypatch.setattr(helpers, "FEWEST", 100)
    early.start([str(data)], 2)
    started = list(early._started)
    opened = []
    monkeypatch.setattr(
        processes._Helper,
        "send",
        lambda self, q, send=processes._Helper.send: opened.append(self) or send(self, q),
    )
    assert sums(data, tmp_path / "helped", qwen, 2) == by_threads
    assert {helper._helper for helper in opened} == set(started)
    assert started[0].process.wait(20) is not None


@pytest.mark.skipif(not early.COPIES, reason="each helper would load its own vocabulary")
@pytest.mark.parametrize(("kept", "refused", "count"), [(True, "", 2), (True, "why", 0), (False, "", 0)])
def test_plain_chats_go_to_those_that_have_loaded_the_tokenizer(
    kept, refused, count, more, qwen, small_blocks, monkeypatch
):
    plan = fast_plan.FastPlan(refused=refused) if kept else None
    monkeypatch.setattr(fast_plan, "_kept_plan", lambda folder: (plan, ""))
    monkeypatch.setattr(early, "waiting", lambda: 2)
    settings = {"tokenizer": str(qwen), "block_mb": 1}
    run = Run.start(make_config([str(more / "chats.jsonl")], settings), 2)
    monkeypatch.setattr(early, "FEWEST", 1)
    assert helpers._count(run, 1.0) == count


def test_one_that_is_not_needed_ends(folder, qwen, small_blocks, tmp_path):
    early.start([str(folder / "calls.jsonl")], 2)
    started = early._started[0].process
    sums(folder / "few.jsonl", tmp_path / "out", qwen, 2)
    assert started.poll() is not None


@pytest.mark.slow
def test_who_starts_helpers_loads_no_tokenizer(folder, qwen, small_blocks, monkeypatch, tmp_path):
    load_tokenizer(qwen).fast  # noqa: B018 - its plan is measured and kept
    monkeypatch.setattr(early, "FEWEST", 1)
    early.start([str(folder / "calls.jsonl")], 2, str(qwen))
    loaded = []
    monkeypatch.setattr("tokpack.encoding.tokenizer.load_fast", lambda *given: loaded.append(given))
    tokpack.pack(folder / "calls.jsonl", tmp_path / "out", tokenizer=str(qwen), block_mb=1, workers=2)
    assert not loaded


def looks_for_pandas(_item):
    pa.array([1, 2])
    pc.sum(pa.array([[1], [2]]).flatten())
    return "pandas" in sys.modules


def opened():
    return looks_for_pandas


def test_helpers_do_without_pandas():
    with processes.Helpers(None, opened, lambda answer: answer, 1, 1) as helping:
        assert helping(0) is False


def pool_of_arrow(_item):
    return pa.default_memory_pool().backend_name


def opens_pool_of_arrow():
    return pool_of_arrow


def test_arrow_takes_memory_where_all_else_does(monkeypatch):
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)  # helpers start before it is set
    with processes.Helpers(None, opens_pool_of_arrow, lambda answer: answer, 1, 1) as helping:
        assert helping(None) == "system"


def is_loaded(tokenizer):
    load_tokenizer(tokenizer).fast  # noqa: B018 - loaded, or found
    return fast_plan._kept.cache_info().hits


def asks_for_it():
    return is_loaded


@pytest.mark.slow
def test_those_that_wait_have_loaded_the_tokenizer(qwen, folder, small_blocks):
    load_tokenizer(qwen).fast  # noqa: B018 - its plan is measured and kept
    early.start([str(folder / "calls.jsonl")], 2, str(qwen))
    first = processes.packed((sys.path, processes.packed(asks_for_it)))
    for helper in map(processes._Helper, early.take(2)):
        assert helper.send(first) == (None,)
        assert helper.ask(str(qwen)) == (1,)
        helper.end()
    with processes.Helpers(None, asks_for_it, lambda answer: answer, 1, 1) as helping:
        assert helping(str(qwen)) == 0  # it was not told


def asked_process(tokenizer):
    loaded = load_tokenizer(tokenizer)
    loaded.prepare(later=True)
    assert loaded.encode_reference(pa.array(["a"], pa.large_string())).ids.tolist() == [64]
    return loaded._process._process.pid


def asks_a_process():
    return asked_process


@pytest.mark.skipif(not early.COPIES, reason="each helper is started")
def test_those_that_wait_share_the_process_of_tokenizers(qwen, tmp_path, small_blocks):
    load_tokenizer(qwen).fast  # noqa: B018 - its plan is measured and kept
    write_rows(tmp_path / "new.jsonl", [json.dumps(calling(number)).encode() for number in range(3000)])
    early.start([str(tmp_path / "new.jsonl")], 2, str(qwen))
    first = processes.packed((sys.path, processes.packed(asks_a_process)))
    helpers = [*map(processes._Helper, early.take(2))]
    assert [helper.send(first) for helper in helpers] == [(None,)] * 2
    (one,), (other,) = [helper.ask(str(qwen)) for helper in helpers]
    assert one == other
    for helper in reversed(helpers):
        helper.end(20)


@pytest.mark.parametrize(
    ("words", "tokenizer"),
    [
        ("pack {} -o out -t Qwen", "Qwen"),
        ("pack -o out -tQwen {} -q", "Qwen"),
        ("analyze {} --model=folder/m", "folder/m"),
        ("pack -o out --tokenizer Qwen -m other {}", "Qwen"),
        ("pack few.jsonl missing {} -o s3://a/b -t Qwen", "Qwen"),
        ("pack {} -o out", None),
        ("pack {} -o out -t", None),
        ("pack few.jsonl -o out -t Qwen", None),
        ("pack {} -o out -t Qwen --workers 1", None),
        ("pack {} -o out -t Qwen --part=1/2", None),
        ("pack {} -o out -t Qwen --engine ray", None),
    ],
)
def test_helpers_start_before_options_are_known(folder, small_blocks, monkeypatch, words, tokenizer):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(early, "default_workers", lambda: 2)
    started = []
    monkeypatch.setattr(early, "start_helpers", lambda count, *ready: started.append(ready) or [None] * count)
    early.start_as_typed(words.format("calls.jsonl").split())
    early.start(["calls.jsonl"], 2, "another")
    early._started.clear()
    [what] = started
    loaded = json.loads(what[-1].removeprefix(early.LOAD))
    assert loaded == [tokenizer or "another", 2 if early.COPIES else 1, ["calls.jsonl"]]


def test_what_one_that_waits_cannot_load_is_no_harm(folder, small_blocks):
    early.start([str(folder / "calls.jsonl")], 2, "no/such/folder")
    with processes.Helpers(None, opened, lambda answer: answer, 1, 1) as helping:
        assert helping(0) is False


def test_tokenizers_starts_early_for_what_will_ask_it(qwen, folder, tmp_path, monkeypatch):
    data = tmp_path / "new.jsonl"
    write_rows(data, messy_rows(50))
    kept = load_tokenizer(qwen).folder
    started = SimpleQueue()
    monkeypatch.setattr("tokpack.encoding.early.start_early", started.put)
    monkeypatch.setattr("tokpack.encoding.early.LARGE", 1000)
    load_early(str(qwen), [str(folder), "missing", "a\0b"])
    load_early(str(qwen), [str(data)])
    assert started.get(timeout=20) == kept / "tokenizer.json"
    assert started.empty()


def test_tokenizers_does_not_start_for_inputs_that_were_proved(qwen, tmp_path, monkeypatch):
    data = str(tmp_path / "chats.jsonl")
    write_rows(Path(data), [json.dumps(calling(number)).encode() for number in range(9)])
    tokpack.pack(data, tmp_path / "out", tokenizer=qwen, max_length=512)
    started = SimpleQueue()
    monkeypatch.setattr("tokpack.encoding.early.start_early", started.put)
    _load(Path(qwen), [data])
    assert started.empty()
    with Path(data).open("a") as file:
        file.write("\n")
    _load(Path(qwen), [data])
    assert not started.empty()


def test_a_reference_that_started_early_is_taken_once(qwen):
    folder = load_tokenizer(qwen).folder
    start_early(folder / "tokenizer.json")
    process = started_early(folder / "tokenizer.json")
    assert process.encode(["a"]) == [([64], [(0, 1)])]
    assert started_early(folder / "tokenizer.json") is None


def test_a_reference_that_is_being_started_is_waited_for(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(backend, askers):
        begun.set()
        assert go_on.wait(10)
        return backend

    monkeypatch.setattr("tokpack.encoding.reference_process.ReferenceProcess", slow)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(start_early, Path("tokenizer.json"))
        assert begun.wait(10)
        taken = pool.submit(started_early, Path("tokenizer.json"))
        assert not wait([taken], 0.05).done
        go_on.set()
        assert taken.result(10) == Path("tokenizer.json")
