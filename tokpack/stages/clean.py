"""Clean: mark documents that are noise. A rule is a function returning a polars expression, true = drop.

    --clean default                    the preset
    --clean default,+refusal,-mojibake a preset, edited
    --clean empty_answer,my:rule       exactly these; `module:function` is your own

Expressions see the documents' columns and derived ones, made once and only where a rule asks for them:

    answers   contents of assistant turns, or the text: list      answer   the last of them
    prompts   all other contents: list                            prompt   the last of them
    text      all contents, one a line                            tokens   length, after tokenize
    tagged    whether a content holds `</`
    answers_without_call, contents_without_call   the same, but for assistant turns that call a tool
    passages  answers with think blocks apart: list           reasoning   of fields, as JSON writes them: list
    partner   contents of a pair's other document                 partner_extra   its `extra`

A rule's name is its drop reason; the first rule that hits wins. Special tokens written out in the contents
are dealt with first, so that an answer that is nothing but `<|endoftext|>` counts as empty. Rules that read
`tokens` run after tokenize, in `clean_by_tokens`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Bools
from tokpack.errors import TokpackError, UsageError, near_matches
from tokpack.plugins import resolve
from tokpack.settings.config import CleanConfig
from tokpack.settings.conversion import convert
from tokpack.stages.mask_personal import count_personal, mask_personal
from tokpack.stages.messages import Messages, as_bool
from tokpack.stages.pairs import partners
from tokpack.stages.render.reference import read_extra
from tokpack.stages.render.spans.own_words import CLOSE
from tokpack.stages.render.template.chat_template import REASONING_KEYS
from tokpack.stages.rules import PRESETS, RULES, Rule
from tokpack.stages.rules.html import html_answer
from tokpack.stages.special_tokens import NONE, SpecialTokens, treat_special_tokens
from tokpack.terminal.activity import in_number

TOKENS = "tokens"
PARTNER = {"partner": "contents", "partner_extra": "extra"}
"""Derived column -> the other document's column; only pairs have them, and rules that read them."""
WITHOUT_CALL = ("answers_without_call", "contents_without_call")
HTML_ANSWERS = "html_answers"
"""Counter of documents with an answer in HTML that stay."""
_OF_TEXTS = TAGGED, PASSAGES, REASONING = "tagged", "passages", "reasoning"
DERIVED = ("answers", "answer", "prompts", "prompt", "text", *_OF_TEXTS, *WITHOUT_CALL, *PARTNER)
_REASONING = rf'"(?:{"|".join(REASONING_KEYS)})": ?"(?:[^"\\]|\\.)*"'
"""A field of `extra`."""


@dataclass(slots=True)
class Cleaned:
    documents: pl.DataFrame
    counters: dict[str, int] = field(default_factory=dict)


def clean(
    documents: pl.DataFrame, config: CleanConfig, special: SpecialTokens = NONE, pairs: bool = False
) -> Cleaned:
    """Mark noise in `drop_reason`. `pairs`: every two documents are a preference pair.

    Contents change only where special tokens are stripped and, on request, where personal data is masked;
    rules see personal data unmasked. The preset `strict` counts the documents that hold some.
    """
    documents, counters = treat_special_tokens(documents, config.special_in_content, special)
    rules = {name: rule for name, rule in rules_of(config).items() if not _needs_tokens(rule)}
    documents, derived = _mark(documents, rules, pairs)
    counters |= _count_html(documents, derived)
    if config.mask_personal:
        documents, personal = mask_personal(documents)
        counters |= personal
    elif "strict" in _items(config):
        counters |= count_personal(documents)
    return Cleaned(documents, counters)


def _count_html(documents: pl.DataFrame, derived: pl.DataFrame) -> dict[str, int]:
    """How many documents that no rule left out hold an answer in HTML."""
    if TAGGED not in derived.columns:
        derived = _derived(documents, {TAGGED})
    suspects = documents.filter(documents["drop_reason"].is_null() & derived[TAGGED])
    if suspects.is_empty():
        return {}
    found = _derived(suspects, {"answers", "prompts"}).select(html_answer().sum()).item()
    return {HTML_ANSWERS: found} if found else {}


def told(counters: Mapping[str, int]) -> list[str]:
    """Warnings of what is trained and probably not meant."""
    count = counters.get(HTML_ANSWERS, 0)
    words = "document(|s) hold(s|) an answer that is HTML throughout, and (is|are) trained on it as it stands"
    way = "write it as Markdown, or --clean +html_answer leaves out such documents"
    return [f"{count:,} {in_number(count, words)}: {way}"] if count else []


