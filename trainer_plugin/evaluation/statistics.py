"""Intervals at 95 % for paired differences and for shares.

- `ratio`: a sum over a sum (loss per trained token), by the bootstrap over clusters: whole conversations are
  drawn, since the tokens of one are no independent draws. The percentiles are widened for few clusters as
  Student's t is ("What Teachers Should Know about the Bootstrap", Hesterberg 2015, section 4.2: expanded
  percentile interval); under two clusters there is no interval.
- `share`: Wilson's interval, which holds for few and for none or all.
- `paired_share`: the difference of two shares of the same questions, Newcombe's method 10 for paired data
  (1998) with McNemar's exact p; a bootstrap of 12 questions that all went one way would say [1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Z = NormalDist().inv_cdf(0.975)
DRAWS, MOST_CLUSTERS = 5_000, 2_000
"""Bootstrap draws; more clusters than that are put together at random, and their groups drawn."""
BLOCK = 4_000_000
FEW = 20
"""Clusters below which an interval is said to be rough."""
STUDENT = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060}


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the ends of its interval; ends of None: not to be had from so little data."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def sure(self) -> bool:
        """Whether zero is outside."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def ratio(
    numerators: Floats, denominators: Floats, clusters: npt.NDArray[np.int64], seed: int = 0
) -> Interval:
    """Sum of the numerators over the sum of the denominators; one entry a document, float64[D]."""
    _, members = np.unique(clusters, return_inverse=True)
    above, below = (_sums(members, values) for values in (numerators, denominators))
    total = below.sum()
    if not total:
        return Interval(math.nan)
    value = float(above.sum() / total)
    if len(above) < 2:
        return Interval(value)
    drawn = _drawn_ratios(*_grouped(above, below, seed), seed)
    tail = _tail(len(above))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _grouped(above: Floats, below: Floats, seed: int) -> tuple[Floats, Floats]:
    if len(above) <= MOST_CLUSTERS:
        return above, below
    groups = np.random.default_rng(seed).permutation(len(above)) % MOST_CLUSTERS
    return _sums(groups, above), _sums(groups, below)


def _sums(groups: npt.NDArray[np.int64], values: Floats) -> Floats:
    """Of the values of each group, numbered from 0: float64[groups]."""
    return np.asarray(np.bincount(groups, weights=values), np.float64)


def _drawn_ratios(above: Floats, below: Floats, seed: int) -> Floats:
    generator, parts = np.random.default_rng(seed), []
    count, step = len(above), max(1, BLOCK // len(above))
    for start in range(0, DRAWS, step):
        chosen = generator.integers(0, count, (min(step, DRAWS - start), count), dtype=np.int32)
        weight = below[chosen].sum(axis=1)
        parts.append(above[chosen].sum(axis=1) / np.where(weight > 0, weight, np.nan))
    drawn: Floats = np.concatenate(parts)
    return drawn[~np.isnan(drawn)]


def _tail(clusters: int) -> float:
    """Share of draws cut off at each end."""
    freedom = clusters - 1
    return NormalDist().cdf(-math.sqrt(clusters / freedom) * student(freedom))


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t; from 9 degrees on by Cornish and Fisher's expansion, to 4 digits."""
    if freedom in STUDENT:
        return STUDENT[freedom]
    z = Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def share(hits: int, of: int) -> Interval:
    """Wilson's interval of a share."""
    if not of:
        return Interval(math.nan)
    rate, squared = hits / of, Z * Z / of
    middle = (rate + squared / 2) / (1 + squared)
    half = Z * math.sqrt(rate * (1 - rate) / of + squared / of / 4) / (1 + squared)
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True)
class PairedShare:
    """Right and wrong answers of two models to the same questions."""

    both: int
    only_base: int
    only_adapter: int
    neither: int

    @property
    def questions(self) -> int:
        return self.both + self.only_base + self.only_adapter + self.neither

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: the questions that one alone got right, against a fair coin."""
        few, many = sorted((self.only_base, self.only_adapter))
        total = few + many
        one_side = (
            sum(math.comb(total, k) for k in range(few + 1)) / 2**total
            if total < 1000
            else _normal(few, total)
        )
        return min(1.0, 2 * one_side)

    @property
    def difference(self) -> Interval:
        """Share of the adapter minus share of the base."""
        total = self.questions
        if not total:
            return Interval(math.nan)
        adapter = share(self.both + self.only_adapter, total)
        base = share(self.both + self.only_base, total)
        value = adapter.value - base.value
        phi = self._correlation()
        assert adapter.low is not None
        assert adapter.high is not None
        assert base.low is not None
        assert base.high is not None
        down = _leg(adapter.value - adapter.low, base.high - base.value, phi)
        up = _leg(adapter.high - adapter.value, base.value - base.low, phi)
        return Interval(value, max(-1.0, value - down), min(1.0, value + up))

    def _correlation(self) -> float:
        """Phi of the two-by-two table, corrected towards 0 as Newcombe does; 0 where a margin is empty."""
        a, b, c, d = self.both, self.only_base, self.only_adapter, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if not margins:
            return 0.0
        product: float = a * d - b * c
        if product > 0:
            product = max(product - self.questions / 2, 0)
        return product / math.sqrt(margins)


def _leg(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def _normal(few: int, total: int) -> float:
    """The binomial's lower tail where its terms are too many to add: with continuity correction."""
    return NormalDist().cdf((few + 0.5 - total / 2) / math.sqrt(total / 4))
