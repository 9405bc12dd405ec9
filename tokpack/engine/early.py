"""Helper processes that start before it is known whether they are needed.

What a helper imports takes it a second, and this process takes that second for its own imports, on one core.
So a command starts helpers before its imports where its inputs look like work for them; what they turn out
not to be needed for costs processor time alone. Linux starts one process, which copies itself when it is
ready: imports and vocabulary are loaded once, and held in memory once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tokpack.engine import default_workers

FEWEST = 4
"""Blocks that are worth a helper which has started."""
BLOCK = 8 << 20
"""Bytes, as `read.block_mb` is by default."""
IMPORTS = ("tokpack.way.helpers", "numpy.random", "gigatoken")
COPIES = sys.platform.startswith("linux")
"""Whether a helper copies itself, or each is started."""
LOAD = "tokpack.way.helpers:load_kept="
"""And behind it, as JSON: a tokenizer, how many copies, the inputs."""
LATER = ("--workers", "--part", "--engine")
"""Options by which no helpers may be wanted."""
ONE_CORE = dict.fromkeys(
    ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
"""Helpers are as many as there are cores: threads inside each would be in one another's way."""
POOL = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""As in `tokpack.cli.entry`, whose command starts helpers before it gets there."""

_ENDS = 1 << 16
_VALUES = re.compile(rb'tool_calls|function_call|reasoning|"tools"')


class Helper:
    """One process, or a copy of one, by the pipes to it."""

    def __init__(self, process: subprocess.Popen[bytes], questions: int, answers: int, copy: bool) -> None:
        self.process, self.copy = process, copy
        self.questions, self.answers = os.fdopen(questions, "wb"), os.fdopen(answers, "rb")

    def end(self, patience: float = 0.0) -> None:
        """It ends when it sees that its pipe did, or is killed after so many seconds. The process that was
        copied waits for its copies."""
        with suppress(OSError, ValueError):
            self.questions.close()
        if not self.copy:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
            self.process.kill()
            self.process.wait()
        with suppress(OSError, ValueError):
            self.answers.close()

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        return self.questions, self.answers


_started: list[Helper] = []


def start(paths: Sequence[str], workers: int, tokenizer: str = "") -> None:
    """Start helpers, if none wait, for large files: where a helper copies itself for any, else for those that
    hold calls, tools or reasoning, as their first and last bytes look. `workers`: blocks that are in work at
    once. `tokenizer`: a folder that helpers load before they are asked."""
    blocks = sum(map(_size_of_work, paths)) // BLOCK if workers > 1 and not _started else 0
    if blocks >= FEWEST:
        count = min(workers, blocks)
        copies = count if COPIES else 1
        ready = (*IMPORTS, LOAD + json.dumps([tokenizer, copies, paths])) if tokenizer else IMPORTS
        with suppress(OSError):
            _started.extend(start_helpers(count, *ready))


def start_as_typed(words: Sequence[str]) -> None:
    """`start` for the words behind a command, before what knows its options is imported: for all that name
    such files. Where an option may say otherwise, or no tokenizer is named, nothing is done."""
    if any(word.split("=")[0] in LATER for word in words):
        return
    if tokenizer := _named(words, "--tokenizer", "-t") or _named(words, "--model", "-m"):
        start([word for word in words if _size_of_work(word)], default_workers(), tokenizer)


def _named(words: Sequence[str], name: str, short: str) -> str:
    """What an option is set to: `--name X`, `--name=X`, `-n X` or `-nX`."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in (name, short):
            return after
        for before in (f"{name}=", short):
            if word.startswith(before):
                return word.removeprefix(before)
    return ""


def start_helpers(count: int, *ready: str) -> list[Helper]:
    """So many, with what they are to import, and to load, before they are asked anything.

    Raises OSError where no process starts; one that cannot be copied leaves pipes at whose end is nobody.
    """
    if not COPIES:
        return [_start(1, *ready)[0] for _ in range(count)]
    return _start(count, *ready)


def _start(count: int, *ready: str) -> list[Helper]:
    questions, answers = [os.pipe() for _ in range(count)], [os.pipe() for _ in range(count)]
    theirs = [(ask[0], tell[1]) for ask, tell in zip(questions, answers, strict=True)]
    ends = ",".join(f"{ask}:{tell}" for ask, tell in theirs)
    try:
        # -P: a folder of the user's that happens to be named like a package must not shadow it.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tokpack.engine.helper", ends, *ready],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[end for pair in theirs for end in pair],
            env=POOL | dict(os.environ) | ONE_CORE,
        )
    except OSError:
        for end in (end for pipe in (*questions, *answers) for end in pipe):
            os.close(end)
        raise
    for end in (end for pair in theirs for end in pair):
        os.close(end)
    ours = zip(questions, answers, strict=True)
    return [Helper(process, ask[1], tell[0], number > 0) for number, (ask, tell) in enumerate(ours)]


def waiting() -> int:
    """Helpers that have started and have nothing to do."""
    return len(_started)


def take(count: int) -> list[Helper]:
    """So many of them, if there are; the others end."""
    taken = _started[:count]
    del _started[:count]
    dismiss()
    return taken


def dismiss() -> None:
    """End those that nobody took."""
    while _started:
        _started.pop().end()


def _size_of_work(name: str) -> int:
    """Bytes of a file that helpers may be worth; 0 of all else."""
    with suppress(OSError, ValueError):
        path = Path(name)
        if path.is_file() and (size := path.stat().st_size) > BLOCK:
            return size if COPIES or _has_values(path) else 0
    return 0


def _has_values(path: Path) -> bool:
    """Whether it looks as if it held values beside texts."""
    with path.open("rb") as file:
        head = file.read(_ENDS)
        file.seek(-_ENDS, os.SEEK_END)
        return bool(_VALUES.search(head + file.read()))
