"""The token ledger: four sums that must come out to the last token, or the run is a bug of ours.

documents: read = kept + dropped(reason) + quarantined
tokens:    tokenized + repeated = packed + truncated + dropped(reason)
slots:     rows x capacity = packed + free            (not where documents are written as text)
trained:   packed = trained + masked
segments:  trained = the trained of each segment       (where `loss_mask` tells them apart)

`repeated` is there where a source repeats: the copies beyond the first, of documents and of packed tokens.
`kept_after_all` counts, by the reason that was overruled, documents kept because `--keep` names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Int64
from tokpack.errors import InternalError
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import HELD_OUT
from tokpack.schema import COPIES, KEPT_AFTER_ALL
from tokpack.settings.plain import LEFT_OUT, from_plain


@frozen(kw_only=True)
class DocumentSums:
    read: int
    kept: int
    dropped: dict[str, int]
    """By reason."""
    quarantined: int
    repeated: int | None = field(default=None, metadata=LEFT_OUT)
    """Copies beyond the first, where a source repeats."""
    kept_after_all: dict[str, int] | None = field(default=None, metadata=LEFT_OUT)
    """By the reason that `--keep` overruled."""

    @property
    def left_out(self) -> int:
        """Those that no packed dataset holds; held-out ones are in the validation packed dataset."""
        return sum(self.dropped.values()) - self.held_out

    @property
    def held_out(self) -> int:
        return self.dropped.get(HELD_OUT, 0)


@frozen(kw_only=True)
class TokenSums:
    tokenized: int
    repeated: int | None = field(default=None, metadata=LEFT_OUT)
    packed: int
    truncated: int
    dropped: dict[str, int]


@frozen(kw_only=True)
class Sums:
    """What became of documents and of their tokens."""

    documents: DocumentSums
    tokens: TokenSums


@frozen(kw_only=True)
class SlotSums:
    """Positions of all rows."""

    rows: int
    capacity: int
    total: int
    packed: int
    free: int


@frozen(kw_only=True)
class TrainedSums:
    packed: int
    trained: int
    masked: int


@frozen(kw_only=True)
class SegmentSums:
    trained: int
    masked: int


@frozen(kw_only=True)
class Ledger(Sums):
    """A ledger as the manifest and the report hold it."""

    slots: SlotSums | None = field(default=None, metadata=LEFT_OUT)
    """None where documents are written as text."""
    trained: TrainedSums
    segments: dict[str, SegmentSums] | None = field(default=None, metadata=LEFT_OUT)
    """What trained tokens are, where `loss_mask` tells segments apart."""
    sources: dict[str, Sums]

    @staticmethod
    def read(data: dict[str, Any]) -> Ledger:
        """From plain data."""
        return from_plain(Ledger, data, "ledger")


Mark = dict[str, Any]
"""documents, tokens, cut [, copies, again] of a source that have one drop_reason."""


def build(
    docs: pl.DataFrame,
    sources: list[str],
    quarantined: dict[str, int],
    packed: dict[str, Any],
    after_all: Mapping[int, dict[str, int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The ledger of a run, and the same per source.

    `docs`: source, drop_reason, tokens, cut [, copies], one row a document. `quarantined`: source -> rows.
    `packed`: what the writer counted while it wrote (tokens, trained, and of rows: rows, capacity; `segments`
    of the store, where they are told apart), independent of `docs`. `after_all`: number of a source ->
    reason -> documents kept in spite of it.
    """
    sums = [pl.len().cast(pl.Int64).alias("documents"), pl.col("tokens", "cut").cast(pl.Int64).sum()]
    if COPIES in docs.columns:
        again = (pl.col(COPIES) - 1).cast(pl.Int64)
        kept = pl.col("tokens") - pl.col("cut")
        sums += [again.sum().alias("copies"), (again * kept).sum().alias("again")]
    grouped = docs.lazy().group_by("source", "drop_reason").agg(sums).collect(engine="streaming")
    marks = grouped.sort("source", "drop_reason").rows(named=True)
    ledger = _sums(marks, sum(quarantined.values()), COPIES in docs.columns)
    ledger |= of_rows(packed)
    if "segments" in packed:
        ledger["segments"] = packed["segments"]
    of_source: dict[int, list[Mark]] = {}
    for mark in marks:
        of_source.setdefault(mark["source"], []).append(mark)
    ledger["sources"] = {
        name: _sums(of_source.get(number, []), quarantined.get(name, 0), COPIES in docs.columns)
        for number, name in enumerate(sources)
    }
    _tell_kept(ledger, sources, after_all)
    check(ledger)
    return ledger


