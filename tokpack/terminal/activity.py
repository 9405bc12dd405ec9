"""What a command is doing now, on stderr: a live line on a terminal, a line now and then elsewhere.

On a terminal every activity has a bar and its time while it lasts. In a pipe or a log file it is one line
when it begins, and then one line whenever the command has said nothing for `every` seconds. When quiet it is
nothing.

    with Activity() as tell:
        tell.say("20 steps")
        with tell.doing("training", total=20, unit="steps") as advance:
            advance(1, "loss 2.31")
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

from tokpack.terminal.printable import one_line, without_secrets
from tokpack.terminal.wrapping import wrapped

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 30.0
"""Seconds of silence after which a line says what goes on, where there is no terminal."""


class Advance(Protocol):
    """Takes what was done since the last call, and figures to show ("" leaves those that are there)."""

    def __call__(self, amount: int, figures: str = "") -> None: ...


SMALL = {"MB": "bytes", "M tokens": "tokens"}
"""Units for a total that is less than a tenth of one of these."""
SINGULAR = {"batches": "batch"}
"""Units whose singular is not theirs without the s."""


@dataclass(slots=True)
class Task:
    """One thing that is being done."""

    what: str
    total: int | None = None
    unit: str = ""
    scale: int = 1
    """What `total` and `done` count of goes into one unit: 1,000,000 bytes into a MB."""
    done: int = 0
    figures: str = ""
    started: float = field(default_factory=time.monotonic)
    said: tuple[float, int] = (0.0, 0)
    """Time of the last line that had more done than the one before, and what was done then."""
    bar: Any = None

    def __post_init__(self) -> None:
        self.said = self.started, 0
        if self.total is not None and self.total * 10 < self.scale:
            self.unit, self.scale = SMALL.get(self.unit, self.unit), 1

    def amount(self) -> str:
        if self.total is None:
            return self._of(self.done) if self.done else ""
        percent = f", {min(self.done / self.total, 1):.0%}" if self.total else ""
        done = self._number(min(self.done, self.total))
        return f"{done}/{self._of(self.total)}{percent}"

    def begin(self) -> str:
        return f"{self.what}: {self._of(self.total)}" if self.total else f"{self.what} ..."

    def so_far(self) -> str:
        now = time.monotonic()
        told = [self.amount(), self.figures, f"{duration(now - self.started)} so far", self._to_go(now)]
        if self.done > self.said[1]:  # the time of a silence belongs to what is done at its end
            self.said = now, self.done
        return f"{self.what}: {', '.join(filter(None, told))}"

    def _to_go(self, now: float) -> str:
        """At the pace since that line: what an earlier run had done is passed over at another."""
        since, before = self.said
        if self.total is None or self.done <= before:
            return ""
        seconds = (now - since) / (self.done - before) * max(self.total - self.done, 0)
        return f"about {duration(seconds)} to go"

    def _of(self, count: int) -> str:
        one = count == 1 and self.scale == 1
        unit = SINGULAR.get(self.unit, self.unit.removesuffix("s")) if one else self.unit
        return f"{self._number(count)} {unit}".rstrip()

    def _number(self, count: int) -> str:
        digits = 1 if self.scale > 1 and count < 10 * self.scale else 0
        return f"{count / self.scale:,.{digits}f}"


class Activity:
    """Says lines and shows what is being done. `quiet` says nothing at all; activities may nest."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None, every: float = EVERY) -> None:
        self.quiet, self.every, self._given = quiet, every, console
        self._tasks: list[Task] = []
        self._bars: Any = None
        self._end_bars: Callable[[], None] = lambda: None
        self._spoken = time.monotonic()
        self._lock = threading.Lock()
        self._idle: threading.Event | None = None

    @cached_property
    def console(self) -> Console:
        """What is written to; loaded where something is."""
        from rich.console import Console

        return self._given or Console(stderr=True)

    @cached_property
    def live(self) -> bool:
        """Whether there are bars."""
        return not self.quiet and (self.console.is_terminal or self.console.is_jupyter)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it says nothing."""
        return partial(Activity, quiet=True), ()

    def __enter__(self) -> Activity:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, line: str) -> None:
        """A line that stays, one whatever the names in it hold."""
        if self.quiet:
            return
        with self._lock:
            self._spoken = time.monotonic()
            shown = one_line(without_secrets(line), None)
            shown = wrapped(shown, self.console.width) if self.console.is_terminal else shown
            self.console.print(shown, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @contextmanager
    def doing(self, what: str, total: int | None = None, unit: str = "", scale: int = 1) -> Iterator[Advance]:
        """Show `what` for as long as the block lasts; it gets a function to tell how far it is.

        `total` is shown divided by `scale`, in `unit`: bytes, "MB", 1_000_000."""
        task = self.begin(what, total, unit, scale)
        try:
            yield partial(self.advance, task)
        finally:
            self.end(task)

    def begin(self, what: str, total: int | None = None, unit: str = "", scale: int = 1) -> Task:
        """`doing` where a block does not fit; `end` belongs to it."""
        task = Task(what, total, unit, scale)
        self._tasks.append(task)
        if self.live:
            self._show(task)
        elif not self.quiet:
            self.say(task.begin())
            self._watch()
        return task

    def advance(self, task: Task, amount: int, figures: str = "") -> None:
        task.done += amount
        task.figures = figures or task.figures
        if task.bar is not None:
            shown = "  ".join(filter(None, [task.amount(), task.figures]))
            self._bars.update(task.bar, completed=task.done, shown=shown)

    def end(self, task: Task) -> None:
        """No error for a task that has ended."""
        if task not in self._tasks:
            return
        self._tasks.remove(task)
        if task.bar is not None:
            self._bars.remove_task(task.bar)
        if not self._tasks:
            self.close()

    def close(self) -> None:
        """Take away what is shown; the next activity begins anew."""
        self._tasks.clear()
        if self._bars is not None:
            self._end_bars()
            self._bars = None
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    def _show(self, task: Task) -> None:
        if self._bars is None:
            from tokpack.terminal.progress_lines import ProgressLines

            self._bars = ProgressLines(self.console)
            self._end_bars = self._show_bars()
        task.bar = self._bars.add_task(
            one_line(without_secrets(task.what), None), total=task.total, shown=task.amount()
        )

    def _show_bars(self) -> Callable[[], None]:
        """What takes them away again."""
        if self.console.is_jupyter:
            from tokpack.terminal.notebook_bars import NotebookBars

            return NotebookBars(self._bars).close
        self._bars.start()
        return cast("Callable[[], None]", self._bars.stop)

    def _watch(self) -> None:
        """Begin to speak up whenever nothing has been said for `every` seconds."""
        if self._idle is not None:
            return
        self._idle = threading.Event()
        threading.Thread(target=self._speak_up, args=(self._idle,), name="activity", daemon=True).start()

    def _speak_up(self, ended: threading.Event) -> None:
        while not ended.wait(max(self._spoken + self.every - time.monotonic(), 0.01)):
            tasks = list(self._tasks)
            if tasks and time.monotonic() - self._spoken >= self.every:
                self.say(tasks[-1].so_far())


def default_activity() -> Activity:
    """For a call from Python: shown in a notebook, where a person waits; quiet elsewhere."""
    return Activity(quiet=not in_notebook())


def in_notebook() -> bool:
    """Whether an IPython kernel runs this, as in Jupyter or Colab."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def duration(seconds: float) -> str:
    """3.2 s, 4 min 10 s, 5 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def in_number(number: float, words: str) -> str:
    """`"document(|s) hold(s|) it"` as it is said of one, or of another number."""
    return re.sub(r"\(([\w ]*)\|([\w ]*)\)", lambda found: found[1 if number == 1 else 2], words)


def counted(number: float, noun: str) -> str:
    """`"1 row"`, `"2,000 rows"`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
