"""Which language a document is in: needs the extra `lang` (py3langid, 139 languages)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from tokpack.errors import UsageError, near_matches
from tokpack.stages.rules.html import CODE
from tokpack.stages.rules.vectors import among

HEAD = 1000
"""Characters of a text that decide: more cost time and change nothing."""
SAMPLED_HEAD = 400
"""The same for an estimate: where 1,000 decide otherwise is under 1 in 1,000 of real instructions."""
SAMPLE = 5000
BATCH = 4096
"""Texts that are scored at once."""
UNKNOWN = "und"
"""Too short, too mixed, or no language at all: numbers, code, markup."""
_NO_LANGUAGE = "zxx"
_PART_OF = {"wuu": "zh", "yue": "zh", "ary": "ar", "arz": "ar", "nn": "no"}
"""Codes that count as their larger language."""


def language(keep: tuple[str, ...] = ("en",), min_confidence: float = 0.9, min_bytes: int = 40) -> pl.Expr:
    """The document is surely in none of the languages `keep` (ISO 639-1 codes: `keep = ["en", "de"]`).

    Judged by the beginning of all contents, without code blocks; what is shorter than `min_bytes` or less
    sure than `min_confidence` stays.
    """
    known = set(_identifier().labels)
    for code in keep:
        if code not in known:
            raise UsageError(
                f"no language {code!r}", where="clean.options.language.keep", hint=near_matches(code, known)
            )

    wanted = {UNKNOWN, *(_PART_OF.get(code, code) for code in keep)}

    def foreign(texts: pl.Series) -> pl.Series:
        return ~detect(texts, min_confidence).is_in(sorted(wanted))

    prose = pl.col("text").str.head(4 * HEAD).str.replace_all(CODE, " ").str.strip_chars().str.head(HEAD)
    judged = prose.map_batches(foreign, return_dtype=pl.Boolean, is_elementwise=True)
    return among(prose.str.len_bytes() >= min_bytes, judged)


def language_shares(texts: Sequence[str], seed: int = 0, sample: int = SAMPLE) -> dict[str, float]:
    """Share of each language among at most `sample` texts drawn by `seed`, largest first; `und` = unknown."""
    texts = list(texts)
    chosen = texts if len(texts) <= sample else random.Random(seed).sample(texts, sample)
    heads = pl.Series(chosen, dtype=pl.String).str.head(SAMPLED_HEAD)
    counts = Counter(detect(heads, min_confidence=0.5).to_list())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {code: count / len(chosen) for code, count in ranked}


def detect(texts: pl.Series, min_confidence: float) -> pl.Series:
    """ISO 639-1 codes (639-3 where there is none), or `und`. Varieties of Arabic and Chinese count as one."""
    scores, names, wholes = _model()
    parts = (texts.slice(start, BATCH) for start in range(0, len(texts), BATCH))
    found = [_decided(scores(part), names, wholes, min_confidence) for part in parts]
    return pl.concat([pl.Series("language", [], dtype=pl.String), *found])


def _decided(shares: Any, names: Any, wholes: Any, min_confidence: float) -> pl.Series:
    """The surest label; where none is sure, the surest language with all its varieties."""
    from tokpack.stages.rules.language_scores import summed

    best, sure = shares.argmax(1), shares.max(1) >= min_confidence
    joined = summed(shares, wholes, len(names))
    best = np.where(sure, wholes[best], joined.argmax(1))
    sure |= joined.max(1) >= min_confidence
    return pl.Series(np.where(sure, names[best], UNKNOWN), dtype=pl.String)


@lru_cache(maxsize=1)
def _model() -> Any:
    """Scores by label; names of languages; which of them each label is, or is a variety of."""
    from tokpack.stages.rules.language_scores import LanguageScores

    scores = LanguageScores(_identifier())
    wholes = [scores.labels.index(_PART_OF.get(name, name)) for name in scores.labels]
    names = np.array([UNKNOWN if name == _NO_LANGUAGE else name for name in scores.labels], object)
    return scores, names, np.array(wholes)


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