def clean_by_tokens(
    documents: pl.DataFrame, lengths: npt.NDArray[np.integer[Any]], config: CleanConfig, pairs: bool = False
) -> pl.DataFrame:
    """Mark what rules in tokens reject; `lengths`: tokens of each document. No preset has such a rule."""
    rules = {name: rule for name, rule in rules_of(config).items() if _needs_tokens(rule)}
    if not rules:
        return documents
    marked, _ = _mark(documents.with_columns(pl.Series(TOKENS, lengths)), rules, pairs)
    return documents.with_columns(marked["drop_reason"])


def rules_of(config: CleanConfig) -> dict[str, pl.Expr]:
    """Reason -> expression, in order, for the presets, edits and rules of `config.rules`.

    Raises UsageError for an unknown rule or option, and for an option of the wrong type.
    """
    rules: dict[str, Rule] = {}
    for full_name in selected(config):
        name = full_name.rpartition(":")[2]
        if name in rules:
            raise UsageError(
                f"two rules are named {name!r}", where="clean.rules", hint="a rule's name is its drop reason"
            )
        rules[name] = resolve("filter", full_name, RULES, known=PRESETS)
    for name in config.options:
        if name not in rules and name not in RULES:
            raise UsageError(
                f"no rule named {name!r}",
                where=f"clean.options.{name}",
                hint=near_matches(name, rules | RULES),
            )
    return {name: _expression(name, rule, config.options.get(name, {})) for name, rule in rules.items()}


def _expression(name: str, rule: Rule, options: dict[str, Any]) -> pl.Expr:
    bare = not options and RULES.get(name) is rule
    return _built_in(rule) if bare else build_rule(name, rule, options)


@cache
def _built_in(rule: Rule) -> pl.Expr:
    """Made once, not with every block."""
    return rule()


def build_rule(name: str, rule: Rule, options: dict[str, Any]) -> pl.Expr:
    """Call a rule with its options, checked against its signature."""
    known = inspect.signature(rule).parameters
    for key, value in options.items():
        where = f"clean.options.{name}.{key}"
        if key not in known:
            hint = near_matches(key, known) if known else "this rule has no options"
            raise UsageError(f"{name} has no option {key!r}", where=where, hint=hint)
        options = options | {key: convert(get_type_hints(rule).get(key, Any), value, where)}
        if key.endswith("share") and not 0 <= options[key] <= 1:
            raise UsageError(f"{key} cannot be {value}", where=where, hint="give a share between 0 and 1")
    try:
        expression = rule(**options)
    except TokpackError:
        raise
    except Exception as error:
        if name in RULES:
            raise
        raise _rule_failed(name, error) from error
    if not isinstance(expression, pl.Expr):
        raise UsageError(
            f"it returned {type(expression).__name__}, not a polars expression",
            where=f"rule {name}",
            hint="def my_rule() -> pl.Expr: return pl.col('answer').str.contains('spam')",
        )
    return expression


def _items(config: CleanConfig) -> list[str]:
    return [item.strip() for item in config.rules.split(",") if item.strip()]


def selected(config: CleanConfig) -> list[str]:
    """Names of rules, once each. `+rule` adds, `-rule` takes away; edits alone edit `default`."""
    items = _items(config)
    if items and all(item[0] in "+-" for item in items):
        items = ["default", *items]
    names: list[str] = []
    for item in items:
        if item.startswith("-"):
            if item[1:] not in names:
                raise UsageError(
                    f"{item}: the rule is not on", where="clean.rules", hint=near_matches(item[1:], names)
                )
            names.remove(item[1:])
        else:
            name = item.removeprefix("+")
            names += [new for new in PRESETS.get(name, (name,)) if new not in names]
    return names


def _needs_tokens(rule: pl.Expr) -> bool:
    return TOKENS in rule.meta.root_names()


