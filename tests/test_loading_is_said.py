"""Libraries that take seconds to load are loaded while the command says what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")
pytest.importorskip("altair")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import make_documents, needs_packed_trainer, save_tiny_model, write_packed

A_MOMENT = 50
"""Modules that load in tenths of a second; what takes seconds has hundreds."""
WATCH = """
import sys
from tokpack.terminal.activity import Activity

sys.modules.update(boto3=None, scipy=None)  # not of the extra for training, loaded where they are
SLOW = {"torch", "transformers", "peft", "bitsandbytes", "altair"}
shown = []
begin, end = Activity.begin, Activity.end

def count(self, *what):
    shown.append(task := begin(self, *what))
    return task

def forget(self, task):
    if task in shown:
        shown.remove(task)
    end(self, task)

class Finder:
    def find_spec(name, *place):
        imported = sys._getframe(2).f_code.co_name == "_find_and_load_unlocked"  # or looked for alone
        if imported and name.partition(".")[0] in SLOW and not shown:
            print("IN SILENCE:", name)
        if imported and name == "torch._inductor.compile_fx":
            print("THE COMPILER")

Activity.begin, Activity.end = count, forget
sys.meta_path.insert(0, Finder)
sys.argv = ["tokpack", *sys.argv[1:]]
from tokpack.cli import run
run()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    needs_packed_trainer()
    folder = tmp_path_factory.mktemp("loading")
    save_tiny_model(folder / "model")
    write_packed(folder / "packed", make_documents())
    assert (
        _silent(folder, "train packed -m model --max-steps 1 --no-probe --merge both -o adapter") < A_MOMENT
    )
    return folder


def _silent(folder: Path, command: str) -> int:
    """Modules of slow libraries that a command loads while it shows nothing; none loads the compiler."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "THE COMPILER" not in done.stdout
    return done.stdout.count("IN SILENCE")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "verify packed --model model --attn sdpa",
        "eval packed -m model -a adapter --split train --no-probe --html page.html",
        "merge-adapter adapter -o merged",
        "serve-config a=adapter --engine vllm -o served",
    ],
)
def test_no_library_is_loaded_in_silence(folder, command):
    assert _silent(folder, command) < A_MOMENT
