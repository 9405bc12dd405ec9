"""Writes the table of layouts into docs/input-formats.md, from the rows of tests/layout_cases.py.

python docs/make_layout_table.py
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent / "input-formats.md"
sys.path.insert(0, str(PAGE.parents[1] / "tests"))
BEGIN, END = "<!-- layouts: made by docs/make_layout_table.py -->", "<!-- end of layouts -->"


def table() -> str:
    """A line for each case: what it is called, its columns, what it is read as, what of it is not."""
    from layout_cases import CASES
    from layout_words import Case

    from tokpack.settings.config import SourceConfig
    from tokpack.stages.normalize.layouts.detect import detect_shape
    from tokpack.stages.normalize.layouts.unread import recognized
    from tokpack.stages.read.sources import open_sources

    def line(case: Case, folder: Path) -> str:
        path = folder / "rows.jsonl"
        path.write_text(json.dumps(case.row) + "\n", encoding="utf-8")
        [source] = open_sources((SourceConfig(path=str(path), **case.way),))
        shape = detect_shape(source)
        way = f"refused, with the hint `{case.refused}`; then " if case.refused else ""
        name, fields = re.fullmatch(r"(.*?) \((.*)\)", recognized(shape)).groups()  # type: ignore[union-attr]
        columns = ", ".join(f"`{column}`" for column in case.row)
        unread = ", ".join(f"`{column}`" for column in shape.unread) or "-"
        return f"| {case.name} | {columns} | {way}{name} | {fields} | {unread} |"

    with tempfile.TemporaryDirectory() as folder:
        lines = [line(case, Path(folder)) for case in CASES]
    head = "| set or service | columns | recognized as | read | not read |\n|---|---|---|---|---|"
    return "\n".join([BEGIN, "", head, *lines, "", END])


def written(page: str) -> str:
    """The page with the table as it is now."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: table(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
