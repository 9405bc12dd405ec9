"""A batch's messages as one flat column: what stages use instead of looping over documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack.arrays import Bools, Int64
from tokpack.frozen import frozen
from tokpack.ranges import offsets_of

HOLDS_DATA = "content_is_json"
"""Key in `extra` of a tool's message that answers with an object, a list or a number: its content is JSON of
that."""
PART_SIZES = "content_part_sizes"
"""Key in `extra` of a message whose content is text parts, for templates that read them one by one: how many
characters each has."""
UNREAD_REASONING = "reasoning_is_unread"
"""Key in `extra` of a message with reasoning that is encrypted, or other than the one that is read."""

PART_TYPES = frozenset(
    {
        *("text", "image", "image_url", "input_image", "video", "video_url", "audio", "audio_url"),
        *("input_audio", "file", "input_file", "document", "refusal", "tool_result", "tool_use"),
    }
)
"""Types of parts, by which a list is told from data."""


def is_data(content: Any) -> bool:
    """Whether a tool's answer is an object, a list or a number rather than a text or parts of one."""
    if content is None or isinstance(content, str):
        return False
    if not isinstance(content, list):
        return True
    types = [part["type"] for part in content if isinstance(part, Mapping) and "type" in part]
    return bool(content) and not any(isinstance(kind, str) and kind in PART_TYPES for kind in types)


@frozen
class Messages:
    """All messages of a batch in order; document i owns `offsets[i]:offsets[i + 1]`."""

    offsets: Int64
    roles: pl.Series
    contents: pl.Series

    @staticmethod
    def of(documents: pl.DataFrame) -> Messages:
        lengths = documents["roles"].list.len().fill_null(0).to_numpy()
        offsets = offsets_of(lengths)
        filled = documents.filter(documents["roles"].list.len() > 0)
        return Messages(offsets, filled["roles"].explode(), filled["contents"].explode())

    def any(self, hit: pl.Series | Bools) -> Bools:
        """Per document: does `hit` hold for one of its messages?"""
        running = offsets_of(np.asarray(hit))
        return running[self.offsets[1:]] > running[self.offsets[:-1]]

    def lists(self, flat: pl.Series, keep: Bools | None = None) -> pl.Series:
        """Back to one list a document, of the messages that `keep` selects."""
        offsets = self.offsets
        if keep is not None:
            offsets = offsets_of(keep)[offsets]
            flat = flat.filter(pl.Series(keep))
        return in_lists(flat, offsets)


def in_lists(flat: pl.Series, offsets: Int64) -> pl.Series:
    """Values end to end as lists, of which i is `offsets[i]:offsets[i + 1]`; texts are not copied."""
    values = flat.to_arrow(compat_level=pl.CompatLevel.newest())
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values)))


def as_bool(series: pl.Series) -> Bools:
    """A boolean column as numpy, null counted as false."""
    values: npt.NDArray[Any] = series.fill_null(False).to_numpy()
    return values.astype(bool)
