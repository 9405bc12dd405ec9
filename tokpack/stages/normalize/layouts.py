"""Layouts: public sets and services whose columns mean more than their names say.

An entry is tried in the order of the table; the first whose `needs` are there and whose `test` agrees is the
layout of the file. One with a `format` is read as that; one with a `hint` is refused unless the user says
how to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.better import ANSWERS, Better, find_better, two_answers
from tokpack.stages.normalize.fields import COMPLETIONS, PAIR_PROMPTS, Row, as_json, is_filled, value_at
from tokpack.stages.normalize.turns import as_messages, is_open, text_turns

Rows = Sequence[Row]


def _always(rows: Rows) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One layout. `needs`: columns, or dotted paths, of which each is filled in one of the first rows."""

    name: str
    needs: tuple[str, ...] = ()
    test: Callable[[Rows], bool] = _always
    format: str = ""
    """What its rows are read as; empty for a layout that is refused."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field -> column or path, before any name is looked for."""
    adapt: Callable[[Row], Row] | None = None
    """A row as one with other columns."""
    reads: tuple[str, ...] = ()
    """Columns that `adapt` uses."""
    better: Better | None = None
    note: str = ""
    """What the user should know of the reading."""
    hint: str = ""
    """Of a layout that is refused: the command that reads it."""
    reason: str = ""
    """Of a layout that is refused: why."""

    def fits(self, rows: Rows, present: Container[str]) -> bool:
        for path in self.needs:
            if path not in present and path.partition(".")[0] not in present:
                return False
        there = all(any(is_filled(value_at(row, path)) for row in rows) for path in self.needs)
        return there and self.test(rows)


def find_layout(present: Sequence[str], rows: Rows) -> Layout | None:
    """The layout of a file, None for one whose columns say it all."""
    held = set(present)
    found = next((layout for layout in LAYOUTS if layout.fits(rows, held)), None)
    found = found or _answer_beside(present, rows)
    names = {column.casefold() for column in present}
    if found or {"chosen", "rejected"} <= names or names & {"messages", "conversations"}:
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

    return Layout(
        name="ranked",
        format=PREFERENCE,
        adapt=adapt,
        reads=(column, score),
        better=Better("score", (BEST, WORST)),
        fields={"chosen": "chosen", "rejected": "rejected"},
        note=f"of {column}, the answers of best and worst {score} are a pair",
    )


# Rows of other columns

BEST, WORST = "chosen.score", "rejected.score"


def _best_and_worst(row: Row, column: str, text: str, score: str, low: bool) -> Row:
    rated = [
        (answer[score] if not isinstance(answer[score], str) else float(answer[score]), answer.get(text))
        for answer in as_json(row.get(column)) or []
        if isinstance(answer, Mapping) and is_filled(answer.get(score))
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


def _calls_as_answer(row: Row) -> Row:
    """xLAM: the answer is a list of calls."""
    calls = as_json(row.get("answers"))
    tools = as_json(row.get("tools"))
    made = dict(row)
    if isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls):
        made["prompt"] = [{"role": "user", "content": row.get("query")}]
        turn = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": dict(call)} for call in calls],
        }
        made["completion"] = [turn]
    if isinstance(tools, list):
        made["tools"] = [
            tool if "function" in tool else {"type": "function", "function": tool}
            for tool in tools
            if isinstance(tool, Mapping)
        ]
    return made


def _last_turn_as_chosen(row: Row) -> Row:
    """ms-swift: `rejected_response` stands against the last message."""
    messages = as_messages(row.get("messages"))
    if not messages:
        return row
    return {**row, "prompt": messages[:-1], "chosen": messages[-1:]}


def _rejected_messages(row: Row) -> Row:
    """ms-swift: `rejected_messages`, a whole conversation or what stands against the last message."""
    messages, rejected = as_messages(row.get("messages")), as_messages(row.get("rejected_messages"))
    if not messages or not rejected:
        return row
    if messages[0] == rejected[0]:
        return {**row, "chosen": messages, "rejected": rejected}
    return {**row, "prompt": messages[:-1], "chosen": messages[-1:], "rejected": rejected}


def _arena_lists(row: Row) -> Row:
    """Arena: prompts and answers of a conversation in lists of their own."""
    prompts, first, second = (as_json(row.get(name)) for name in ("prompt", "response_a", "response_b"))
    if not all(isinstance(texts, list) for texts in (prompts, first, second)):
        return row
    made = {
        name: [
            {"role": role, "content": text or ""}
            for asked, answer in zip(prompts, answers, strict=False)
            for role, text in (("user", asked), ("assistant", answer))
        ]
        for name, answers in (("response_a", first), ("response_b", second))
    }
    return {**{key: value for key, value in row.items() if key != "prompt"}, **made}


# Looks at the first rows


def _first(rows: Rows, path: str) -> Any:
    return next((value for row in rows if is_filled(value := value_at(row, path))), None)


