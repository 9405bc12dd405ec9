"""The error of a run that leaves out everything: reasons and counts, where they are recorded, the way out."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from tokpack.errors import DataError
from tokpack.on_disk.ledger import DocumentSums
from tokpack.on_disk.reasons import NO_ANSWER, PROMPTS_ONLY, UNREADABLE, way_out_of
from tokpack.report.refusals import way_past
from tokpack.report.words import ranked_reasons, reasons_told
from tokpack.settings.config import CleanConfig
from tokpack.stages.clean import rules_of
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

LONGEST = 500
"""Characters of an example: names, and what a template says."""


def nothing_kept(documents: DocumentSums, clean: CleanConfig, dropped: Path, quarantine: Path) -> DataError:
    """The files name each one that was left out."""
    records = {dropped: documents.dropped, quarantine: documents.quarantined}
    told = reasons_told(documents)
    first = ranked_reasons(documents)[0][0]
    examples = {reason: _example(reason, dropped, quarantine) for reason in (first, UNREADABLE)}
    told += "".join(f"; the first {reason}: {example}" for reason, example in examples.items() if example)
    way = way_past(examples[first]) or way_out_of(first)
    if first == NO_ANSWER:
        way = (
            f"rows of {PROMPTS_ONLY}; where there is one, check --format and --map; "
            f"--clean {clean.rules},-{first} --loss all trains on the prompts themselves"
        )
    elif first in rules_of(clean):
        way = f"check --format and --map; without that rule: --clean {clean.rules},-{first}"
    return DataError(
        f"nothing is left to train on: of {counted(documents.read, 'document')} {told}",
        where=", ".join(str(path) for path, held in records.items() if held),
        hint=way,
    )


def _example(reason: str, dropped: Path, quarantine: Path) -> str:
    """Where the first document of a reason stands, and what its record says."""
    if reason == UNREADABLE:
        if not quarantine.is_file():
            return ""
        with quarantine.open(encoding="utf-8") as lines:
            record = json.loads(next(lines, "{}"))
        return one_line(f"{record['source']}:{record['row']}, {record['reason']}", LONGEST) if record else ""
    if not dropped.is_file():
        return ""
    [row] = pl.scan_parquet(dropped).filter(pl.col("reason") == reason).head(1).collect().to_dicts() or [{}]
    told = [f"{row['source']}:{row['row']}", row["detail"]] if row else []
    return one_line(", ".join(part for part in told if part), LONGEST)
