"""The page is written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from report_samples import sample

from tokpack.report.figures import Report
from tokpack.report.values import Figures


def test_a_page_that_cannot_be_written_leaves_the_one_before_and_a_link_or_a_pipe_is_written_to(
    tmp_path, monkeypatch
):
    report, file = Report(Figures.read(sample())), tmp_path / "report.html"
    report.save_html(file)
    before = file.read_bytes()
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            report.save_html(file)
    assert (list(tmp_path.iterdir()), file.read_bytes()) == ([file], before)
    link = tmp_path / "link.html"
    link.symlink_to(file)
    file.write_bytes(b"old")
    report.save_html(link)
    assert (link.is_symlink(), file.read_bytes()) == (True, before)
    report.save_html("/dev/null")
    assert not Path("/dev/null").is_file()
