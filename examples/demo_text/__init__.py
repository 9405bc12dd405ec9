"""Chat documents from word lists and small grammars: plausible to read, right where it can be checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from demo_text.code import python_function
from demo_text.draw import Draw, Scene, phrases
from demo_text.facts import classification, extraction, product_questions
from demo_text.languages import CODES, Language, foreign, load
from demo_text.letters import letter
from demo_text.problems import Turn, word_problem
from demo_text.recipes import recipe
from demo_text.reports import report, summary
from demo_text.tales import conversation, dialogue, story, tale
from demo_text.translation import translation
from demo_text.travel import travel
from demo_text.units import conversion
from demo_text.words import A_JOB, COUNTABLE, NAMES, PLACES, SHARED, TOWNS, brand, company, person

TASKS: dict[str, tuple[int, Callable[[Draw], list[Turn]]]] = {
    "word_problems": (12, word_problem),
    "unit_conversion": (6, conversion),
    "python": (10, python_function),
    "summaries": (9, summary),
    "letters": (7, letter),
    "extraction": (8, extraction),
    "product_faq": (6, product_questions),
    "classification": (7, classification),
    "recipes": (7, recipe),
    "travel": (6, travel),
    "stories": (6, story),
    "dialogues": (5, dialogue),
    "translation": (6, translation),
}
"""Source -> (weight, maker) of the English tasks; each other language weighs LANGUAGE_WEIGHT."""
LANGUAGE_WEIGHT = 3

SYSTEM = (
    "You are a helpful assistant.",
    "You are the assistant of {company}. Be brief and friendly.",
    "Use plain words. If a figure is needed, show how you got it.",
    "You work at {place} in {town} and help visitors with all kinds of questions.",
    "Your name is {brand}. You never guess: where something is unclear, you say so.",
    "You are a patient teacher. Your student is {name}, {8..70} years old.",
    "Keep answers below {400..3000/100} words. Use lists only where they help.",
    "You assist {name}, {a_job} in {town}, with daily work.",
    "The user works for {company} and is in a hurry. Leave out greetings and praise.",
    "You are an expert who explains things so that {a_job} understands them.",
)
LINKS = phrases(
    "Thanks. Something else:|Great. Next question.|Perfect, thank you.|One more thing, for {name}:|"
    "Good. And now this:|Thank you, {name} will be pleased.|That helps. Another task from {place}:|"
    "All right, moving on."
)


class Document(NamedTuple):
    messages: list[dict[str, str]]
    source: str
    language: str

    @property
    def has_system(self) -> bool:
        return self.messages[0]["role"] == "system"

    @property
    def turns(self) -> int:
        return sum(message["role"] == "assistant" for message in self.messages)


class Writer:
    """Makes documents, each from the one stream of chance it is given."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.languages: dict[str, Language] = {code: load(code) for code in CODES}
        self.deck = [name for name, (weight, _) in TASKS.items() for _ in range(weight)]
        self.deck += [code for code in CODES for _ in range(LANGUAGE_WEIGHT)]

    def document(self) -> Document:
        """A document of any kind and language."""
        kind = self.draw.pick(self.deck)
        return self.foreign(kind) if kind in self.languages else self.english(kind)

    def english(self, kind: str) -> Document:
        draw = self.draw
        turns = TASKS[kind][1](draw)
        while draw.chance(0.08):
            (question, answer), *more = TASKS[draw.pick(list(TASKS))][1](draw)
            link = Scene(draw, SHARED)(draw.pick(LINKS))
            turns = [*turns, (f"{link} {question}", answer), *more]
        system = None
        if draw.chance(0.2):
            scene = Scene(draw, SHARED, company=company(draw), brand=brand(draw))
            system = scene(draw.pick(SYSTEM))
        return Document(chat(turns, system), kind, "en")

    def foreign(self, code: str | None = None) -> Document:
        code = code or self.draw.pick(CODES)
        language = self.languages[code]
        system = self.draw.pick(language.system) if self.draw.chance(0.2) else None
        return Document(chat(foreign(self.draw, language), system), f"chat_{code}", code)

    def very_long(self) -> Document:
        """A chronicle, a novel or a transcript of 7,000 to 18,000 words: 8,000 to 30,000 tokens."""
        draw = self.draw
        words = draw.integer(7000, 18000)
        kind = draw.pick(["report", "novel", "transcript"])
        blocks: list[str] = []
        shorts: list[str] = []
        hero, job = draw.pick(NAMES), draw.pick(A_JOB)
        while words > 0:
            number = len(blocks) + 1
            if kind == "report":
                block, found = report(draw, draw.integer(8, 20))
                shorts += found
                block = f"{number}. {block}"
            elif kind == "novel":
                block = (
                    f"Chapter {number}: {draw.pick(TOWNS)}\n\n{tale(draw, draw.integer(25, 60), hero, job)}"
                )
            else:
                _, _, talk = conversation(draw, draw.integer(20, 60))
                title = f"Tape {number}, {draw.pick(PLACES)} in {draw.pick(TOWNS)}, kept by {person(draw)}"
                block = f"{title}\n\n{talk}"
            words -= len(block.split())
            blocks.append(block)
        text = "\n\n".join(blocks)
        if kind == "report":
            points = "\n".join(f"- {short}" for short in draw.sample(shorts, 12))
            turn = (f"Pick out twelve findings from these {len(blocks)} reports.\n\n{text}", points)
        elif kind == "novel":
            turn = (
                f"Write a novel about {hero} and {draw.pick(COUNTABLE)}, in {len(blocks)} chapters.",
                text,
            )
        else:
            turn = (
                f"How many tapes are in this transcript of {hero}'s archive?\n\n{text}",
                f"{len(blocks)} tapes.",
            )
        return Document(chat([turn], None), f"long_{kind}", "en")


def chat(turns: list[Turn], system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
