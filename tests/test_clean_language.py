"""Languages: shares of a sample, the filter, and what happens without the package."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
from clean_cases import ARABIC, CHINESE, FRENCH, GERMAN, RUSSIAN, ask, documents

from tokpack.errors import UsageError
from tokpack.settings.config import CleanConfig
from tokpack.stages.clean import clean
from tokpack.stages.rules.language import _identifier, language, language_shares
from tokpack.stages.rules.language_scores import LanguageScores

LANGUAGES = [ARABIC, CHINESE, FRENCH, GERMAN, RUSSIAN]


@pytest.fixture
def languages() -> None:
    pytest.importorskip("py3langid")


@pytest.mark.slow
@pytest.mark.usefixtures("languages")
def test_shares_of_a_seeded_sample_add_up_to_one() -> None:
    texts = [GERMAN, FRENCH, RUSSIAN, GERMAN, "123", ""] * 30
    shares = language_shares(texts, seed=1, sample=100)
    assert shares == language_shares(texts, seed=1, sample=100)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"de", "fr", "ru", "und"}
    assert language_shares(texts)["de"] == pytest.approx(1 / 3)
    assert language_shares([]) == {}


@pytest.mark.usefixtures("languages")
def test_batches_are_scored_as_py3langid_scores_each_text() -> None:
    odd = [
        "",
        " ",
        "123",
        "ABC",
        "ß",
        "\U0001f600" * 9,
        "e\u0301te\u0301 " * 20,
        "我喜欢你。" * 9,
        "x" * 3000,
    ]
    texts = [text[:n] for text in LANGUAGES for n in (1, 7, 60, 400)]
    texts += [text.upper() for text in texts] + odd
    scores = LanguageScores(_identifier())
    found = scores(pl.Series(texts))
    ranked = [dict(_identifier().rank(text)) for text in texts]
    np.testing.assert_allclose(
        found, [[shares[name] for name in scores.labels] for shares in ranked], atol=1e-5
    )
    assert len(scores(pl.Series([], dtype=pl.String))) == 0


@pytest.mark.usefixtures("languages")
def test_several_languages_can_be_kept() -> None:
    docs = documents([ask("Hi", t) for t in (GERMAN, FRENCH, RUSSIAN, ARABIC, CHINESE)])
    config = CleanConfig(rules="language", options={"language": {"keep": ["de", "ar", "zh"]}})
    dropped = clean(docs, config).documents["drop_reason"].is_not_null().to_list()
    assert dropped == [False, True, True, False, False]


@pytest.mark.usefixtures("languages")
def test_an_unknown_language_is_an_error() -> None:
    config = CleanConfig(rules="language", options={"language": {"keep": ["english"]}})
    with pytest.raises(UsageError, match="no language 'english'"):
        clean(documents([ask("Hi", GERMAN)]), config)


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    _identifier.cache_clear()
    with pytest.raises(UsageError, match=r'pip install "tokpack\[lang\]"'):
        language()
    _identifier.cache_clear()
