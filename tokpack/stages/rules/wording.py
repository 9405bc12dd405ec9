"""Rules about what an answer says, and with which signs."""

from __future__ import annotations

import polars as pl

from tokpack.stages.rules.vectors import says_any

REFUSALS = (
    "as an ai language model|as a large language model|as an ai assistant, i|as an ai, i|i am just an ai"
    "|i'm just an ai|i'm sorry, but i can't|i'm sorry, but i cannot|i’m sorry, but i can’t"
    "|i’m sorry, but i cannot|i am sorry, but i cannot|i cannot fulfill your request"
    "|i can't assist with that|i cannot assist with that|als ki-sprachmodell|als ki-modell|als sprachmodell"
    "|en tant que modèle de langage|en tant qu'ia|como modelo de lenguaje|como una ia"
    "|como modelo de linguagem|como um modelo de linguagem|come modello linguistico|как языковая модель"
    "|Как языковая модель|как искусственный интеллект|Как искусственный интеллект|作为一个人工智能"
    "|作为一名人工智能|作为一个ai|作为ai语言模型|作为一种语言模型|ai言語モデルとして"
    "|aiアシスタントとして|كنموذج لغوي|بصفتي نموذج لغة"
)
HEAD = 300
"""Characters of an answer that are searched for a refusal: it comes first or is none."""


def refusal() -> pl.Expr:
    """An answer that begins by refusing, or with "as an AI language model", in ten languages.

    Phrases of the kind by which the "unfiltered" editions of ShareGPT and WizardLM were made. In `strict`
    only: a refusal, above all of a tool that is not there, can be what you want to teach.
    """
    begins = says_any(pl.element().str.head(HEAD), REFUSALS)
    return pl.col("answers").list.eval(begins).list.any()


def url_only() -> pl.Expr:
    """An answer of nothing but addresses. In `strict` only: "Where is the manual?" has such an answer."""
    urls = r"^\s*(?:(?:https?://|www\.)\S+\s*)+$"
    return pl.col("answers").list.eval(pl.element().str.contains(urls)).list.any()


def symbol_share(max_share: float = 0.5, min_chars: int = 50) -> pl.Expr:
    """More than `max_share` of an answer are signs: neither letters, marks, digits nor white space.

    Gopher (Rae et al. 2021) drops web text with more than one "#" or ellipsis in ten words, or with a letter
    in less than 80 % of the words. Answers hold formulas, tables and code, hence a share of all characters,
    above what those need. In `strict` only.
    """
    text = pl.element()
    length = text.str.len_chars()
    signs = (
        pl.when(length >= min_chars)
        .then(text)
        .otherwise(pl.lit(""))
        .str.count_matches(r"[^\p{L}\p{M}\p{N}\s]")
    )
    return pl.col("answers").list.eval(signs > max_share * length).list.any()
