"""The fuzz suite: 20,000 mutated rows in CI, every format in every container; more by `make fuzz`."""

from __future__ import annotations

import pytest
from fuzz_rows import fuzz


@pytest.mark.slow
def test_every_mutated_row_is_kept_dropped_or_set_aside(smollm2):
    tally = fuzz(20_000, str(smollm2))
    assert tally.failures == []
    assert tally.deaths == 0
    assert tally.rows == 20_000
    assert tally.refused < 100
    assert all(tally.counts[fate] > 500 for fate in ("kept", "dropped", "set aside"))
