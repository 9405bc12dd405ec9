"""Answers that are no texts of their own: in an object, alone in a list, or several in one column.

"chosen": {"text": "Three."}, ["Three."], [{"content": "Three."}]    one answer, which is read
"rejected": ["No.", "Go."], "responses": [...] and "best": 1    refused, with what writes a row for each
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.chats.roles import role_name
from tokpack.stages.normalize.fields import PROMPTS, as_json, is_filled
from tokpack.stages.normalize.layouts.commands import ROWS
from tokpack.stages.normalize.layouts.layouts import Layout, Rows, first_value

SIDES = ("chosen", "rejected")
KEYS = ("text", "content", "value", "answer", "response", "completion", "output", "generation", "message")
"""Keys under which an object has the text of an answer."""
SEVERAL = ("responses", "answers", "completions", "outputs", "generations", "candidates", "summaries")
BEST = (
    *("chosen", "chosen_index", "chosen_idx", "best", "best_index", "best_idx", "best_answer"),
    *("best_response", "choice", "preferred", "preferred_index", "selected", "selected_index", "winner"),
)
WORST = ("rejected", "rejected_index", "rejected_idx", "worst", "worst_index", "worst_idx")
ASKED = (*PROMPTS, "info.post", "info.article", "post", "document", "article")
_BARE = ({"role", "content"}, {"from", "value"})


def lone_text(value: Any) -> Any:
    """The text of an object that holds one, or of a list of one; other values as they are."""
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(alone, Mapping):
        key = _text_key(alone)
        return alone[key] if key else value
    return alone if isinstance(alone, str) and not isinstance(as_json(alone), Mapping) else value


def _text_key(answer: Mapping[str, Any]) -> str:
    """Where the only text of an object stands that is no message; empty where that is not known."""
    if is_filled(answer.get("role")) or is_filled(answer.get("from")):
        return ""
    found = [key for key in KEYS if isinstance(answer.get(key), str)]
    return found[0] if len(found) == 1 else ""


def are_several(value: Any) -> bool:
    """Whether a list holds more than one answer: texts, objects with one, chats, or bare messages of the
    assistant alone."""
    value = as_json(value)
    if not isinstance(value, list) or len(value) < 2:
        return False
    items = [as_json(item) for item in value]
    chats = all(isinstance(item, list) and item and isinstance(item[0], Mapping) for item in items)
    return chats or all(isinstance(lone_text(item), str) or _is_bare_answer(item) for item in items)


def _is_bare_answer(item: Any) -> bool:
    if not isinstance(item, Mapping) or item.keys() not in _BARE:
        return False
    role = item.get("role", item.get("from"))
    return isinstance(role, str) and role_name(role) == "assistant"


def find_answer_lists(rows: Rows) -> Layout | None:
    """The layout of rows of several answers that are no pair as they stand; None for all others."""
    return _on_sides(rows) or _by_number(rows)


def _on_sides(rows: Rows) -> Layout | None:
    lists = [side for side in SIDES if any(are_several(row.get(side)) for row in rows)]
    if not lists or any(first_value(rows, side) is None for side in SIDES):
        return None
    each = " | ".join(
        [*(f".{side}[] as ${side}" for side in lists), *(f".{side} = ${side}" for side in lists)]
    )
    return Layout(
        name="several answers on a side",
        reason=f"{' and '.join(lists)} may hold several answers to one prompt",
        hint=f"{ROWS.format(each)} writes a pair for each; "
        f"--map {','.join(f'{side}={side}.0' for side in lists)} takes the first of each list",
    )


def _by_number(rows: Rows) -> Layout | None:
    """A list of answers, and in another column the number of the best one."""
    answers = next((name for name in SEVERAL if are_several(first_value(rows, name))), "")
    best = next((name for name in BEST if answers and _are_numbers(name, answers, rows)), "")
    if not best:
        return None
    worst = next((name for name in WORST if _are_numbers(name, answers, rows)), "")
    first = as_json(as_json(first_value(rows, answers))[0])
    text = f".{_text_key(first)}" if isinstance(first, Mapping) and _text_key(first) else ""
    asked = next((path for path in ASKED if is_filled(first_value(rows, path))), "prompt")
    others = f"(. as $row | .{answers} | del(.[$row.{best}]))[0]"
    other = f".{answers}[.{worst}]" if worst else others
    chosen = f".{answers}[.{best}]{text}"
    return Layout(
        name="answers and the number of the best",
        reason=f"{best} is the number of an answer in {answers}",
        hint=ROWS.format(f"{{prompt: .{asked}, chosen: {chosen}, rejected: {other}{text}}}")
        + " writes pairs, the first answer being 0; "
        + ROWS.format(f"{{prompt: .{asked}, completion: {chosen}}}")
        + " the better answers alone",
    )


def _are_numbers(column: str, answers: str, rows: Rows) -> bool:
    """Whether a column holds places in the lists of answers."""
    held = [(row.get(column), as_json(row.get(answers))) for row in rows if row.get(column) is not None]
    return bool(held) and all(
        type(number) is int and isinstance(texts, list) and 0 <= number < len(texts) for number, texts in held
    )
