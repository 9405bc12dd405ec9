"""Runs that end early, go on, or find a folder that is not empty."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from chats import messy_rows, write_rows
from few import a_few
from test_pipeline import CAPACITY, bytes_of

import tokpack
from tokpack.errors import OutputError, UsageError
from tokpack.terminal.activity import Activity, Task


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(1000))


RUN = """
import sys, tokpack
tokpack.pack(sys.argv[1], sys.argv[2], tokenizer=sys.argv[3], max_length=256, block_mb=1)
"""


def killed(command: list[str], is_moment: Callable[[], bool]) -> bool:
    """Run a command and kill it at the moment; False when it ended before anybody saw that."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if is_moment():
                process.kill()
                return True
            time.sleep(0.002)
    return False


@pytest.mark.slow
def test_a_run_killed_in_either_pass_goes_on_and_gives_the_same_bytes(smollm2, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(8_000, seed=3))
    command = [sys.executable, "-c", RUN, str(data)]
    tokpack.pack(data, tmp_path / "whole", tokenizer=str(smollm2), max_length=256, block_mb=1)
    out = tmp_path / "killed"
    again = [*command, str(out), str(smollm2)]
    for batches in (1, 3):
        assert killed(again, lambda n=batches: len([*out.glob(".work/*.docs.arrow")]) >= n)
    killed(again, lambda: any(out.glob("data-*")))
    if not (out / "SHA256SUMS").is_file():
        subprocess.run(again, check=True)
        assert not (out / ".work").exists()
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


class Interrupted(Activity):
    """Ctrl-C after so many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__(quiet=True)
        self.blocks = blocks

    def advance(self, task: Task, amount: int, figures: str = "") -> None:
        self.blocks -= 1
        if not self.blocks:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("end", a_few(["", ".zst"]))
def test_a_run_that_goes_on_says_what_it_found(qwen, tmp_path, caplog, end):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(3_000, seed=3))
    if end:
        data = tmp_path / "chats.jsonl.zst"
        with pa.output_stream(data, compression="zstd") as stream:
            stream.write((tmp_path / "chats.jsonl").read_bytes())
    size = data.stat().st_size / 1e6
    options = {"tokenizer": str(qwen), "max_length": 256, "block_mb": 1, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        tokpack.pack(data, tmp_path / "out", **options, tell=Interrupted(2))
    with caplog.at_level("INFO", "tokpack"):
        tokpack.pack(data, tmp_path / "out", **options)
    said = next(line for line in caplog.messages if "unfinished" in line)
    found = re.fullmatch(r"going on with an unfinished run: ([\d.]+) of ([\d.]+) MB were done", said)
    assert float(found[2]) == round(size, 1)
    assert 0 < float(found[1]) <= float(found[2])


@pytest.mark.slow
def test_overwrite_leaves_files_that_tokpack_did_not_write(messy, qwen, tmp_path):
    out = tmp_path / "out"
    tokpack.pack(messy, out, tokenizer=str(qwen), max_length=256)
    theirs = [
        out / name for name in ("notes.json", "eval.parquet", "mine.jsonl", "page.html", "data-x.arrow")
    ]
    for path in theirs:
        path.write_text("mine")
    before = {path.name for path in out.iterdir()}
    tokpack.pack(messy, out, tokenizer=str(qwen), max_length=128, overwrite=True)
    assert [path.read_text() for path in theirs] == ["mine"] * len(theirs)
    assert {path.name for path in out.iterdir()} == before
    assert tokpack.verify(out).ok


@pytest.mark.slow
def test_an_unfinished_run_with_other_settings_names_what_differs(messy, qwen, tmp_path, monkeypatch):
    from tokpack.way import pass_two

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pass_two, "write_packed", crash)
        with pytest.raises(KeyboardInterrupt):
            tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=256)
    with pytest.raises(UsageError, match="unfinished"):
        tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=512)
    with pytest.raises(UsageError, match="repeat the same"):
        tokpack.open_packed(tmp_path / "out")
    tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=256)
    with pytest.raises(UsageError, match="--overwrite"):
        tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=512)
    tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=512, overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_two_runs_do_not_write_into_one_folder(messy, qwen, tmp_path):
    from tokpack.way import output

    out = tmp_path / "out"
    with output.claim(out, overwrite=False):
        (out / ".work").mkdir()
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="another run is writing here"):
                tokpack.pack(messy, out, tokenizer=str(qwen), overwrite=overwrite)
        assert (out / ".work").is_dir()
    tokpack.pack(messy, out, tokenizer=str(qwen))


def test_overwrite_never_touches_a_folder_of_somebody_else(messy, qwen, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not tokpack's"):
            tokpack.pack(messy, tmp_path / "mine", tokenizer=str(qwen), overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.json").read_text() == "{}"


@pytest.mark.slow
def test_a_full_disk_is_an_output_error_and_the_run_can_go_on(messy, qwen, tmp_path, monkeypatch):
    from tokpack.way.store import TokenStore

    commit = TokenStore.commit

    def full(self, *args):
        raise OSError(28, "No space left on device", str(self.folder))

    monkeypatch.setattr(TokenStore, "commit", full)
    with pytest.raises(OutputError, match="free some space"):
        tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=256)
    monkeypatch.setattr(TokenStore, "commit", commit)
    assert len(tokpack.pack(messy, tmp_path / "out", tokenizer=str(qwen), max_length=256))


@pytest.mark.slow
def test_a_work_folder_elsewhere_keeps_what_else_is_in_it(messy, qwen, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "thesis.txt").write_text("mine")
    (scratch / "run.json").write_text("mine too")
    options = {"tokenizer": str(qwen), "max_length": CAPACITY, "work_dir": scratch}
    from tokpack.way import output

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            tokpack.pack(messy, tmp_path / "out", **options)
    assert len(list(scratch.iterdir())) == 3
    packed = tokpack.pack(messy, tmp_path / "out", **options)  # goes on
    assert sorted(path.name for path in scratch.iterdir()) == ["run.json", "thesis.txt"]
    assert not (packed.folder / ".work").exists()
    tokpack.pack(messy, tmp_path / "out", **{**options, "max_length": 128}, overwrite=True)
    assert (scratch / "thesis.txt").read_text() == "mine"
