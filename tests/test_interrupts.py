"""A signal ends a command within two seconds, its children with it; one line says how to go on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from commands import run
from few import a_few

from trainer_plugin.output_folder import how_to_go_on

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")

HEARS = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # `nohup` and `&` have children ignore them
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
"""
COMPILED = f"""{HEARS}
import hashlib, subprocess, sys
from tokpack.terminal import interrupts
from tokpack.files.locks import only_writer
from pathlib import Path
interrupts.watch(sys.argv[1])
if sys.argv[1] == "train":
    from trainer_plugin.output_folder import how_to_go_on
    interrupts.go_on(lambda: how_to_go_on(Path(sys.argv[2])))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    with only_writer(Path(sys.argv[2])), interrupts.scratch_folder() as folder:
        print(child.pid, folder, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)  # compiled code, which hears of no signal
except KeyboardInterrupt:  # the signal came before that
    interrupts.leave()
"""


@contextmanager
def started(code, *arguments, stderr=subprocess.PIPE):
    """A Python process that hears all signals; it does not outlive the block."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def gone(pid: int) -> bool:
    """Waits for a process that was killed."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", a_few([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
@pytest.mark.parametrize("command", ["pack", "merge", "train"])
def test_a_process_that_hears_no_signal_ends_with_its_child_and_its_scratch(number, command, tmp_path):
    with started(COMPILED, command, str(tmp_path / "out")) as process:
        child, folder = process.stdout.readline().split()
        assert Path(folder).is_dir()
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
        said = process.stderr.read()
    assert said.startswith("interrupted; ")
    assert len(said.splitlines()) == 1
    assert {"pack": "goes on where", "merge": "nothing was written", "train": "no checkpoint yet"}[
        command
    ] in said
    assert gone(int(child))
    assert not Path(folder).exists()
    assert list(tmp_path.iterdir()) == []


WITH_A_BAR = f"""{HEARS}
import sys, threading, time
from rich.console import Console
from tokpack.terminal import interrupts
from tokpack.terminal.activity import Activity
interrupts.watch("pack")
with Activity() as tell, tell.doing("reading and tokenizing", 90, "MB") as advance:
    advance(62)
    wait = lambda: time.sleep(0.002)
    threading.Thread(target=lambda: [tell._bars.refresh() for _ in iter(wait, 1)]).start()
    try:
        print("ready", file=sys.__stdout__, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        interrupts.leave()
"""


def test_the_last_line_stands_in_the_place_of_the_bar_which_is_drawn_no_more():
    terminal, end = pty.openpty()
    pieces = []
    with started(WITH_A_BAR, stderr=end) as process:
        os.close(end)
        reader = threading.Thread(target=lambda: pieces.extend(iter(lambda: read_some(terminal), b"")))
        reader.start()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        reader.join(30)
    shown = b"".join(pieces)
    os.close(terminal)
    assert b"reading and tokenizing" in shown
    assert shown.endswith(b"\r\x1b[2K\x1b[?25hinterrupted; the same command goes on where it stopped\r\n")


def read_some(terminal):
    """What a terminal shows next; nothing at its end."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


IN_A_COMMAND = f"""{HEARS}
import sys, time
from tokpack.cli import entry
from tokpack.errors import UsageError

def ready():
    print("ready", file=sys.__stdout__, flush=True)
    time.sleep(600)

class Unraisable:
    def __del__(self):
        ready()

def translated(standalone_mode):
    try:
        ready()
    except KeyboardInterrupt:
        raise UsageError("the model cannot be loaded")

def swallowed(standalone_mode):
    Unraisable()
    time.sleep(600)

def cleaning_up(standalone_mode):
    try:
        ready()
    finally:
        print("cleaning up", file=sys.__stdout__, flush=True)
        time.sleep(0.3)
        print("clean", file=sys.__stdout__, flush=True)

entry.application = lambda command: globals()[sys.argv[1]]
entry.main()
"""


@pytest.mark.parametrize("way", a_few(["translated", "swallowed", "cleaning_up"]))
def test_whatever_becomes_of_the_interrupt_in_libraries_it_is_said_as_one(way):
    with started(IN_A_COMMAND, way) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        if way == "cleaning_up":
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "clean\n"
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "interrupted; nothing was written; repeat the command\n"


SURVIVES = f"""{HEARS}
import sys, time
from tokpack.terminal import interrupts
interrupts.PATIENCE_SECONDS = 0.2
interrupts.watch("chat")
for _ in range(2):
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        interrupts.survive()
    time.sleep(0.3)
"""


def test_a_command_that_survives_an_interrupt_goes_on_and_hears_the_next():
    with started(SURVIVES) as process:
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_training_goes_on_from_a_checkpoint_and_begins_again_where_there_is_none(tmp_path):
    assert how_to_go_on(tmp_path / "out").endswith("; repeat the command")
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)  # cut off before its state was written
    assert how_to_go_on(tmp_path / "out").endswith("; repeat the command with --overwrite")
    (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").touch()  # or while it was
    assert how_to_go_on(tmp_path / "out").endswith("; repeat the command with --overwrite")
    (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert "--resume" in how_to_go_on(tmp_path / "out")


def test_a_signal_that_the_caller_ignores_is_ignored(tmp_path):
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from tokpack.terminal import interrupts; interrupts.watch('pack')\n"
        "import os; os.kill(os.getpid(), signal.SIGHUP); print('still here')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        == b"still here\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_pack_says_how_to_go_on_and_does(number, smollm2, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(6_000, seed=3))
    out = tmp_path / "out"
    arguments = ["pack", str(data), "-t", str(smollm2), "-o", str(out), "--max-length", "256"]
    with started(f"{HEARS}\nfrom tokpack.cli import main; main()", *arguments) as process:
        while process.poll() is None and not list(out.glob(".work/*.docs.arrow")):
            time.sleep(0.005)
        children = [int(pid) for path in Path(f"/proc/{process.pid}/task").glob("*/children")
                    for pid in path.read_text().split()]  # fmt: skip
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        lines = process.stderr.read().splitlines()
    assert lines[-1] == "interrupted; the same command goes on where it stopped"
    assert all(map(gone, children))
    assert not list(tmp_path.glob(".out.*"))
    assert run(*arguments).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pathlib", "typer", "tokpack.cli.prepare", "trainer_plugin.cli"])
def test_a_command_hears_signals_while_it_is_still_importing_itself(module):
    """A module that takes long, as from a cold disk. `interrupts` needs the first: signals wait for it."""
    plugin = module == "trainer_plugin.cli"
    how = "nothing was written; repeat the command" if plugin else "the same command goes on where it stopped"
    code = f"""{HEARS}
import builtins, sys, time
whole = builtins.__import__
def slow(name, *rest):
    if name == {module!r}:
        print("importing", file=sys.__stdout__, flush=True)
        time.sleep({0.3 if module == "pathlib" else 600})
    return whole(name, *rest)
builtins.__import__ = slow
sys.argv = ["tokpack", "train" if {plugin} else "pack", "data", "-o", "out"]
if {plugin}:
    import importlib
    find = importlib.import_module
    importlib.import_module = lambda name, *rest: slow(name) if name == {module!r} else find(name, *rest)
from tokpack.__main__ import run
run()
"""
    with started(code) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == f"interrupted; {how}\n"
