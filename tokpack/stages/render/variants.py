"""Documents that arguments of the template make another text: near duplicates are sought among equals alone.

{"enable_thinking": false}     a think block that is empty, under contents that may be those of another row
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from tokpack.stages.normalize.rows import KWARGS
from tokpack.stages.render.reference import read_extra
from tokpack.stages.render.render import Rendered, render
from tokpack.stages.render.renderer import Renderer

Int32 = npt.NDArray[np.int32]


def variants(documents: pl.DataFrame, rendered: Rendered, renderer: Renderer) -> Int32:
    """Of each document a number that those with the same arguments share, 0 where its text is the same
    without them: int32[documents]. Documents with arguments are rendered once more."""
    numbers = np.zeros(len(documents), np.int32)
    rows = documents["extra"].str.contains(f'"{KWARGS}"', literal=True).fill_null(False).arg_true().to_numpy()
    if not len(rows):
        return numbers
    extras = [read_extra(extra) for extra in documents["extra"].gather(rows)]
    given = [json.dumps(extra.pop(KWARGS, {}), sort_keys=True) for extra in extras]
    bare = [json.dumps(extra) if extra else None for extra in extras]
    plain = render(documents[rows].with_columns(pl.Series("extra", bare, dtype=pl.String)), renderer)
    for row, arguments, text in zip(rows.tolist(), given, plain.text, strict=True):
        if text != rendered.text[row]:
            numbers[row] = xxhash.xxh32_intdigest(arguments.encode()) >> 2 | 1
    return numbers
