"""The two ways of rendering held against each other: shapes that are compiled, and Jinja row by row.

Whatever a run renders is rendered once more on each: every shape compiled at its first chat, none proved
and so none left to Jinja; and no shape compiled at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

from tokpack.stages.render.render import Rendered, Renderer, render

PACKAGE = "tokpack.stages.render"


@dataclass
class Ways:
    """What was rendered on both ways."""

    rows: int = 0
    compiled: int = 0
    differences: list[str] = field(default_factory=list)

    def add(self, other: Ways, where: str) -> None:
        self.rows += other.rows
        self.compiled += other.compiled
        self.differences += [f"{where}: {told}" for told in other.differences]


def by_compiler(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """Every shape is compiled, and taken at its word."""
    with (
        patch(f"{PACKAGE}.compiled.template_compiler._ALONE", 0),
        patch(f"{PACKAGE}.render._rows_to_prove", lambda plan, renderer: np.array([], np.int64)),
        patch(f"{PACKAGE}.render._is_proven", lambda refused, row, renderer: True),
    ):
        return render(documents, renderer)


def by_jinja(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
    """No shape is compiled."""
    with (
        patch(f"{PACKAGE}.compiled.template_compiler.MOST_MESSAGES", 0),
        patch(f"{PACKAGE}.compiled.shape_plan.MOST_MESSAGES", 0),
    ):
        return render(documents, renderer)


@contextmanager
def both_ways() -> Iterator[Ways]:
    """All that is rendered here is compared."""
    ways = Ways()

    def compared(documents: pl.DataFrame, renderer: Renderer) -> Rendered:
        one, other = (Renderer(renderer.tokenizer, renderer.options) for _ in range(2))
        fast, slow = by_compiler(documents, one), by_jinja(documents, other)
        ways.rows += len(documents)
        ways.compiled += fast.counters["compiled"]
        ways.differences += differences(documents, fast, slow)
        if fast.told != slow.told:
            ways.differences += [
                told for row in range(len(documents)) for told in _told(documents[row], one, other)
            ]
        return slow

    with patch("tokpack.way.documents.render", compared):
        yield ways


def differences(documents: pl.DataFrame, fast: Rendered, slow: Rendered) -> list[str]:
    """Rows that are not the same, and counters."""
    found = []
    for row in range(len(documents)):
        one, other = shown(fast, row), shown(slow, row)
        found += [
            f"{name} of {_held(documents, row)}: compiled {one[name]!r}, by Jinja {other[name]!r}; "
            f"{one['text']!r}"
            for name in one
            if one[name] != other[name]
        ]
    return found


def _told(document: pl.DataFrame, one: Renderer, other: Renderer) -> list[str]:
    """A document of which other things are counted."""
    fast, slow = by_compiler(document, one), by_jinja(document, other)
    same = fast.told == slow.told
    return [] if same else [f"counters of {_held(document, 0)}: compiled {fast.told}, by Jinja {slow.told}"]


def _held(documents: pl.DataFrame, row: int) -> str:
    return f"{documents['contents'][row].to_list()} {documents['extra'][row]}"


def shown(rendered: Rendered, row: int) -> dict[str, Any]:
    """All that is known of a row."""

    def inside(spans: Any) -> Any:
        return sorted(span for span in spans.of_row(row) if span[0] < span[1]) if spans is not None else []

    return {
        "text": rendered.text[row].as_py(),
        "error": rendered.errors.get(row),
        "trained": inside(rendered.trained),
        "content": inside(rendered.content),
        "segments": inside(rendered.segments),
        "weights": inside(rendered.weights),
    }
