"""What a command says while it works: at once, again after a silence, and nothing when quiet."""

from __future__ import annotations

import io
import itertools
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import tokpack
from tokpack.export import export
from tokpack.packed.merging import merge
from tokpack.packed.repacking import repack
from tokpack.terminal.activity import Activity, Task, duration, in_number
from tokpack.terminal.progress_lines import TIME, widths


class Heard(io.StringIO):
    """A stream that lets wait for a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word, self.said = word, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.word in self.getvalue():
            self.said.set()
        return written


def test_in_a_pipe_an_activity_is_a_line_at_its_begin_and_another_after_each_silence() -> None:
    out = Heard("loss 2.31, ")
    tell = Activity(console=Console(file=out), every=0.01)
    with tell, tell.doing("training", 4, "steps") as advance:
        assert out.getvalue().startswith("training: 4 steps\n")
        thread = next(one for one in threading.enumerate() if one.name == "activity")
        advance(1, "loss 2.31")
        assert out.said.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    line = r"^training: 1/4 steps, 25%, loss 2\.31, \d+\.\d s so far, about \d+\.\d s to go$"
    assert re.search(line, out.getvalue(), re.MULTILINE)


def test_amounts_are_told_in_their_unit_and_the_time_to_go_by_the_pace_since_the_last_line() -> None:
    task = Task("reading", total=90_000_000, unit="MB", scale=1_000_000)
    assert task.begin() == "reading: 90 MB"
    task.done, task.said = 62_400_000, (task.started, 0)
    assert task.so_far().startswith("reading: 62/90 MB, 69%, 0.0 s so far, about ")
    task.done, task.said = 72_400_000, (task.said[0] - 20, task.said[1])
    assert task.so_far().endswith(" so far, about 35.2 s to go")
    assert task._to_go(task.said[0] + 5) == ""  # nothing was done since
    task.done = 91_000_000  # a file that grew
    assert task.amount() == "90/90 MB, 100%"
    assert Task("reading", unit="MB", scale=1_000_000, done=2_510_000).amount() == "2.5 MB"


def test_a_step_that_takes_several_lines_counts_with_all_of_its_time(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr("tokpack.terminal.activity.time.monotonic", lambda: now)
    task, told = Task("training", total=20, unit="steps", started=now), []
    for line in range(1, 13):
        now, task.done = 30.0 * line, line // 4  # a step takes two minutes, and a line comes every half
        told.append(task.so_far().partition(" so far")[2])
    assert told[3::4] == [", about 38 min 0 s to go", ", about 36 min 0 s to go", ", about 34 min 0 s to go"]
    assert set(told[:3] + told[4:7]) == {""}


def test_words_agree_with_their_number() -> None:
    words = "document(|s) (is|are) left out (3%), and each of (its turns|their turns)"
    assert in_number(1, words) == "document is left out (3%), and each of its turns"
    assert in_number(2, words) == "documents are left out (3%), and each of their turns"


def test_one_is_told_in_the_singular() -> None:
    assert Task("merging", 1, "files").begin() == "merging: 1 file"
    assert Task("held-out evaluation", 1, "batches").begin() == "held-out evaluation: 1 batch"
    assert Task("packing", 1_000_000, "MB", 1_000_000).begin() == "packing: 1.0 MB"
    assert Task("packing", 99_999, "M tokens", 1_000_000).begin() == "packing: 99,999 tokens"
    assert Task("packing", 1, "MB", 1_000_000).begin() == "packing: 1 byte"


def test_the_innermost_activity_speaks_and_the_outer_one_goes_on_after_it() -> None:
    out = Heard("inner: ")
    with Activity(console=Console(file=out), every=0.01) as tell, tell.doing("outer"):
        with tell.doing("inner"):
            assert out.said.wait(60)
        again = out.word, out.said = "outer: ", threading.Event()
        tell.say("a line [bold]as it is[/bold] :smile:")
        assert again[1].wait(60)
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.endswith(" ...")] == ["outer ...", "inner ..."]
    assert "a line [bold]as it is[/bold] :smile:" in lines


def test_said_lines_put_off_the_next_one() -> None:
    out = io.StringIO()
    with Activity(console=Console(file=out), every=3600) as tell, tell.doing("loading"):
        tell.say("one")
    assert out.getvalue() == "loading ...\none\n"


def test_on_a_terminal_there_is_a_bar_which_goes_when_the_work_is_done() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Activity(console=console) as tell:
        with tell.doing("training", 2, "steps") as advance:
            advance(1, "loss 2.31")
            tell._bars.refresh()
            tell.say("a line that stays")
        assert tell._bars is None
    for word in ("training", "1/2 steps", "loss 2.31", "a line that stays"):
        assert word in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[2K\x1b[?25h\r")  # the bar is gone, the cursor is back


@pytest.mark.parametrize("width", [60, 80, 100])
def test_on_a_narrow_terminal_the_time_stays_whole_and_what_is_done_gives_way(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    what = "probing the isolation of documents"
    with Activity(console=console) as tell, tell.doing(what, 3, "ways of attention") as advance:
        advance(1, "loss 2.3100, 1,234 tokens/s, 99.9% full")
        tell._bars.refresh()
    lines = [line for line in re.split(r"[\r\n]|\x1b\[\w+", out.getvalue()) if "1/3" in line]
    assert lines
    for line in lines:
        assert re.search(r" 0:00:00 +-:--:-- *$", line)
        assert len(line) < width


def test_cells_of_a_line_add_up_to_no_more_than_the_screen() -> None:
    for total, name, shown in itertools.product((40, 80, 140), (3, 34, 90), (0, 25, 90)):
        cells = widths(total, name, shown)
        assert sum(cells) + sum(1 for cell in cells if cell) + 2 * TIME + 1 < total
        assert 0 < cells[0] <= name
        assert cells[2] <= shown
    assert widths(80, 20, 25) == (20, 13, 25)


def test_a_name_with_lines_of_its_own_is_told_in_one() -> None:
    out = io.StringIO()
    Activity(console=Console(file=out)).say("packed dataset: a\nerror: no\x1b[2K")
    assert out.getvalue() == "packed dataset: a\\nerror: no\\u001b[2K\n"


def test_quiet_says_nothing_anywhere() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        with Activity(quiet=True, console=Console(file=out, force_terminal=terminal), every=0.0) as tell:
            with tell.doing("loading") as advance:
                advance(1, "")
            tell.say("a line")
        assert out.getvalue() == ""


def test_an_error_takes_the_display_away() -> None:
    out = io.StringIO()
    tell = Activity(console=Console(file=out, force_terminal=True))

    def broken() -> None:
        with tell, tell.doing("loading"):
            tell.begin("never ended")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert tell._bars is None


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3.21, "3.2 s"), (250.2, "4 min 10 s"), (5 * 3600 + 725, "5 h 12 min")]
)
def test_durations_are_told_as_people_do(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.slow
def test_merge_repack_and_export_say_how_far_they_are(qwen: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    roles = ("user", "assistant")
    rows = [{"messages": [{"role": role, "content": f"number {n}"} for role in roles]} for n in range(9)]
    tokpack.pack(rows, packed, tokenizer=str(qwen), max_length=64)
    told: dict[str, int] = {}

    class Listener(Activity):
        def advance(self, task: Task, amount: int, figures: str = "") -> None:
            super().advance(task, amount, figures)
            told[task.what] = round(100 * task.done / (task.total or 1))

    def listener() -> Listener:
        return Listener(console=Console(file=io.StringIO()))

    repack(packed, tmp_path / "repacked", max_length=32, tell=listener())
    merge([packed, packed], tmp_path / "merged", tell=listener())
    export(packed, "trl", tmp_path / "trl", tell=listener())
    assert told == {"writing train rows": 100, "exporting to trl": 100}


def test_in_a_notebook_bars_are_drawn_in_place_and_are_gone_at_the_end(monkeypatch) -> None:
    drawn, ended = Heard("3/4 steps"), threading.Event()
    shown = SimpleNamespace(update=lambda html: (drawn.write(html + "\n"), html or ended.set()))
    ipython = SimpleNamespace(HTML=str, display=lambda html, display_id: shown)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr("tokpack.terminal.notebook_bars.REDRAWN", 0.01)
    console = Console(file=io.StringIO(), force_jupyter=True)
    with Activity(console=console) as tell, tell.doing("<b>training", 4, "steps") as advance:
        advance(3)
        assert drawn.said.wait(60)
        assert not ended.is_set()
    assert drawn.getvalue().endswith("</pre>\n\n")
    assert "&lt;b&gt;training" in drawn.getvalue()
    assert all(thread.name != "bars" for thread in threading.enumerate())
    assert ended.is_set()
