"""JSON lines -> an Arrow table: the only place where Arrow's JSON reader is called.

That reader dies of some input (a first line `null`, deep nesting) and of a field that is asked for twice,
stops at a NUL, joins lines and splits them, and takes numbers and bytes that Python's refuses. So only
*plain* lines reach it, about which the two agree: one that begins with `{` and ends with `}`, is UTF-8, and
holds no NUL, no number of thousands of digits and no deep nesting. All others are read by Python, alone.
"""

from __future__ import annotations

import re
import secrets
import sys

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.json as pajson

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

DEEPEST = 100
"""Levels of arrays and objects in a row; Python's stack, and that of templates, ends at a few hundred."""
LONGEST_NUMBER = 4300
"""Digits of an integer that Python reads; fixed here, since an environment variable can change it."""
INDENT = 64
"""White space before or after a line that is looked through; more is no plain line."""
LARGEST_BLOCK = 1 << 30
MOST_CELLS = 1 << 24
"""Rows times keys: Arrow gives each row a place in the column of each key, some 16 bytes."""
LONGEST_KEY = 256
NEWLINE, SPACE, TAB, RETURN = b"\n \t\r"
QUOTE, BACKSLASH = b'"\\'
BLANK = np.isin(np.arange(256), [SPACE, TAB, RETURN])
ONES = np.uint64(0x0101010101010101)
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

sys.set_int_max_str_digits(LONGEST_NUMBER)


def read_json_lines(
    data: bytes, fields: list[pa.Field], rows: int, *, others: str = "infer", chunk: int = 0
) -> pa.Table | None:
    """The plain lines as `rows` rows, with these fields; None when one of them holds something else.

    None too for objects of so many different keys that a column for each would take more than `MOST_CELLS`.
    `others`: whether columns beside the fields are read (`infer`) or left (`ignore`). `chunk`: bytes that one
    thread reads; all where it is 0.
    """
    wanted = pa.schema(list(dict.fromkeys(fields)))
    if len(set(wanted.names)) < len(wanted):  # a column as two types
        return None
    if others == "infer" and len(data) * rows > MOST_CELLS and different_keys(data) * rows > MOST_CELLS:
        return None
    try:
        table = pajson.read_json(
            pa.BufferReader(data),
            read_options=pajson.ReadOptions(block_size=chunk or min(len(data) + 1, LARGEST_BLOCK)),
            parse_options=pajson.ParseOptions(explicit_schema=wanted, unexpected_field_behavior=others),
        )
        table.validate(full=True)  # half a surrogate pair becomes bytes that are not UTF-8
    except pa.ArrowException:
        return None
    return table if table.num_rows == rows else None


def odd_lines(data: bytes) -> Bools:
    """Which lines are not plain, those among them that are blank too."""
    characters = np.frombuffer(data, np.uint8)
    ends = np.append(np.flatnonzero(characters == NEWLINE), len(data))
    starts = np.append(0, ends[:-1] + 1)
    odd = _without_braces(characters, starts, ends)
    for places in (_nuls(characters, data), _long_numbers(characters, data)):
        odd[np.searchsorted(ends, places)] = True
    for lines in (_not_utf8(data), _deep_lines(characters, data, starts, ends)):
        odd[lines] = True
    return odd


