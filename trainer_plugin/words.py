"""Times and sums of money as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """3.2 s, 4 min 10 s, 5 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def dollars(amount: float) -> str:
    """Two digits behind the point, and as many more as a small sum needs."""
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.3g}"
