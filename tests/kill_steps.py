"""Commands killed at each step on disk in turn, in forks of a process that does nothing else.

A step is a file that is opened to be written, a name that is moved or taken away, or a folder that is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def with_tests() -> dict[str, str]:
    """The environment of a process that imports the modules beside this one."""
    return {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }


def killed(act: Callable[[], object], step: int, torn: bool) -> bool:
    """Whether it was killed, before its step of this number; `torn`: a file to be opened is there, empty.

    Raises AssertionError where it ended otherwise than well.
    """
    if not (child := os.fork()):
        left = step

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            opens = event == "open" and arguments[2] & WRITES and not str(arguments[0]).startswith("/dev/")
            if not opens and event not in NAMES:
                return
            left -= 1
            if left == -1:
                if opens and torn:
                    os.open(*arguments[::2], 0o600)
                os.kill(os.getpid(), 9)

        sys.addaudithook(count)
        act()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -9), f"step {step}: exit code {code}"
    return code == -9


def each_step(
    act: Callable[[], object], begin: Callable[[], object], ways: tuple[bool, ...] = (False, True)
) -> Iterator[tuple[int, bool]]:
    """(step, torn) after each kill: once before every step, and once with each file begun. `begin` makes the
    place anew before each."""
    for torn in ways:
        step = 0
        begin()
        while killed(act, step, torn):
            yield step, torn
            step += 1
            begin()
        assert step
