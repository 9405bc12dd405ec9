"""Intervals against published examples, exact tests of scipy, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer_plugin.evaluation.statistics import PairedShare, Z, ratio, share, student

T_975 = {1: 12.706, 4: 2.776, 8: 2.306, 9: 2.262, 12: 2.179, 20: 2.086, 60: 2.000, 1000: 1.962}


@pytest.mark.parametrize("freedom", T_975)
def test_students_t_is_that_of_the_tables(freedom):
    assert student(freedom) == pytest.approx(T_975[freedom], abs=6e-4)


def test_wilson_is_the_published_interval_and_holds_at_the_ends():
    found = share(81, 263)  # Newcombe 1998, statistics in medicine 17, 857
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert (share(0, 12).low, share(12, 12).high) == (0, 1)
    assert share(12, 12).low == pytest.approx(12 / (12 + Z * Z))
    assert math.isnan(share(0, 0).value)


def test_the_paired_difference_of_shares_is_newcombes():
    found = PairedShare(both=20, only_base=2, only_adapter=12, neither=16).difference
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0562, abs=2e-4), pytest.approx(0.3292, abs=2e-4))


def test_mcnemars_p_is_the_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for pair in ((9, 2), (0, 7), (5, 5), (30, 51), (700, 610)):
        expected = stats.binomtest(min(pair), sum(pair)).pvalue
        found = PairedShare(11, *pair, 4).p_value
        assert found == pytest.approx(expected, rel=0.01 if sum(pair) >= 1000 else 1e-9)
    assert PairedShare(3, 0, 0, 4).p_value == 1


def test_twelve_questions_that_all_went_one_way_are_not_certain():
    found = PairedShare(0, 0, 12, 0).difference
    assert found.value == 1
    assert 0.6 < found.low < 0.7


def test_the_bootstrap_draws_whole_conversations():
    generator = np.random.default_rng(0)
    shift = np.repeat(generator.normal(size=40), 25)
    values, tokens, clusters = (
        shift + generator.normal(0, 0.1, 1000),
        np.ones(1000),
        np.repeat(np.arange(40), 25),
    )
    together, apart = ratio(values, tokens, clusters), ratio(values, tokens, np.arange(1000))
    assert together.value == apart.value == pytest.approx(values.mean())
    expected = student(39) * shift[::25].std(ddof=1) / math.sqrt(40)
    assert together.high - together.low == pytest.approx(2 * expected, rel=0.1)
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_intervals_of_few_hold_what_they_say():
    generator, held = np.random.default_rng(1), 0
    for seed in range(200):
        tokens = generator.integers(5, 200, 8).astype(float)
        found = ratio(generator.normal(size=8) * tokens, tokens, np.arange(8), seed=seed)
        held += found.low < 0 < found.high
    assert held >= 178  # 190 expected


def test_one_conversation_has_no_interval_and_no_tokens_no_figure():
    assert ratio(np.array([1.0, 2]), np.array([4.0, 2]), np.zeros(2, int)).low is None
    assert math.isnan(ratio(np.zeros(2), np.zeros(2), np.arange(2)).value)


def test_many_conversations_give_the_interval_of_their_mean():
    values = np.random.default_rng(2).normal(size=20_000)
    found = ratio(values, np.ones(20_000), np.arange(20_000))
    assert found.high - found.low == pytest.approx(2 * Z * values.std() / math.sqrt(20_000), rel=0.08)
