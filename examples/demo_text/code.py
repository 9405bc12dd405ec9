"""Small Python functions with an explanation; the doctest in every answer holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from demo_text.draw import Draw, capital, phrases
from demo_text.problems import Turn
from demo_text.words import COLOURS, COUNTABLE, JOBS, NAMES, PLACES, TOWNS, series


class Table(NamedTuple):
    """A kind of record: what one is called, its text fields with their values, its number fields."""

    singular: str
    plural: str
    texts: dict[str, list[str]]
    numbers: dict[str, tuple[int, int]]


TABLES = (
    Table("order", "orders", {"customer": NAMES, "town": TOWNS}, {"total": (5, 900), "items": (1, 40)}),
    Table("book", "books", {"author": NAMES, "shelf": COLOURS}, {"pages": (60, 900), "year": (1950, 2025)}),
    Table("player", "players", {"name": NAMES, "team": COLOURS}, {"points": (0, 99), "fouls": (0, 6)}),
    Table("reading", "readings", {"sensor": COLOURS, "site": TOWNS}, {"value": (-20, 60), "minute": (0, 59)}),
    Table("ticket", "tickets", {"owner": NAMES, "queue": COLOURS}, {"age_days": (0, 90), "replies": (0, 15)}),
    Table("parcel", "parcels", {"sender": NAMES, "depot": TOWNS}, {"grams": (80, 9000), "stops": (1, 9)}),
    Table("worker", "workers", {"name": NAMES, "trade": JOBS}, {"hours": (4, 60), "wage": (12, 48)}),
    Table(
        "product", "products", {"label": COUNTABLE, "colour": COLOURS}, {"stock": (0, 400), "price": (1, 250)}
    ),
)
COMPARE: dict[str, tuple[str, Callable[[int, int], bool]]] = {
    ">=": ("at least", lambda value, bound: value >= bound),
    "<=": ("at most", lambda value, bound: value <= bound),
    ">": ("more than", lambda value, bound: value > bound),
    "<": ("less than", lambda value, bound: value < bound),
}
OPENINGS = phrases(
    "Here is a version without imports:|This does it in one pass:|A short function is enough:|"
    "You can write:|One way to do it:|I would write it like this:|The standard library is not even needed:"
)
CLOSINGS = phrases(
    "An empty list gives {empty}.|With no {plural} the result is {empty}.|"
    "It runs in time proportional to the number of {plural}, and {empty} comes back when there are none.|"
    "The input list is not changed; for an empty one you get {empty}."
)


def record_function(draw: Draw) -> Turn:
    """Filter records by a number, then sum, count, list, group or find the best."""
    table = draw.pick(TABLES)
    text, number = draw.pick(list(table.texts)), draw.pick(list(table.numbers))
    tested = draw.pick(list(table.numbers))
    sign = draw.pick(list(COMPARE))
    words, holds = COMPARE[sign]
    low, high = table.numbers[tested]
    bound = draw.integer(low + (high - low) // 5, high - (high - low) // 5)
    rows = [record(draw, table) for _ in range(draw.integer(2, 4))]
    chosen = [row for row in rows if holds(row[tested], bound)]
    one, many = table.singular, table.plural
    condition = f'{one}["{tested}"] {sign} {bound}'
    where = f"whose {tested} is {words} {bound}"
    goal, name, body, result, empty = draw.pick([total, names, count, groups, best])(
        one, many, text, number, condition, where, chosen
    )
    place = draw.pick(PLACES)
    question = draw.pick(
        [
            f"Write a Python function that takes a list of {many} (dictionaries with "
            f"{keys(table)}) and {goal}.",
            f"I have {many} from {place} as dictionaries with the keys {keys(table)}. I need a function "
            f"that {goal}.",
            f"Python: given `{many}`, a list of dicts ({keys(table)}), how do I "
            f"write a function which {goal}?",
        ]
    )
    example = ",\n...     ".join(repr(row) for row in rows)
    code = (
        f'def {name}({many}):\n    """{capital(goal)}.\n\n    >>> {name}([\n    ...     '
        + example.replace("\n", "\n    ")
        + f'\n    ... ])\n    {result!r}\n    """\n{body}'
    )
    reason = draw.pick(
        [
            f"The test `{condition}` keeps the {many} {where}; {len(chosen)} of the {len(rows)} in the "
            "example pass.",
            f"In the example {len(chosen)} of {len(rows)} {many} pass `{condition}`, hence `{result!r}`.",
            f"`{condition}` decides which {many} count: {len(chosen)} here, so the doctest shows "
            f"`{result!r}`.",
        ]
    )
    closing = draw.pick(CLOSINGS).format(plural=many, empty=f"`{empty}`")
    return question, f"{draw.pick(OPENINGS)}\n\n```python\n{code}\n```\n\n{reason} {closing}"


def record(draw: Draw, table: Table) -> dict[str, Any]:
    row: dict[str, Any] = {field: draw.pick(values) for field, values in table.texts.items()}
    row.update((field, draw.integer(*span)) for field, span in table.numbers.items())
    return row


def keys(table: Table) -> str:
    return ", ".join(f"`{field}`" for field in (*table.texts, *table.numbers))


Aggregate = tuple[str, str, str, Any, str]
"""What the function does, its name, its body, its result on the example, its result on nothing."""


def total(one: str, many: str, text: str, number: str, test: str, where: str, chosen: list[Any]) -> Aggregate:
    body = f'    return sum({one}["{number}"] for {one} in {many} if {test})'
    goal = f"adds up the {number} of the {many} {where}"
    return goal, f"total_{number}", body, sum(row[number] for row in chosen), "0"


def names(one: str, many: str, text: str, number: str, test: str, where: str, chosen: list[Any]) -> Aggregate:
    body = f'    return sorted({{{one}["{text}"] for {one} in {many} if {test}}})'
    goal = f"returns the sorted {text} values, each once, of the {many} {where}"
    return goal, f"{text}_list", body, sorted({row[text] for row in chosen}), "[]"


def count(one: str, many: str, text: str, number: str, test: str, where: str, chosen: list[Any]) -> Aggregate:
    body = f"    return sum(1 for {one} in {many} if {test})"
    return f"counts the {many} {where}", f"count_{many}", body, len(chosen), "0"


def groups(
    one: str, many: str, text: str, number: str, test: str, where: str, chosen: list[Any]
) -> Aggregate:
    body = (
        f"    sums = {{}}\n    for {one} in {many}:\n        if {test}:\n"
        f'            key = {one}["{text}"]\n            sums[key] = sums.get(key, 0) + {one}["{number}"]\n'
        "    return sums"
    )
    sums: dict[str, int] = {}
    for row in chosen:
        sums[row[text]] = sums.get(row[text], 0) + row[number]
    return f"sums the {number} per {text} over the {many} {where}", f"{number}_per_{text}", body, sums, "{}"


def best(one: str, many: str, text: str, number: str, test: str, where: str, chosen: list[Any]) -> Aggregate:
    body = (
        f"    kept = [{one} for {one} in {many} if {test}]\n    if not kept:\n        return ''\n"
        f'    return max(kept, key=lambda {one}: {one}["{number}"])["{text}"]'
    )
    found = max(chosen, key=lambda row: row[number])[text] if chosen else ""
    goal = f"finds the {text} of the one with the largest {number} among the {many} {where}"
    return goal, f"{text}_with_most_{number}", body, found, "''"


def text_function(draw: Draw) -> Turn:
    """One function over a string or a number, with a constant of its own."""
    size, letter = draw.integer(2, 25), draw.pick("aeinorst")
    sentence = f"{draw.pick(NAMES)} sold {draw.integer(2, 99)} {draw.pick(COUNTABLE)} in {draw.pick(TOWNS)}"
    number = draw.integer(100, 99999)
    base = draw.integer(2, 9)
    digits, rest = [], number
    while rest:
        digits.append(rest % base)
        rest //= base
    shifted = "".join(chr((ord(c) - 97 + size) % 26 + 97) if "a" <= c <= "z" else c for c in sentence.lower())
    values = [draw.integer(-50, 50) for _ in range(draw.integer(4, 7))]
    window = draw.integer(2, 3)
    choices: list[tuple[str, str, str, str, Any, str]] = [
        (
            f"keeps only the words of a text that have at least {size % 6 + 2} letters",
            "long_words",
            "text",
            f"    return ' '.join(word for word in text.split() if len(word) >= {size % 6 + 2})",
            " ".join(word for word in sentence.split() if len(word) >= size % 6 + 2),
            "`split()` without an argument also swallows repeated spaces and line breaks",
        ),
        (
            f"counts how often the letter {letter!r} occurs in a text, capital or not",
            f"count_{letter}",
            "text",
            f"    return text.lower().count('{letter}')",
            sentence.lower().count(letter),
            "lowering the text first makes the capital letters count too",
        ),
        (
            f"moves every small letter {size} places on in the alphabet and starts again at a after z",
            f"shift_{size}",
            "text",
            "    moved = []\n    for c in text.lower():\n        if 'a' <= c <= 'z':\n"
            f"            c = chr((ord(c) - 97 + {size}) % 26 + 97)\n        moved.append(c)\n"
            "    return ''.join(moved)",
            shifted,
            "`% 26` wraps round the alphabet; anything but a letter stays as it is",
        ),
        (
            f"cuts a text after {size + 5} characters and puts three dots where something was cut off",
            "shorten",
            "text",
            f"    if len(text) <= {size + 5}:\n        return text\n    return text[:{size + 5}] + '...'",
            sentence if len(sentence) <= size + 5 else sentence[: size + 5] + "...",
            "short texts come back unchanged, so calling it twice on them does no harm",
        ),
        (
            f"returns the sum of the digits of a positive whole number written in base {base}",
            f"digit_sum_base_{base}",
            "number",
            f"    total = 0\n    while number:\n        number, digit = divmod(number, {base})\n"
            "        total += digit\n    return total",
            sum(digits),
            f"the digits of {number} in base {base} are "
            f"{series([str(digit) for digit in reversed(digits)])}; "
            f"`divmod` gives the rest of the number and its last digit in base {base} at once",
        ),
        (
            f"gives the sums of every {window} neighbours in a list of numbers",
            f"sums_of_{window}",
            "numbers",
            f"    return [sum(numbers[i:i + {window}]) for i in range(len(numbers) - {window - 1})]",
            [sum(values[i : i + window]) for i in range(len(values) - window + 1)],
            f"the last window starts {window} places before the end, hence the `- {window - 1}`",
        ),
        (
            f"limits every number of a list to the range from {-size} to {size}",
            f"clamp_{size}",
            "numbers",
            f"    return [max({-size}, min({size}, number)) for number in numbers]",
            [max(-size, min(size, value)) for value in values],
            "the inner `min` sets the upper limit, the outer `max` the lower one",
        ),
        (
            f"rounds a positive whole number down to a multiple of {size}",
            f"down_to_{size}",
            "number",
            f"    return number - number % {size}",
            number - number % size,
            "taking away the remainder leaves the largest multiple that is not above the number",
        ),
    ]
    goal, name, argument, body, result, why = draw.pick(choices)
    given: object = {"text": sentence, "number": number, "numbers": values}[argument]
    question = draw.pick(
        [
            f"Write a Python function that {goal}.",
            f"For {draw.pick(PLACES)} in {draw.pick(TOWNS)} I need a Python function "
            f"that {goal}. Add a doctest.",
            f"How would you write a function in Python which {goal}? An example with {given!r} would help.",
            f"{draw.pick(NAMES)} needs `{name}({argument})`: it {goal}. Please explain the code as well.",
        ]
    )
    code = (
        f'def {name}({argument}):\n    """{capital(goal)}.\n\n'
        f'    >>> {name}({given!r})\n    {result!r}\n    """\n{body}'
    )
    closing = draw.pick(
        [
            f"For {given!r} the result is {result!r}.",
            f"The doctest covers {given!r}; run it with `python -m doctest file.py`.",
            f"So `{name}({given!r})` is `{result!r}`.",
        ]
    )
    return question, f"{draw.pick(OPENINGS)}\n\n```python\n{code}\n```\n\nNote that {why}. {closing}"


def python_function(draw: Draw) -> list[Turn]:
    return [record_function(draw) if draw.chance(0.65) else text_function(draw)]
