"""Exams: a question, its choices, and an answer that names one of them. They are refused with what writes the
choices into the prompt, since a letter alone is no answer to a question.

{"question": "Which swims?", "choices": ["A duck", "A stone"], "answer": 0}      also in objects
{"sentence": "_ swims.", "option1": "A duck", "option2": "A stone", "answer": "1"}    a column for each
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokpack.frozen import frozen
from tokpack.stages.normalize.fields import PROMPTS, Row, as_json, is_filled
from tokpack.stages.normalize.layouts.commands import ROWS, at, quoted
from tokpack.stages.normalize.layouts.layouts import Layout, Rows, first_value

CHOICES = ("choices", "options", "endings", "alternatives")
_OF_ONE = re.compile(
    r"(|op|opt|option|choice|ending|sol|answer|ans|alternative)[_ ]?([a-h]|[0-9])$", re.IGNORECASE
)
"""A column that holds one choice."""
_ANSWERS = (
    *("answer", "answerkey", "answer_key", "answer_idx", "answer_index", "correct", "label", "target"),
    *("output", "cop", "correct_option", "correct_answer", "correct_choice", "correct_index", "gold", "ans"),
)
_ASKED = (*PROMPTS, "question_stem", "stem", "ctx", "sentence", "goal", "premise")
_ABOUT = ("context", "passage", "article", "story", "background", "premise")
"""Columns of what a question is about."""
_LETTERS = "ABCDEFGH"
SHORT = 3
"""Characters of an answer that names a choice."""


@frozen
class _Choices:
    """`columns`: where they stand. `listed`: what makes jq lines of them; `labeled`: whether with the names
    that the answer uses."""

    columns: tuple[str, ...]
    listed: str
    labeled: bool = False

    def of(self, row: Row) -> list[str]:
        """The texts of one row; none where it has no two."""
        held = as_json(row.get(self.columns[0]))
        if len(self.columns) > 1:
            held = [value for column in self.columns if is_filled(value := row.get(column))]
        return _texts(held)


def find_exam(rows: Rows) -> Layout | None:
    """A question with choices beside it, and an answer that names one of them."""
    columns = {column.casefold(): column for row in rows for column in row}
    if "messages" in columns:
        return None
    answers = [columns[name] for name in _ANSWERS if name in columns]
    asked = next((columns[name] for name in _ASKED if name in columns), None)
    for choices in _found(columns.values(), rows) if asked else ():
        held = [(row, found) for row in rows if (found := choices.of(row))]
        for answer in answers:
            if answer in choices.columns or not any(is_filled(row.get(answer)) for row, _ in held):
                continue
            if not all(_names_choice(row.get(answer), found) for row, found in held):
                continue
            if not all(_says_all(row, found, {*choices.columns, answer}) for row, found in held):
                return _layout(str(asked), answer, choices, held, columns)
    return None


def _layout(
    asked: str,
    answer: str,
    choices: _Choices,
    held: Sequence[tuple[Row, list[str]]],
    columns: Mapping[str, str],
) -> Layout:
    about = [columns[name] for name in _ABOUT if name in columns and columns[name] != asked]
    about = [name for name in about if isinstance(first_value([row for row, _ in held], name), str)]
    values = [row[answer] for row, _ in held if is_filled(row.get(answer))]
    number = not choices.labeled and bool(values) and all(map(_is_number, values))
    said, counted = at(answer), ""
    if number:
        first = _first_number({int(value) for value in values}, max(len(found) for _, found in held))
        place = said if isinstance(values[0], int) else f"({said} | tonumber)"
        said = f'"{_LETTERS}"[{place}{" - 1" if first else ""}:{place}{"" if first else " + 1"}]'
        counted = f", {answer} being counted from {first}"
    prompt = ", ".join(map(at, (*about, asked)))
    made = f'{{prompt: ([{prompt}] + [{choices.listed}] | join("\\n")), completion: {said}}}'
    name = choices.columns[0] if len(choices.columns) == 1 else ", ".join(choices.columns)
    alone = any(value in found for (row, found) in held if isinstance(value := row.get(answer), str))
    left = f"; --map {quoted(f'prompt={asked},completion={answer}')} leaves them out" if alone else ""
    return Layout(
        name="a question and its choices",
        reason=f"{answer} names one of {name}, which no prompt holds",
        hint=f"{ROWS.format(made)} writes them into the prompt{counted}{left}",
    )


def _found(columns: Iterable[str], rows: Rows) -> Iterable[_Choices]:
    """Where choices may stand: in one column, or in one for each."""
    columns = list(columns)
    for column in columns:
        if column.casefold() in CHOICES:
            yield _Choices((column,), *_listed(column, as_json(first_value(rows, column))))
    stems: dict[str, list[str]] = {}
    for column in sorted(columns):
        if (match := _OF_ONE.match(column)) and isinstance(first_value(rows, column), str):
            stems.setdefault(match[1].casefold(), []).append(column)
    for stem, group in stems.items():
        if len(group) > (2 if stem in ("", "answer", "ans") else 1):
            values = ", ".join(map(at, group))
            yield _Choices(tuple(group), _LETTERED.format(f"[{values} | values] | to_entries[]"))


_LETTERED = f'{{}} | "\\("{_LETTERS}"[.key:.key + 1]). \\(.value)"'


def _listed(column: str, held: Any) -> tuple[str, bool]:
    """What makes jq write one line for each choice of a column, and whether they bring their own names."""
    name = at(column)
    if isinstance(held, Mapping) and "text" in held and isinstance(held.get("label"), list):
        return f'{name} | [.label, .text] | transpose[] | "\\(.[0]). \\(.[1])"', True
    if isinstance(held, Mapping) and "text" not in held:
        return f'{name} | to_entries[] | "\\(.key). \\(.value)"', True
    if isinstance(held, Mapping):
        return _LETTERED.format(f"{name}.text | to_entries[]"), False
    first = held[0] if isinstance(held, list) and held else None
    if isinstance(first, Mapping):
        label, text = _keys(first)
        return f'{name}[] | "\\(.{label}). \\(.{text})"', True
    if isinstance(first, str) and re.match(r"\(?[A-Ha-h][).:]", first):
        return f"{name}[]", True
    return _LETTERED.format(f"{name} | to_entries[]"), False


def _keys(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Under which keys one choice has its name and its text; empty where it has none."""
    label = next((key for key in ("label", "key", "id", "letter") if key in choice), "")
    return label, next((key for key in ("text", "value", "content", "option") if key in choice), "")


def _texts(held: Any) -> list[str]:
    if isinstance(held, Mapping):
        held = held.get("text", list(held.values()))
    if isinstance(held, list) and all(isinstance(one, Mapping) and all(_keys(one)) for one in held):
        held = [one[_keys(one)[1]] for one in held]
    texts = isinstance(held, list) and len(held) > 1 and all(isinstance(one, str) for one in held)
    return list(held) if texts else []


def _names_choice(answer: Any, choices: list[str]) -> bool:
    if isinstance(answer, str):
        return len(answer.strip()) <= SHORT or answer in choices
    return (isinstance(answer, int) and not isinstance(answer, bool)) or not is_filled(answer)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or str(value).strip().lstrip("-").isdigit()


def _first_number(seen: set[int], count: int) -> int:
    """Whether choices are counted from 0 or from 1."""
    return 1 if 0 not in seen and count in seen else 0


def _says_all(row: Row, choices: list[str], others: set[str]) -> bool:
    """Whether the texts of the row beside hold all choices."""
    said = "\n".join(value for name, value in row.items() if name not in others and isinstance(value, str))
    return all(choice in said for choice in choices)
