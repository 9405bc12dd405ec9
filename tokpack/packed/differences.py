"""Two texts side by side: what is only in one of them, in words."""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

Spans = list[tuple[int, int]]
WORDS = re.compile(r"\w+|[^\w\s]|\s+")
MOST_WORDS = 3000
"""Words between the common beginning and end that are compared one by one; more are marked as a whole."""


def differences(a: str, b: str) -> tuple[Spans, Spans]:
    """Places in `a` that are not in `b`, and in `b` that are not in `a`.

    >>> differences("a red fox", "a gray fox")
    ([(2, 5)], [(2, 6)])
    """
    left, right = (list(WORDS.finditer(text)) for text in (a, b))
    words = [[match[0] for match in side] for side in (left, right)]
    first = 0
    while first < min(map(len, words)) and words[0][first] == words[1][first]:
        first += 1
    last = 0
    while last < min(map(len, words)) - first and words[0][-1 - last] == words[1][-1 - last]:
        last += 1
    inner = [side[first : len(side) - last] for side in words]
    if max(map(len, inner)) > MOST_WORDS or not all(inner):
        changes = [(0, len(inner[0]), 0, len(inner[1]))]
    else:
        matcher = SequenceMatcher(None, inner[0], inner[1], autojunk=False)
        changes = [(i, j, k, m) for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal"]
    spans: tuple[Spans, Spans] = [], []
    for i, j, k, m in changes:
        for side, matches, start, end in ((spans[0], left, i, j), (spans[1], right, k, m)):
            if end > start:
                side.append((matches[first + start].start(), matches[first + end - 1].end()))
    return spans


def same_answer(a: list[tuple[str, str | None]], b: list[tuple[str, str | None]]) -> bool:
    """Whether two conversations give the same answers: Unicode NFC, outer white space aside."""
    return _answers(a) == _answers(b)


def _answers(messages: list[tuple[str, str | None]]) -> list[str]:
    return [
        unicodedata.normalize("NFC", (text or "").strip())
        for role, text in messages
        if role in ("assistant", "text")
    ]
