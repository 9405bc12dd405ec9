"""Rows of a block one by one, with their bytes and their place: for the slow paths and for quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import compress
from typing import Any

import numpy as np

from tokpack.frozen import frozen
from tokpack.stages.normalize.json_lines import DEEPEST, nesting, odd_lines
from tokpack.stages.read.blocks import Block, filled_lines, line_numbers
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.streams import BOM

TOO_DEEP = "nested too deeply"


@frozen
class RawRow:
    position: int
    """Among the rows of the block."""
    number: int
    """In the source, from 1."""
    byte_offset: int
    """-1 where there are no bytes to count."""
    raw: bytes


def raw_rows(block: Block, positions: np.ndarray[Any, Any]) -> Iterator[tuple[Any, RawRow]]:
    """(row, its bytes and place) of the rows at `positions`, in order; a line is given as its bytes."""
    numbers = line_numbers(block)[positions].tolist()
    if isinstance(block.data, bytes):
        lines, starts = lines_of(block)
        for position, number in zip(positions.tolist(), numbers, strict=True):
            line = lines[position]
            yield line, RawRow(position, number, int(starts[position]), line)
        return
    rows = readable_rows(block.data, positions)
    for position, number, row in zip(positions.tolist(), numbers, rows, strict=True):
        raw = dumped(row)
        yield row, RawRow(position, number, -1, raw)


def dumped(row: dict[str, Any] | Unreadable) -> bytes:
    """The bytes of a row of a table: those it had, or its JSON."""
    if isinstance(row, Unreadable):
        return row.raw
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace")


def lines_of(block: Block) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """The lines of a block that are not blank, and where in the source each begins, in bytes."""
    assert isinstance(block.data, bytes)
    if block.parts:
        found = [lines_of(part) for part in block.parts]
        return [line for some, _ in found for line in some], np.concatenate([starts for _, starts in found])
    lines = block.data.split(b"\n")
    starts = np.concatenate([[0], np.cumsum([len(line) + 1 for line in lines])])[:-1]
    filled = filled_lines(block.data)
    return list(compress(lines, filled)), starts[filled] + block.byte_offset


def odd_rows(block: Block, container: str = "jsonl") -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of a block of lines only `parse_line` may read."""
    assert isinstance(block.data, bytes)
    if container == "text":
        return np.zeros(block.rows, bool)
    odd = odd_lines(block.data)
    return odd[: block.rows] if block.lines == block.rows else odd[filled_lines(block.data)]


def parse_line(line: bytes, container: str = "jsonl") -> tuple[dict[str, Any] | None, str]:
    """(the row, "") of a line of JSON or text, or (None, what is wrong with it).

    A byte order mark before it counts for nothing: files were joined.
    """
    line = line.removeprefix(BOM)
    if container != "text" and line.count(b"[") + line.count(b"{") > DEEPEST and nesting(line) > DEEPEST:
        return None, TOO_DEEP
    try:
        text = line.decode("utf-8")
        row = {"text": text.removesuffix("\r")} if container == "text" else json.loads(text)
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
    except RecursionError:
        return None, TOO_DEEP
    except ValueError as error:
        return None, f"not JSON: {error}"
    return (row, "") if isinstance(row, dict) else (None, f"not a JSON object but {_json_kind(row)}")


def _json_kind(value: Any) -> str:
    kinds = {str: "a string", list: "an array", int: "a number", float: "a number", bool: "true or false"}
    return kinds.get(type(value), "null")
