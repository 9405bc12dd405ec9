"""What a command shows: results on stdout; progress, notes and warnings on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer

from tokpack.terminal.printable import one_line, printable
from tokpack.terminal.wrapping import for_stderr

if TYPE_CHECKING:
    from tokpack.terminal.activity import Activity


def show(renderable: Any) -> None:
    """On stdout: as wide as the terminal; piped, plain and 140 columns wide."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140, no_color=True)  # piped: plain text, no line broken to fit a screen
    console.print(renderable)


def say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(for_stderr(printable(text)), err=True)


@contextmanager
def activity(
    quiet: bool,
    module: str,
    before: Callable[[], None] | None = None,
    first: Callable[[], None] | None = None,
) -> Iterator[tuple[Activity, Any]]:
    """What a command is doing, on stderr; with --quiet nothing, and no notes. Gives the loaded `module` too:
    that alone takes seconds. `before` refuses what cannot work, `first` readies its libraries."""
    from tokpack.terminal.activity import Activity

    Stderr.quiet = quiet
    with Activity(quiet=quiet) as tell:
        if before is not None:
            with tell.doing("looking at what was given"):
                before()
        with tell.doing("loading libraries"):
            from tokpack.engine.local import pass_over_pandas

            pass_over_pandas()
            if first is not None:
                first()
            loaded = import_module(module)
        yield tell, loaded


class Stderr(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is now: a progress bar puts itself there, and keeps lines above it.

    What is no warning is a note, and not said with --quiet."""

    quiet = False

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        return for_stderr(f"{kind}: {one_line(record.getMessage(), None)}")

    def emit(self, record: logging.LogRecord) -> None:
        if Stderr.quiet and record.levelno < logging.WARNING:
            return
        self.stream = sys.stderr
        super().emit(record)