def different_keys(data: bytes) -> int:
    """At least as many as the lines have, mostly as many. Costs what `odd_lines` does: 7 ms for 8 MB."""
    characters = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(characters == ord(":")) - 1
    may_end = BLANK.copy()
    may_end[QUOTE] = True
    ends = ends[may_end[characters[ends]]]
    for _ in range(INDENT):
        blank = BLANK[characters[ends]]
        if not blank.any():
            break
        ends = ends - blank
    ends = ends[may_end[characters[ends]]]
    in_text = (characters[ends - 1] == BACKSLASH) & (characters[ends - 2] != BACKSLASH)
    ends = ends[~in_text]
    if len(data) < 8:
        return len(ends)
    words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))  # the eight bytes from each place on
    hashes, factor = np.zeros(len(ends), np.uint64), np.uint64(secrets.randbits(64) | 1)
    left, uncertain = np.arange(len(ends)), 0
    for step in range(8, LONGEST_KEY + 8, 8):
        place = ends[left] - step
        before = words[np.maximum(place, 0)] << (8 * np.maximum(-place, 0)).astype(np.uint64)
        outside = _up_to_last_quote(before)
        hashes[left] = hashes[left] * factor + (before & ~outside)
        begun = outside != 0
        quotes = place[begun] + np.bitwise_count(outside[begun]) // 8 - 1
        uncertain += int((characters[quotes - 1] == BACKSLASH).sum())
        left = left[~begun & (place > 0)]
        if not len(left):
            break
    return pl.Series(hashes).n_unique() + uncertain + len(left)


def _up_to_last_quote(words: UInt64) -> UInt64:
    """Which bytes of each word are not behind its last quote, as 0xFF: `{"key` -> the first two."""
    others = words ^ (ONES * np.uint64(QUOTE))
    sevens = ONES * np.uint64(0x7F)
    found = ~(((others & sevens) + sevens) | others | sevens)  # 0x80 where a byte is a quote
    for bits in (8, 16, 32):
        found |= found >> np.uint64(bits)
    return (found >> np.uint64(7)) * np.uint64(0xFF)


def nesting(line: bytes) -> int:
    """How deep the arrays and objects of a line of JSON lie in each other."""
    brackets = np.frombuffer(STRINGS.sub(b"", line).translate(None, NO_BRACKETS), np.uint8)
    steps = np.where((brackets & 0xDF) == ord("["), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _without_braces(characters: Bytes, starts: Int64, ends: Int64) -> Bools:
    """Lines that are not `{...}` between white space."""
    odd = starts >= ends
    first, last = np.minimum(starts, len(characters) - 1), np.maximum(ends - 1, 0)
    for _ in range(INDENT):
        blank = ~odd & BLANK[characters[first]] & (first < last)
        if not blank.any():
            break
        first = first + blank
    for _ in range(INDENT):
        blank = ~odd & BLANK[characters[last]] & (last > first)
        if not blank.any():
            break
        last = last - blank
    result: Bools = odd | (characters[first] != ord("{")) | (characters[last] != ord("}"))
    return result


def _nuls(characters: Bytes, data: bytes) -> Int64:
    return np.flatnonzero(characters == 0) if b"\0" in data else np.empty(0, np.int64)


def _long_numbers(characters: Bytes, data: bytes) -> Int64:
    """Places within runs of digits that are, or may be, longer than `LONGEST_NUMBER`.

    Such a run covers two places in a row of every `LONGEST_NUMBER // 2`.
    """
    step = LONGEST_NUMBER // 2
    digit = (characters[::step] >= ord("0")) & (characters[::step] <= ord("9"))
    places = np.flatnonzero(digit[:-1] & digit[1:]) * step
    return np.array([place for place in places.tolist() if data[place : place + step].isdigit()], np.int64)


def _not_utf8(data: bytes) -> list[int]:
    """Lines that are not UTF-8."""
    if is_utf8(data):
        return []
    return [number for number, line in enumerate(data.split(b"\n")) if not is_utf8(line)]


def is_utf8(data: bytes) -> bool:
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _deep_lines(characters: Bytes, data: bytes, starts: Int64, ends: Int64) -> list[int]:
    """Lines nested deeper than `DEEPEST`: looked for among those with that many opening brackets."""
    opening = np.flatnonzero((characters & 0xDF) == ord("["))  # 0xDF takes { to [
    before = np.searchsorted(opening, np.append(starts, len(data)))
    many = np.flatnonzero(np.diff(before) > DEEPEST).tolist()
    return [line for line in many if nesting(data[starts[line] : ends[line]]) > DEEPEST]
