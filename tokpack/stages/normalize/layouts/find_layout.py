"""Find the layout of a file: one of the table (`layouts.py`), or one that its first rows show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.chats.roles import role_name
from tokpack.stages.normalize.chats.text_turns import is_open, text_turns
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import (
    BESIDE,
    CHATS,
    COMPLETIONS,
    PAIR_PROMPTS,
    PROMPTS,
    Row,
    as_json,
    is_filled,
)
from tokpack.stages.normalize.layouts.answer_lists import find_answer_lists
from tokpack.stages.normalize.layouts.better import ANSWERS, Better, find_better, two_answers
from tokpack.stages.normalize.layouts.columns import Columns
from tokpack.stages.normalize.layouts.dialogs import find_turns
from tokpack.stages.normalize.layouts.exchanges import find_exchange
from tokpack.stages.normalize.layouts.layouts import LAYOUTS, Layout, Rows, first_value
from tokpack.stages.normalize.layouts.spans import find_spans
from tokpack.stages.normalize.layouts.tasks import find_task

CHAT_COLUMNS = {*CHATS, "chosen", "rejected"}
OTHER_PROMPTS = ("question", "query", "problem", "prompt", "user_prompt", "user_input", "user_query")
"""What may be asked beside an instruction."""
BEST, WORST = "chosen.score", "rejected.score"
RANKS = ("rank", "ranks", "ranking", "rankings")
"""Of these the lowest is the best."""
SCORES = (
    *("overall_score", "score", "rating", "rank", "ranking", "pm_score", "fine-grained_score", "reward"),
    *("average_rating", "avg_rating", "upvotes", "votes"),
)


def find_layout(present: Sequence[str], rows: Rows) -> Layout | None:
    """The layout of a file, None for one whose columns say it all."""
    held = set(present)
    found = find_turns(rows) or next((layout for layout in LAYOUTS if layout.fits(rows, held)), None)
    found = found or find_spans(rows) or find_task(rows) or find_answer_lists(rows)
    names = {column.casefold() for column in present}
    pairs = {"chosen", "rejected"} <= names
    found = found or (None if pairs else find_exchange(present, rows)) or _answer_beside(present, rows)
    found = found or (None if names & CHAT_COLUMNS else _history_alone(present, rows))
    if found or pairs or names & {"messages", "conversations"}:
        return found
    if found := _two_prompts(present, rows):
        return found
    return _ranked(present, rows) or _two_answers(present, rows) or _turns_in_text(present, rows)


def ranked_layout(present: Sequence[str], rows: Rows) -> Layout | None:
    """The best and the worst answer of a list as a pair; for `--format ranked`."""
    if lists := _rated_lists(present, rows):
        column, text, score, low = lists[0], "text", lists[1], False
    elif found := next(_ranked_columns(present, rows), None):
        column, text, score, low = found
    else:
        return None

    def adapt(row: Row) -> Row:
        if lists:
            rated = zip(as_json(row.get(column)) or [], as_json(row.get(score)) or [], strict=False)
            row = {**row, column: [{text: answer, score: value} for answer, value in rated]}
        return _best_and_worst(row, column, text, score, low)

    if lists:
        low = score in RANKS
    return Layout(
        name="ranked",
        format=PREFERENCE,
        adapt=adapt,
        reads=(column, score),
        better=Better("score", (BEST, WORST)),
        fields={"chosen": "chosen", "rejected": "rejected"},
        note=f"of {column}, the answers of {'lowest and highest' if low else 'highest and lowest'} {score} "
        "are a pair",
    )


def _best_and_worst(row: Row, column: str, text: str, score: str, low: bool) -> Row:
    rated = [
        (float(answer[score]), answer.get(text))
        for answer in as_json(row.get(column)) or []
        if isinstance(answer, Mapping) and _is_number(answer.get(score))
    ]
    rated.sort(key=lambda item: -item[0] if low else item[0])
    made = dict(row)
    prompt = next((name for name in PAIR_PROMPTS if isinstance(row.get(name), str)), None)
    if prompt and (turns := text_turns(row[prompt])):
        made[prompt] = turns
    if len(rated) > 1:
        made |= {"rejected": rated[0][1], "chosen": rated[-1][1]}
        made |= {WORST: -rated[0][0] if low else rated[0][0], BEST: -rated[-1][0] if low else rated[-1][0]}
    return made


def _answer_beside(present: Sequence[str], rows: Rows) -> Layout | None:
    """Messages that end on the user's turn, and the answer in a column of its own."""
    chats = [as_messages(row.get("messages")) for row in rows]
    if not any(chats) or any(chat and chat[-1].get("role") != "user" for chat in chats):
        return None
    answers = [
        name
        for name in present
        if name.casefold() in COMPLETIONS and isinstance(first_value(rows, name), str)
    ]
    return (
        Layout(name="answer beside", format="prompt_completion", fields={"prompt": "messages"})
        if answers
        else None
    )


