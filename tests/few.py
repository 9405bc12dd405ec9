"""Parameters of which all runs take a few, and those with the slow tests all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def a_few(values: Iterable[Any]) -> list[Any]:
    """Every sixth, the first among them, is for all runs; the others are slow."""
    return [pytest.param(value, marks=[pytest.mark.slow] * (i % 6 > 0)) for i, value in enumerate(values)]