def _calls(rows: Rows) -> bool:
    calls = as_json(_first(rows, "answers"))
    return isinstance(calls, list) and all(isinstance(call, Mapping) and "name" in call for call in calls)


def _lists(rows: Rows) -> bool:
    return all(isinstance(as_json(_first(rows, name)), list) for name in ("prompt", "response_a"))


def _texts(path: str) -> Callable[[Rows], bool]:
    def test(rows: Rows) -> bool:
        value = _first(rows, path)
        return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)

    return test


def _turns_of_moss(rows: Rows) -> bool:
    chat = _first(rows, "chat")
    return isinstance(chat, Mapping) and bool(as_messages(chat, named=True))


def _answer_beside(present: Sequence[str], rows: Rows) -> Layout | None:
    """Messages that end on the user's turn, and the answer in a column of its own."""
    chats = [as_messages(row.get("messages")) for row in rows]
    if not any(chats) or any(chat and chat[-1].get("role") != "user" for chat in chats):
        return None
    answers = [
        name for name in present if name.casefold() in COMPLETIONS and isinstance(_first(rows, name), str)
    ]
    return (
        Layout(name="answer beside", format="prompt_completion", fields={"prompt": "messages"})
        if answers
        else None
    )


def _turns_in_text(present: Sequence[str], rows: Rows) -> Layout | None:
    """A column of texts that hold the turns of a chat, `Human: ... Assistant: ...`."""
    for column in present:
        texts = [value for row in rows if isinstance(value := row.get(column), str) and value]
        chats = [turns for text in texts if len(turns := text_turns(text)) > 1 or (turns and is_open(text))]
        if not chats or 2 * len(chats) < len(texts) or column.casefold() in ("chosen", "rejected", "text"):
            continue
        if _holds_answers(column, present, rows):
            continue
        if any(turn["role"] == "assistant" for turns in chats for turn in turns) or any(map(is_open, texts)):
            answers = [c for c in present if c in ("output", "completion", "response", "answer", "target")]
            ends = any(turns[-1]["role"] == "user" for turns in chats)
            after = f",completion={answers[0]}" if ends and answers else ""
            return Layout(
                name="turns in one text",
                reason=f"{column} holds the turns of a chat in one text",
                hint=f"--map messages={column}{after} takes them apart; --format text, or prompt_completion, "
                "packs the text as it is",
            )
    return None


def _holds_answers(column: str, present: Sequence[str], rows: Rows) -> bool:
    """Whether the text repeats an answer that has a column of its own: a prompt written out for training."""
    others = [name for name in present if name.casefold() in COMPLETIONS and name != column]
    return any(
        all(str(row.get(name)) in str(row.get(column)) for row in rows) and is_filled(_first(rows, name))
        for name in others
    )


def _two_answers(present: Sequence[str], rows: Rows) -> Layout | None:
    """Two answers side by side, and a column that says which is better."""
    sides = two_answers(present)
    if sides is None or not all(any(is_filled(row.get(side)) for row in rows) for side in sides):
        return None
    prompt = next((name for name in PAIR_PROMPTS if _first(rows, name) is not None), None)
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
        prompt = next((name for name in PAIR_PROMPTS if _first(rows, name) is not None), "COLUMN")
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
    prompt = next((name for name in PAIR_PROMPTS if _first(rows, name) is not None), "COLUMN")
    return Layout(
        name="answers in a list",
        reason=f"{column} holds several answers, rated by {score}",
        hint=f"--format ranked makes pairs of the best and the worst; "
        f"--map prompt={prompt},completion={column}.0.{text} takes the first of each list",
    )


def _ranked_columns(present: Sequence[str], rows: Rows) -> Iterator[tuple[str, str, str, bool]]:
    """(column, key of the text, key of the score, whether low is good) of lists of rated answers."""
    for column in present:
        answers = as_json(_first(rows, column))
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], Mapping):
            continue
        if "role" in answers[0] or "from" in answers[0]:
            continue
        text = next(
            (key for key in (*ANSWERS, "content", "model_output") if isinstance(answers[0].get(key), str)), ""
        )
        for score in ("overall_score", "score", "rating", "rank", "pm_score", "fine-grained_score", "reward"):
            if text and is_filled(answers[0].get(score)):
                yield column, text, score, score == "rank"
                break


def _rated_lists(present: Sequence[str], rows: Rows) -> tuple[str, str] | None:
    """Columns of texts and of their ratings in the same order: `generations` and `ratings`."""
    for texts in ("generations", "responses", "completions", "outputs", "answers"):
        for scores in ("ratings", "rating", "scores", "rewards"):
            held = [(as_json(row.get(texts)), as_json(row.get(scores))) for row in rows]
            if held and all(_are_rated(answers, ratings) for answers, ratings in held):
                return texts, scores
    return None


