"""The error of a run that leaves out everything: reasons and counts, where they are recorded, the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokpack.config import CleanConfig
from tokpack.errors import DataError
from tokpack.ledger import HELD_OUT
from tokpack.report.words import UNREADABLE, counted, ranked_reasons, reasons_told
from tokpack.stages.clean import rules_of
from tokpack.stages.select import OVER_BUDGET
from tokpack.stages.special_tokens import SPECIAL_TOKEN
from tokpack.stages.truncate import NO_TRAINED_TOKENS, OVERLONG

WAYS_OUT = {
    UNREADABLE: "check --format and --map",
    OVERLONG: "give a larger --max-length, or an --overlong that shortens",
    NO_TRAINED_TOKENS: "check the chat template, or give --loss all",
    OVER_BUDGET: "give a larger --budget, or more max_tokens to a source",
    HELD_OUT: "give a smaller --val",
    SPECIAL_TOKEN: "give --special-in-content strip",
    "template_error": "give --chat-template, or --render plain",
    "not_in_format": "give another --format",
    "contaminated": "check the files of --against",
}
"""Reason -> what to change."""


def nothing_kept(documents: dict[str, Any], clean: CleanConfig, dropped: Path, quarantine: Path) -> DataError:
    """`documents` as in the ledger; the files name each one that was left out."""
    records = {dropped: documents["dropped"], quarantine: documents["quarantined"]}
    told = reasons_told(documents)
    first = ranked_reasons(documents)[0][0]
    way = WAYS_OUT.get(first, "see `tokpack analyze`")
    if first in rules_of(clean):
        way = f"check --format and --map; without that rule: --clean {clean.rules},-{first}"
    return DataError(
        f"nothing is left to train on: of {counted(documents['read'], 'document')} {told}",
        where=", ".join(str(path) for path, held in records.items() if held),
        hint=way,
    )
