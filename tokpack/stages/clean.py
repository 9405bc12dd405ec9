"""Clean: mark documents that are noise. A rule is a function returning a polars expression, true = drop.

Expressions see the documents' columns and three derived ones: `answers` (assistant contents, list),
`answer` (the last of them) and `text` (all contents, one a line). A rule's name is its drop reason; the
first rule that hits wins. Special tokens written out in the contents are dealt with first, so that an
answer that is nothing but `<|endoftext|>` counts as empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from tokpack.config import CleanConfig
from tokpack.plugins import resolve
from tokpack.stages.messages import Messages, as_bool

ROLES = ("system", "developer", "user", "assistant", "tool", "text")
SPECIAL_TOKEN = "special_token_in_content"

Rule = Callable[..., pl.Expr]


def unknown_role() -> pl.Expr:
    """A message without a role, or with one no chat template knows."""
    known = pl.element().is_in(ROLES).fill_null(False)
    return pl.col("roles").list.eval(~known).list.any()


def null_content() -> pl.Expr:
    """A message whose content is null or missing (an assistant's tool call needs none)."""
    return pl.col("contents").list.eval(pl.element().is_null()).list.any()


def no_answer() -> pl.Expr:
    """No assistant turn: nothing to learn from."""
    return (pl.col("answers").list.len() == 0) & (pl.col("kind") != "text")


def empty_answer() -> pl.Expr:
    """An assistant turn, or a text, of nothing but whitespace; tool calls count as an answer."""
    blank = pl.element().str.strip_chars() == ""
    calls = pl.col("extra").str.contains('"tool_calls"', literal=True).fill_null(False)
    return pl.col("answers").list.eval(blank).list.any() & ~calls


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (unknown_role, null_content, no_answer, empty_answer)}
PRESETS: dict[str, tuple[str, ...]] = {"default": tuple(RULES), "strict": tuple(RULES), "off": ()}


@dataclass(slots=True)
class Cleaned:
    documents: pl.DataFrame
    counters: dict[str, int] = field(default_factory=dict)


def rules_of(config: CleanConfig) -> dict[str, pl.Expr]:
    """Reason -> expression for a preset, or a comma-separated list of rules and `module:function`."""
    names = PRESETS.get(config.rules, tuple(name.strip() for name in config.rules.split(",") if name.strip()))
    return {name.rpartition(":")[2]: resolve("filter", name, RULES)() for name in names}


def clean(documents: pl.DataFrame, config: CleanConfig, special_tokens: tuple[str, ...] = ()) -> Cleaned:
    """Mark noise in `drop_reason`. Contents change only where special tokens are stripped."""
    documents, counters = _special_tokens(documents, config.special_in_content, special_tokens)
    rules = rules_of(config)
    if rules:
        derived = _derived(documents, {name for rule in rules.values() for name in rule.meta.root_names()})
        reason = pl.coalesce("drop_reason", *(pl.when(rule).then(pl.lit(name)) for name, rule in rules.items()))
        documents = documents.with_columns(derived.select(reason.alias("drop_reason")).to_series())
    return Cleaned(documents, counters)


def _derived(documents: pl.DataFrame, wanted: set[str]) -> pl.DataFrame:
    """The columns that rules may use beyond the documents' own, made only where one does."""
    if wanted & {"answers", "answer"}:
        messages = Messages.of(documents)
        mine = as_bool(messages.roles.is_in(["assistant", "text"]))
        documents = documents.with_columns(messages.lists(messages.contents, mine).alias("answers"))
    if "answer" in wanted:
        documents = documents.with_columns(pl.col("answers").list.last().alias("answer"))
    if "text" in wanted:
        documents = documents.with_columns(pl.col("contents").list.join("\n", ignore_nulls=True).alias("text"))
    return documents


def _special_tokens(
    documents: pl.DataFrame, mode: str, tokens: tuple[str, ...]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Strip special tokens from the ends of contents, drop or keep documents that hold one elsewhere."""
    counters = {"special_token_stripped": 0, "special_token_inside": 0}
    if not tokens or documents.is_empty():
        return documents, counters
    messages = Messages.of(documents)
    hit = messages.contents.str.contains_any(list(tokens)).fill_null(False)
    if not hit.any():
        return documents, counters
    if mode == "strip":
        one = "(?:" + "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) + ")"
        ends = rf"^(?:\s*{one})+\s*|(?:\s*{one})+\s*$"
        stripped = messages.contents.filter(hit).str.replace_all(ends, "")
        contents = messages.contents.clone().scatter(hit.arg_true(), stripped)  # scatter writes in place
        documents = documents.with_columns(messages.lists(contents).alias("contents"))
        counters["special_token_stripped"] = int(messages.any(as_bool(contents != messages.contents)).sum())
        hit = contents.str.contains_any(list(tokens)).fill_null(False)
    inside = messages.any(as_bool(hit))
    counters["special_token_inside"] = int(inside.sum())
    if mode == "drop":
        marked = pl.when(pl.Series(inside)).then(pl.lit(SPECIAL_TOKEN))
        documents = documents.with_columns(pl.coalesce("drop_reason", marked).alias("drop_reason"))
    return documents, counters
