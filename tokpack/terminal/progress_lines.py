"""Progress bars that keep their times whole on a narrow terminal: a time cut to "0:01..." looks like a
command that stands still.

What gives way: the bar first, then the figures after the amount, then the name of what is done."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

BAR, LEAST_BAR = 40, 4
"""Cells of a bar where there is room, and where it is not worth its place."""
LEAST_NAME = 16
TIME = 8
"""Cells of a time, up to 10:00:00."""


class ProgressLines(Progress):
    """rich's Progress with a line a task; a task has a field `shown`: its amount and figures."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        super().__init__(console=screen, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        tasks = [task for task in self.tasks if task.visible]
        names = [cell_len(task.description) for task in tasks]
        shown = [cell_len(task.fields["shown"]) for task in tasks]
        together = widths(self.screen.width, max(names, default=0), max(shown, default=0))
        for task, name, figures in zip(tasks, names, shown, strict=True):
            # bars stand below each other where there is room for them
            yield _line(task, together if together[1] else widths(self.screen.width, name, figures))


def _line(task: Task, cells: tuple[int, int, int]) -> Table:
    line = Table.grid(padding=(0, 1, 0, 0))
    parts = [
        (cells[0], Text(task.description)),
        (cells[1], BarColumn(None)(task)),
        (cells[2], Text(task.fields["shown"])),
        (TIME, TimeElapsedColumn()(task)),
        (TIME, TimeRemainingColumn()(task)),
    ]
    parts = [part for part in parts if part[0]]
    for width, _ in parts:
        line.add_column(width=width, no_wrap=True, overflow="ellipsis")
    line.add_row(*(part for _, part in parts))
    return line


def widths(total: int, name: int, shown: int) -> tuple[int, int, int]:
    """Cells of name, bar and figures on a screen of `total`, where name and figures would have so many.

    >>> widths(80, 20, 25)
    (20, 13, 25)
    """
    room = total - 2 * (TIME + 1) - 1  # a terminal that is filled to its edge begins a line
    shown = max(min(shown, room - min(name, LEAST_NAME) - 2), 0)
    room -= shown + 1 if shown else 0
    name = max(min(name, room - 1), 1)
    bar = min(room - name - 2, BAR)
    return name, bar if bar >= LEAST_BAR else 0, shown
