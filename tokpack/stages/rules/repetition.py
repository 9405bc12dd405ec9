"""Answers that got stuck."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import polars as pl

from tokpack.arrays import UInt32
from tokpack.stages.rules.vectors import among

PROBE = 12
"""Characters of a probe: a piece of the text that is counted in all of it."""
PROBES = 4
MIN_PROBE_COUNT = 5
MIN_LINES = 20
WHOLE = 0.98
"""Lines of signs alone, over and over, are a drawing or an empty form unless the answer is nothing else."""
_DRAWN = re.compile(r"[\u2190-\u21ff\u2500-\u25ff]|\|.*\||^\W*$")
"""A line of a drawing, a flowchart or a table: arrows, box characters, cells, or signs alone."""


def repetition(
    min_chars: int = 100,
    min_repeats: int = 20,
    min_share: float = 0.5,
    min_stuck_share: float = 0.3,
    min_symbol_share: float = 0.8,
    min_line_share: float = 0.6,
) -> pl.Expr:
    """An answer that is mostly a loop: one unit (letters, words, lines) `min_repeats` times back to back.

    The loop has at least `min_chars` characters and `min_share` of the answer; `min_stuck_share` where the
    answer never leaves it; `min_symbol_share` where it has no letter (matrices, rules of dashes, forms).
    Or: of 20 lines and more, those said before hold `min_line_share` of the characters. Gopher (Rae et al.
    2021) drops at 0.2 of the characters in repeated lines; answers with code and sums need more room. Lines
    of drawings, flowcharts and tables count as no repetition.

    Reasoning, be it in a field or in a think block, and what is said behind it are judged each for itself.
    Works in every script, with spaces or without.

    A vector prefilter counts four pieces of each answer in it; Python looks at those few where one recurs.
    """
    limits = (min_chars, min_repeats, min_share, min_stuck_share, min_symbol_share)

    def is_stuck(text: str) -> bool:
        return has_loop(text, *limits) or repeated_lines(text, min_line_share) >= min_line_share

    def any_of(name: str, read: Callable[[str], str]) -> pl.Expr:
        """Whether one of the texts of a column is stuck."""

        def degenerate(texts: pl.Series) -> pl.Series:
            return pl.Series([bool(text) and is_stuck(read(text)) for text in texts], dtype=pl.Boolean)

        text = pl.element()
        places = [text.str.len_chars() * part // PROBES for part in range(1, PROBES)]
        pieces = [text.str.slice(place, PROBE) for place in places] + [text.str.slice(-2 * PROBE, PROBE)]
        often = pl.max_horizontal(text.str.count_matches(piece, literal=True) for piece in pieces)
        recurs = often >= MIN_PROBE_COUNT
        long = pl.col(name).list.eval(text.str.len_bytes() >= min_chars).list.any()
        checked = text.map_batches(degenerate, return_dtype=pl.Boolean, is_elementwise=True)
        suspect = among(long, pl.col(name).list.eval(recurs).list.any())
        return among(suspect, pl.col(name).list.eval(checked).list.any())

    return any_of("passages", str) | any_of("reasoning", _of_json)


def _of_json(field: str) -> str:
    """The text of a field as JSON writes it."""
    with suppress(ValueError):
        return str(json.loads(field[field.index(":") + 1 :]))
    return field


def has_loop(
    text: str,
    min_chars: int,
    min_repeats: int,
    min_share: float,
    min_stuck_share: float,
    min_symbol_share: float,
) -> bool:
    """Whether the text holds a loop that is too long for it; see `repetition`."""
    text = text.strip()
    if len(text) < min_chars:
        return False
    places = [max(0, min(len(text) * part // PROBES, len(text) - 2 * PROBE)) for part in range(1, PROBES + 1)]
    often = min(MIN_PROBE_COUNT, min_repeats)  # what recurs less is no loop
    places = [at for at in places if text.count(text[at : at + PROBE]) >= often]
    letters = np.frombuffer(text.encode("utf-32-le") if places else b"", dtype=np.uint32)
    for at in places:
        start, stop, period = loop_around(text, letters, at)
        if not period or stop - start < max(min_chars, min_repeats * period):
            continue
        unit, stuck = text[start : start + period], stop == len(text)
        if any(map(str.isalpha, unit)):
            enough = min_stuck_share if stuck else min_share
        elif "\n" in unit and not any(map(str.isdigit, unit)):
            enough = WHOLE
        else:
            enough = min_share if stuck and any(map(str.isdigit, unit)) else min_symbol_share
        if stop - start >= enough * len(text):
            return True
    return False


def loop_around(text: str, letters: UInt32, at: int) -> tuple[int, int, int]:
    """Start, stop and period of the periodic run through `at`; the period is 0 where nothing recurs.

    The period is the way to the next place where the probe at `at` stands again.
    """
    probe = text[at : at + PROBE]
    after, before = text.find(probe, at + 1), text.rfind(probe, 0, at + len(probe) - 1)
    period = after - at if after >= 0 else at - before
    if after < 0 and before < 0:
        return at, at, 0
    breaks = np.flatnonzero(letters[period:] != letters[:-period])
    anchor = at if after >= 0 else before
    place = int(np.searchsorted(breaks, anchor))
    start = int(breaks[place - 1]) + 1 if place else 0
    stop = int(breaks[place]) + period if place < len(breaks) else len(text)
    return start, stop, period


def repeated_lines(text: str, enough: float = 0.0) -> float:
    """Share of the characters in lines that stood in the text before; 0 for less than 20 lines, and where it
    cannot be `enough`.

    Lines of drawings and tables repeat each other by their nature: they are told apart only as characters.
    """
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    if len(lines) < MIN_LINES:
        return 0.0
    total = sum(map(len, lines))
    if _said_before(lines) < enough * total:  # drawings counted in
        return 0.0
    said = [line for line in lines if not _DRAWN.search(line)]
    return _said_before(said) / total if len(said) >= MIN_LINES else 0.0


def _said_before(lines: list[str]) -> int:
    """Characters of the lines that repeat another."""
    return sum(map(len, lines)) - sum(map(len, set(lines)))
