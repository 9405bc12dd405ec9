"""Preference pairs: what holds for one document of a pair holds for both.

In a run of pairs every batch holds documents 2k and 2k + 1 (chosen, rejected) side by side, so the partner of
the document at position p is at p ^ 1.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import xxhash

from tokpack.arrays import Int32, Int64, UInt64
from tokpack.on_disk.reasons import CHOSEN_EQUALS_REJECTED, PAIR_DROPPED
from tokpack.ranges import range_indices
from tokpack.schema import PAIR_WIDTH


def partners(documents: pl.DataFrame | pl.Series) -> pl.Series:
    """Position of each document's partner."""
    return pl.Series(np.arange(len(documents)) ^ 1)


def drop_partners(documents: pl.DataFrame) -> pl.DataFrame:
    """Mark the documents whose partner is marked: reason `pair_dropped`, detail `"17 empty_answer"`."""
    torn, details = torn_pairs(documents)
    at = torn.arg_true()
    return documents.with_columns(
        documents["drop_reason"].clone().scatter(at, PAIR_DROPPED),
        documents["drop_detail"].clone().scatter(at, details),
    )


def torn_pairs(documents: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Which documents are kept while their partner is marked, and the detail of each of them."""
    reason = documents["drop_reason"]
    other = partners(documents)
    torn = reason.is_null() & reason.gather(other).is_not_null()
    told = pl.concat_str("doc_id", pl.col("drop_reason").cast(pl.String), separator=" ")
    return torn, documents[other.filter(torn)].select(told).to_series()


def drop_equal(documents: pl.DataFrame, input_ids: Int32, offsets: Int64) -> pl.DataFrame:
    """Mark the pairs whose documents are written alike, whatever their rows say: reason
    `chosen_equals_rejected`."""
    lengths = np.diff(offsets)
    kept = documents["drop_reason"].is_null().to_numpy().reshape(-1, PAIR_WIDTH).all(axis=1)
    first = PAIR_WIDTH * np.flatnonzero(kept & (lengths[::PAIR_WIDTH] == lengths[1::PAIR_WIDTH]))
    sizes = lengths[first]
    number = np.repeat(np.arange(len(first)), sizes)
    places = range_indices(offsets[first], sizes)
    differ = input_ids[places] != input_ids[places + sizes[number]]
    equal = first[np.bincount(number[differ], minlength=len(first)) == 0]
    both = (equal[:, None] + np.arange(PAIR_WIDTH)).ravel()
    return documents.with_columns(documents["drop_reason"].clone().scatter(both, CHOSEN_EQUALS_REJECTED))


def pair_groups(doc_ids: Int64, copies: Int32) -> Int64:
    """A number for each pair, and for each copy of one: what is planned as one item."""
    pairs = doc_ids // PAIR_WIDTH
    return pairs + copies * (int(pairs.max(initial=0)) + 1)


def pair_hash(hashes: UInt64) -> UInt64:
    """Both documents of a pair get the hash of the two: uint64[n, 2] -> uint64[n, 2]."""
    joined = np.ascontiguousarray(hashes.astype(">u8")).reshape(-1, 2 * PAIR_WIDTH)
    digests = b"".join(xxhash.xxh3_128_digest(row.tobytes()) for row in joined)
    return np.repeat(np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2), PAIR_WIDTH, axis=0)
