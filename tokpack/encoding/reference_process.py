"""`tokenizers` in a process of its own.

Loading a vocabulary holds the interpreter lock for a third of a second, and so would keep every stage from
its work.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tokpack.encoding.token_places import Tokenized

MOST = 256
"""Processes that ask one: more load `tokenizers` themselves."""

_early: dict[Path, ReferenceProcess] = {}
_starting = threading.Lock()


class ReferenceProcess:
    """Starts at once and loads meanwhile. Safe to share between threads; ends with its owner.

    `askers`: so many processes ask, this one and copies that it makes of itself before the first question
    (where the system makes copies). Methods raise OSError or EOFError when the process is gone.
    """

    def __init__(self, backend: Path, askers: int = 1) -> None:
        # -P: a folder of the user's that happens to be named like a package must not shadow it.
        command = [sys.executable, "-P", "-m", "tokpack.encoding.reference_server", str(backend)]
        pairs = [socket.socketpair() for _ in range(min(askers, MOST) - 1)]
        others = [theirs.fileno() for _, theirs in pairs]
        self._process = subprocess.Popen(
            [*command, *map(str, others)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=others,
        )
        for _, theirs in pairs:
            theirs.close()
        own = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._ways = [own, *((ours.makefile("wb"), ours.makefile("rb")) for ours, _ in pairs)]
        self._numbers = _numbers(len(self._ways)) if pairs else None
        self._way: tuple[IO[bytes], IO[bytes]] | None = None if pairs else own
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close, None if pairs else self._process)

    def encode(self, texts: list[str]) -> list[Tokenized]:
        """Ids of each text, and the characters that each stands for."""
        return cast("list[Tokenized]", self._ask("encode", texts))

    def decode(self, rows: list[list[int]], plain: bool) -> list[str]:
        """Text of each row of ids; `plain`: without special tokens."""
        return cast(list[str], self._ask("decode", (rows, plain)))

    def _ask(self, what: str, about: Any) -> Any:
        if not self.close.alive:
            raise EOFError
        with self._lock:
            questions, answers = self._way = self._way or self._next_way()
            pickle.dump((what, about), questions)
            questions.flush()
            return pickle.load(answers)

    def _next_way(self) -> tuple[IO[bytes], IO[bytes]]:
        """One that no other process has: each takes a number."""
        number = os.read(self._numbers, 1) if self._numbers is not None else b""
        if not number:
            raise EOFError
        return self._ways[number[0]]


def start_early(backend: Path, askers: int = 1) -> None:
    """Start one that `started_early` hands over."""
    with _starting:
        _early[backend] = ReferenceProcess(backend, askers)


def started_early(backend: Path) -> ReferenceProcess | None:
    """The one that was started, or is being started now."""
    with _starting:
        return _early.pop(backend, None)


def _numbers(count: int) -> int:
    """A pipe to read them from, a byte each."""
    reader, writer = os.pipe()
    os.write(writer, bytes(range(count)))
    os.close(writer)
    return reader


def _close(process: subprocess.Popen[bytes] | None) -> None:
    """One that several ask ends when the last of them has."""
    if process is not None:
        process.kill()
        process.communicate()
