"""What rules are built from."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def among(suspect: pl.Expr, check: pl.Expr) -> pl.Expr:
    """`suspect & check`, with `check` worked out for the suspects alone.

    Polars works both sides out for all rows: its `when` chooses afterwards, and string functions run even
    over what lies under a null. Null counts as false.
    """
    names = sorted({*suspect.meta.root_names(), *check.meta.root_names()})

    def run(columns: Sequence[pl.Series]) -> pl.Series:
        rows = pl.DataFrame(dict(zip(names, columns, strict=True)))
        suspects = rows.select(suspect).to_series().fill_null(False)
        if not suspects.any():
            return suspects
        places = suspects.arg_true()
        hit = rows[places].select(check).to_series().fill_null(False)
        return pl.repeat(False, len(rows), dtype=pl.Boolean, eager=True).scatter(places.filter(hit), True)

    return pl.map_batches([pl.col(name) for name in names], run, return_dtype=pl.Boolean, is_elementwise=True)


def says_any(text: pl.Expr, phrases: str) -> pl.Expr:
    """Whether the text holds one of the `|`-separated phrases; ASCII letters match in either case."""
    return text.str.contains_any(phrases.split("|"), ascii_case_insensitive=True)
