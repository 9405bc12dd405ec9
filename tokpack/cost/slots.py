"""Token slots a training run pays for: padded, padded by batch, sorted, packed, packed and cleaned.

A slot is a place in a row, whether a token stands in it or not. Trainers that pad compute every slot; packed
rows that are flattened, as ours, compute their tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokpack.errors import UsageError

PADDED_MAX = "padded to max"
PADDED_LONGEST = "padded to longest"
PADDED_SORTED = "padded to longest, sorted by length"
PACKED = "packed"
PACKED_CLEANED = "packed and cleaned"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """One way to batch the same documents, an epoch."""

    name: str
    rows: int
    steps: int
    """Batches of `batch_size` rows; accumulation and GPUs are the run plan's affair."""
    slots: int
    content: int
    """Tokens of the documents themselves, after the cut at capacity."""
    truncated: int
    """Tokens cut because a document is longer than capacity."""
    widths: NDArray[np.int64] = field(compare=False, repr=False)
    """Lengths that attention runs over: the padded widths, or the documents of packed rows."""

    @property
    def fill(self) -> float:
        """Content tokens over slots."""
        return self.content / self.slots if self.slots else 0.0


def slot_table(
    lengths: ArrayLike,
    capacity: int,
    batch_size: int,
    packed_rows: int,
    *,
    cleaned_lengths: ArrayLike | None = None,
    cleaned_rows: int | None = None,
) -> list[SlotRow]:
    """The table, in the order of this module's names; the last row only with `cleaned_lengths`.

    `packed_rows` and `cleaned_rows` come from a pack plan for `capacity`. `batch_size` counts rows. Lengths
    above capacity are cut to it, in every row alike. Raises UsageError for numbers that cannot be.

    100,000 documents of 800 tokens at 2048: 204.8M slots padded to max, 39 % fill.
    """
    if capacity < 1 or batch_size < 1:
        raise UsageError("capacity and batch size must be at least 1", where=f"{capacity=}, {batch_size=}")
    cut, truncated = _cut(lengths, capacity)
    table = [
        _padded(PADDED_MAX, cut, np.broadcast_to(np.int64(capacity), cut.size), batch_size, truncated),
        _padded(PADDED_LONGEST, cut, _batch_widths(cut, batch_size), batch_size, truncated),
        _padded(PADDED_SORTED, cut, _batch_widths(np.sort(cut)[::-1], batch_size), batch_size, truncated),
        _packed(PACKED, cut, packed_rows, capacity, batch_size, truncated),
    ]
    if cleaned_lengths is not None:
        if cleaned_rows is None:
            raise UsageError("cleaned lengths without their packed rows", where="cleaned_rows")
        kept, lost = _cut(cleaned_lengths, capacity)
        table.append(_packed(PACKED_CLEANED, kept, cleaned_rows, capacity, batch_size, lost))
    return table


def _cut(lengths: ArrayLike, capacity: int) -> tuple[NDArray[np.int64], int]:
    array = np.asarray(lengths, dtype=np.int64)
    if array.ndim != 1 or (array.size and array.min() < 0):
        raise UsageError("lengths must be a flat list of token counts from 0 up", where="lengths")
    cut = np.minimum(array, capacity)
    return cut, int(array.sum() - cut.sum())


def _batch_widths(lengths: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """Each document's padded width: the longest of its batch of consecutive documents."""
    if not lengths.size:
        return lengths
    longest = np.maximum.reduceat(lengths, np.arange(0, lengths.size, batch_size))
    return np.repeat(longest, batch_size)[: lengths.size]


def _padded(
    name: str, cut: NDArray[np.int64], widths: NDArray[np.int64], batch_size: int, truncated: int
) -> SlotRow:
    return SlotRow(
        name=name,
        rows=cut.size,
        steps=-(-cut.size // batch_size),
        slots=int(widths.sum()),
        content=int(cut.sum()),
        truncated=truncated,
        widths=widths,
    )


def _packed(
    name: str, cut: NDArray[np.int64], rows: int, capacity: int, batch_size: int, truncated: int
) -> SlotRow:
    content = int(cut.sum())
    if rows * capacity < content or rows < 0:
        raise UsageError(
            f"{rows} rows of {capacity} slots cannot hold {content} tokens",
            where="packed_rows",
            hint="rows and lengths must come from the same pack plan",
        )
    return SlotRow(
        name=name,
        rows=rows,
        steps=-(-rows // batch_size),
        slots=rows * capacity,
        content=content,
        truncated=truncated,
        widths=cut,
    )