def _two_prompts(present: Sequence[str], rows: Rows) -> Layout | None:
    """An instruction, and a question beside it that says something else."""
    folded = {column.casefold(): column for column in reversed(present)}
    answers = [folded[name] for name in COMPLETIONS if name in folded]
    answer = next((name for name in answers if first_value(rows, name) is not None), None)
    if "instruction" not in folded or answer is None:
        return None
    instruction = folded["instruction"]
    others = [folded[name] for name in OTHER_PROMPTS if name in folded]
    others += [folded["source"]] if answer.casefold() == "target" and "source" in folded else []
    for other in others:
        both = [(row[instruction], row[other]) for row in rows if row.get(instruction) and row.get(other)]
        texts = [(a.strip(), b.strip()) for a, b in both if isinstance(a, str) and isinstance(b, str)]
        if texts and not any(a in b or b in a for a, b in texts):
            return Layout(
                name="an instruction and a question",
                reason=f"{instruction} and {other} both hold what is asked",
                hint=f"--map instruction={instruction},input={other},output={answer} takes both in turn; "
                f"--map system={instruction},prompt={other},completion={answer} makes the former the system "
                f"message; --format alpaca leaves {other} out",
            )
    return None


def _history_alone(present: Sequence[str], rows: Rows) -> Layout | None:
    """Messages under a name of earlier turns, where no other column holds the question: they are the chat, or
    its prompt."""
    found = (column for column in Columns(present, rows).find((*BESIDE["history"], "context")))
    column = next((name for name in found if any(as_messages(row.get(name)) for row in rows)), None)
    if column is None:
        return None
    chats = [(row, chat) for row in rows if (chat := as_messages(row.get(column)))]
    texts = [name for name in present if isinstance(first_value(rows, name), str)]
    asked = next((name for name in texts if name.casefold() in PROMPTS), None)
    answer = next((name for name in texts if name.casefold() in (*COMPLETIONS, "text")), None)
    if (asked and answer) or (column.casefold() == "context" and not answer):
        return None
    if asked:
        return Layout(
            name="a question without its answer",
            reason=f"{asked} follows {column}, and no column holds its answer",
            hint=f"--map prompt={asked},history={column},completion=COLUMN names it; "
            f"--map messages={column} trains the answers in {column} alone",
        )
    if answer and not any(_is_of_assistant(chat[-1]) for _, chat in chats):
        return Layout(
            name="answer beside", format="prompt_completion", fields={"prompt": column, "completion": answer}
        )
    if answer and any(_text_of(chat[-1]) != str(row.get(answer)).strip() for row, chat in chats):
        return None
    return Layout(name="chat in the history", format="messages", fields={"messages": column})


def _is_of_assistant(message: Any) -> bool:
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return isinstance(role, str) and role_name(role) == "assistant"


def _text_of(message: Any) -> str:
    text = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
    return text.strip() if isinstance(text, str) else ""


def _turns_in_text(present: Sequence[str], rows: Rows) -> Layout | None:
    """A column of texts that hold the turns of a chat, `Human: ... Assistant: ...`."""
    for column in present:
        texts = [value for row in rows if isinstance(value := row.get(column), str) and value]
        chats = [turns for text in texts if len(turns := text_turns(text)) > 1 or (turns and is_open(text))]
        if not chats or 2 * len(chats) < len(texts) or column.casefold() in ("chosen", "rejected", "text"):
            continue
        if _holds_answers(column, present, rows) or _holds_prompts(column, present, rows):
            continue
        if any(turn["role"] == "assistant" for turns in chats for turn in turns) or any(map(is_open, texts)):
            answers = [c for c in present if c in ("output", "completion", "response", "answer", "target")]
            ends = any(turns[-1]["role"] == "user" for turns in chats)
            after = f",completion={answers[0]}" if ends and answers else ""
            return Layout(
                name="turns in one text",
                reason=f"{column} holds the turns of a chat in one text",
                hint=f"--map messages={column}{after} takes them apart; "
                + (f"--map prompt={column}{after}" if after else f"--map text={column}")
                + " packs the text as it is",
            )
    return None


def _holds_answers(column: str, present: Sequence[str], rows: Rows) -> bool:
    """Whether the text repeats an answer that has a column of its own: a prompt written out for training."""
    others = [name for name in present if name.casefold() in COMPLETIONS and name != column]
    return any(
        all(str(row.get(name)) in str(row.get(column)) for row in rows) and is_filled(first_value(rows, name))
        for name in others
    )


