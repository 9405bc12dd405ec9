"""tokpack's commands as a shell runs them, but in this process: the start of another takes seconds."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from tokpack.cli import entry, main
from tokpack.cli.output import Stderr


@dataclass(frozen=True)
class Ended:
    """What `subprocess.run` tells of a process."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Ended:
    """`tokpack ARGUMENTS` in a pipe: its exit code and what it wrote. Signals are left alone."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        patch.object(sys, "argv", ["tokpack", *map(str, arguments)]),
        patch.dict(os.environ, {"NO_COLOR": "1", "COLUMNS": "100"}),
        patch.object(entry.interrupts, "watch"),
        patch.object(Stderr, "quiet", False),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
