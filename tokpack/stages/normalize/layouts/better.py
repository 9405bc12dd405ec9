"""Which of two answers is the better one, from the columns that say so.

    better_response_id: 0 | 1        the answer whose column ends so
    winner: "model_a" | "tie"        the same in words
    overall_preference: -3 .. 3      below zero the first, above it the second
    score_0, score_1                 the higher
    winner_model_a, winner_model_b   the one that is 1

What says neither is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tokpack.frozen import frozen
from tokpack.stages.normalize.fields import Row, value_at

SUFFIXES = (("0", "1"), ("1", "2"), ("a", "b"), ("j", "k"))
ANSWERS = (
    "response",
    "answer",
    "completion",
    "output",
    "conversation",
    "human_ref",
    "generation",
    "reply",
    "candidate",
    "summary",
    "text",
)
SCORES = ("score", "rating", "reward", "preference_score", "winner_model")
WINNERS = (
    "better_response_id",
    "better_id",
    "better",
    "winner",
    "preferred_response",
    "preferred",
    "overall_preference",
    "preference_strength",
    "preference",
    "choice",
    "chosen_id",
    "safer_response_id",
)
SIGNED = ("overall_preference", "preference_strength")
"""Columns that are a scale whatever their first values are."""
Kind = Literal["name", "sign", "score", "first"]


@frozen
class Better:
    """`columns` of `kind`: one for `name` and `sign`, two for `score`, none for `first`, where the first is
    the better one by the set's own rule. `names`: what the sides are called, in lower case."""

    kind: Kind
    columns: tuple[str, ...]
    names: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    def side(self, row: Row) -> int | None:
        """0 or 1; None for a tie, and for a row that does not say."""
        if self.kind == "first":
            return 0
        values = [value_at(row, column) for column in self.columns]
        if self.kind == "name":
            said = _said(values[0])
            return next((side for side in (0, 1) if said in self.names[side]), None)
        numbers = [_number(value) for value in values]
        if any(number is None for number in numbers):
            return None
        first, second = (numbers[0], numbers[1]) if self.kind == "score" else (0.0, numbers[0])
        if first == second:
            return None
        if self.kind == "sign":
            return 0 if second < 0 else 1  # type: ignore[operator]
        return 0 if first > second else 1  # type: ignore[operator]

    @staticmethod
    def mapped(given: Mapping[str, str], columns: Mapping[str, str], rows: Sequence[Row]) -> Better | None:
        """Of the column that the user named for it."""
        if "better" not in given or not {"chosen", "rejected"} <= columns.keys():
            return None
        return of_column(given["better"], (columns["chosen"], columns["rejected"]), rows)


def of_column(column: str, sides: tuple[str, str], rows: Iterable[Row]) -> Better:
    """How a column tells two others apart: by their names, or by its sign where it has one."""
    values = [value for row in rows if (value := value_at(row, column)) is not None]
    names = names_of(*sides)
    numbers = [number for value in values if (number := _number(value)) is not None]
    if column.casefold() in SIGNED:
        return Better("sign", (column,), names)
    signed = len(numbers) == len(values) and (
        any(number < 0 for number in numbers)
        or (bool(numbers) and not any(_said(value) in names[0] | names[1] for value in values))
    )
    return Better("sign" if signed else "name", (column,), names)


def names_of(first: str, second: str) -> tuple[frozenset[str], frozenset[str]]:
    """What the sides may be called: the column, and its end; `response_a`: a, model_a, response_a."""
    ends = [re.search(r"([0-9]+|[A-Za-z])$", name) for name in (first, second)]
    sides = []
    for name, end in zip((first, second), ends, strict=True):
        called = {name.casefold()}
        if end and ends[0] and ends[1] and ends[0][1] != ends[1][1]:
            short = end[1].casefold()
            called |= {short, f"model_{short}", f"response_{short}", f"{short}.0"}
        sides.append(frozenset(called))
    return sides[0], sides[1]


def two_answers(present: Iterable[str]) -> tuple[str, str] | None:
    """Two columns that hold an answer each: `response_0` and `response_1`, `answer1` and `answer2`."""
    return next(_numbered(ANSWERS, present), None)


def find_better(first: str, second: str, present: Sequence[str], rows: Sequence[Row]) -> Better | None:
    """From the columns beside two answers."""
    folded = {column.casefold(): column for column in present}
    for name in WINNERS:
        if name in folded and any(value_at(row, folded[name]) is not None for row in rows):
            return of_column(folded[name], (first, second), rows)
    end = first[-1].casefold()
    for a, b in _numbered(SCORES, present):
        if a[-1].casefold() == end:
            return Better("score", (a, b))
    return Better("first", ()) if end == "j" else None


def _numbered(stems: Iterable[str], present: Iterable[str]) -> Any:
    folded = {column.casefold(): column for column in present}
    for stem in stems:
        for first, second in SUFFIXES:
            for between in ("_", ""):
                a, b = f"{stem}{between}{first}", f"{stem}{between}{second}"
                if a in folded and b in folded:
                    yield folded[a], folded[b]


def _said(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
