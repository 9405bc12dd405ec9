"""The tokens of many documents as two flat arrays: what the between-passes stages read."""

from __future__ import annotations

import numpy as np

from tokpack.arrays import Int32, Int64, UInt8
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