def _are_rated(answers: Any, ratings: Any) -> bool:
    """Whether these are two or more texts, and as many ratings."""
    if not isinstance(answers, list) or not isinstance(ratings, list):
        return False
    return 1 < len(answers) == len(ratings) and all(isinstance(answer, str) for answer in answers)


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="OpenAI preference",
        needs=("input.messages", "preferred_output", "non_preferred_output"),
        format=PREFERENCE,
        fields={
            "prompt": "input.messages",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
            "tools": "input.tools",
        },
    ),
    Layout(
        name="rejected_response",
        needs=("messages", "rejected_response"),
        format=PREFERENCE,
        adapt=_last_turn_as_chosen,
        reads=("messages",),
        fields={"prompt": "prompt", "chosen": "chosen", "rejected": "rejected_response"},
        note="the last message is chosen, rejected_response rejected",
    ),
    Layout(
        name="rejected_messages",
        needs=("messages", "rejected_messages"),
        format=PREFERENCE,
        adapt=_rejected_messages,
        reads=("messages", "rejected_messages"),
        fields={"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    ),
    Layout(
        name="Step-DPO",
        needs=("chosen", "rejected", "initial_reason_steps"),
        reason="chosen and rejected are single steps that follow initial_reason_steps",
        hint="--map chosen=full_chosen,rejected=full_rejected takes the whole answers; "
        "--format preference the steps as they are, without what came before",
    ),
    Layout(
        name="xLAM",
        needs=("query", "answers", "tools"),
        test=_calls,
        format="prompt_completion",
        adapt=_calls_as_answer,
        reads=("query", "answers", "tools"),
        fields={"prompt": "prompt", "completion": "completion", "tools": "tools"},
        note="the calls in answers are the answer",
    ),
    Layout(
        name="arena",
        needs=("prompt", "response_a", "response_b", "winner_model_a"),
        test=_lists,
        format=PREFERENCE,
        adapt=_arena_lists,
        reads=("prompt", "response_a", "response_b"),
        fields={"chosen": "response_a", "rejected": "response_b"},
        better=Better("score", ("winner_model_a", "winner_model_b")),
        note="the better of response_a and response_b by winner_model_a and winner_model_b",
    ),
    Layout(
        name="SHP",
        needs=("history", "human_ref_A", "human_ref_B", "labels"),
        format=PREFERENCE,
        fields={"prompt": "history", "chosen": "human_ref_A", "rejected": "human_ref_B"},
        better=Better("name", ("labels",), (frozenset({"1"}), frozenset({"0"}))),
        note="human_ref_A is the better one where labels is 1",
    ),
    Layout(
        name="s1K-1.1",
        needs=("question", "deepseek_attempt", "deepseek_thinking_trajectory"),
        format="prompt_completion",
        fields={
            "prompt": "question",
            "completion": "deepseek_attempt",
            "reasoning": "deepseek_thinking_trajectory",
        },
        note="DeepSeek's attempt and reasoning; --map completion=gemini_attempt,"
        "reasoning=gemini_thinking_trajectory takes Gemini's",
    ),
    Layout(
        name="s1K",
        needs=("question", "attempt", "thinking_trajectories"),
        format="prompt_completion",
        fields={"prompt": "question", "completion": "attempt", "reasoning": "thinking_trajectories.0"},
    ),
    Layout(
        name="OpenThoughts metadata",
        needs=("problem", "deepseek_reasoning", "deepseek_solution"),
        format="prompt_completion",
        fields={
            "prompt": "problem",
            "completion": "deepseek_solution",
            "reasoning": "deepseek_reasoning",
        },
    ),
    Layout(
        name="Natural Instructions",
        needs=("definition", "inputs", "targets"),
        format="prompt_completion",
        fields={"prompt": "definition", "input": "inputs", "completion": "targets"},
    ),
    Layout(
        name="CoT Collection",
        needs=("source", "target", "rationale"),
        format="prompt_completion",
        fields={"prompt": "source", "completion": "target", "reasoning": "rationale"},
    ),
    Layout(
        name="Vertex PaLM chat",
        needs=("messages.0.author", "messages.0.content"),
        format="messages",
        fields={"system": "context"},
    ),
    Layout(
        name="MOSS",
        needs=("chat",),
        test=_turns_of_moss,
        reason="chat holds its turns as an object of numbered keys",
        hint="--map messages=chat reads what Human and MOSS say; calls of its plug-ins are left out",
    ),
    Layout(
        name="UltraChat",
        needs=("data",),
        test=_texts("data"),
        reason="data is a list of texts",
        hint="--map messages=data reads them as user and assistant in turn",
    ),
    Layout(
        name="message trees",
        needs=("message_id", "text", "role", "message_tree_id"),
        reason="each row is one message of a tree: alone it is no conversation",
        hint="--format tree joins them along parent_id, following the best ranked answers; "
        "--format tree_paths takes every path",
    ),
    Layout(
        name="nested trees",
        needs=("prompt.replies", "prompt.text"),
        reason="each row is a tree of messages, not one conversation",
        hint="--format tree follows the best ranked answers; --format tree_paths takes every path",
    ),
)
