"""Rules about what a conversation is made of."""

from __future__ import annotations

import polars as pl

ROLES = ("system", "developer", "user", "assistant", "tool", "text")


def unknown_role() -> pl.Expr:
    """A message without a role, or with one no chat template knows."""
    known = pl.element().is_in(ROLES).fill_null(False)
    return pl.col("roles").list.eval(~known).list.any()


def null_content() -> pl.Expr:
    """A message whose content is null or missing (an assistant's tool call needs none)."""
    return pl.col("contents_without_call").list.eval(pl.element().is_null()).list.any()


def no_answer() -> pl.Expr:
    """No assistant turn: nothing to learn from."""
    return (pl.col("answers").list.len() == 0) & (pl.col("kind") != "text")


def empty_answer() -> pl.Expr:
    """An assistant turn, or a text, of nothing but whitespace; a turn that calls a tool is an answer."""
    blank = pl.element().str.strip_chars() == ""
    return pl.col("answers_without_call").list.eval(blank).list.any()


def chosen_equals_rejected() -> pl.Expr:
    """A preference pair whose answers are the same, outer whitespace aside: there is nothing to prefer."""
    own, other = (pl.col(name).list.eval(pl.element().str.strip_chars()) for name in ("contents", "partner"))
    return (own == other) & pl.col("extra").eq_missing(pl.col("partner_extra"))


def prompt_equals_answer(min_chars: int = 20) -> pl.Expr:
    """The last answer repeats the last prompt, outer whitespace aside: a model would learn to echo.

    Shorter ones are left alone: "Hello!" is a fair answer to "Hello!". The threshold is ours.
    """
    answer, prompt = pl.col("answer"), pl.col("prompt")
    long = answer.str.len_bytes() >= min_chars
    same = answer.str.strip_chars() == prompt.str.strip_chars()
    return long & same & (answer.str.strip_chars().str.len_chars() >= min_chars)
