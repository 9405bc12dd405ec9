"""The built-in rules of the cleaning stage, and its presets.

A rule is a plain function `(**options) -> pl.Expr`, true = drop; its name is the drop reason, its keyword
arguments are the options of `[clean.options.NAME]`. docs/cleaning.md has a row for each.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from tokpack.stages.rules.encoding import mojibake
from tokpack.stages.rules.gopher import gopher_repetition
from tokpack.stages.rules.html import html_answer, html_boilerplate
from tokpack.stages.rules.language import language
from tokpack.stages.rules.length import too_long, too_short
from tokpack.stages.rules.repetition import repetition
from tokpack.stages.rules.shape import (
    chosen_equals_rejected,
    empty_answer,
    no_answer,
    null_content,
    prompt_equals_answer,
    unknown_role,
)
from tokpack.stages.rules.wording import refusal, symbol_share, url_only

Rule = Callable[..., pl.Expr]

_DEFAULT: tuple[Rule, ...] = (
    unknown_role,
    null_content,
    no_answer,
    empty_answer,
    prompt_equals_answer,
    chosen_equals_rejected,
    mojibake,
    html_boilerplate,
    repetition,
)
_STRICT: tuple[Rule, ...] = (*_DEFAULT, refusal, url_only, symbol_share)
_BY_NAME: tuple[Rule, ...] = (html_answer, gopher_repetition, language, too_short, too_long)
"""Right for one corpus and wrong for another: on only where they are named."""

RULES: dict[str, Rule] = {rule.__name__: rule for rule in (*_STRICT, *_BY_NAME)}
PRESETS: dict[str, tuple[str, ...]] = {
    "default": tuple(rule.__name__ for rule in _DEFAULT),
    "strict": tuple(rule.__name__ for rule in _STRICT),
    "off": (),
}

__all__ = ["PRESETS", "RULES", "Rule"]
