"""SIGINT, SIGTERM and SIGHUP: a command ends within two seconds, its children with it, and says how to go on.

The first signal raises KeyboardInterrupt, so that what is half done is taken away as after any error; later
ones change nothing. Where that takes too long (a thread in the middle of a block, a loop in compiled code) a
watcher ends the process: everything on the disk is made to survive that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

EXIT_CODE = 130
WATCHER = "tokpack-signals"
PATIENCE_SECONDS = 1.2
"""From a signal to the end of the process, whatever it does."""
GO_ON = {
    "pack": "the same command goes on where it stopped",
    "view": "the same command opens the page again",
    "serve": "the same command serves again",
    "chat": "the same command begins a new conversation",
    "push": "there is no packed dataset at the URL until all is copied; repeat the command",
    "push-adapter": "the adapter may be there in part; repeat the command",
}
"""What to do next, by command; a command that knows better says so by `go_on`."""
ELSE = "nothing was written; repeat the command"
BARE_LINE = "\r\x1b[2K\x1b[?25h"
"""Takes away what stands on a terminal's line, and shows the cursor, which a progress bar hides."""
SCRATCH = "tokpack-"
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_leftovers: set[Path] = set()
_leaving = threading.Lock()
_heard = threading.Event()
_survived = threading.Event()
_next: Callable[[], str] = lambda: ELSE  # noqa: E731 - by default


def watch(command: str) -> None:
    """Take over the signals, but those that the caller has this process ignore (`nohup`, `&` of a shell).

    Once a process: a second call changes what is said alone."""
    go_on(lambda: GO_ON.get(command, ELSE))
    if any(thread.name == WATCHER for thread in threading.enumerate()):
        return
    taken = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    if not taken or threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in taken:
        signal.signal(number, _interrupt)
    threading.Thread(target=_wait, args=(reader, taken), name=WATCHER, daemon=True).start()


def go_on(how: Callable[[], str]) -> None:
    """Have an interrupted command end with these words; asked for when it ends."""
    global _next  # noqa: PLW0603 - there is one command a process
    _next = how


def heard() -> bool:
    """Whether the command was interrupted: what is raised from then on may be what a library made of that."""
    return _heard.is_set()


def survive() -> None:
    """The command goes on: what was interrupted was a part of it."""
    _heard.clear()
    _survived.set()


def _interrupt(number: int, frame: object) -> None:
    if heard():
        return
    _heard.set()
    sys.unraisablehook = lambda _: None  # where nothing can be raised, Python prints the interrupt
    raise KeyboardInterrupt


def _wait(reader: int, taken: set[int]) -> None:
    """The system writes each signal's number into the pipe, also while the main thread runs compiled code."""
    while True:
        if os.read(reader, 1)[0] in taken and not _survived.wait(PATIENCE_SECONDS):
            leave()
        _survived.clear()


@contextmanager
def leftover(path: Path) -> Iterator[None]:
    """A file or folder that has to go with the process, should it end before the block does."""
    _leftovers.add(path)
    try:
        yield
    finally:
        _leftovers.discard(path)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for this process alone, gone with it."""
    import tempfile

    made = tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True)
    with made as name, leftover(Path(name)):
        yield Path(name)


def leave() -> NoReturn:
    """End children, take scratch away, say how to go on, and end, without waiting for any thread."""
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # another thread is at it
    for child in _descendants(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    import shutil

    for path in list(_leftovers):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError, ValueError):
        _last_words(f"interrupted; {_next()}\n")
    os._exit(EXIT_CODE)


def _last_words(line: str) -> None:
    """On a terminal in the place of a progress bar, whose thread draws it no more."""
    terminal = sys.stderr.isatty()
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    os.write(own, f"{BARE_LINE if terminal else ''}{line}".encode())


def _descendants(process: int) -> list[int]:
    """Processes that this one started, and theirs; Linux alone can say."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found
