"""Chat documents in seven languages besides English; each language is a grammar of its own."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from demo_text.draw import Draw, Grammar, Scene, capital
from demo_text.problems import Turn


class Task(NamedTuple):
    """A question, and an answer of `start`, some texts of the slot `bank`, and `end`."""

    ask: str
    start: str
    bank: str
    low: int
    high: int
    end: str


class Language(NamedTuple):
    grammar: Grammar
    tasks: tuple[Task, ...]
    thanks: tuple[str, ...]
    """How a second question in a conversation begins."""
    system: tuple[str, ...]
    space: str
    """What stands between two sentences."""


CODES = ("de", "fr", "es", "zh", "ru", "ar", "ja")


def load(code: str) -> Language:
    module = import_module(f"demo_text.languages.{code}")
    return Language(module.GRAMMAR, module.TASKS, module.THANKS, module.SYSTEM, module.SPACE)


def answer_in(language: Language, draw: Draw) -> Turn:
    """One question and answer. `{a}` to `{rest}` are numbers with ab = a × b and rest = ab - c."""
    task = draw.pick(language.tasks)
    a, b, c = draw.integer(12, 95), draw.integer(3, 19), draw.integer(11, 34)
    scene = Scene(draw, language.grammar, a=a, b=b, c=c, ab=a * b, rest=a * b - c)
    ask = scene(task.ask)
    start = scene(task.start)
    if task.bank == "step":  # the steps of a recipe keep their order
        body, between = [scene(step) for step in language.grammar["step"]], "\n"
    else:
        body, between = scene.lines(task.bank, draw.integer(task.low, task.high)), language.space
    texts = [start, *body, scene(task.end)]
    answer = between.join(capital(text) for text in texts if text)
    return capital(ask), answer.replace(" \n", "\n")


def foreign(draw: Draw, language: Language) -> list[Turn]:
    turns = [answer_in(language, draw)]
    while len(turns) < 3 and draw.chance(0.2):
        ask, answer = answer_in(language, draw)
        turns.append((f"{draw.pick(language.thanks)}{language.space}{ask}", answer))
    return turns
