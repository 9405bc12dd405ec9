"""`tokenizers` in a process of its own.

Loading a vocabulary holds the interpreter lock for a third of a second, and so would keep every stage from
its work.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tokpack.encoding.token_places import Tokenized

_early: dict[Path, ReferenceProcess] = {}
_starting = threading.Lock()


class ReferenceProcess:
    """Starts at once and loads meanwhile. Safe to share between threads; ends with its owner.

    Its methods raise OSError or EOFError when the process is gone.
    """

    def __init__(self, backend: Path) -> None:
        # -P: a folder of the user's that happens to be named like a package must not shadow it.
        command = [sys.executable, "-P", "-m", "tokpack.encoding.reference_server", str(backend)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close, self._process)

    def encode(self, texts: list[str]) -> list[Tokenized]:
        """Ids of each text, and the characters that each stands for."""
        return cast("list[Tokenized]", self._ask("encode", texts))

    def decode(self, rows: list[list[int]], plain: bool) -> list[str]:
        """Text of each row of ids; `plain`: without special tokens."""
        return cast(list[str], self._ask("decode", (rows, plain)))

    def _ask(self, what: str, about: Any) -> Any:
        if not self.close.alive:
            raise EOFError
        questions, answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        with self._lock:
            pickle.dump((what, about), questions)
            questions.flush()
            return pickle.load(answers)


def start_early(backend: Path) -> None:
    """Start one that `started_early` hands over."""
    with _starting:
        _early[backend] = ReferenceProcess(backend)


def started_early(backend: Path) -> ReferenceProcess | None:
    """The one that was started, or is being started now."""
    with _starting:
        return _early.pop(backend, None)


def _close(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
