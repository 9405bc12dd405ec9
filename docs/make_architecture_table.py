"""Write the table of decoder families in architectures.md: which way each takes, from running all of them.

python docs/make_architecture_table.py          half a minute on one core
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("architectures.md")
START, END = "<!-- table: written by docs/make_architecture_table.py -->", "<!-- end of table -->"
HEADINGS = {
    "tokpack": "`tokpack`: attention inside each document",
    "native": "native: transformers' attention and block mask",
    "mixers": "`mixers`: leaking layers run document by document",
    "loop": "`loop`: the model runs once per document",
    "refused": "refused",
    "not built": "not built",
}


def write_table(page: Path = PAGE) -> None:
    """Run every family and put the table between the marks in `page`."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import transformers
    from tiny_decoders import FAMILIES, NOT_BUILT, examine

    transformers.logging.set_verbosity_error()
    found = [examine(family) for family in sorted(FAMILIES) if family not in NOT_BUILT]
    if silent := [one for one in found if one.silent]:
        raise SystemExit(f"leaks, and the probe passes: {silent}")
    text = page.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    sections = "\n\n".join(_sections(found, NOT_BUILT))
    page.write_text(f"{before}{START}\n\n{sections}\n\n{END}{after}", encoding="utf-8")


def _sections(found: list[Any], not_built: dict[str, str]) -> list[str]:
    sections = []
    for way in ("tokpack", "native", "loop"):
        families = [one.family for one in found if one.way == way]
        sections += [f"### {HEADINGS[way]} ({len(families)})", ", ".join(f"`{name}`" for name in families)]
    for way, column in (("mixers", "layers"), ("refused", "why")):
        sections += _table(way, column, [table_line(one) for one in found if one.way == way])
    reasons = [f"| `{family}` | {reason} |" for family, reason in sorted(not_built.items())]
    return sections + _table("not built", "why", reasons)


def _table(way: str, column: str, lines: list[str]) -> list[str]:
    table = "\n".join([f"| family | {column} |", "|---|---|", *lines])
    return [f"### {HEADINGS[way]} ({len(lines)})", table]


def table_line(one: Any) -> str:
    """The line of a family that went the way `mixers` or was refused."""
    layers = ", ".join(f"`{text.split(' x ')[0]}`" for text in one.mixers)
    return f"| `{one.family}` | {layers or _reason(one)} |"


def _reason(one: Any) -> str:
    """The first sentence, without the names before it."""
    text: str = one.reason.split("loop: ")[-1].split("; ")[0].split(". ")[0]
    return text.rsplit(" takes ", maxsplit=1)[-1].removesuffix(" (text and image)")


def read_table(page: Path = PAGE) -> dict[str, str]:
    """Family -> way, as the page has it; raises ValueError for a family that is named twice."""
    table = page.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    ways: dict[str, str] = {}
    for section in re.split(r"^### ", table, flags=re.M)[1:]:
        heading, body = section.split("\n", 1)
        way = next(way for way, text in HEADINGS.items() if heading.rsplit(" (", 1)[0] == text)
        pattern = r"^\| `([^`]+)` \|" if body.lstrip().startswith("|") else r"`([^`]+)`"
        for family in re.findall(pattern, body, flags=re.M):
            if family in ways:
                raise ValueError(f"{family} is listed twice")
            ways[family] = way
    return ways


if __name__ == "__main__":
    write_table()
