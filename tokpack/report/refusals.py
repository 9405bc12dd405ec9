"""What to change where a chat template refuses documents in words of its own whose way out is known."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from tokpack.on_disk.reasons import TEMPLATE_ERROR
from tokpack.terminal.activity import counted

_BOTH = re.compile("both content and thinking in an assistant message with tool calls")
_WAYS = (
    (
        _BOTH,
        "the chat template takes reasoning or a text beside a call, not both, and writes either only where "
        "no answer follows: "
        'jq -c \'(.messages[] | select((.tool_calls // []) != [] and (.content // "") != "")) '
        "|= del(.reasoning_content, .reasoning, .thinking)' FILE > rows.jsonl leaves out such reasoning; "
        "--chat-template FILE takes one that writes both; --map and --loss-mask change nothing about it",
    ),
)


def way_past(detail: str) -> str:
    """What to change for a template's refusal; empty where that is not known."""
    return next((way for words, way in _WAYS if words.search(detail)), "")


def refusals_told(dropped: Path) -> list[str]:
    """Of the records of dropped documents, a sentence for each refusal of a template with a known way out."""
    if not dropped.is_file():
        return []
    details = pl.scan_parquet(dropped).filter(pl.col("reason") == TEMPLATE_ERROR).select("detail").collect()
    found = [(int(details["detail"].str.contains(words.pattern).sum()), way) for words, way in _WAYS]
    return [
        f"{counted(count, 'document')} left out as {TEMPLATE_ERROR}: {way}" for count, way in found if count
    ]
