"""What is said on stderr breaks between words where it is a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tokpack.terminal.activity import Activity
from tokpack.terminal.wrapping import wrapped

LONG = "the folder holds what this command did not write: thesis.txt, letters.txt, photos.zip"


def test_a_line_breaks_between_words_and_goes_on_behind_its_label():
    text = f"error: {LONG}\n  at: /a/{'b' * 50}\n  hint: give -o a new folder"
    assert wrapped(text, 40).split("\n") == [
        "error: the folder holds what this",
        "       command did not write:",
        "       thesis.txt, letters.txt,",
        "       photos.zip",
        "  at: /a/" + "b" * 50,
        "  hint: give -o a new folder",
    ]


@given(st.text(st.sampled_from("ab  \n界é:"), max_size=200), st.integers(1, 30))
def test_words_stay_whole_and_in_their_order(text, columns):
    found = wrapped(text, columns)
    assert found.split() == text.split()
    for line in found.split("\n"):
        assert cell_len(line) <= columns or " " not in line.strip() or line in text.split("\n")


def test_a_line_of_an_activity_breaks_between_words_on_a_terminal_alone():
    for terminal in (True, False):
        out = io.StringIO()
        Activity(console=Console(file=out, force_terminal=terminal, width=40, color_system=None)).say(LONG)
        assert len(out.getvalue().splitlines()) == (3 if terminal else 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
@pytest.mark.parametrize("columns", [60, 80])
def test_an_error_in_a_terminal_breaks_between_words(columns):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "tokpack", "inspect", "packed", "--row", "many"]
    # readline tells a child the size of this process's terminal, unless it is told the environment
    subprocess.run(command, stderr=theirs, env=dict(os.environ), check=False)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    lines = said.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) > 2
    assert max(map(len, lines)) <= columns, said
