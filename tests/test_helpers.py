"""Pass 1 in helper processes leaves the bytes of threads, whatever becomes of the helpers."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from chats import chat, messy_rows, write_rows
from few import a_few

import tokpack
from tokpack.engine import early, processes
from tokpack.engine.local import ordered_map
from tokpack.errors import DataError
from tokpack.run import Run
from tokpack.settings.options import make_config
from tokpack.way import helpers

OPTIONS = {"max_length": 1024, "allow_bad": 0.2, "block_mb": 1}
TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}},
}


def calling(number):
    """A chat with a call, tools and reasoning; every row its own values."""
    call = {
        "name": "find",
        "arguments": {"words": ["fox", f"w{number}"], "deep": {"at": number / 7, "no": None}},
    }
    messages = [
        {"role": "user", "content": f"Find fox {number}. " + "The quick brown fox jumps. " * 100},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": f'{{"found": {number}}}'},
        {"role": "assistant", "content": f"There are {number}.", "reasoning_content": f"So, {number}."},
    ]
    return {"messages": messages, "tools": [TOOL] * (number % 3)}


def lines(count, first=0):
    return [json.dumps(calling(number)).encode() for number in range(first, first + count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four inputs: lines in several blocks, broken ones among them; compressed, columns, and plain chats."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "calls.jsonl", [*lines(900), b'{"messages": [', b"[]", *lines(25)])
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines(180, 5000))))
    pl.DataFrame([calling(number) for number in range(9000, 9180)]).write_ipc_stream(folder / "table.arrow")
    write_rows(folder / "plain.jsonl", messy_rows(100))
    return folder


@pytest.fixture(scope="module")
def by_threads(data, qwen, tmp_path_factory):
    return sums(data, tmp_path_factory.mktemp("threads") / "out", qwen, workers=2)


@pytest.fixture
def asked(monkeypatch):
    """Helpers are used for little, and are there before the first block; what they are asked is counted."""

    class AtOnce:
        def __init__(self, target, args, **options):
            self.start = lambda: target(*args)

    answers = []

    def ask(self, item, ask=processes._Helper.ask):
        answers.append(ask(self, item))
        return answers[-1]

    monkeypatch.setattr(helpers, "FEWEST", 2)
    monkeypatch.setattr(processes, "Thread", AtOnce)
    monkeypatch.setattr(processes._Helper, "ask", ask)
    return answers


def sums(data, out, qwen, **options):
    tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS, **options)
    assert not (out / ".work").exists()
    return (out / "SHA256SUMS").read_bytes()


@pytest.mark.slow
def test_helpers_leave_the_bytes_of_threads(data, by_threads, qwen, tmp_path, asked):
    assert sums(data, tmp_path / "out", qwen, workers=2) == by_threads
    assert asked
    assert None not in asked


@pytest.mark.slow
def test_a_helper_that_dies_costs_nothing_but_time(
    data, by_threads, qwen, tmp_path, asked, monkeypatch, caplog
):
    def dies(self, item, ask=processes._Helper.ask):
        self._helper.process.kill()
        self._helper.process.wait()
        return ask(self, item)

    monkeypatch.setattr(processes._Helper, "ask", dies)
    assert sums(data, tmp_path / "out", qwen, workers=2) == by_threads
    assert asked == [None]
    assert [r.message for r in caplog.records if "worker process" in r.message] == [
        "a worker process ended by itself (signal 9): what it did is done again"
    ]


@pytest.mark.slow
def test_where_no_process_starts_threads_do_all(data, by_threads, qwen, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(early.subprocess, "Popen", refuses)
    assert sums(data, tmp_path / "out", qwen, workers=2) == by_threads
    assert not asked


def own_process(item):
    if item == "end":
        os._exit(3)
    return os.getpid()


def opens_own_process():
    return own_process


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="copies itself on Linux alone")
def test_a_process_serves_several_pipes_by_copies_of_itself():
    helpers = early.start_helpers(3, "tokpack")
    first = processes.packed((sys.path, processes.packed(opens_own_process)))
    asked = [processes._Helper(helper) for helper in helpers]
    assert [one.send(first) for one in asked] == [(None,)] * 3
    (origin,), *copies = [one.ask(0) for one in asked]
    assert origin == helpers[0].process.pid
    assert len({origin, *copies}) == 3
    assert asked[2].ask("end") is None
    assert (asked[2].alive, asked[2].ending()) == (False, "")
    assert asked[1].ask(0) == copies[0]
    asked[0].end()
    assert asked[1].ask(0) == copies[0]
    asked[1].end()
    deadline = time.monotonic() + 20
    while is_helper(*copies[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_helper(*copies[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="copies itself on Linux alone")
def test_a_process_with_threads_of_its_own_is_not_copied(tmp_path, monkeypatch):
    module = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    (tmp_path / "with_a_thread.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(early, "_started", early.start_helpers(2, "with_a_thread"))
    here = os.getpid()
    with processes.Helpers(own_process, opens_own_process, lambda answer: answer, 2, 2) as helping:
        done = {helping(0) for _ in range(4)}
    assert here in done


def test_threads_without_helpers_all_work():
    together = threading.Barrier(3)
    with processes.Helpers(lambda item: together.wait(20) >= 0, None, None, 3, 0) as helpers:
        assert list(ordered_map(helpers, range(3), 3)) == [True] * 3


def refuses(*arguments, **options):
    raise PermissionError


@pytest.mark.slow
def test_an_error_in_a_helper_is_the_error_of_the_run(qwen, tmp_path, asked):
    path = write_rows(tmp_path / "rows.jsonl", [*lines(840), b"[]"])
    with pytest.raises(DataError) as error:
        sums(path, tmp_path / "out", qwen, workers=2, strict=True)
    assert error.value.where == f"{path.name}:841"
    assert "unreadable row" in error.value.what


@pytest.mark.slow
def test_rows_in_memory_are_sent(qwen, tmp_path, asked):
    rows = pl.DataFrame([calling(number) for number in range(900)])
    alone = sums(rows, tmp_path / "alone", qwen, workers=1)
    assert not asked
    assert sums(rows, tmp_path / "out", qwen, workers=2) == alone
    assert None not in asked


@pytest.mark.parametrize(
    ("rows", "options", "count"),
    [
        (partial(lines, 1000), {}, 2),
        (partial(lines, 1000), {"workers": 1}, 0),
        (partial(lines, 1000), {"clean": "+test_helpers:own_rule"}, 0),
        (partial(lines, 60), {}, 0),
        (lambda: [json.dumps(chat(random.Random(n), 9, 60)).encode() for n in range(900)], {}, 0),
    ],
    ids=["calls", "one worker", "a rule of the user's", "too little", "texts alone"],
)
def test_there_are_helpers_where_they_pay(rows, options, count, qwen, tmp_path, asked):
    path = write_rows(tmp_path / "rows.jsonl", rows())
    settings = {"tokenizer": str(qwen), "workers": 4, **OPTIONS, **options}
    workers = settings.pop("workers")
    assert helpers._count(Run.start(make_config([str(path)], settings), workers), 1.0) == count


def own_rule():
    return pl.col("answer").str.contains("spam")


def test_a_slice_of_a_table_is_sent_as_what_it_holds():
    table = pa.table({"text": ["x" * 1000] * 1000})
    sent = processes.packed(table.slice(500, 2))
    assert len(sent) < 5000
    assert pickle.loads(sent).equals(table.slice(500, 2))


SCRIPT = """
import sys, tokpack
from tokpack.terminal import interrupts
from tokpack.way import helpers
print("once", flush=True)
helpers.FEWEST = 2
interrupts.watch("pack")
try:
    tokpack.pack(sys.argv[1], sys.argv[2], tokenizer=sys.argv[3], workers=2,
                 max_length=1024, allow_bad=0.2, block_mb=1)
