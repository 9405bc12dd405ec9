"""Lengths of documents to plan with."""

from __future__ import annotations

import numpy as np


def raw(count: int, seed: int) -> np.ndarray:
    return np.random.PCG64(seed).random_raw(count)


def many_lengths(kind: str, count: int, capacity: int) -> np.ndarray:
    """Fixed lengths from integer arithmetic alone: the same on every machine."""
    if kind == "skewed":  # many short, few long
        product = (1 + raw(count, 1) % 61) * (1 + raw(count, 2) % 67)
        return np.minimum(product, capacity).astype(np.int32)
    low, high = capacity // 4, capacity * 11 // 20  # "hard": two or three in a row, rarely an exact fit
    return (low + raw(count, 3) % (high - low)).astype(np.int32)
