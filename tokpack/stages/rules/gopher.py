"""Gopher's repetition statistics, over all words of a batch at once."""

from __future__ import annotations

import numpy as np
import polars as pl

from tokpack.arrays import Bools, UInt32, UInt64

_PRIME = np.uint64(0x9E3779B97F4A7C15)


def gopher_repetition(min_words: int = 100) -> pl.Expr:
    """Repetition beyond Gopher's limits (Rae et al. 2021, table A1), answer by answer.

    Share of characters in: repeated lines 0.20; the most frequent 2-, 3- and 4-gram of words 0.20, 0.18,
    0.16; repeated 5- to 10-grams 0.15 to 0.10. Share of repeated lines 0.30. Only answers of `min_words`
    words separated by spaces. For web text: sound code, tables and worked sums exceed these limits, so no
    preset has the rule.
    """
    return pl.col("answers").map_batches(
        lambda answers: _beyond_gopher(answers, min_words), return_dtype=pl.Boolean, is_elementwise=True
    )


TOP_LIMITS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_LIMITS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
LINE_LIMIT, LINE_CHARS_LIMIT = 0.30, 0.20


def _beyond_gopher(answers: pl.Series, min_words: int) -> pl.Series:
    """Per document: is one of its answers beyond a limit? Vectors over all words of the batch."""
    frame = (
        pl.DataFrame({"answer": answers}).with_row_index("document").explode("answer", empty_as_null=False)
    )
    frame = frame.filter(pl.col("answer").str.count_matches(r"\S+") >= min_words).with_row_index("number")
    bad = np.zeros(len(answers), dtype=bool)
    if frame.is_empty():
        return pl.Series(bad)
    words = frame.select("number", part=pl.col("answer").str.extract_all(r"\S+")).explode("part")
    lines = frame.select("number", part=pl.col("answer").str.extract_all(r"\S[^\n]*")).explode("part")
    hit = _repeated_line_hits(lines, len(frame)) | _ngram_hits(words, len(frame))
    bad[frame["document"].to_numpy()[hit]] = True
    return pl.Series(bad)


def _repeated_line_hits(lines: pl.DataFrame, count: int) -> Bools:
    number = lines["number"].to_numpy()
    again = _seen_before(number, lines["part"].hash(0).to_numpy())
    chars = lines["part"].str.len_chars().to_numpy()
    of_lines = np.bincount(number, again, count) / np.maximum(1, np.bincount(number, minlength=count))
    of_chars = np.bincount(number, again * chars, count) / np.maximum(1, np.bincount(number, chars, count))
    return (of_lines > LINE_LIMIT) | (of_chars > LINE_CHARS_LIMIT)


def _ngram_hits(words: pl.DataFrame, count: int) -> Bools:
    number = words["number"].to_numpy()
    chars = words["part"].str.len_chars().to_numpy().astype(np.int64)
    ids = words["part"].hash(0).to_numpy()
    total = np.bincount(number, chars, count)
    hit = np.zeros(count, dtype=bool)
    grams, sums = ids, chars
    for size in range(2, max(REPEATED_LIMITS) + 1):
        grams = grams[:-1] * _PRIME + ids[size - 1 :]
        sums = sums[:-1] + chars[size - 1 :]
        whole = number[: len(grams)] == number[size - 1 :]
        table = pl.DataFrame({"number": number[: len(grams)], "gram": grams, "chars": sums}).filter(whole)
        if size in TOP_LIMITS:
            top = (
                table.group_by("number", "gram")
                .agg(pl.len(), pl.col("chars").first())
                .filter(pl.col("len") > 1)
            )
            most = np.zeros(count)
            np.maximum.at(most, top["number"].to_numpy(), (top["len"] * top["chars"]).to_numpy())
            hit |= most > TOP_LIMITS[size] * total
        else:
            again = np.zeros(len(grams), dtype=bool)
            again[whole] = _seen_before(table["number"].to_numpy(), table["gram"].to_numpy())
            covered = _covered(again, size, len(ids))
            hit |= np.bincount(number, covered * chars, count) > REPEATED_LIMITS[size] * total
    return hit


def _seen_before(number: UInt32, hashes: UInt64) -> Bools:
    """Whether the same hash stood earlier in the same answer."""
    return ~pl.Series(hashes ^ (number + np.uint64(1)) * _PRIME).is_first_distinct().to_numpy()


def _covered(starts: Bools, size: int, count: int) -> Bools:
    """Which of `count` words lie in an n-gram that begins at a marked start."""
    change = np.zeros(count + 1, dtype=np.int64)
    np.add.at(change, np.flatnonzero(starts), 1)
    np.add.at(change, np.flatnonzero(starts) + size, -1)
    return np.cumsum(change[:-1]) > 0
