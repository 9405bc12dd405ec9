"""Layouts: public sets and services whose columns mean more than their names say.

An entry is tried in the order of the table; the first whose `needs` are there and whose `test` agrees is the
layout of the file. One with a `format` is read as that; one with a `hint` is refused unless the user says
how to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import field
from typing import Any

from tokpack.frozen import frozen
from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.chats.exported import CURRENT, MAPPING, is_tree, shown_branch
from tokpack.stages.normalize.chats.responses import has_items
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import CHOSEN, Row, as_json, is_filled, value_at
from tokpack.stages.normalize.layouts.better import Better
from tokpack.stages.normalize.layouts.wrapped_rows import are_messages

Rows = Sequence[Row]


def _always(rows: Rows) -> bool:
    return True


@frozen(kw_only=True)
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


# Rows of other columns


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
        made["tools"] = [_wrapped(tool) for tool in tools if isinstance(tool, Mapping)]
    return made


def _wrapped(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


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


def _shown_branch(row: Row) -> Row:
    """ChatGPT's export: a chat is a tree, of which one branch was shown."""
    mapping = as_json(row.get(MAPPING))
    return {**row, "messages": shown_branch(mapping, row.get(CURRENT))} if is_tree(mapping) else row


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


def first_value(rows: Rows, path: str) -> Any:
    return next((value for row in rows if is_filled(value := value_at(row, path))), None)


def _no_chosen(rows: Rows) -> bool:
    """Whether no column holds the better answer."""
    return not any(is_filled(row.get(name)) for row in rows for name in CHOSEN)


def _calls(rows: Rows) -> bool:
    calls = as_json(first_value(rows, "answers"))
    return isinstance(calls, list) and all(isinstance(call, Mapping) and "name" in call for call in calls)


def _lists(rows: Rows) -> bool:
    return all(isinstance(as_json(first_value(rows, name)), list) for name in ("prompt", "response_a"))


def _texts(path: str) -> Callable[[Rows], bool]:
    def test(rows: Rows) -> bool:
        value = first_value(rows, path)
        return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)

    return test


def _trees(rows: Rows) -> bool:
    return is_tree(as_json(first_value(rows, MAPPING)))


def _named_authors(rows: Rows) -> bool:
    return isinstance(first_value(rows, "messages.0.author"), str)


def _of_cohere(rows: Rows) -> bool:
    """A question and the service's answer, which it calls `text`."""
    beside = ("chat_history", "generation_id", "finish_reason")
    return any(name in row for row in rows for name in beside) and isinstance(first_value(rows, "text"), str)


def _turns_of_moss(rows: Rows) -> bool:
    chat = first_value(rows, "chat")
    turns = isinstance(chat, Mapping) and "messages" not in chat and as_messages(chat, named=True)
    return bool(turns)


def _items_of_responses(rows: Rows) -> bool:
    output = as_json(first_value(rows, "output"))
    return isinstance(output, list) and (has_items(output) or has_items(output, ("message",)))


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="OpenAI Responses",
        needs=("input", "output"),
        test=_items_of_responses,
        format="prompt_completion",
        fields={"prompt": "input", "completion": "output", "system": "instructions"},
    ),
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
    *(
        Layout(
            name=column,
            needs=("messages", column),
            test=_no_chosen,
            format=PREFERENCE,
            adapt=_last_turn_as_chosen,
            reads=("messages",),
            fields={"prompt": "prompt", "chosen": "chosen", "rejected": column},
            note=f"the last message is chosen, {column} rejected",
        )
        for column in ("rejected_response", "rejected_message")
    ),
    *(
        Layout(
            name=f"rejected_{column}",
            needs=(column, f"rejected_{column}"),
            test=lambda rows: first_value(rows, "messages") is None,
            format=PREFERENCE,
            fields={"chosen": column, "rejected": f"rejected_{column}"},
        )
        for column in ("response", "output", "completion", "answer")
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
        name="ChatGPT export",
        needs=(MAPPING,),
        test=_trees,
        format="messages",
        adapt=_shown_branch,
        reads=(MAPPING, CURRENT),
        fields={"messages": "messages"},
        note="of each chat the branch that was shown last",
    ),
    Layout(
        name="AI Studio export",
        needs=("chunkedPrompt.chunks",),
        format="messages",
        fields={"messages": "chunkedPrompt.chunks"},
    ),
    Layout(
        name="Vertex PaLM chat",
        needs=("messages.0.author", "messages.0.content"),
        test=_named_authors,
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
        name="Cohere chat, its first API",
        needs=("message", "text"),
        test=_of_cohere,
        format="prompt_completion",
        fields={"prompt": "message", "completion": "text"},
    ),
    Layout(
        name="channels in columns",
        needs=("user", "analysis", "final"),
        test=lambda rows: first_value(rows, "messages") is None,
        format="prompt_completion",
        fields={"prompt": "user", "completion": "final", "reasoning": "analysis", "system": "developer"},
    ),
    Layout(
        name="message trees",
        needs=("message_id", "text", "role"),
        test=lambda rows: any("parent_id" in row or "message_tree_id" in row for row in rows),
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
    *(
        Layout(
            name="segments",
            needs=(f"{column}.0.text", f"{column}.0.label"),
            reason=f"{column} are parts of a text, each with a label of its own",
            hint="write chats as messages, each with train true or false; or tokenize the parts: rows of "
            "input_ids and labels are packed as they are",
        )
        for column in ("segments", "input_output")
    ),
    Layout(
        name="messages one by one",
        test=are_messages,
        reason="each row is one message: alone it is no conversation",
        hint="write the messages of a conversation into one row: "
        '{"messages": [{"role": ..., "content": ...}, ...]}',
    ),
)
