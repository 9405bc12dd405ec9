"""Shapes of chats that were compiled and proved on real rows, kept for the next process: those of a long
template take a quarter of a second in each."""

from __future__ import annotations

import pickle
from contextlib import suppress
from functools import lru_cache
from typing import Any

from tokpack.stages.render.kept import Kept

MOST_SHAPES, MOST_BYTES = 2_000, 8 << 20
"""More is not kept: then the data is so manifold that others come with the next rows."""

Learned = list[dict[str, Any]]
"""Of each compiler of a run."""


def load_shapes(source: str) -> Learned:
    """What was kept of templates and settings, which `source` names; nothing where nothing was."""
    learned: Learned = []
    with suppress(Exception):  # of classes that are no more, say
        learned = pickle.loads(_kept(source))
    return learned


def keep_shapes(source: str, learned: Learned) -> None:
    if sum(len(one["shapes"]) for one in learned) <= MOST_SHAPES:
        data = pickle.dumps(learned, pickle.HIGHEST_PROTOCOL)
        if len(data) <= MOST_BYTES:
            Kept("shapes", source).write(data)


@lru_cache(maxsize=1)
def _kept(source: str) -> bytes:
    return Kept("shapes", source).read() or pickle.dumps([])
