"""Scraped web pages."""

from __future__ import annotations

from functools import reduce
from operator import add

import polars as pl

from tokpack.stages.rules.vectors import among, says_any

CODE = r"(?s)```.*?(?:```|\z)|~~~.*?(?:~~~|\z)|`[^`\n]*`"
"""Fenced blocks, also one that is never closed, and inline code: HTML in there is meant."""
TAG = r"<[/!]?[a-zA-Z][^<>]*>"
STRUCTURE = (
    r"(?i)<(?:!doctype|html)\b",
    r"(?i)<(?:head|meta|title|link)\b",
    r"(?i)<(?:script|noscript|style|iframe)\b",
    r"(?i)<(?:nav|header|footer|aside|menu|form|button)\b",
    r"(?i)<(?:body|main|div|section|article|span|table)\b",
    r"(?i)<a\s[^>]*href",
    r"(?i)<(?:ul|ol|li)\b",
    r"(?i)<img\b",
)
# Literal, ASCII letters in either case; capitals of other scripts are written out.
PHRASES = (
    "cookie|&copy;|©|all rights reserved|privacy policy|terms of use|terms of service|skip to content"
    "|skip to main content|sign in|log in|login|subscribe|newsletter|share this|share on|advertisement"
    "|impressum|datenschutz|alle rechte vorbehalten|tous droits réservés|mentions légales"
    "|todos los derechos reservados|aviso legal|todos os direitos reservados|tutti i diritti riservati"
    "|все права защищены|Все права защищены|олитика конфиденциальности|版权所有|隐私政策"
    "|プライバシーポリシー|جميع الحقوق محفوظة"
)
ABOUT_WEB = (
    "html|css|javascript|java script|.js| js |jsx|php|web|front-end|frontend|front end|homepage|home page"
    "|landing page|navbar|nav bar|navigation bar|markup|</|<br|<div|<img|<input|网页|网站|網頁|網站|ウェブ"
    "|ホームページ|веб|Веб|сайт|Сайт|웹|موقع|صفحة ويب"
)


def html_boilerplate(min_structure: int = 3, min_tag_share: float = 0.05) -> pl.Expr:
    """An answer or text that is a scraped page: menus, scripts, cookie notice and footer around the text.

    Needs page structure of `min_structure` kinds (document, head, script, navigation, blocks, links, lists,
    images), a phrase that web sites have, and `min_tag_share` of its characters inside tags, unless a line
    begins the whole document (`<!DOCTYPE`, `<html`). Code blocks do not count, and an answer is left alone
    where any prompt speaks of HTML or the web: then the page was asked for. C4 (Raffel et al. 2020) drops
    lines with "javascript", "cookies", "privacy policy" or "terms of use"; we drop whole documents, so the
    numbers are ours and stricter.
    """
    tagged = pl.col("answers").list.eval(pl.element().str.contains("</", literal=True)).list.any()
    answers = pl.col("answers").list.join("\n", ignore_nulls=True).str.replace_all(CODE, "")
    kinds = reduce(add, (answers.str.contains(pattern).cast(pl.Int32) for pattern in STRUCTURE))
    length = answers.str.len_chars()
    whole = answers.str.contains(r"(?im)^\s*<(?:!doctype|html)\b")
    in_tags = length - answers.str.replace_all(TAG, "").str.len_chars()
    phrase = says_any(answers, PHRASES)
    prompts = pl.col("prompts").list.join("\n", ignore_nulls=True)
    asked = says_any(prompts, ABOUT_WEB)
    page = (kinds >= min_structure) & (whole | (in_tags >= min_tag_share * length)) & phrase
    return among(tagged, page & ~asked)
