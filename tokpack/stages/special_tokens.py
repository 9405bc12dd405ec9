"""Special tokens written out in contents: what is taken off, what is left, and which texts hold a whole chat.

Only tokens that end or begin a text, and mean nothing else, are stripped: BOS, EOS, padding and the ends of
turns. Think, tool and repository tags are what the answer says, so they stay. A `text` row is its author's
own form and is never changed, nor is a document with a message that begins with one of the template's own
markers: it is rendered already, and without its markers it would be neither one thing nor the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from tokpack.arrays import Bools
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import SPECIAL_TOKEN
from tokpack.stages.messages import Messages, as_bool
from tokpack.terminal.activity import in_number

STRIPPED, INSIDE = "special_token_stripped", "special_token_inside"
END_INSIDE = "end_token_inside"
RENDERED_TEXT, RENDERED_CHAT = "rendered_already_text", "rendered_already_chat"
"""Counters of documents."""


@frozen(kw_only=True)
class SpecialTokens:
    """The special tokens of a tokenizer by what may be done with them where a content holds them."""

    every: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    """May be taken off the ends of a content: BOS, EOS, padding, end of turn."""
    openers: tuple[str, ...] = ()
    """The chat template begins messages with these; some are plain text."""
    bos: str = ""


NONE: Final = SpecialTokens()


def treat_special_tokens(
    documents: pl.DataFrame, mode: str, tokens: SpecialTokens
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Strip tokens from the ends of contents, drop or keep documents that hold one elsewhere; count them."""
    counters = {STRIPPED: 0, INSIDE: 0}
    if documents.is_empty() or not (tokens.every or tokens.openers):
        return documents, counters
    messages = Messages.of(documents)
    hit = _holds(messages.contents, tokens.every)
    rendered = messages.any(_begins(messages.contents, tokens, hit))
    texts = (documents["kind"] == "text").to_numpy()
    for name, which in ((RENDERED_TEXT, texts), (RENDERED_CHAT, ~texts)):
        if count := int((rendered & which).sum()):
            counters[name] = count
    if mode == "strip" and tokens.ends and hit.any():
        open_to_change = np.repeat(~(rendered | texts), np.diff(messages.offsets))
        places = np.flatnonzero(hit & open_to_change)
        before = messages.contents.gather(places)
        after = _stripped(before, tokens.ends)
        contents = messages.contents.clone().scatter(places, after)  # scatter writes in place
        documents = documents.with_columns(messages.lists(contents).alias("contents"))
        changed = np.zeros(len(hit), np.bool_)
        changed[places] = as_bool(before != after)
        counters[STRIPPED] = int(messages.any(changed).sum())
        hit[places] = _holds(after, tokens.every)
        ended = np.zeros(len(hit), np.bool_)
        ended[places] = _holds(after, tokens.ends)
        if count := int(messages.any(ended).sum()):
            counters[END_INSIDE] = count
    inside = messages.any(hit) | _holds(documents["extra"], tokens.every)  # calls and reasoning
    counters[INSIDE] = int(inside.sum())
    if mode == "drop":
        marked = pl.when(pl.Series(inside)).then(pl.lit(SPECIAL_TOKEN))
        documents = documents.with_columns(pl.coalesce("drop_reason", marked).alias("drop_reason"))
    return documents, counters


def _holds(contents: pl.Series, tokens: Sequence[str]) -> Bools:
    if not tokens:
        return np.zeros(len(contents), np.bool_)
    return as_bool(contents.str.contains_any(list(tokens)))


def _begins(contents: pl.Series, tokens: SpecialTokens, hit: Bools) -> Bools:
    """Which contents begin with an opener, after white space and BOS. `hit`: which hold a special token."""
    special = bool(tokens.openers) and set(tokens.openers) <= set(tokens.every)
    suspects = hit.copy() if special else _holds(contents, tokens.openers)
    if suspects.any():
        bos = rf"(?:{re.escape(tokens.bos)}\s*)?" if tokens.bos else ""
        opens = rf"^\s*{bos}{one_of(tokens.openers)}"
        suspects[suspects] = as_bool(contents.filter(pl.Series(suspects)).str.contains(opens))
    return suspects


def _stripped(contents: pl.Series, ends: Sequence[str]) -> pl.Series:
    one = one_of(ends)
    return contents.str.replace_all(rf"^(?:\s*{one})+\s*|(?:\s*{one})+\s*$", "")


def one_of(tokens: Sequence[str]) -> str:
    """A pattern of any of them, the longest first."""
    return "(?:" + "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) + ")"


def told(counters: dict[str, int], plain: bool, eos: bool) -> list[str]:
    """Warnings of documents that are rendered already, or hold an end in mid-text.

    `plain` and `eos` as the run renders."""
    warnings = []
    if count := counters.get(END_INSIDE, 0):
        warnings.append(
            in_number(
                count,
                f"{count:,} document(|s) hold(s|) an end of a turn or text inside (its|their) texts, as a "
                "special token, and (is|are) packed so: --special-in-content drop leaves (it|them) out",
            )
        )
    if (texts := counters.get(RENDERED_TEXT, 0)) and eos:
        warnings.append(
            in_number(
                texts,
                f"{texts:,} text(|s) begin(s|) with the chat template's own markers: (it is|they are) "
                "rendered already and left as (it is|they are), but (gets|each gets) one more end token; "
                "--no-eos leaves it out",
            )
        )
    if (chats := counters.get(RENDERED_CHAT, 0)) and not plain:
        warnings.append(
            in_number(
                chats,
                f"{chats:,} document(|s) hold(s|) a message that begins with the chat template's own "
                "markers: it is rendered already, is left as it is, and the template writes the whole once "
                'more around it; --render plain --no-eos with `separator = ""` packs prompt and completion '
                "as they are",
            )
        )
    return warnings
