"""Progress bars in a notebook's output: drawn anew in place, gone at the end; `ipywidgets` is not needed."""

from __future__ import annotations

import contextvars
import io
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

REDRAWN = 0.5
"""Seconds between two drawings."""


class NotebookBars:
    """Shows what `bars` holds, which need not be started, until `close`."""

    def __init__(self, bars: Progress) -> None:
        from IPython.display import HTML, display

        self._bars, self._html = bars, HTML
        self._shown = display(HTML(""), display_id=True)
        self._ended = threading.Event()
        # a cell's output finds its cell by context variables
        keep = contextvars.copy_context()
        self._thread = threading.Thread(target=keep.run, args=(self._redraw,), name="bars", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the bars away."""
        self._ended.set()
        self._thread.join()
        self._shown.update(self._html(""))

    def _redraw(self) -> None:
        while not self._ended.is_set():
            self._shown.update(self._html(self._drawn()))
            self._ended.wait(REDRAWN)

    def _drawn(self) -> str:
        from rich.console import Console

        console = Console(
            record=True, width=self._bars.console.width, file=io.StringIO(), force_jupyter=False
        )
        console.print(self._bars.get_renderable())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
