"""Rows of a block one by one, with their bytes and their place: for the slow paths and for quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from tokpack.stages.read.arrow_values import rows_at
from tokpack.stages.read.blocks import Block, line_numbers


@dataclass(frozen=True, slots=True)
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
    rows = rows_at(block.data, positions)
    for position, number, row in zip(positions.tolist(), numbers, rows, strict=True):
        raw = json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace")
        yield row, RawRow(position, number, -1, raw)


def lines_of(block: Block) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """The lines of a block that are not blank, and where in the source each begins, in bytes."""
    assert isinstance(block.data, bytes)
    lines = block.data.split(b"\n")
    starts = np.concatenate([[0], np.cumsum([len(line) + 1 for line in lines])])[:-1]
    filled = [bool(line.strip()) for line in lines]
    return list(compress(lines, filled)), starts[filled] + block.byte_offset


def parse_line(line: bytes, container: str = "jsonl") -> tuple[dict[str, Any] | None, str]:
    """(the row, "") of a line of JSON or text, or (None, what is wrong with it)."""
    try:
        text = line.decode("utf-8")
        row = {"text": text.removesuffix("\r")} if container == "text" else json.loads(text)
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:
        return None, f"not JSON: {error}"
    return (row, "") if isinstance(row, dict) else (None, f"not a JSON object but {_json_kind(row)}")


def _json_kind(value: Any) -> str:
    kinds = {str: "a string", list: "an array", int: "a number", float: "a number", bool: "true or false"}
    return kinds.get(type(value), "null")
