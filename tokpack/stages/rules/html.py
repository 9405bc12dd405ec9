"""Scraped web pages."""

from __future__ import annotations

from collections.abc import Iterable

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
# Phrases by what they are for. ASCII letters match in either case; capitals of other scripts are written out.
PHRASES = (
    "cookie|privacy policy|terms of use|terms of service|impressum|datenschutz|mentions légales|aviso legal"
    "|олитика конфиденциальности|隐私政策|プライバシーポリシー|سياسة الخصوصية",
    "&copy;|©|all rights reserved|alle rechte vorbehalten|tous droits réservés|todos los derechos reservados"
    "|todos os direitos reservados|tutti i diritti riservati|права защищены|版权所有|جميع الحقوق محفوظة",
    "skip to content|skip to main content|sign in|log in|login|my account|your cart|anmelden|connexion",
    "subscribe|newsletter|share this|share on|follow us|advertisement|read more|related posts",
)
ABOUT_WEB = (
    r"(?i)html|\bcss|java ?script|\.js\b|\bjs\b|\bjsx\b|\bphp|\bweb(?:\b|-|app|page|site|seite|shop|form)"
    r"|front[ -]?end|home ?page|landing page|nav(?:igation)? ?bar|markup|</|<(?:br|div|img|input|p|a)\b"
    r"|\b(?:template|ui|user interface)\b|\b(?:code|form|page)s? (?:for|that|to|with|which)\b"
    r"|网页|网站|網頁|網站|ウェブ|ホームページ|\bвеб|сайт|웹|موقع|صفحة ويب"
)
MIN_PHRASES = 2
PRESENTED = r"(?i)\b(?:code|page|form|example|file|template)\b[^\n<]{0,60}:\s*<(?:!doctype|html)\b"


def html_boilerplate(min_structure: int = 3, min_tag_share: float = 0.05) -> pl.Expr:
    """An answer or text that is a scraped page: menus, scripts, cookie notice and footer around the text.

    Needs page structure of `min_structure` kinds (document, head, script, navigation, blocks, links, lists,
    images), phrases of two kinds that web sites have (legal notices, copyright, account, newsletter), and
    `min_tag_share` of its characters inside tags, unless a line begins the whole document (`<!DOCTYPE`,
    `<html`). Code blocks do not count, and an answer is left alone where a prompt speaks of HTML, the web or
    code, or where the page is presented ("Here is the page:"): then it was asked for. C4 (Raffel et al. 2020)
    drops lines with "javascript", "cookies", "privacy policy" or "terms of use"; we drop whole documents, so
    the numbers are ours and stricter.
    """
    tagged = among(
        pl.col("tagged"),
        pl.col("answers").list.eval(pl.element().str.contains("</", literal=True)).list.any(),
    )
    answers = pl.col("answers").list.join("\n", ignore_nulls=True).str.replace_all(CODE, "")
    bare = answers.str.replace_all(TAG, "")
    whole = answers.str.contains(r"(?im)^\s*<(?:!doctype|html)\b")
    in_tags = 1 - bare.str.len_chars() / answers.str.len_chars()
    built = _count(answers.str.contains(pattern) for pattern in STRUCTURE) >= min_structure
    page = (_count(says_any(bare, phrases) for phrases in PHRASES) >= MIN_PHRASES) & (
        whole | (in_tags >= min_tag_share)
    )
    prompts = pl.col("prompts").list.join("\n", ignore_nulls=True)
    meant = prompts.str.contains(ABOUT_WEB) | answers.str.contains(PRESENTED)
    return among(among(tagged, built), page & ~meant)


def _count(conditions: Iterable[pl.Expr]) -> pl.Expr:
    return pl.sum_horizontal(condition.cast(pl.Int32) for condition in conditions)


WHOLE = r"(?is)\A\s*<(?:div|p|ul|ol|h[1-6]|pre|table|span|section|article)\b[^<>]*>.*</\w+>\s*\z"


def html_answer() -> pl.Expr:
    """An answer that is HTML from its first sign to its last, as dumps of chat pages have it: `<div><p>Hi</p>
    </div>`.

    Whole pages, code blocks, and answers to a prompt that speaks of HTML, the web or code do not count. By
    name only: what makes Markdown of them keeps them.
    """
    prompts = pl.col("prompts").list.join("\n", ignore_nulls=True)
    whole = pl.col("answers").list.eval(pl.element().str.contains(WHOLE)).list.any()
    return among(whole, ~prompts.str.contains(ABOUT_WEB))
