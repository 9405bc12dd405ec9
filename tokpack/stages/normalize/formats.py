"""Formats: the fields that each has, and which columns beside them change a document."""

from __future__ import annotations

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.chats.calls import TOOLS
from tokpack.stages.read.faults import UNREADABLE

TOKENS = "tokens"
"""Format of rows that are tokenized already."""
# Formats in the order they are tried, each with its required fields and the role each text plays.
FIELDS: dict[str, dict[str, str]] = {
    PREFERENCE: {"chosen": "assistant", "rejected": "assistant"},
    "messages": {"messages": ""},
    "sharegpt": {"conversations": ""},
    "alpaca": {"instruction": "user", "output": "assistant"},
    "prompt_completion": {"prompt": "user", "completion": "assistant"},
    "text": {"text": "text"},
    TOKENS: {"input_ids": ""},
}
CHATS = ("messages", "sharegpt")
"""Formats of a column of messages."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "alpaca": ("input",),
    "prompt_completion": ("input",),
    PREFERENCE: ("prompt",),
    TOKENS: ("labels", "attention_mask"),
}
SLOW_COLUMNS = frozenset({*TOOLS, "system", "history", "chat_template_kwargs", UNREADABLE})
"""Columns that change the document, for the row-by-row path where the first rows lack them."""
