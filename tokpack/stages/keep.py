"""Keep: documents that a person wants, whatever the rules, duplicates and evaluation texts say of them.

    # input chats.jsonl 9f86d081...   which data the numbers are of; the SHA-256 is compared where it is there
    17  # exact_duplicate, chats.jsonl row 18

One `doc_id` a line, as `dropped.parquet` has them; `#` begins a comment. `tokpack view` writes such files.

A wish overrules decisions: rules, special tokens in contents, labels, duplicates, evaluation text. It
does not overrule what a document is (`FACTS`): nothing makes a row longer or a template accept a message.
Within a budget, documents that are wanted come first. Of a preference pair both documents are kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Bools, Int64
from tokpack.errors import DataError, UsageError, reading
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import HELD_OUT, NO_TRAINED_TOKENS, OVER_BUDGET, OVERLONG, PAIR_DROPPED
from tokpack.schema import PAIR_WIDTH
from tokpack.terminal.activity import in_number

FACTS = (
    "template_error",
    "tied_pair",
    OVERLONG,
    NO_TRAINED_TOKENS,
    OVER_BUDGET,
    HELD_OUT,
    PAIR_DROPPED,
    "not_in_format",
)
"""Reasons that no wish overrules."""
INPUT = re.compile(r"#\s*input\s+(\S(?:.*\S)?)\s+([0-9a-f]{64})")
MOST_BYTES = 1 << 28
"""Of a list: some thirty million documents."""
MOST_NUMBER = 1 << 36


@frozen
class KeepList:
    """doc_ids: int64[n], ascending. inputs: name -> SHA-256 of the data that they are of, as far as said."""

    doc_ids: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    inputs: Mapping[str, str] = field(default_factory=dict)
    path: str = ""

    @staticmethod
    def load(path: str | Path) -> KeepList:
        """Raises UsageError for a line that is no number."""
        if not path:
            return KeepList()
        with reading(path, hint="check --keep"), Path(path).open("rb") as file:
            listed = file.read(MOST_BYTES + 1)
        if len(listed) > MOST_BYTES:
            what = f"more than {MOST_BYTES:,} bytes are no list of documents"
            raise UsageError(what, where=str(path), hint="check --keep")
        lines = listed.decode("utf-8", "replace").splitlines()
        inputs, numbers = {}, set()
        for place, line in enumerate(lines, 1):
            if named := INPUT.fullmatch(line.strip()):
                inputs[named[1]] = named[2]
            elif text := line.partition("#")[0].strip():
                numbers.add(_number(text, f"{path}:{place}"))
        return KeepList(np.array(sorted(numbers), np.int64), inputs, str(path))

    @property
    def sha256(self) -> str:
        """Of the numbers, whatever else the file says."""
        return hashlib.sha256(self.doc_ids.astype("<i8").tobytes()).hexdigest()

    def of_pairs(self) -> KeepList:
        """With both documents of each pair."""
        firsts = np.unique(self.doc_ids // PAIR_WIDTH) * PAIR_WIDTH
        return KeepList((firsts[:, None] + np.arange(PAIR_WIDTH)).ravel(), self.inputs, self.path)

    def holds(self, doc_ids: Int64) -> Bools:
        return np.isin(doc_ids, self.doc_ids)

    def spare(self, documents: pl.DataFrame, before: int = 0) -> tuple[pl.DataFrame, dict[int, str]]:
        """Documents with their marks taken off where they are wanted, and the reasons that are overruled.

        `before` is added to the numbers that `documents` have to give those that the list names.
        """
        if not len(self.doc_ids):
            return documents, {}
        reason = documents["drop_reason"]
        wanted = self.holds(documents["doc_id"].to_numpy() + before)
        spared = pl.Series(wanted) & reason.is_not_null() & ~reason.is_in(FACTS)
        if not spared.any():
            return documents, {}
        told = dict(documents.filter(spared).select("doc_id", "drop_reason").iter_rows())
        nothing = pl.when(~spared)
        marks = [name for name in ("drop_reason", "drop_detail") if name in documents.columns]
        unmarked = [nothing.then(name).alias(name) for name in marks]
        return documents.with_columns(unmarked), told

    def check(self, docs: pl.DataFrame, sha256: Mapping[str, str | None]) -> None:
        """Raises for numbers of no document of this run, and where the file is of other data."""
        for name, digest in self.inputs.items():
            if name not in sha256 or sha256[name] not in (None, digest):
                what = "is another file now" if name in sha256 else "is no input of this run"
                raise DataError(
                    f"the keep list is of other data: {name} {what}",
                    where=self.path,
                    hint="numbers hold for the same inputs in the same order: make the list anew",
                )
        known = docs["doc_id"].to_numpy()
        unknown = self.doc_ids[~np.isin(self.doc_ids, known)]
        if len(unknown):
            last = int(known[-1]) if len(known) else -1
            unread = int(unknown[0]) <= last
            raise UsageError(
                f"no document {unknown[0]}" + (", its row could not be read" if unread else ""),
                where=self.path,
                hint="see quarantine.jsonl, and take the line out"
                if unread
                else f"documents are 0 to {last}",
            )

    def in_vain(self, docs: pl.DataFrame) -> str:
        """What to say of wanted documents that are left out all the same; nothing where there is none."""
        wanted = pl.Series(self.holds(docs["doc_id"].to_numpy()))
        reasons = docs.filter(wanted)["drop_reason"].drop_nulls().cast(pl.String)
        found = reasons.filter(reasons != HELD_OUT).value_counts(sort=True)
        if found.is_empty():
            return ""
        count, why = int(found["count"].sum()), ", ".join(f"{reason} {n:,}" for reason, n in found.rows())
        said = in_number(
            count, f"{count:,} document(|s) that {self.path} names (is|are) left out all the same"
        )
        return f"{said}: {why}; no wish overrules that"


def _number(text: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,11}", text) or int(text) >= MOST_NUMBER:
        raise UsageError(
            f"{text[:40]!r} is no number of a document",
            where=where,
            hint="one doc_id a line; # begins a comment",
        )
    return int(text)


def kept_after_all(docs: pl.DataFrame, spared: Mapping[int, str]) -> dict[int, dict[str, int]]:
    """Source -> reason -> documents that are kept in spite of it. `docs`: doc_id, source, drop_reason."""
    if not spared:
        return {}
    ids = pl.DataFrame({"doc_id": list(spared), "reason": list(spared.values())})
    ids = ids.cast({"doc_id": docs["doc_id"].dtype})
    counted = (
        docs.filter(pl.col("drop_reason").is_null())
        .join(ids, on="doc_id")
        .group_by("source", "reason")
        .agg(pl.len().alias("count"))
        .sort("source", "reason")
    )
    found: dict[int, dict[str, int]] = {}
    for source, reason, count in counted.iter_rows():
        found.setdefault(source, {})[reason] = count
    return found


def record(keep: KeepList) -> dict[str, Any]:
    """What the manifest says of the list."""
    return {"documents": len(keep.doc_ids), "sha256": keep.sha256}