def _mark(
    documents: pl.DataFrame, rules: dict[str, pl.Expr], pairs: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents with the reason of the first rule that hits; and with the columns that rules ask for."""
    if not pairs:
        rules = {name: rule for name, rule in rules.items() if not PARTNER.keys() & rule.meta.root_names()}
    if not rules or documents.is_empty():
        return documents, documents
    known = {*documents.columns, *DERIVED}
    for name, rule in rules.items():
        for column in set(rule.meta.root_names()) - known:
            raise UsageError(f"no column {column!r}", where=f"rule {name}", hint=near_matches(column, known))
    derived = _derived(documents, {name for rule in rules.values() for name in rule.meta.root_names()})
    reason = pl.coalesce("drop_reason", *(pl.when(rule).then(pl.lit(name)) for name, rule in rules.items()))
    try:
        return documents.with_columns(derived.select(reason.alias("drop_reason")).to_series()), derived
    except pl.exceptions.PolarsError:
        for name in rules.keys() - RULES.keys():
            _try_rule(name, rules[name], derived)
        raise


def _try_rule(name: str, rule: pl.Expr, derived: pl.DataFrame) -> None:
    """Raises UsageError for a user's rule that does not say true or false of each document."""
    try:
        found = derived.select(rule.alias(name))[name].dtype
    except pl.exceptions.PolarsError as error:
        raise _rule_failed(name, error) from error
    if found != pl.Boolean:
        raise UsageError(
            f"it gives {found}, not true or false",
            where=f"rule {name}",
            hint="end it in a comparison, as pl.col('answer').str.len_chars() < 3",
        )


def _rule_failed(name: str, error: Exception) -> UsageError:
    first = (str(error).splitlines() or [""])[0]
    return UsageError(
        f"it failed: {type(error).__name__}: {first}",
        where=f"rule {name}",
        hint="columns and examples are in docs/cleaning.md",
    )


def _derived(documents: pl.DataFrame, wanted: set[str]) -> pl.DataFrame:
    """The columns that rules may use beyond the documents' own, made only where one does."""
    messages = Messages.of(documents)
    mine = as_bool(messages.roles.is_in(["assistant", "text"]))
    for many, last, which in (("answers", "answer", mine), ("prompts", "prompt", ~mine)):
        if wanted & {many, last} or (many == "answers" and PASSAGES in wanted):
            documents = documents.with_columns(messages.lists(messages.contents, which).alias(many))
        if last in wanted:
            documents = documents.with_columns(pl.col(many).list.last().alias(last))
    if wanted & set(WITHOUT_CALL):
        told = ~_calling(documents["extra"], messages)
        if told.all() and "answers" in documents.columns:
            same = zip(WITHOUT_CALL, ("answers", "contents"), strict=True)
            documents = documents.with_columns(pl.col(other).alias(name) for name, other in same)
        else:
            for name, which in zip(WITHOUT_CALL, (mine & told, told), strict=True):
                documents = documents.with_columns(messages.lists(messages.contents, which).alias(name))
    if wanted & {TAGGED, PASSAGES}:
        tagged = as_bool(messages.contents.str.contains("</", literal=True))
        documents = documents.with_columns(pl.Series(TAGGED, messages.any(tagged)))
    if PASSAGES in wanted:
        apart = pl.element().str.split(CLOSE).explode()
        blocks = messages.contents.filter(pl.Series(tagged)).str.contains(CLOSE, literal=True).any()
        said = pl.col("answers").list.eval(apart) if blocks else pl.col("answers")
        documents = documents.with_columns(said.alias(PASSAGES))
    if REASONING in wanted:
        documents = documents.with_columns(pl.col("extra").str.extract_all(_REASONING).alias(REASONING))
    for name in wanted & PARTNER.keys():
        other = documents[PARTNER[name]].gather(partners(documents))
        documents = documents.with_columns(other.alias(name))
    if "text" in wanted:
        documents = documents.with_columns(
            pl.col("contents").list.join("\n", ignore_nulls=True).alias("text")
        )
    return documents


def _calling(extra: pl.Series, messages: Messages) -> Bools:
    """Which messages are the assistant's and call a tool: read one by one where a document holds calls."""
    documents = extra.str.contains('"tool_calls"', literal=True).fill_null(False).arg_true()
    firsts = messages.offsets[documents.to_numpy()].tolist()
    calls = [
        first + place
        for first, text in zip(firsts, extra.gather(documents).to_list(), strict=True)
        for place, more in enumerate(read_extra(text).get("messages") or [])
        if more and more.get("tool_calls")
    ]
    calling = np.zeros(len(messages.roles), dtype=bool)
    calling[calls] = True
    return calling & as_bool(messages.roles == "assistant")