except KeyboardInterrupt:
    interrupts.leave()
"""


def children(process: int) -> list[int]:
    """Helpers of a process."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split() if is_helper(int(child))]
        except OSError:
            continue
    return found


def is_helper(process: int) -> bool:
    try:
        return b"tokpack.engine.helper" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def started(data, out, qwen, tmp_path):
    """A script without `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(data), str(out), str(qwen)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_script_needs_no_main_guard(data, by_threads, qwen, tmp_path):
    out = tmp_path / "out"
    with started(data, out, qwen, tmp_path) as process:
        seen: set[int] = set()
        while process.poll() is None:
            seen |= set(children(process.pid))
            time.sleep(0.05)
        assert process.stdout.read() == "once\n"
    assert process.returncode == 0
    assert len(seen) == (1 if sys.platform.startswith("linux") else 0)
    assert (out / "SHA256SUMS").read_bytes() == by_threads


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("number", a_few([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))
def test_helpers_end_with_the_command_and_the_same_command_goes_on(number, data, by_threads, qwen, tmp_path):
    out = tmp_path / "out"
    with started(data, out, qwen, tmp_path) as process:
        while process.poll() is None and not (helping := children(process.pid)):
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(number)
        process.wait(timeout=30)
    deadline = time.monotonic() + 20  # on a busy machine; the watcher of signals has 1.2 s
    while any(map(is_helper, helping)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_helper, helping))
    assert process.returncode in (130, -number)
    assert sums(data, out, qwen, workers=1) == by_threads
