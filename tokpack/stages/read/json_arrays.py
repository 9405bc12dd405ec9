"""An array of JSON as lines, in a stream: no more of it is in memory than what is asked for.

    [                                            .
      {"a": 1,                           >         {"a": 1,    "b": "x,y"}
       "b": "x,y"}, {"a": 2}                      {"a": 2}
    ]                                            .

Every byte keeps its place: a comma between elements becomes a newline, a line break elsewhere a space, and
within a string, where JSON allows none, a tab. What is in an element is for the reader of lines to say.
"""

from __future__ import annotations

import io
import json
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tokpack.errors import DataError
from tokpack.stages.read.streams import BOM, Joined

HEAD_BYTES = 1 << 16
LONGEST_HEAD = 1 << 24
QUOTE, BACKSLASH, COMMA, NEWLINE, RETURN, SPACE, TAB = b'"\\,\n\r \t'
OPENING, CLOSING = np.isin(np.arange(256), [*b"[{"]), np.isin(np.arange(256), [*b"]}"])
SPECIAL = OPENING | CLOSING | np.isin(np.arange(256), [QUOTE, BACKSLASH, COMMA, NEWLINE, RETURN])


def as_lines(stream: IO[bytes], where: str) -> IO[bytes]:
    """The rows of a `.json` file as lines: those of an array, or of JSON lines under that name.

    Reading raises DataError for what is no array, at its end at the latest.
    """
    head = stream.read(HEAD_BYTES)
    while b"\n" not in head.removeprefix(BOM).lstrip() and len(head) < LONGEST_HEAD:
        more = stream.read(HEAD_BYTES)
        if not more:
            break
        head += more
    body = head.removeprefix(BOM).lstrip()
    whole: Any = Joined(head, stream)
    if not body or (body[:1] != b"[" and _is_json(body.partition(b"\n")[0])):
        return io.BufferedReader(whole)
    lines: Any = _ArrayLines(whole, where, depth=0 if body[:1] == b"[" else 1)
    return io.BufferedReader(lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class _ArrayLines(io.RawIOBase):
    """`depth`: 1 for a file that holds elements without the brackets around them."""

    def __init__(self, stream: Any, where: str, depth: int) -> None:
        self._stream, self._where, self._outer, self._depth = stream, where, depth, depth
        self._inside = self._escaped = self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        if not data:
            if self._inside or self._depth != self._outer:
                raise self._error("it ends inside a string" if self._inside else "it ends inside an element")
            return 0
        buffer[: len(data)] = self._turned(data).tobytes()
        return len(data)

    def _turned(self, data: bytes) -> npt.NDArray[np.uint8]:
        if self._ended:
            self._refuse_after(data)
            return np.full(len(data), SPACE, np.uint8)
        characters = np.frombuffer(data, np.uint8).copy()
        places = np.flatnonzero(SPECIAL[characters])
        kinds = characters[places]
        quotes = (kinds == QUOTE) & ~self._escapes(places[kinds == BACKSLASH], len(data))[places]
        inside = (np.cumsum(quotes) + self._inside) % 2 == 1
        steps = np.where(OPENING[kinds], 1, np.where(CLOSING[kinds], -1, 0))
        depth = np.cumsum(np.where(inside, 0, steps)) + self._depth
        if len(places):
            self._inside, self._depth = bool(inside[-1]), int(depth[-1])
        breaks = (kinds == NEWLINE) | (kinds == RETURN)
        characters[places[breaks]] = np.where(inside[breaks], TAB, SPACE)
        characters[places[(kinds == COMMA) & ~inside & (depth == 1)]] = NEWLINE
        if not self._outer:
            self._take_brackets(data, characters, places, (steps != 0) & ~inside, steps, depth)
        elif len(depth) and depth.min() < 1:
            raise self._error("a bracket closes nothing")
        return characters

    def _escapes(self, backslashes: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_]:
        """Which places are escaped: those after the first, third, fifth backslash of a run."""
        escaped = np.zeros(length + 1, bool)
        number = np.arange(len(backslashes))
        begins = np.append(True, np.diff(backslashes) != 1)[: len(backslashes)]
        in_run = number - np.maximum.accumulate(np.where(begins, number, 0)) if len(number) else number
        if self._escaped:
            escaped[0] = True
            if len(backslashes) and backslashes[0] == 0:
                first = int(np.argmax(begins[1:])) + 1 if begins[1:].any() else len(begins)
                in_run[:first] += 1
        escaped[backslashes[in_run % 2 == 0] + 1] = True
        self._escaped = bool(escaped[length])
        return escaped

    def _take_brackets(
        self, data: bytes, characters: Any, places: Any, brackets: Any, steps: Any, depth: Any
    ) -> None:
        """The brackets around all elements become spaces; nothing may follow them."""
        characters[places[brackets & (steps == 1) & (depth == 1)]] = SPACE
        ends = places[brackets & (steps == -1) & (depth <= 0)]
        if len(ends):
            self._ended, self._depth, self._inside = True, 0, False
            self._refuse_after(data[ends[0] + 1 :])
            characters[ends[0] :] = SPACE

    def _refuse_after(self, data: bytes) -> None:
        if data.strip():
            raise self._error("something follows the array")

    def _error(self, what: str) -> DataError:
        return DataError(
            f"not a JSON array: {what}",
            where=self._where,
            hint="mend it there, or write one JSON object a line and name the file .jsonl",
        )
