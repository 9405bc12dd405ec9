"""One row of preference data -> its two documents, in plain Python: the reference, and the slow path.

The prompt is a column of its own (a text, messages, ShareGPT turns), or implicit: `chosen` and `rejected` are
whole conversations, as lists of messages or as text of `Human:` and `Assistant:` turns (HH), and what both
begin with is the prompt.

    prompt "Hi", chosen "Hello.", rejected "Go away."  ->  user Hi, assistant Hello.
                                                           user Hi, assistant Go away.

Only the completion is trained. Where that is not simply the last message, the messages of the prompt carry
`"train": false`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokpack.stages.normalize.rows import (
    TIED_PAIR,
    RowDocument,
    RowError,
    Turn,
    around,
    dump,
    history_of,
    kind_of,
    read_message,
    read_text,
    with_system,
)
from tokpack.stages.normalize.shape import TIE, Shape

_HH_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def row_to_pair(row: Mapping[str, Any], shape: Shape) -> tuple[RowDocument, RowDocument]:
    """The chosen and the rejected document. Raises RowError for a row of the wrong shape."""
    row = shape.canonical(row)
    prompt, chosen, rejected = (row.get(field) for field in ("prompt", "chosen", "rejected"))
    dropped = TIED_PAIR if row.get(TIE) else None
    before = history_of(row)
    if isinstance(prompt, str) and row.get("input"):
        prompt += "\n" + read_text(row["input"], "input")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        turns = with_system([*before, ("user", read_text(prompt, "prompt"), {})], row)
        more, kind = around(row, turns), "prompt_completion"
        good: list[Turn] = [("assistant", read_text(chosen, "chosen"), {})]
        bad: list[Turn] = [("assistant", read_text(rejected, "rejected"), {})]
        return _document(kind, turns, good, more, dropped), _document(kind, turns, bad, more, dropped)
    asked, good, bad = _split(prompt, _turns(chosen, "chosen", prompt), _turns(rejected, "rejected", prompt))
    asked = with_system(before + asked, row)
    more = around(row, asked)
    return _document("chat", asked, good, more, dropped), _document("chat", asked, bad, more, dropped)


def _turns(value: Any, where: str, prompt: Any) -> list[Turn]:
    """An answer, or a whole conversation, as turns."""
    if isinstance(value, str):
        turns = _hh_turns(read_text(value, where)) if prompt is None else []
        return turns or [("assistant", read_text(value, where), {})]
    if isinstance(value, dict):
        return [read_message(value, where)]
    if not isinstance(value, list):
        raise RowError(f"{where} is {kind_of(value)}, not an answer or a list of messages")
    if not value:
        raise RowError(f"{where} holds no message")
    return [read_message(message, f"{where}[{number}]") for number, message in enumerate(value, 1)]


def _hh_turns(text: str) -> list[Turn]:
    """`"\\n\\nHuman: Hi\\n\\nAssistant: Hello."` as turns; none for a text that does not begin so."""
    marks = list(_HH_TURN.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        (_HH_ROLES[mark[1]], text[mark.end() : end].strip(), {})
        for mark, end in zip(marks, ends, strict=True)
    ]


def _split(
    prompt: Any, chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """(prompt, chosen, rejected), the prompt taken off conversations that hold it."""
    if isinstance(prompt, list):
        asked = [read_message(message, f"prompt[{number}]") for number, message in enumerate(prompt, 1)]
    elif isinstance(prompt, dict):
        asked = [read_message(prompt, "prompt")]
    else:
        asked = [("user", read_text(prompt, "prompt"), {})] if prompt is not None else []
    whole = "assistant" not in (chosen[0][0], rejected[0][0])
    if whole and not isinstance(prompt, str) and asked:
        whole = chosen[: len(asked)] == asked == rejected[: len(asked)]
    if whole:
        shared = _common(chosen, rejected)
        asked, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not asked:
            raise RowError("chosen and rejected begin with no common message: there is no prompt")
    elif not asked:
        raise RowError("there is no prompt: name its column, --map prompt=COLUMN")
    return asked, chosen, rejected


def _common(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> int:
    """Turns that both begin with; at least one is left to each."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), most)


def _document(
    kind: str, prompt: list[Turn], completion: list[Turn], more: dict[str, Any], dropped: str | None
) -> RowDocument:
    turns = [*prompt, *completion]
    extras = [extra for _, _, extra in turns]
    marked = any(extra.keys() & {"train", "weight"} for extra in extras)
    if marked or [role for role, _, _ in completion] != ["assistant"]:
        extras[: len(prompt)] = [extra | {"train": False} for extra in extras[: len(prompt)]]
    document = more | ({"messages": extras} if any(extras) else {})
    roles, contents = [role for role, _, _ in turns], [text for _, text, _ in turns]
    return RowDocument(kind, roles, contents, dump(document) if document else None, dropped)
