"""Random chats against transformers and trl's tags: a few templates in all runs, all with the slow ones."""

from __future__ import annotations

import families
import pytest
from fuzz_chats import fuzz, fuzz_ways

pytestmark = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
EVERY = pytest.param(1, 12, marks=pytest.mark.slow)


@pytest.mark.parametrize(("step", "chats"), [(6, 12), EVERY])
def test_every_drawn_chat_is_as_by_transformers_or_refused_with_a_reason_that_is_so(step, chats):
    tally = fuzz(chats, names=families.names()[::step], size=chats)
    assert tally.faults == [], "\n".join(tally.faults)
    assert len(tally.disputed) <= sum(tally.fates.values()) // 50, "\n".join(tally.disputed)
    assert tally.fates["equal"] > sum(tally.fates.values()) // 2
    assert tally.fates["refused"] > 0
    assert min(tally.paths["compiled"], tally.paths["jinja"]) > 0


@pytest.mark.parametrize(("step", "chats"), [(12, 12), EVERY])
def test_compiled_shapes_write_and_find_what_jinja_does(step, chats):
    ways = fuzz_ways(chats, names=families.names()[1::step], size=chats)
    assert ways.differences == [], "\n".join(ways.differences)
    assert ways.compiled > ways.rows // 4