def of_rows(packed: dict[str, Any]) -> dict[str, Any]:
    """`slots`, where there are rows, and `trained` of a ledger; `packed` as in `build`."""
    tokens, trained = packed["tokens"], packed["trained"]
    masks = {"packed": tokens, "trained": trained, "masked": tokens - trained}
    if "rows" not in packed:
        return {"trained": masks}
    rows, capacity = packed["rows"], packed["capacity"]
    total = rows * capacity
    slots = {"rows": rows, "capacity": capacity, "total": total, "packed": tokens, "free": total - tokens}
    return {"slots": slots, "trained": masks}


def _tell_kept(ledger: dict[str, Any], sources: list[str], after_all: Mapping[int, dict[str, int]]) -> None:
    total: Counter[str] = Counter()
    for number, reasons in after_all.items():
        ledger["sources"][sources[number]]["documents"][KEPT_AFTER_ALL] = reasons
        total.update(reasons)
    if total:
        ledger["documents"][KEPT_AFTER_ALL] = dict(sorted(total.items()))


def _sums(marks: list[Mark], quarantined: int, repeats: bool) -> dict[str, Any]:
    kept = [mark for mark in marks if mark["drop_reason"] is None]
    reasons = sorted({mark["drop_reason"] for mark in marks} - {None})

    def dropped(key: str) -> dict[str, int]:
        found = dict.fromkeys(reasons, 0)
        for mark in marks:
            if mark["drop_reason"] is not None:
                found[mark["drop_reason"]] += mark[key]
        return found

    def total(some: list[Mark], key: str) -> int:
        return sum(mark[key] for mark in some)

    truncated = total(kept, "cut")
    again = total(kept, "again") if repeats else 0
    return {
        "documents": {
            "read": total(marks, "documents") + quarantined,
            "kept": total(kept, "documents"),
            "dropped": dropped("documents"),
            "quarantined": quarantined,
            **({"repeated": total(kept, "copies")} if repeats else {}),
        },
        "tokens": {
            "tokenized": total(marks, "tokens"),
            **({"repeated": again} if repeats else {}),
            "packed": total(kept, "tokens") - truncated + again,
            "truncated": truncated,
            "dropped": dropped("tokens"),
        },
    }


def check(ledger: dict[str, Any]) -> None:
    """Raises InternalError naming the first line of the ledger that does not add up."""
    slots, trained = ledger.get("slots"), ledger["trained"]
    lines = [("total", ledger), *ledger["sources"].items()]
    for name, part in lines:
        documents, tokens = part["documents"], part["tokens"]
        _equal(
            f"documents of {name}",
            documents["read"],
            documents["kept"] + sum(documents["dropped"].values()) + documents["quarantined"],
        )
        _equal(
            f"tokens of {name}",
            tokens["tokenized"] + tokens.get("repeated", 0),
            tokens["packed"] + tokens["truncated"] + sum(tokens["dropped"].values()),
        )
    _equal("packed tokens", ledger["tokens"]["packed"], trained["packed"])
    if slots:
        _equal("packed slots", trained["packed"], slots["packed"])
        _equal("slots", slots["rows"] * slots["capacity"], slots["packed"] + slots["free"])
    _equal("trained", trained["packed"], trained["trained"] + trained["masked"])
    if "segments" in ledger:
        parts = sum(segment["trained"] for segment in ledger["segments"].values())
        _equal("trained tokens of segments", trained["trained"], parts)
    for part in ("documents", "tokens"):
        for key, value in ledger[part].items():
            if isinstance(value, int):
                parts = sum(source[part].get(key, 0) for source in ledger["sources"].values())
                _equal(f"{part}.{key} over sources", value, parts)
    free, masked = slots["free"] if slots else 0, trained["masked"]
    if free < 0 or masked < 0:
        raise InternalError("the ledger has a negative line", where=f"free {free}, masked {masked}")


def documents_by_source(ledger: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Source -> `doc_id` of its first document, and of the one after its last."""
    ranges, start = {}, 0
    for name, part in ledger["sources"].items():
        end = start + part["documents"]["read"]
        ranges[name] = (start, end)
        start = end
    return ranges


def source_of(doc_ids: Int64, ledger: dict[str, Any]) -> Int64:
    """Number of the source of each document, in the ledger's order; one more where none has it."""
    ends = [end for _, end in documents_by_source(ledger).values()]
    return np.searchsorted(ends, doc_ids, side="right")


def _equal(line: str, left: int, right: int) -> None:
    if left != right:
        raise InternalError(
            f"the ledger does not add up: {line}: {left} is not {right}",
            hint="this is a bug in tokpack; please report it with the command and, if you can, the data",
        )
