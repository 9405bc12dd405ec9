"""Sums of money as people read them."""

from __future__ import annotations


def dollars(amount: float) -> str:
    """Two digits behind the point, and as many more as a small sum needs."""
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.3g}"
