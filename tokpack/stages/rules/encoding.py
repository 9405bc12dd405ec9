"""Text that was decoded with the wrong character set."""

from __future__ import annotations

from functools import partial

import polars as pl

from tokpack.encoding.unicode import Wide
from tokpack.stages.rules.vectors import among, says_any

# UTF-8 read as Latin-1 or Windows-1252: a lead byte shows as a letter, a continuation byte as one of these.
_CONTROLS = "\u0080-\u009f"
_SYMBOLS = "€ƒ†‡ˆ‰Š‹ŒŽ˜™š›œžŸ¡-ª¬-¶¸-º¼-¿"
_PUNCTUATION = "‚„…‘’“”•–—\u00a0«»·"
"""Continuation bytes that also follow a letter in sound text: `„Spaß“`, `café”—`, `aimé\u00a0»`."""
_ANY = _CONTROLS + _SYMBOLS + _PUNCTUATION
_RARE = _CONTROLS + _SYMBOLS
_TWO_BYTES = f"[ÂÃÄÅÌÍÎÏÐÑ×ØÙÚÛ][{_ANY}]"
_THREE_BYTES = f"[à-ï](?:[{_RARE}][{_ANY}]|[{_PUNCTUATION}][{_RARE}])"
_FOUR_BYTES = f"ð[Ÿ\u009f][{_ANY}]{{2}}"
# Cyrillic UTF-8 read as Windows-1251: every other letter is Р or С, with a sign between them.
_CYRILLIC = r"(?:[РС][ЂЃѓ‚„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџЎўЈ¤Ґ¦§Ё©Є«¬®Ї°±Ііґµ¶·ё№є»јЅѕї\u00a0]){2,}"
BROKEN = f"{_TWO_BYTES}|{_THREE_BYTES}|{_FOUR_BYTES}|{_CYRILLIC}|\ufffd"

# Literal; who speaks of encodings may show what they do to letters.
ABOUT_ENCODINGS = (
    "utf-8|utf8|utf-16|latin-1|latin1|iso-8859|iso 8859|windows-125|cp125|ascii|unicode|charset|character set"
    "|encoding|encoded|mojibake|codierung|kodierung|encodage|codificaci|кодировк|编码|編碼|乱码|文字コード"
    "|文字化け|ترميز"
)


def mojibake(min_count: int = 3, min_share: float = 0.005) -> pl.Expr:
    """UTF-8 read as Latin-1, Windows-1252 or Windows-1251 ("Ã©", "â€™", "РїСЂ"), or lost letters (U+FFFD).

    Counts the letters so broken in all contents of a document; `min_share` is of its characters, 1 in 200,
    so that a long text with a few stray "Â£" stays. A document that speaks of encodings stays. Letters that
    sound text has side by side are no evidence: "ß“" and "é »" are German and French. The thresholds are
    ours.
    """
    text = pl.col("contents").list.join("\n", ignore_nulls=True)
    holds = partial(_holds, BROKEN if min_count > 0 else "")
    suspect = pl.element().map_batches(holds, return_dtype=pl.Boolean, is_elementwise=True)
    suspect = pl.col("contents").list.eval(suspect).list.any()
    broken = text.str.count_matches(BROKEN)
    enough = (broken >= min_count) & (broken >= min_share * text.str.len_chars())
    about = says_any(text, ABOUT_ENCODINGS)
    return among(among(suspect, enough), ~about)


def _holds(pattern: str, texts: pl.Series) -> pl.Series:
    """Which texts hold the pattern, of which nothing is ASCII, if all ASCII is taken out of them: most of the
    world's instruction data is ASCII."""
    found = pl.repeat(False, len(texts), dtype=pl.Boolean, eager=True)
    return found.scatter(Wide(texts.fill_null("")).rows_with(pattern), True)
