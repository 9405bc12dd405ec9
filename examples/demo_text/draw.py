"""Chance and templates: everything the demo set is made of comes through these two classes."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

T = TypeVar("T")

Grammar = Mapping[str, Sequence[str]]
"""Slot name -> the texts it may become; these are templates themselves."""


class Draw:
    """Seeded choices made from `Random.random()` alone, the one sequence Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._uniform = random.Random(seed).random

    def integer(self, low: int, high: int) -> int:
        """Uniform in [low, high]."""
        return low + int(self._uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._uniform() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different places of `items`, in random order."""
        deck = list(items)
        return [self.take(deck) for _ in range(count)]

    def take(self, deck: list[T]) -> T:
        """Remove and return one item of `deck`."""
        place = int(self._uniform() * len(deck))
        deck[place], deck[-1] = deck[-1], deck[place]
        return deck.pop()

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.sample(items, len(items))


SLOT = re.compile(r"\{(\w+\+?|\d+\.\.\d+(?:/\d+)?)\}|\[([^\]\[]*\|[^\]\[]*)\]")

RANGE = re.compile(r"\d+")


@cache
def parts(template: str) -> tuple[tuple[str, str], ...]:
    """The template cut into ("text" | "slot" | "fresh" | "range" | "choice", its content)."""
    cut: list[tuple[str, str]] = []
    end = 0
    for match in SLOT.finditer(template):
        if match.start() > end:
            cut.append(("text", template[end : match.start()]))
        end = match.end()
        slot, choice = match.groups()
        if choice is not None:
            cut.append(("choice", choice))
        elif ".." in slot:
            cut.append(("range", slot))
        elif slot.endswith("+"):
            cut.append(("fresh", slot[:-1]))
        else:
            cut.append(("slot", slot))
    if end < len(template):
        cut.append(("text", template[end:]))
    return tuple(cut)


class Scene:
    """Fills templates for one document.

    `{city}` is drawn once and stays; `{city+}` is another one each time (no repeat before all were used);
    `{5..20}` is a number, `{50..900/10}` one of 50, 60, ... 900; `[a|b]` is one of the
    texts. Example: "{name} paid {5..9} coins [today|at noon]."
    """

    def __init__(self, draw: Draw, grammar: Grammar, **fixed: object) -> None:
        self.draw, self.grammar = draw, grammar
        self.fixed: dict[str, str] = {name: str(value) for name, value in fixed.items()}
        self._decks: dict[str, list[str]] = {}

    def set(self, **fixed: object) -> None:
        self.fixed.update((name, str(value)) for name, value in fixed.items())

    def __call__(self, template: str) -> str:
        return "".join(self._fill(kind, content) for kind, content in parts(template))

    def _fill(self, kind: str, content: str) -> str:
        if kind == "text":
            return content
        if kind == "choice":
            return self.draw.pick(content.split("|"))
        if kind == "range":
            low, high, step = map(int, RANGE.findall(f"{content}/1")[:3])
            return str(step * self.draw.integer(low // step, high // step))
        if kind == "fresh":
            return self.fresh(content)
        if content not in self.fixed:
            self.fixed[content] = self.fresh(content)
        return self.fixed[content]

    def fresh(self, slot: str) -> str:
        deck = self._decks.get(slot)
        if not deck:
            deck = self._decks[slot] = list(self.grammar[slot])
        return self(self.draw.take(deck))

    def lines(self, slot: str, count: int) -> list[str]:
        return [self.fresh(slot) for _ in range(count)]


def words(text: str) -> list[str]:
    """The words of a list written as one text."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a list written as one text, with bars between them."""
    return text.split("|")


def capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
