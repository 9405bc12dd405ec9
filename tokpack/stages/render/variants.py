"""Documents that arguments of the template make another text: near duplicates are sought among equals alone.

{"enable_thinking": false}     a think block that is empty, under contents that may be those of another row
{"date_string": "1 Mar 2025"}  a short text that the template writes as it is: says nothing of the contents
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from tokpack.stages.normalize.fields import SWITCHES
from tokpack.stages.normalize.rows import KWARGS
from tokpack.stages.render.reference import read_extra
from tokpack.stages.render.render import Rendered, render
from tokpack.stages.render.renderer import Renderer

MOST_SAID = 64
"""Characters of an argument that is a date, a name or the like; longer ones are texts as contents are."""
Int32 = npt.NDArray[np.int32]


def variants(documents: pl.DataFrame, rendered: Rendered, renderer: Renderer) -> Int32:
    """Of each document a number that those with the same arguments share, 0 where its text is the same
    without them: int32[documents]. Documents with arguments are rendered once more. Short texts that the
    template writes as they are do not count: with a date in each row none would have a like."""
    numbers = np.zeros(len(documents), np.int32)
    rows = documents["extra"].str.contains(f'"{KWARGS}"', literal=True).fill_null(False).arg_true().to_numpy()
    if not len(rows):
        return numbers
    extras = [read_extra(extra) for extra in documents["extra"].gather(rows)]
    given = []
    for row, extra in zip(rows.tolist(), extras, strict=True):
        arguments, text = extra.pop(KWARGS, {}), rendered.text[row].as_py()
        said = {name: value for name, value in arguments.items() if _is_said(value, text)}
        given.append({name: value for name, value in arguments.items() if name not in said})
        if said:
            extra[KWARGS] = said
    bare = [json.dumps(extra) if extra else None for extra in extras]
    plain = render(documents[rows].with_columns(pl.Series("extra", bare, dtype=pl.String)), renderer)
    for row, arguments, text in zip(rows.tolist(), given, plain.text, strict=True):
        if arguments and text != rendered.text[row]:
            key = json.dumps(arguments, sort_keys=True)
            numbers[row] = xxhash.xxh32_intdigest(key.encode()) >> 2 | 1
    return numbers


def _is_said(value: object, text: str) -> bool:
    short = isinstance(value, str) and 0 < len(value) <= MOST_SAID and value.casefold() not in SWITCHES
    return short and str(value) in text
