"""Thrift's compact protocol, as far as Parquet uses it.

structure   fields, then 0
field       a byte: 16 times the step from the number of the field before, and the kind; then the value.
            A step of 0: the number itself comes after the byte.
list        a byte: 16 times the count, and the kind of all; a count of 15: the count itself comes after it
"""

from __future__ import annotations

BOOLEANS, BYTE, INTEGERS, DOUBLE, BYTES, LIST, STRUCTURE = (1, 2), 3, (4, 5, 6), 7, 8, 9, 12
WIDTHS = {1: 0, 2: 0, BYTE: 1, DOUBLE: 8}
MOST_DEPTH = 64
"""Of structures and lists in each other; Arrow's reader takes as many."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ValueError for one of more than 64 bits."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def field_head(data: bytes, at: int, before: int) -> tuple[int, int, int]:
    """(number, kind, place of the value) of a field after one of the number `before`."""
    byte = data[at]
    if byte >> 4:
        return before + (byte >> 4), byte & 15, at + 1
    number, at = signed(data, at + 1)
    return number, byte & 15, at


def list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(count, kind, place of the first) of a list."""
    count, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if count == 15:
        count, at = varint(data, at)
    return count, kind, at


def skipped(data: bytes, at: int, kind: int, depth: int = 0) -> int:
    """Where the value ends. Raises IndexError and ValueError for what is none."""
    if kind == STRUCTURE and depth < MOST_DEPTH:
        while byte := data[at]:
            at = skipped(data, at + 1 if byte >> 4 else varint(data, at + 1)[1], byte & 15, depth + 1)
        return at + 1
    if kind in INTEGERS:
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == BYTES:
        size, at = varint(data, at)
        return at + size
    if kind == LIST and depth < MOST_DEPTH:
        count, inside, at = list_head(data, at)
        if inside in BOOLEANS:  # a byte each, where a field of its own has none
            return at + count
        for _ in range(count):
            at = skipped(data, at, inside, depth + 1)
        return at
    if kind not in WIDTHS:
        raise ValueError(f"no kind {kind}")
    return at + WIDTHS[kind]
