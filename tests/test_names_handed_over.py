"""Names of outputs: in a terminal nothing obeys them, a script gets them byte by byte."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tokpack.errors import UsageError
from tokpack.text.cleaning import clean

SAY = "import sys\nfrom tokpack.terminal.printable import hand_over\nhand_over(sys.argv[1])"
NAME = b"caf\xe9 \x1b[31m \xe2\x80\xae"


def test_a_script_gets_a_name_as_it_is():
    done = subprocess.run([sys.executable, "-c", SAY, NAME], capture_output=True, check=True)
    assert done.stdout == NAME + b"\n"


def test_a_terminal_gets_a_name_that_it_does_not_obey():
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SAY, NAME], stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert shown.strip() == rb"caf\udce9 \u001b[31m \u202e"


def test_clean_with_no_name_at_all_is_an_error(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    with pytest.raises(UsageError, match="the output is a folder"):
        clean(rows, Path())


@pytest.mark.parametrize("command", ["train", "merge-adapter"])
def test_a_folder_of_weights_needs_a_name_in_utf8(command, tmp_path):
    pytest.importorskip("peft")
    from commands import run

    options = ["-m", tmp_path] if command == "train" else []
    ended = run(command, tmp_path, *options, "-o", tmp_path / "caf\udce9")
    assert ended.returncode == 2
    assert "the output's name is not UTF-8" in ended.stderr


def test_an_output_that_is_a_link_to_itself_is_an_error(tmp_path):
    from commands import run

    (tmp_path / "loop").symlink_to("loop")
    ended = run("merge", tmp_path, tmp_path, "-o", tmp_path / "loop")
    assert ended.returncode == 2
    assert "hint:" in ended.stderr
