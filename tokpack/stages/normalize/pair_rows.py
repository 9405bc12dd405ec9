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
from collections.abc import Mapping
from typing import Any

from tokpack.on_disk.reasons import TIED_PAIR
from tokpack.stages.normalize.chats.message_rows import Turn, messages_in, read_messages
from tokpack.stages.normalize.fields import SIDE_REASONING, is_filled
from tokpack.stages.normalize.layouts.answer_lists import are_several, lone_text
from tokpack.stages.normalize.rows import (
    RowDocument,
    around,
    history_of,
    left_out,
    with_reasoning,
    with_system,
)
from tokpack.stages.normalize.shape import TIE, Shape
from tokpack.stages.normalize.values import RowError, dump, kind_of, read_text

_HH_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def row_to_pair(row: Mapping[str, Any], shape: Shape) -> tuple[RowDocument, RowDocument]:
    """The chosen and the rejected document. Raises RowError for a row of the wrong shape."""
    row = shape.canonical(row)
    prompt, chosen, rejected = (
        messages_in(lone_text(row.get(field)), field) for field in ("prompt", "chosen", "rejected")
    )
    dropped = left_out(row) or (TIED_PAIR if row.get(TIE) else None)
    before = history_of(row)
    if isinstance(prompt, str) and row.get("input"):
        prompt += "\n" + read_text(row["input"], "input")
    if isinstance(prompt, str) and (told := _hh_turns(read_text(prompt, "prompt"))):
        while told and told[-1][0] == "assistant" and not told[-1][1]:
            told.pop()
        prompt = [{"role": role, "content": text} for role, text, _ in told]
    talks = _hh_talks(chosen, rejected)
    kind = "chat"
    good, bad = talks or (_turns(chosen, "chosen", "assistant"), _turns(rejected, "rejected", "assistant"))
    asked = [] if prompt is None else _turns(prompt, "prompt", "user")
    if "prompt" not in shape.named and shape.columns.get("prompt") == "messages":
        _check_end(asked, good[-1], bad[-1])
    if not talks and all(isinstance(value, str) for value in (prompt, chosen, rejected)):
        asked, kind = before + asked, "prompt_completion"
    else:
        asked, good, bad = _split(before, asked, good, bad, isinstance(prompt, str))
    thoughts = [row.get(side) for side in SIDE_REASONING]
    good, bad = (
        with_reasoning(turns, thought) if is_filled(thought) else turns
        for turns, thought in zip((good, bad), thoughts, strict=True)
    )
    asked = with_system(asked, row)
    more = around(row, asked)
    return _document(kind, asked, good, more, dropped), _document(kind, asked, bad, more, dropped)


def _turns(value: Any, where: str, role: str) -> list[Turn]:
    """A text, or a list of messages, as turns."""
    if isinstance(value, str):
        return [(role, read_text(value, where), {})]
    if not isinstance(value, list):
        wanted = "a string" if role == "user" else "an answer or a list of messages"
        raise RowError(f"{where} is {kind_of(value)}, not {wanted}")
    if not value and role == "assistant":
        raise RowError(f"{where} holds no message")
    if role == "assistant" and are_several(value):
        raise RowError(f"{where} holds {len(value)} answers: --map {where}={where}.0 takes the first of each")
    return read_messages(value, where)


def _check_end(asked: list[Turn], *answers: Turn) -> None:
    """Raises RowError for a chat beside a pair that ends on an answer of its own."""
    third = len(asked) > 1 and asked[-1][0] == "assistant"
    if third and _said(asked[-1]) not in map(_said, answers):
        raise RowError("messages end on an answer that is neither chosen nor rejected")


def _hh_talks(chosen: Any, rejected: Any) -> tuple[list[Turn], list[Turn]] | None:
    """Both as turns, where both are texts of turns."""
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return None
    good, bad = _hh_turns(read_text(chosen, "chosen")), _hh_turns(read_text(rejected, "rejected"))
    return (good, bad) if good and bad else None


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
    before: list[Turn], asked: list[Turn], chosen: list[Turn], rejected: list[Turn], is_text: bool
) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """(prompt, chosen, rejected), every turn once: conversations may hold the prompt, or its end."""
    anew = "assistant" not in (chosen[0][0], rejected[0][0])
    if len(asked) > 1 and asked[-1][0] == "assistant":
        asked = asked[: -1 if _said(asked[-1]) in (_said(chosen[-1]), _said(rejected[-1])) else None]
    if anew and is_text:
        asked = []  # conversations say it in a turn of their own
    if asked and before and _said(before[0]) == _said(asked[0]):
        before = before[1:]
    lead = before + asked
    if (chosen[0][0] == "assistant") != (rejected[0][0] == "assistant"):  # one of them says the prompt again
        chosen, rejected = (side[_overlap(lead, side) :] for side in (chosen, rejected))
    if again := _overlap(lead, chosen, rejected):
        lead = lead[:-again]
    elif not anew:
        if not asked:
            raise RowError("there is no prompt: name its column, --map prompt=COLUMN")
        return lead, chosen, rejected
    elif asked:
        if chosen[0][0] != "system" and not (_holds(chosen, asked) and _holds(rejected, asked)):
            return lead, chosen, rejected
        lead = before
    shared = _common(chosen, rejected)
    if not shared:
        raise RowError("chosen and rejected begin with no common message: there is no prompt")
    return lead + chosen[:shared], chosen[shared:], rejected[shared:]


def _said(turn: Turn) -> tuple[str | None, str, Any]:
    """What makes two turns the same; names, dates and other fields do not."""
    role, content, extra = turn
    return role, (content or "").strip(), extra.get("tool_calls")


def _overlap(lead: list[Turn], *talks: list[Turn]) -> int:
    """How many of the last turns of `lead` all `talks` begin with; at least one turn is left to each."""
    end = [_said(turn) for turn in lead]
    begin = [[_said(turn) for turn in talk[:-1]] for talk in talks]
    most = min(len(end), *map(len, begin))
    return next((n for n in range(most, 0, -1) if all(turns[:n] == end[-n:] for turns in begin)), 0)


def _holds(talk: list[Turn], asked: list[Turn]) -> bool:
    """Whether the turns of `asked` stand one after another in `talk`, before its last turn."""
    said, wanted = [_said(turn) for turn in talk[:-1]], [_said(turn) for turn in asked]
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def _common(chosen: list[Turn], rejected: list[Turn]) -> int:
    """Turns that both begin with; at least one is left to each."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if _said(chosen[i]) != _said(rejected[i])), most)


def _document(
    kind: str, prompt: list[Turn], completion: list[Turn], more: dict[str, Any], dropped: str | None
) -> RowDocument:
    turns = [*prompt, *completion]
    extras = [extra for _, _, extra in turns]
    if any("weight" in extra for extra in extras):
        raise RowError("a message has a weight: pairs are compared whole, so only 0 and 1 are known")
    marked = any("train" in extra for extra in extras)
    if marked or [role for role, _, _ in completion] != ["assistant"]:
        extras[: len(prompt)] = [extra | {"train": False} for extra in extras[: len(prompt)]]
    document = more | ({"messages": extras} if any(extras) else {})
    roles, contents = [role for role, _, _ in turns], [text for _, text, _ in turns]
    return RowDocument(kind, roles, contents, dump(document) if document else None, dropped)
