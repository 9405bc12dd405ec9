"""Find strings such as special tokens in a text: a tokenizer may have thousands of them.

They are looked up by size. A regular expression of so many takes a second to compile.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable


class SpecialStrings:
    """Some strings, empty ones left out. Of several at one place the longest counts."""

    def __init__(self, strings: Iterable[str]) -> None:
        by_size: dict[int, set[str]] = {}
        for string in strings:
            by_size.setdefault(len(string), set()).add(string)
        self._by_size = {
            size: frozenset(by_size[size]) for size in sorted(by_size.keys() - {0}, reverse=True)
        }
        firsts = sorted({string[0] for found in self._by_size.values() for string in found})
        self._first = re.compile(f"[{''.join(map(re.escape, firsts))}]" if firsts else "(?!)")

    def at(self, text: str, start: int = 0) -> str:
        """The one that begins there; empty when none does."""
        for size, strings in self._by_size.items():
            if (found := text[start : start + size]) in strings:
                return found
        return ""

    def before(self, text: str, start: int, end: int, among: Collection[str] | None = None) -> str:
        """The one that ends there and does not begin before `start`, one of `among` if given; else empty."""
        for size, strings in self._by_size.items():
            found = text[max(start, end - size) : end]
            if found in strings and (among is None or found in among):
                return found
        return ""

    def ends(self, text: str) -> list[int]:
        """Where they end in the text; none overlaps another."""
        found, place = list[int](), 0
        while begin := self._first.search(text, place):
            string = self.at(text, begin.start())
            place = begin.start() + max(1, len(string))
            if string:
                found.append(place)
        return found

    def closing(self, text: str, start: int, end: int) -> int:
        """Where what ends there in these strings and white space alone begins, not before `start`."""
        reached, waiting = {end}, [end]
        while waiting:
            place = waiting.pop()
            before = [place - 1] if place > start and text[place - 1].isspace() else []
            for size, strings in self._by_size.items():
                if start <= place - size and text[place - size : place] in strings:
                    before.append(place - size)
            waiting += set(before) - reached
            reached.update(before)
        return min(reached)
