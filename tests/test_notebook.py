"""In a notebook: objects show the page's own tables, progress is shown, and the example's cells run."""

from __future__ import annotations

import ast
import json
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.packed.verification import Check, Verification
from tokpack.terminal.activity import default_activity

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "first_look.ipynb"


def inside(html: str) -> str:
    """The document in the frame."""
    assert html.startswith('<iframe sandbox="allow-scripts" srcdoc="')
    return unescape(html.split('srcdoc="', 1)[1].split('"', 1)[0])


@pytest.mark.slow
def test_reports_show_the_page_and_packed_datasets_its_tables(qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(60))
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=qwen, max_length=256)
    page = inside(tokpack.analyze(data, tokenizer=qwen, max_length=256)._repr_html_())
    assert page.startswith("<!doctype html>")
    assert "Content-Security-Policy" in page
    facts = inside(packed._repr_html_())
    assert f"{packed.manifest['rows']} rows of 256 tokens" in page
    assert f"{packed.manifest['rows']} rows of 256 tokens" in facts
    assert all(f"<code>{reason}</code>" in facts for reason in packed.ledger["documents"]["dropped"])
    assert "<svg" in page
    assert "<svg" not in facts  # charts take seconds


def test_a_verification_shows_each_check_and_hostile_text_stays_text():
    checks = [Check("sums", "12 files"), Check("rows", "<b>5</b>", ["<script>alert(1)</script>"])]
    html = Verification(Path("</iframe><script>"), checks)._repr_html_()
    assert html.count("<") == 2  # the frame's own tags: all else is escaped
    page = inside(html)
    assert "12 files" in page
    assert "FAULT" in page
    assert "<script" not in page


def test_progress_is_shown_in_a_notebook_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert default_activity().quiet
    for shell, quiet in ((None, True), (SimpleNamespace(), True), (SimpleNamespace(kernel=1), False)):
        ipython = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        from tokpack.terminal.activity import in_notebook

        assert in_notebook() is not quiet


@pytest.mark.slow
def test_the_notebook_of_the_examples_runs(smollm2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SmolLM2-135M-Instruct").symlink_to(smollm2)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    shown = [
        value for cell in cells if cell["cell_type"] == "code" and (value := run(cell, names)) is not None
    ]
    assert [type(value).__name__ for value in shown] == [
        "Report",
        type(names["packed"]).__name__,
        "DataFrame",
        "Verification",
        "ShownRow",
    ]
    assert all("<" in value._repr_html_() for value in shown)  # type: ignore[attr-defined]
    assert shown[3].ok  # type: ignore[attr-defined]
    assert shown[2]["reason"].to_list() == ["empty_answer", "exact_duplicate"]  # type: ignore[index]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


def run(cell: dict[str, list[str]], names: dict[str, object]) -> object:
    """Run a cell as a notebook does: what its last expression gives is shown."""
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
