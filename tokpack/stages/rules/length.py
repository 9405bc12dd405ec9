"""Rules in tokens: they see the column `tokens`, and run after tokenize."""

from __future__ import annotations

import polars as pl


def too_short(min_tokens: int = 16) -> pl.Expr:
    """Fewer tokens than `min_tokens` in the rendered document, chat template included."""
    return pl.col("tokens") < min_tokens


def too_long(max_tokens: int = 32_768) -> pl.Expr:
    """More tokens than `max_tokens`: dropped whole, before `truncate` would cut or split."""
    return pl.col("tokens") > max_tokens
