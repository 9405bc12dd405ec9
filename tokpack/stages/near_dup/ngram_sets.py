# mypy: disallow-untyped-decorators=False
"""The compiled loops of `near_dup` up to the sets; it holds the reasoning. Importing this imports numba.

A set is a document's distinct 64-bit hashes of token n-grams, never 0. With two parts, prompt and answer,
bit 8 of a hash says of which part it is, so the two never meet.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import boolean, float64, int32, int64, uint8, uint64

from tokpack.stages.compiled import jit

Array = np.ndarray[Any, Any]

SLACK = 1e-6
"""Rounding may spare a candidate, never lose one."""
_BASE, _ODD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
ANSWER = np.uint64(256)
"""The bit that says of which of two parts a gram is; bitmaps keep the parts apart by it."""
_LOW_32 = np.uint64(2**32 - 1)
_0, _1, _2, _3, _29, _33 = (np.uint64(k) for k in (0, 1, 2, 3, 29, 33))


@jit
def _finish(h: Any) -> Any:
    """Spread the bits of a rolling hash (the 64-bit finalizer of MurmurHash3)."""
    h = (h ^ (h >> _33)) * _MIX_1
    h = (h ^ (h >> _33)) * _MIX_2
    return max(h ^ (h >> _33), _1)


@jit
def _hash_part(
    tokens: Array,
    flags: Array,
    bit: int,
    part: Array,
    start: int,
    stop: int,
    n: int,
    window: Array,
    out: Array,
) -> int:
    """Hash the n-grams of one part's tokens into `out`, repeats included; returns how many.

    A polynomial in _BASE modulo 2**64 over mixed tokens, rolled along the document. `part` is (flags under
    `bit` of its tokens, shortest, tag): fewer than `shortest` tokens give one hash, of the whole sequence and
    its length; none give none. A tag of 0 or 1 is put into bit 8.
    """
    wanted, shortest, tag = part[0], part[1], part[2]
    top = _1
    for _ in range(n):
        top *= _BASE
    length, place = 0, 0
    rolling, whole = _0, _0
    for i in range(start, stop):
        if bit != 0 and (flags[i] & bit) != wanted:
            continue
        x = (np.uint64(tokens[i]) + _1) * _ODD
        x ^= x >> _29
        rolling = rolling * _BASE + x
        if length < shortest:
            whole = whole * _BASE + x
        if length >= n:
            rolling -= window[place] * top
        window[place] = x
        place = place + 1 if place + 1 < n else 0
        length += 1
        if length >= n:
            out[length - n] = _finish(rolling)
    found = length - n + 1
    if length < shortest:
        out[0] = _finish(whole ^ (np.uint64(length) * _MIX_1))
        found = min(length, 1)
    if tag >= 0:
        for k in range(found):
            out[k] = (out[k] & ~ANSWER) | (ANSWER if tag == 1 else _0)
    return found


@jit
def _hash_grams(
    tokens: Array,
    flags: Array,
    bit: int,
    parts: Array,
    start: int,
    stop: int,
    n: int,
    window: Array,
    out: Array,
) -> int:
    """The same of all parts, one after another."""
    found = 0
    for k in range(len(parts)):
        found += _hash_part(tokens, flags, bit, parts[k], start, stop, n, window, out[found:])
    return found


@jit
def largest_of(sizes: Array) -> int:
    largest = 1
    for size in sizes:
        largest = max(largest, size)
    return largest


@jit
def longest_of(offsets: Array) -> int:
    """The longest document, at least 1. np.diff takes numba four seconds to compile."""
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return longest


@jit
def count_sample(
    tokens: Array,
    flags: Array,
    bit: int,
    parts: Array,
    offsets: Array,
    eligible: Array,
    n: int,
    sample: Any,
    shift: Any,
    first: Any,
    table: Array,
) -> None:
    """Count the sampled grams of a batch in `table`: four two-bit counters a byte, stopping at 2.

    The table holds the slots from `first` on, of all that `hash >> shift` may be.
    """
    out, window = np.empty(longest_of(offsets), np.uint64), np.empty(n, np.uint64)
    slots = np.uint64(len(table)) << _2
    for d in range(len(offsets) - 1):
        if not eligible[d]:
            continue
        grams = _hash_grams(tokens, flags, bit, parts, offsets[d], offsets[d + 1], n, window, out)
        for k in range(grams):
            if (out[k] & _LOW_32) <= sample:
                slot = (out[k] >> shift) - first  # one before the first is beyond the last: unsigned
                if slot < slots:
                    place = (slot & _3) << _1
                    held = np.uint64(table[slot >> _2])
                    if ((held >> place) & _3) < _2:
                        table[slot >> _2] = np.uint8(held + (_1 << place))


@jit
def find_survivors(
    tokens: Array,
    flags: Array,
    bit: int,
    parts: Array,
    offsets: Array,
    eligible: Array,
    n: int,
    sample: Any,
    shift: Any,
    first: Any,
    table: Array,
    threshold: float,
    alone: Array,
    grams_of: Array,
) -> None:
    """`grams_of[d]`: the grams of document d, repeats included, or 0 where it provably has no partner.

    `alone[d]`: how many are its own in the tables so far, -1 where they are too many.
    """
    out, window = np.empty(longest_of(offsets), np.uint64), np.empty(n, np.uint64)
    slots = np.uint64(len(table)) << _2
    for d in range(len(offsets) - 1):
        if not eligible[d] or alone[d] < 0:
            continue
        grams = _hash_grams(tokens, flags, bit, parts, offsets[d], offsets[d + 1], n, window, out)
        spare = (1 - threshold) * grams + SLACK
        own = int64(alone[d])
        for k in range(grams):
            if (out[k] & _LOW_32) <= sample:
                slot = (out[k] >> shift) - first
                if slot < slots:
                    own += ((np.uint64(table[slot >> _2]) >> ((slot & _3) << _1)) & _3) == _1
                    if own > spare:
                        break
        alone[d] = own if own <= spare else -1
        grams_of[d] = grams if own <= spare else 0


@jit
def _put(h: Any, keys: Array, mask: Any) -> bool:
    """Put `h` into an open-addressing table; False when it was there."""
    slot = h & mask
    while keys[slot] != _0:
        if keys[slot] == h:
            return False
        slot = (slot + _1) & mask
    keys[slot] = h
    return True


@jit
def _empty_table(keys: Array, size: int) -> Any:
    """Clear room for `size` keys at half load; returns the mask."""
    room = 4
    while room < 2 * size:
        room *= 2
    keys[:room] = 0
    return np.uint64(room - 1)


@jit
def put_all(grams: Array, start: int, size: int, keys: Array) -> Any:
    """Fill a cleared table with a set; returns the mask."""
    mask = _empty_table(keys, size)
    for k in range(start, start + size):
        _put(grams[k], keys, mask)
    return mask


@jit
def gather_sets(
    tokens: Array,
    flags: Array,
    bit: int,
    parts: Array,
    offsets: Array,
    grams_of: Array,
    n: int,
    grams: Array,
    sizes: Array,
    answers: Array,
) -> int:
    """Write the sets of the documents with grams_of > 0 to `grams`, end to end; returns how many grams.

    `sizes[k]`: those of the k-th of them. `answers[k]`: how many of these are the answer's.
    """
    longest = longest_of(offsets)
    out, window = np.empty(longest, np.uint64), np.empty(n, np.uint64)
    keys = np.empty(4 * longest + 4, np.uint64)
    survivor, end = 0, 0
    for d in range(len(offsets) - 1):
        if grams_of[d] == 0:
            continue
        found = _hash_grams(tokens, flags, bit, parts, offsets[d], offsets[d + 1], n, window, out)
        mask = _empty_table(keys, found)
        start = end
        answers[survivor] = 0
        for k in range(found):
            if _put(out[k], keys, mask):
                grams[end] = out[k]
                answers[survivor] += (out[k] & ANSWER) != _0
                end += 1
        sizes[survivor] = end - start
        survivor += 1
    return end


@jit
def count_documents(grams: Array, shift: Any, first: Any, table: Array) -> None:
    """Count grams of sets in `table` (uint8, stopping at 255), which holds the slots `hash >> shift` from
    `first` on."""
    slots = np.uint64(len(table))
    for k in range(len(grams)):
        slot = (grams[k] >> shift) - first
        if slot < slots and table[slot] < 255:
            table[slot] += 1


@jit
def look_up(grams: Array, shift: Any, first: Any, table: Array, counts: Array) -> None:
    """`counts[k]`: what `table` holds of gram k, where it holds it."""
    slots = np.uint64(len(table))
    for k in range(len(grams)):
        slot = (grams[k] >> shift) - first
        if slot < slots:
            counts[k] = table[slot]


def read_only(kind: Any) -> Any:
    return numba.types.Array(kind, 1, "C", readonly=True)


_BATCH = (read_only(int32), read_only(uint8), int64, int64[:, ::1], read_only(int64))
_SAMPLE = (read_only(boolean), int64, uint64, uint64, uint64, uint8[::1])
SIGNATURES = {
    count_sample: (*_BATCH, *_SAMPLE),
    find_survivors: (*_BATCH, *_SAMPLE, float64, int32[::1], int32[::1]),
    gather_sets: (*_BATCH, int32[::1], int64, uint64[::1], int64[::1], int64[::1]),
    count_documents: (uint64[::1], uint64, uint64, uint8[::1]),
    look_up: (uint64[::1], uint64, uint64, uint8[::1], uint8[::1]),
}
