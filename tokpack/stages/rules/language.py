"""Which language a document is in: needs the extra `lang` (py3langid, 139 languages)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from tokpack.errors import UsageError, near_matches
from tokpack.stages.rules.html import CODE
from tokpack.stages.rules.vectors import among

HEAD = 1000
"""Characters of a text that decide: more cost time and change nothing."""
SAMPLED_HEAD = 400
"""The same for an estimate: where 1,000 decide otherwise is under 1 in 1,000 of real instructions."""
SAMPLE = 5000
UNKNOWN = "und"
"""Too short, too mixed, or no language at all: numbers, code, markup."""
_NO_LANGUAGE = "zxx"
_PART_OF = {"wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "nn": "no"}
"""Codes that count as their larger language."""


def language(keep: tuple[str, ...] = ("en",), min_confidence: float = 0.9, min_bytes: int = 40) -> pl.Expr:
    """The document is surely in none of the languages `keep` (ISO 639-1 codes: `keep = ["en", "de"]`).

    Judged by the beginning of all contents, without code blocks; what is shorter than `min_bytes` or less
    sure than `min_confidence` stays. A slow path: Python looks at each document, about 5,000 a second.
    """
    known = set(_identifier().labels)
    for code in keep:
        if code not in known:
            raise UsageError(
                f"no language {code!r}", where="clean.options.language.keep", hint=near_matches(code, known)
            )

    wanted = {UNKNOWN, *(_PART_OF.get(code, code) for code in keep)}

    def foreign(texts: pl.Series) -> pl.Series:
        return pl.Series([detect(text, min_confidence) not in wanted for text in texts], dtype=pl.Boolean)

    prose = pl.col("text").str.head(4 * HEAD).str.replace_all(CODE, " ").str.strip_chars().str.head(HEAD)
    judged = prose.map_batches(foreign, return_dtype=pl.Boolean, is_elementwise=True)
    return among(prose.str.len_bytes() >= min_bytes, judged)


def language_shares(texts: Sequence[str], seed: int = 0, sample: int = SAMPLE) -> dict[str, float]:
    """Share of each language among at most `sample` texts drawn by `seed`, largest first; `und` = unknown."""
    texts = list(texts)
    chosen = texts if len(texts) <= sample else random.Random(seed).sample(texts, sample)
    counts = Counter(detect(text[:SAMPLED_HEAD], min_confidence=0.5) for text in chosen)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {code: count / len(chosen) for code, count in ranked}


def detect(text: str, min_confidence: float) -> str:
    """ISO 639-1 code (639-3 where there is none), or `und`. Varieties of Arabic and Chinese count as one."""
    code, confidence = _identifier().classify(text)
    if confidence < min_confidence:
        shares: dict[str, float] = {}
        for variety, share in _identifier().rank(text):
            whole = _PART_OF.get(variety, variety)
            shares[whole] = shares.get(whole, 0.0) + share
        code, confidence = max(shares.items(), key=lambda item: item[1])
    return UNKNOWN if code == _NO_LANGUAGE or confidence < min_confidence else _PART_OF.get(code, str(code))


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UsageError(
            "languages are told apart by py3langid, which is not installed",
            where="language",
            hint='pip install "tokpack[lang]"',
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
