"""The tokens of many documents as two flat arrays: what the between-passes stages read."""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa

from tokpack.arrays import Bools, Int32, Int64, UInt8
from tokpack.frozen import frozen


@frozen
class SelectedTokens:
    """Document i is `tokens[offsets[i]:offsets[i + 1]]`; of these only the selected tokens count.

    tokens: int32[total], offsets: int64[documents + 1]. With a `bit`, the tokens whose `flags`
    (uint8[total]) carry it are selected; without one, all are. The arrays may be memory-mapped.
    """

    tokens: Int32
    offsets: Int64
    flags: UInt8 | None = None
    bit: int = 0

    def __post_init__(self) -> None:
        if self.bit and self.flags is None:
            raise ValueError("a SelectedTokens with a bit needs flags")
        if self.flags is not None and len(self.flags) != len(self.tokens):
            raise ValueError(f"{len(self.flags)} flags for {len(self.tokens)} tokens")
        if len(self.offsets) == 0 or self.offsets[-1] > len(self.tokens):
            raise ValueError("offsets must hold documents + 1 positions within the tokens")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrow(cls, batch: pa.RecordBatch, bit: int = 0) -> Self:
        """View a record batch of the token store (`schema.STORE_SCHEMA`), sliced or not, without a copy."""
        ids, flags = batch.column("input_ids"), batch.column("flags")
        ends = ids.offsets.to_numpy().astype(np.int64)
        first = flags.offsets[0].as_py()
        return cls(
            tokens=ids.values.to_numpy()[ends[0] : ends[-1]],
            offsets=ends - ends[0],
            flags=flags.values.to_numpy()[first : first + ends[-1] - ends[0]],
            bit=bit,
        )

    def spans(self) -> Int64:
        """int64[documents, 3]: where a document's tokens lie in memory, where their flags, and how many
        they are. The addresses hold while this does."""
        for name, array, kind in (("tokens", self.tokens, np.int32), ("flags", self.flags, np.uint8)):
            if array is not None and not (array.flags.c_contiguous and array.dtype == kind):
                raise ValueError(f"{name} must be {kind.__name__}, one after another")
        begins = self.offsets[:-1].astype(np.int64)
        tokens = self.tokens.ctypes.data + self.tokens.itemsize * begins
        flags = begins if self.flags is None else self.flags.ctypes.data + begins
        return np.column_stack([tokens, flags, np.diff(self.offsets)])

    def selected(self) -> Bools | None:
        """Which tokens count, or None where all do."""
        if not self.bit or self.flags is None:
            return None
        selected: Bools = (self.flags & self.bit) != 0
        return selected