def _holds_prompts(column: str, present: Sequence[str], rows: Rows) -> bool:
    """Whether the text repeats what another column asks, which is read instead."""
    for name in present:
        if name.casefold() in PROMPTS and name != column:
            asked = [row for row in rows if isinstance(row.get(name), str) and row[name]]
            if asked and all(row[name] in str(row.get(column)) for row in asked):
                return True
    return False


def _two_answers(present: Sequence[str], rows: Rows) -> Layout | None:
    """Two answers side by side, and a column that says which is better."""
    sides = two_answers(present)
    if sides is None or not all(any(is_filled(row.get(side)) for row in rows) for side in sides):
        return None
    prompt = next((name for name in PAIR_PROMPTS if first_value(rows, name) is not None), None)
    better = find_better(*sides, present, rows)
    fields = {"chosen": sides[0], "rejected": sides[1]}
    if better is None:
        asked = f"prompt={prompt}," if prompt else ""
        named = f"--map {asked}chosen={sides[0]},rejected={sides[1]}"
        return Layout(
            name="two answers",
            reason=f"{sides[0]} and {sides[1]} are two answers, and no column says which is better",
            hint=f"{named},better=COLUMN; without better the first is always chosen. "
            f"For plain fine-tuning: --map {asked}completion={sides[0]}",
        )
    said = " and ".join(better.columns) or "the order of the columns"
    return Layout(
        name="two answers",
        format=PREFERENCE,
        fields=fields,
        better=better,
        note=f"the better of {sides[0]} and {sides[1]} by {said}",
    )


def _ranked(present: Sequence[str], rows: Rows) -> Layout | None:
    if lists := _rated_lists(present, rows):
        prompt = next((name for name in PAIR_PROMPTS if first_value(rows, name) is not None), "COLUMN")
        return Layout(
            name="answers in a list",
            reason=f"{lists[0]} holds several answers, rated by {lists[1]}",
            hint=f"--format ranked makes pairs of the best and the worst; "
            f"--map prompt={prompt},completion={lists[0]}.0 takes the first of each list",
        )
    found = next(_ranked_columns(present, rows), None)
    if found is None:
        return None
    column, text, score, _ = found
    prompt = next((name for name in PAIR_PROMPTS if first_value(rows, name) is not None), "COLUMN")
    return Layout(
        name="answers in a list",
        reason=f"{column} holds several answers, rated by {score}",
        hint=f"--format ranked makes pairs of the best and the worst; "
        f"--map prompt={prompt},completion={column}.0.{text} takes the first of each list",
    )


def _ranked_columns(present: Sequence[str], rows: Rows) -> Iterator[tuple[str, str, str, bool]]:
    """(column, key of the text, key of the score, whether low is good) of lists of rated answers."""
    for column in present:
        answers = as_json(first_value(rows, column))
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], Mapping):
            continue
        if "role" in answers[0] or "from" in answers[0]:
            continue
        text = next((key for key in (*ANSWERS, "content", "model_output") if _is_answer(answers[0], key)), "")
        for score in SCORES:
            if text and _is_number(answers[0].get(score)):
                yield column, text, score, score in RANKS
                break


def _is_answer(rated: Mapping[str, Any], key: str) -> bool:
    """Whether a text, or a message, stands there."""
    held = rated.get(key)
    return isinstance(held, str) or (isinstance(held, Mapping) and bool(as_messages(held)))


def _rated_lists(present: Sequence[str], rows: Rows) -> tuple[str, str] | None:
    """Columns of texts and of their ratings in the same order: `generations` and `ratings`."""
    for texts in ("generations", "responses", "completions", "outputs", "answers", "candidates"):
        for scores in ("ratings", "rating", "scores", "score", "rewards", "reward", *RANKS):
            held = [(as_json(row.get(texts)), as_json(row.get(scores))) for row in rows]
            if held and all(_are_rated(answers, ratings) for answers, ratings in held):
                return texts, scores
    return None


def _are_rated(answers: Any, ratings: Any) -> bool:
    """Whether these are two or more texts, and as many ratings."""
    if not isinstance(answers, list) or not isinstance(ratings, list):
        return False
    texts = all(isinstance(answer, str) for answer in answers)
    return 1 < len(answers) == len(ratings) and texts and any(map(_is_number, ratings))


def _is_number(value: Any) -> bool:
    with suppress(TypeError, ValueError):
        return not isinstance(value, bool) and math.isfinite(float(value))
    return False
