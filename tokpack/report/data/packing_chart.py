"""A picture of packing: a few real rows as blocks of documents, the same documents padded beside them.

Drawn by hand, not by a chart library: rectangles on one scale, so that areas can be compared by eye.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

from tokpack.frozen import frozen
from tokpack.report.charts import ACCENT, NARROW, PAD, SOFT, WIDE, Chart
from tokpack.report.values import Figures, PackedPiece
from tokpack.report.words import share
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

HEIGHT, GAP, BATCH_GAP, BESIDE, TITLE = 11, 3, 9, 36, 24
"""Pixels: of a row, between rows, between batches, between the two halves, of a half's title."""
SHOWN = 48
"""Documents of one row that are drawn."""


@frozen
class Packing:
    """Rows of documents, and the same documents in padded batches."""

    rows: list[list[PackedPiece]]
    batches: list[list[PackedPiece]]
    capacity: int

    @staticmethod
    def of(figures: Figures) -> Packing | None:
        """None where the report has no rows to show."""
        rows = [
            [replace(piece, place=one_line(piece.place, 60)) for piece in row[:SHOWN]]
            for row in figures.packing or []
        ]
        if not rows:
            return None
        documents, size = [block for row in rows for block in row], figures.batch_size
        Random(0).shuffle(documents)  # as a trainer would draw them
        batches = [documents[i : i + size] for i in range(0, len(documents), size)]
        return Packing(rows, batches, figures.capacity)

    @property
    def tokens(self) -> int:
        return sum(block.tokens for row in self.rows for block in row)

    @property
    def padded_slots(self) -> int:
        return sum(len(batch) * max(block.tokens for block in batch) for batch in self.batches)

    @property
    def words(self) -> tuple[str, str]:
        """What the two halves are."""
        slots = len(self.rows) * self.capacity
        documents = sum(map(len, self.rows))
        return (
            f"packed: {counted(len(self.rows), 'row')}, {counted(slots, 'slot')}, "
            f"{share(self.tokens, slots)} full",
            f"padded: {counted(documents, 'document')}, {counted(self.padded_slots, 'slot')}, "
            f"{share(self.tokens, self.padded_slots)} full",
        )


def packing_chart(packing: Packing) -> Chart:
    """Both halves side by side, on a phone one above the other."""
    half = (WIDE - BESIDE) // 2
    title = "Packed rows as blocks of documents, and the same documents padded"
    wide, narrow = (_svg(width, title) for width in (WIDE, NARROW))
    heights = _packed(wide, packing, 0, 0, half), _padded(wide, packing, half + BESIDE, 0, half)
    top = _packed(narrow, packing, 0, 0, NARROW)
    bottom = _padded(narrow, packing, 0, top + 2 * BATCH_GAP, NARROW)
    return Chart(_text(wide, WIDE, max(heights)), _text(narrow, NARROW, bottom))


def _packed(svg: ElementTree.Element, packing: Packing, left: int, top: int, width: int) -> int:
    _words(svg, packing.words[0], left, top)
    y = top + TITLE
    for row in packing.rows:
        ends = [0]
        for block in row:
            ends.append(ends[-1] + block.tokens)
        _rect(svg, packing, left, y, width, (ends[-1], packing.capacity), SOFT, "free slots")
        for block, span in zip(row, pairwise(ends), strict=True):
            _rect(
                svg, packing, left, y, width, span, ACCENT, f"{block.place}: {counted(block.tokens, 'token')}"
            )
        y += HEIGHT + GAP
    return y


def _padded(svg: ElementTree.Element, packing: Packing, left: int, top: int, width: int) -> int:
    _words(svg, packing.words[1], left, top)
    y = top + TITLE
    for batch in packing.batches:
        longest = max(block.tokens for block in batch)
        for block in batch:
            about = f"{block.place}: {counted(block.tokens, 'token')}"
            _rect(svg, packing, left, y, width, (0, block.tokens), ACCENT, about)
            padding = f"{counted(longest - block.tokens, 'slot')} of padding"
            _rect(svg, packing, left, y, width, (block.tokens, longest), PAD, padding)
            y += HEIGHT + GAP
        y += BATCH_GAP - GAP
    return y


def _rect(
    svg: ElementTree.Element,
    packing: Packing,
    left: int,
    top: int,
    width: int,
    span: tuple[int, int],
    color: str,
    about: str,
) -> None:
    """A stretch of slots; documents are told apart by a hair of paper."""
    start, end = (left + width * slot / packing.capacity for slot in span)
    if span[1] <= span[0]:
        return
    hair = min(1.0, (end - start) / 3) if color == ACCENT else 0.0
    box = {
        "x": f"{start:.1f}",
        "y": str(top),
        "width": f"{max(0.5, end - start - hair):.1f}",
        "height": str(HEIGHT),
    }
    rect = ElementTree.SubElement(svg, "rect", box | {"fill": color})
    ElementTree.SubElement(rect, "title").text = about


def _words(svg: ElementTree.Element, words: str, left: int, top: int) -> None:
    place = {"x": str(left), "y": str(top + 13), "fill": "var(--ink)", "font-size": "13px"}
    ElementTree.SubElement(svg, "text", place).text = words


def _svg(width: int, title: str) -> ElementTree.Element:
    return ElementTree.Element("svg", {"width": str(width), "role": "img", "aria-label": title})


def _text(svg: ElementTree.Element, width: int, height: int) -> str:
    svg.attrib |= {"viewBox": f"0 0 {width} {height}", "height": str(height)}
    return ElementTree.tostring(svg, encoding="unicode")
