"""Preference pairs as input, and packed ones by document."""

from __future__ import annotations

import json

import numpy as np

from tokpack.on_disk import ledger


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def words(rng, count):
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def places_of(packed):
    """doc_id -> (row, place in the row, ids, labels)."""
    found = {}
    for number in range(len(packed)):
        row = packed[number]
        ends = np.cumsum(row["seq_lengths"])
        spans = zip(ends - row["seq_lengths"], ends, strict=True)
        for place, (doc_id, (start, end)) in enumerate(zip(row["doc_ids"].tolist(), spans, strict=True)):
            assert doc_id not in found
            assert row["pair_ids"][place] == doc_id // 2
            assert row["is_chosen"][place] == (doc_id % 2 == 0)
            found[doc_id] = (number, place, row["input_ids"][start:end], row["labels"][start:end])
    return found


def reasons(packed):
    return dict(packed.dropped.select("doc_id", "reason").rows())


def check_pairs(packed, read):
    """Every document of `read` rows is packed, or in the record: with its partner, in one row, once."""
    found, left_out = places_of(packed), reasons(packed)
    cut = {doc for doc, reason in left_out.items() if reason == "truncated"}
    assert cut <= found.keys()
    gone = left_out.keys() - cut
    assert found.keys() | gone == set(range(2 * read))
    assert not found.keys() & gone
    for chosen in range(0, 2 * read, 2):
        assert (chosen in found) == (chosen + 1 in found)
        if chosen in found:
            (row, place, *_), (other_row, other_place, *_) = found[chosen], found[chosen + 1]
            assert (row, place + 1) == (other_row, other_place)
    ledger.check(packed.ledger)
    return found
