"""Names: the fields that documents are made of, and the columns in which public sets keep them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tokpack.stages.messages import UNREAD_REASONING
from tokpack.stages.normalize.chats.app_chats import KEYS as APP_KEYS
from tokpack.stages.normalize.chats.channels import FIELDS as CHANNEL_FIELDS
from tokpack.stages.normalize.chats.media import MEDIA
from tokpack.stages.normalize.chats.reasoning import BLOCKS as REASONING_BLOCKS
from tokpack.stages.normalize.chats.reasoning import KNOWN as REASONING
from tokpack.stages.normalize.chats.reasoning import OTHERS as OTHER_REASONING
from tokpack.stages.normalize.chats.training import DIRECTIONS
from tokpack.stages.normalize.values import is_missing

Row = Mapping[str, Any]
MOST_PATHS = 2_000
DEEPEST = 6

PROMPTS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "problem",
    "user_prompt",
    "user_input",
    "input_text",
    "text_input",
    "inputs_pretokenized",
    "inputs",
    "input",
    "user",
    "human",
    "user_query",
    "question.full_text",
    "message",
)
COMPLETIONS = (
    "completion",
    "output",
    "response",
    "answer",
    "generated_solution",
    "solution",
    "output_text",
    "targets_pretokenized",
    "targets",
    "target",
    "assistant",
    "assistant_response",
    "model_response",
    "gpt",
    "bot",
)
LESSER_COMPLETIONS = ("generation", "model_output", "generated_text", "final_answer", "content")
"""Columns that hold the answer where none of the others is there."""
NUMBERED_COMPLETION = re.compile(
    r"(completion|output|response|answer|solution|generation)_?\d+$", re.IGNORECASE
)
"""Columns of several whole answers beside one of the former, which may be a bare result."""
CHATS = (
    "messages",
    "conversations",
    "conversation",
    "contents",
    "dialog",
    "dialogs",
    "dialogue",
    "chat",
    "turns",
    "chat_messages",
)
"""Columns that hold a list of messages."""
CHOSEN = (
    "chosen",
    "chosen_response",
    "chosen_messages",
    "preferred_output",
    "preferred_response",
    "preferred",
    "accepted",
)
REJECTED = (
    "rejected",
    "rejected_response",
    "rejected_messages",
    "non_preferred_output",
    "dispreferred_output",
    "dispreferred_response",
    "nonpreferred_response",
    "dispreferred",
)
PAIR_PROMPTS = (
    "prompt",
    "conversations",
    "conversation",
    "question",
    "instruction",
    "question.full_text",
    "query",
    "problem",
    "input",
    "contents",
    "context_messages",
    "trajectory",
    "context",
    "history",
    "chat_history",
    "message",
)
"""Columns that hold the prompt of preference pairs, as text or messages."""
BESIDE: dict[str, tuple[str, ...]] = {
    "system": (
        "system",
        "system_prompt",
        "preamble",
        "systemprompt",
        "system_message",
        "systeminstruction",
        "system_instruction",
        "meta_instruction",
    ),
    "tools": (
        "tools",
        "functions",
        "tool_definitions",
        "available_tools",
        "tool_list",
        "tools_json",
        "toolconfig.tools",
        "metadata.tools",
        "extra.tools",
    ),
    "history": ("history", "chat_history", "conversation_history", "dialogue_history", "dialog_history"),
    "input": ("input", "context", "inputs"),
    "reasoning": (
        "reasoning",
        "reasoning_content",
        "thinking",
        "thought",
        "thoughts",
        "cot",
        "chain_of_thought",
        "complex_cot",
        "deepseek_reasoning",
        "r1_reasoning",
        "reasoning_trace",
        "thinking_trajectory",
        "thinking_trajectories",
        "deepseek_thinking_trajectory",
        "think",
        "rationale",
        "thinking_content",
        "reasoning_text",
        "thought_process",
        "thinking_process",
        "model_reasoning",
        "internal_reasoning",
        "metadata.reasoning_content",
    ),
    "label": ("label", "kto_tag", "kto_label", "desirable", "is_desirable"),
    "trained": (
        "train",
        "trained",
        "trainable",
        "training",
        "loss",
    ),
    "weight": ("weight", "loss_weight", "sample_weight"),
    "chat_template_kwargs": ("chat_template_kwargs",),
}
"""Fields beside the ones a format needs -> columns, best first."""
SIDE_REASONING = ("chosen_reasoning", "rejected_reasoning")
"""Fields beside preference pairs."""
_OF_SIDES = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "thinking_content",
    "thought",
    "thoughts",
    "think",
    "cot",
)
SIDE_REASONINGS = tuple(
    tuple(form.format(side, name) for side in ("chosen", "rejected"))
    for name in (*_OF_SIDES, "chain_of_thought", "reasoning_trace")
    for form in ("{0}_{1}", "{1}_{0}")
)
"""Columns that hold the reasoning of the chosen and of the rejected answer, if both are there: one alone may
be a judge's."""
LESSER_TOOLS = (
    *(
        "function",
        "function_description",
        "function_descriptions",
        "function_definitions",
        "function_schemas",
    ),
    *(
        "tool_schema",
        "tool_schemas",
        "tool_specs",
        "tool_descriptions",
        "available_functions",
        "apis",
        "api_list",
    ),
)
"""Columns that hold the tools where none of those of `BESIDE` is there, if they hold any."""
TEMPLATE_VARIABLES = (
    "custom_instructions",
    "xml_tools",
    "python_tools",
    "enable_thinking",
    "reasoning_effort",
)
"""Columns of these names are arguments of the chat template."""
OF_MESSAGES = frozenset(
    {
        "role",
        "from",
        "content",
        "value",
        "name",
        "tool_call_id",
        "tool_results",
        "refusal",
        "tool_calls",
        "tool_call",
        "toolCalls",
        "function_calls",
        "function_call",
        *MEDIA,
        *APP_KEYS,
        "parts",
        "tools",
        "functions",
        *CHANNEL_FIELDS,
        *REASONING,
        *OTHER_REASONING,
        *REASONING_BLOCKS,
        UNREAD_REASONING,
        *DIRECTIONS,
    }
)
"""Fields of messages that mean something whatever the template reads."""
SWITCHES = frozenset(
    {"on", "off", "yes", "no", "true", "false", "none", "null", "low", "medium", "high", "auto", ""}
)
"""Values that a column of reasoning does not have: `reasoning: on` says how an answer was made."""


