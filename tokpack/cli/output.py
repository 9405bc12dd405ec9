"""What a command shows: results on stdout; progress, notes and warnings on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from tokpack.printable import printable


def show(renderable: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140, no_color=True)  # piped: plain text, no line broken to fit a screen
    console.print(renderable)


def say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(text, err=True)


UNITS = {
    "pass 1": (1e6, "MB read"),
    "pass 2": (1e6, "M tokens written"),
    "calibrate": (1, "tokens trained"),
}
"""Stage -> what one unit of its progress is."""


@contextmanager
def progress_of(quiet: bool) -> Iterator[Any]:
    """A bar for each pass on stderr, only where a person looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    Stderr.quiet = quiet
    if quiet or not console.is_terminal:
        yield lambda stage, amount: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, amount: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.update(earlier, total=bars.tasks[earlier].completed)
                tasks[stage] = bars.add_task(stage, total=None, shown="")
            bars.advance(tasks[stage], amount)
            size, unit = UNITS[stage]
            done = bars.tasks[tasks[stage]].completed / size
            digits = 1 if size > 1 and done < 10 else 0
            bars.update(tasks[stage], shown=f"{done:,.{digits}f} {unit}")

        yield advance
        for task in tasks.values():
            bars.update(task, total=bars.tasks[task].completed)


class Stderr(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is now: a progress bar puts itself there, and keeps lines above it.

    What is no warning is a note, and not said with --quiet."""

    quiet = False

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        return f"{kind}: {printable(record.getMessage())}"

    def emit(self, record: logging.LogRecord) -> None:
        if Stderr.quiet and record.levelno < logging.WARNING:
            return
        self.stream = sys.stderr
        super().emit(record)
