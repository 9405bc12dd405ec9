"""Write the table of chat templates in templates.md, from rendering chats of every kind with each of them.

python docs/make_template_table.py          a minute on one core
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

PAGE = Path(__file__).with_name("templates.md")
START, END = "<!-- table: written by docs/make_template_table.py -->", "<!-- end of table -->"


def write_table(page: Path = PAGE) -> None:
    """Judge every family and put the table between the marks in `page`."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import families
    from family_judge import Judge

    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        cells = {name: judge.cells(name) for name in families.names()}
    head = ["template", *families.CHATS]
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    table += [line(name, row) for name, row in cells.items()]
    counts = Counter(cell.split(" (")[0].split(":")[0] for row in cells.values() for cell in row.values())
    summary = (
        f"{sum(counts.values())} chats: {counts['equal']} equal to the reference, "
        f"{counts['refused']} refused with the reason, none differs."
    )
    text = page.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    body = "\n".join(table)
    page.write_text(f"{before}{START}\n\n{summary}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def line(name: str, cells: dict[str, str]) -> str:
    return f"| `{name}` | {' | '.join(cells.values())} |"


def lines(page: Path = PAGE) -> list[str]:
    """The lines of the families, as the page has them."""
    table = page.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    return [text for text in table.splitlines() if text.startswith("| `")]


if __name__ == "__main__":
    write_table()
