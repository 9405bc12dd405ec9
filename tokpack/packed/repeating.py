"""Repeat the sources of a packed dataset otherwise: their documents more often, or less, without reading them
again.

A whole number gives the rows that packing at once gives. Of 2.5 the half that comes a third time is drawn by
the numbers of the documents, where `pack` draws by their content, which is not at hand here.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping
from dataclasses import replace
from math import floor
from typing import Any

import numpy as np

from tokpack.arrays import Int64
from tokpack.errors import UsageError, near_matches
from tokpack.on_disk.ledger import source_of
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.settings.config_limits import MOST_COPIES
from tokpack.stages.dedup import draw

SPREAD = np.uint64(0x9E3779B97F4A7C15)


def check_repeats(repeat: Mapping[str, float], ledger: dict[str, Any], where: str) -> None:
    """Raises UsageError for a source that is not there, a number that cannot be, and a ledger that would need
    what the rows do not hold."""
    for name, times in repeat.items():
        if name not in ledger["sources"]:
            hint = near_matches(name, ledger["sources"])
            raise UsageError(f"no source named {name!r}", where=f"--repeat {name}", hint=hint)
        if not 1 <= times <= MOST_COPIES:
            raise UsageError(
                f"a source cannot be repeated {times:g} times",
                where=f"--repeat {name}={times:g}",
                hint=f"give 1 to {MOST_COPIES}; to leave a source out, pack without it",
            )
    if repeat and "segments" in ledger:
        raise UsageError(
            "the ledger tells the segments of answers apart, which rows do not",
            where=where,
            hint="pack the raw data again with `repeat` in its [[source]]",
        )


def with_repeats(
    stored: StoredPieces, ledger: dict[str, Any], repeat: Mapping[str, float], seed: int, width: int
) -> tuple[StoredPieces, dict[str, Any]]:
    """The pieces of documents repeated as often as `repeat` says of their sources, others as often as they
    are, and their ledger. `stored`: by document; `width` documents are repeated together.
    """
    at = stored.placement
    documents, index = np.unique(at.doc_id, return_inverse=True)
    source = source_of(documents, ledger)
    times = np.zeros(len(documents), np.int64)
    np.maximum.at(times, index, at.copy.astype(np.int64) + 1)
    numbers = (documents // width).astype(np.uint64)
    for name, wanted in repeat.items():
        mine = source == list(ledger["sources"]).index(name)
        hashes = (numbers[mine], numbers[mine] * SPREAD)
        times[mine] = floor(wanted) + draw(hashes, wanted - floor(wanted), seed)
    first = np.flatnonzero(at.copy == 0)
    often = times[index[first]]
    parts = [first[often > copy] for copy in range(int(often.max(initial=1)))]
    copies = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    repeated = stored.take(np.concatenate(parts))
    repeated = replace(repeated, placement=replace(repeated.placement, copy=copies))
    tokens = np.bincount(index[first], weights=at.length[first], minlength=len(documents)).astype(np.int64)
    return repeated, _ledger(ledger, times, tokens, source)


def _ledger(ledger: dict[str, Any], times: Int64, tokens: Int64, source: Int64) -> dict[str, Any]:
    """With what is repeated. Arrays of one entry a document; `tokens` of one copy."""
    made = copying.deepcopy(ledger)
    again = times - 1
    for number, part in enumerate([*made["sources"].values(), made]):
        mine = source == number if part is not made else np.ones(len(times), bool)
        documents, counted = part["documents"], part["tokens"]
        documents["repeated"] = int(again[mine].sum())
        counted["repeated"] = int((again * tokens)[mine].sum())
        counted["packed"] = int(tokens[mine].sum()) + counted["repeated"]
        if not again.any():
            del documents["repeated"], counted["repeated"]
    return made