def value_at(row: Any, path: str) -> Any:
    """What stands at a dotted path, None where nothing does. A column of just that name comes first; texts
    on the way are read as JSON, numbers are places in a list.

    {"metadata": '{"tools": [1]}'}, "metadata.tools.0"  ->  1
    """
    if (type(row) is dict or isinstance(row, Mapping)) and path in row:
        return row[path]
    if type(row) is dict and "." not in path:
        return None
    for part in path.split("."):
        row = as_json(row)
        if isinstance(row, Mapping):
            row = row.get(part)
        elif isinstance(row, Sequence) and not isinstance(row, str) and part.isdigit():
            row = row[int(part)] if int(part) < len(row) else None
        else:
            return None
    return row


def known_paths(rows: Iterable[Any]) -> list[str]:
    """The columns of `rows` and the paths of keys below them, `MOST_PATHS` and `DEEPEST` levels at most.

    [{"a": {"b": 1}}, {"c": 2}]  ->  ["a", "c", "a.b"]
    """
    level = [("", row) for row in rows]
    found: dict[str, None] = {}
    for _ in range(DEEPEST):
        below = []
        for path, value in level:
            if isinstance(value := as_json(value), Mapping):
                below += [(f"{path}.{key}" if path else str(key), value[key]) for key in value]
        level = below[:MOST_PATHS]
        found |= dict.fromkeys(path for path, _ in level)
    return list(found)[:MOST_PATHS]


def as_json(value: Any) -> Any:
    """A text that is a JSON object or array, decoded, also from a text inside a text; others as they are."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[", '"{', '"[')):
        with suppress(ValueError, RecursionError):
            inner = json.loads(value)
            return as_json(inner) if isinstance(inner, str) else inner
    return value


def root(path: str, columns: Iterable[str]) -> str:
    """The column that a path begins in."""
    return path if path in columns else path.split(".", maxsplit=1)[0]


def plain_name(column: str) -> str:
    """A name without what people write differently: `systemPrompt`, `System Prompt` and `system-prompt` are
    `system_prompt`."""
    return _BETWEEN.sub("", column.casefold())


_BETWEEN = re.compile(r"[\s_-]+")


def is_filled(value: Any) -> bool:
    return not is_missing(value) and value not in ("", [], {})


SPLITS = ("split", "_split", "data_split", "dataset_split", "partition")
"""Columns that may say which split of a set a row belongs to."""
TRUTHS = {
    "true": True,
    "1": True,
    "1.0": True,
    "yes": True,
    "good": True,
    "false": False,
    "0": False,
    "0.0": False,
    "-1": False,
    "no": False,
    "bad": False,
}
"""What the column of a label may say, in any letter case."""
_PAIRS = (
    *(("y", "n"), ("t", "f"), ("positive", "negative"), ("up", "down"), ("thumbs_up", "thumbs_down")),
    *(("accepted", "rejected"), ("accept", "reject"), ("chosen", "rejected"), ("approved", "declined")),
    *(("pass", "fail"), ("passed", "failed"), ("correct", "incorrect"), ("right", "wrong")),
    *(("desirable", "undesirable"), ("like", "dislike"), ("liked", "disliked"), ("keep", "drop")),
)
VERDICTS = TRUTHS | {word: good for pair in _PAIRS for word, good in zip(pair, (True, False), strict=True)}
"""What a label may say that the user names; one that is found by its name alone may mean much else."""


def verdict(value: Any) -> bool | None:
    """What a label says of its answer, None where that is not known."""
    said = str(value).strip().casefold()
    return VERDICTS.get(said, VERDICTS.get(said.replace(" ", "_").replace("-", "_")))
