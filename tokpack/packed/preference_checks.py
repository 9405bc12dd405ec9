"""What `verify` asks of preferences: pairs that are whole, labels that do not contradict each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Int64
from tokpack.schema import PAIR_WIDTH

Lists = tuple[Int64, npt.NDArray[Any]]
"""Offsets and values of a list column."""
LABELED = {"doc": pl.Int64, "good": pl.Boolean}


def torn_rows(doc_ids: Lists, pair_ids: Lists, is_chosen: Lists) -> list[tuple[int, str]]:
    """Rows that do not hold whole pairs, the rejected answer right behind the chosen one."""
    if not np.array_equal(doc_ids[0], pair_ids[0]) or not np.array_equal(doc_ids[0], is_chosen[0]):
        return [(0, "doc_ids, pair_ids and is_chosen differ in length")]
    row = np.repeat(np.arange(len(doc_ids[0]) - 1), np.diff(doc_ids[0]))
    named = (pair_ids[1] == doc_ids[1] // PAIR_WIDTH) & (is_chosen[1] == (doc_ids[1] % PAIR_WIDTH == 0))
    faults = [(int(r), "pair_ids or is_chosen do not fit the document") for r in row[~named][:3]]
    first = np.arange(len(row)) - doc_ids[0][row]
    partner = np.where(first % PAIR_WIDTH == 0, 1, -1) + np.arange(len(row))
    inside = partner < len(row)
    partner = np.where(inside, partner, 0)
    whole = inside & (row[partner] == row) & (doc_ids[1][partner] == doc_ids[1] ^ 1)
    whole &= is_chosen[1] == (first % PAIR_WIDTH == 0)
    return faults + [(int(r), "half a pair, or its two documents apart") for r in np.unique(row[~whole])[:3]]


def label_faults(told: pl.DataFrame, placed: pl.DataFrame) -> tuple[str, list[str]]:
    """What the labels of unpaired preferences are, and the documents whose label is not one.

    told: columns of `LABELED`, a record for each document of the rows; placed: `doc` and `piece` of each.
    """
    each = told.group_by("doc").agg(pl.col("good").n_unique().alias("labels"), pl.col("good").first())
    faults = []
    for name, found in (
        ("is labeled good and bad", each.filter(pl.col("labels") > 1)["doc"]),
        ("is torn into pieces", placed.filter(pl.col("piece") > 0)["doc"].unique()),
    ):
        faults += [f"document {doc} {name}" for doc in found.sort()[:3]]
    good = int(each["good"].sum())
    return f"{good:,} desirable, {len(each) - good:,} undesirable", faults
