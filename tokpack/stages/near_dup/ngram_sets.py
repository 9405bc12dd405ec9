# mypy: disallow-untyped-decorators=False
"""The compiled loops of `near_dup` from tokens to prefixes; it holds the reasoning. This imports numba.

A set is a document's distinct 64-bit hashes of token n-grams, never 0. With two parts, prompt and answer,
bit 8 of a hash says of which part it is, so the two never meet. Document d is `spans[d]`: the addresses of
its tokens (int32) and of their flags (uint8), and how many they are.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import boolean, float64, int32, int64, types, uint8, uint32, uint64
from numba.extending import intrinsic

from tokpack.stages.compiled import jit

Array = np.ndarray[Any, Any]

SLACK = 1e-6
"""Rounding may spare a candidate, never lose one."""
AHEAD = 32
"""So many visits to a table before it is needed, a place in it is fetched."""
_BASE, _ODD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
ANSWER = np.uint64(256)
"""The bit that says of which of two parts a gram is; bitmaps keep the parts apart by it."""
_0, _1, _6, _7, _29, _32, _33, _63, _255 = (np.uint64(k) for k in (0, 1, 6, 7, 29, 32, 33, 63, 255))


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), cast

    return pointer


_tokens_at, _flags_at = _pointer_to(int32), _pointer_to(uint8)


@intrinsic
def prefetch(_: Any, address: Any) -> Any:
    """Have the memory at an address brought near, without waiting for it."""

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        near = [ir.Constant(number, value) for value in (1, 3, 1)]  # to be written, and soon; data
        builder.call(function, [builder.inttoptr(arguments[0], pointer), *near])

    return types.void(address), call


@jit
def _finish(h: Any) -> Any:
    """Spread the bits of a rolling hash (the 64-bit finalizer of MurmurHash3)."""
    h = (h ^ (h >> _33)) * _MIX_1
    h = (h ^ (h >> _33)) * _MIX_2
    return max(h ^ (h >> _33), _1)


@jit
def _hash_part(tokens: Array, flags: Array, part: Array, n: int, out: Array) -> int:
    """Hash the n-grams of one part's tokens into `out`, repeats included; returns how many.

    A polynomial in _BASE modulo 2**64 over mixed tokens, rolled along the document. `part` is (a mask of
    flags, or 0 for all tokens; what the flags of its tokens are under the mask; shortest; tag): fewer than
    `shortest` tokens give one hash, of the whole sequence and its length; none give none. A tag of 0 or 1 is
    put into bit 8. `out` has room for one more than there are tokens.
    """
    mask, wanted, shortest, tag = part[0], part[1], part[2], part[3]
    length = 0
    for i in range(len(tokens)):
        x = (np.uint64(tokens[i]) + _1) * _ODD
        out[length] = x ^ (x >> _29)
        length += 1 if mask == 0 else (flags[i] & mask) == wanted
    rolling, left = _0, _0
    found = length - n + 1
    if length < shortest:
        for k in range(length):
            rolling = rolling * _BASE + out[k]
        out[0] = _finish(rolling ^ (np.uint64(length) * _MIX_1))
        found = min(length, 1)
    else:
        top = _1
        for _ in range(n):
            top *= _BASE
        for k in range(n - 1):
            rolling = rolling * _BASE + out[k]
        for k in range(found):
            rolling = rolling * _BASE + (out[k + n - 1] - left * top)
            left = out[k]
            out[k] = _finish(rolling)
    if tag >= 0:
        for k in range(found):
            out[k] = (out[k] & ~ANSWER) | (ANSWER if tag == 1 else _0)
    return found


@jit
def hash_grams(span: Array, parts: Array, n: int, out: Array) -> int:
    """The same of all parts of a document, one after another."""
    found, length = 0, span[2]
    tokens = numba.carray(_tokens_at(span[0]), (length,))
    flags = numba.carray(_flags_at(span[1]), (length,))
    for k in range(len(parts)):
        found += _hash_part(tokens, flags, parts[k], n, out[found:])
    return found


@jit
def longest_of(spans: Array) -> int:
    """Tokens of the longest document, at least 1."""
    longest = 1
    for d in range(len(spans)):
        longest = max(longest, spans[d, 2])
    return longest


@jit
def find_slots(
    spans: Array, parts: Array, n: int, eligible: Array, shift: Any, first: Any, width: Any, out: Array
) -> int:
    """Write to `out` in which of `width` slots of a table grams fall, repeats included; returns how many.

    The table holds the slots from `first` on, of all that `hash >> shift` may be. `out` has room for one more
    than there are tokens.
    """
    end = 0
    for d in range(len(spans)):
        if eligible[d]:
            own = out[end:]
            for k in range(hash_grams(spans[d], parts, n, own)):
                slot = (own[k] >> shift) - first  # one before the first is beyond the last: unsigned
                out[end] = slot
                end += slot < width
    return end


@jit
def count_slots(slots: Array, table: Array) -> None:
    """Count, stopping at 255."""
    for k in range(len(slots)):
        prefetch(table.ctypes.data + slots[min(k + AHEAD, len(slots) - 1)])
        table[slots[k]] += table[slots[k]] < 255


@jit
def put(h: Any, keys: Array, mask: Any) -> bool:
    """Put `h` into an open-addressing table; False when it was there."""
    slot = h & mask
    while keys[slot] != _0:
        if keys[slot] == h:
            return False
        slot = (slot + _1) & mask
    keys[slot] = h
    return True


@jit
def empty_table(keys: Array, size: int) -> Any:
    """Clear room for `size` keys at half load; returns the mask."""
    room = 4
    while room < 2 * size:
        room *= 2
    keys[:room] = 0
    return np.uint64(room - 1)


@jit
def _select(keys: Array, size: int, wanted: int) -> None:
    """Bring the `wanted` smallest of keys[:size] to the front (Hoare's quickselect)."""
    low, high = 0, size - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if wanted - 1 <= j:
            high = j
        elif wanted - 1 >= i:
            low = i
        else:
            return


@jit
def _cut(tally: Array, value: int, wanted: int) -> int:
    """The value, from `value` on, of the last of the `wanted` smallest ones."""
    while tally[value] < wanted:
        wanted -= tally[value]
        value += 1
    return value


@jit
def choose_prefixes(
    spans: Array,
    parts: Array,
    n: int,
    eligible: Array,
    shift: Any,
    first: Any,
    table: Array,
    is_last: bool,
    counts: Array,
    threshold: float,
    starts: Array,
    prefixes: Array,
    prefix_sizes: Array,
    sizes: Array,
    answers: Array,
    bitmaps: Array,
) -> None:
    """Look up the grams in the table's range of slots; with the last table, write what the join needs.

    `counts` (uint8, one for each token) keeps what tables before this one held. `sizes[d]`: how large the set
    is; `answers[d]`: how many of these grams are the answer's; `bitmaps[d]`: 512 bits, each the parity of the
    grams that fall on it. To `prefixes`, from `starts[d]` on, go the upper halves of the rarest
    |A| - ceil(t|A|) + 1 grams: by count, then by lowest byte, then by hash, one order for all sets. Grams of
    one document alone are left out: nothing can meet there; with too many of them the prefix is empty.
    """
    longest, slots = longest_of(spans) + 1, np.uint64(len(table))
    out, keys = np.empty(longest, np.uint64), np.empty(4 * longest, np.uint64)
    ties, tally = np.empty(longest, np.uint64), np.empty(256, np.int32)
    end = 0
    for d in range(len(spans)):
        own = counts[end:]
        end += spans[d, 2]
        if not eligible[d]:
            continue
        grams = hash_grams(spans[d], parts, n, out)
        for k in range(grams):
            prefetch(table.ctypes.data + ((out[k] >> shift) - first))
        size, mask = 0, empty_table(keys, grams)
        for k in range(grams):
            if put(out[k], keys, mask):
                out[size] = out[k]
                size += 1
        tally[:] = 0
        for k in range(size):
            slot = (out[k] >> shift) - first
            if slot < slots:
                own[k] = table[slot]
            tally[own[k]] += 1
        wanted = size - ceil(threshold * size - SLACK) + 1 - tally[1]
        if wanted <= 0 or size == 0 or not is_last:
            continue
        cut = _cut(tally, 2, wanted)
        own_prefix = prefixes[starts[d] : starts[d] + wanted]
        rarer, tied, answer = 0, 0, 0
        for k in range(size):
            h, count = out[k], own[k]
            own_prefix[rarer], ties[tied] = h >> _32, h
            rarer += (count > 1) & (count < cut)
            tied += count == cut
            answer += (h & ANSWER) != _0
            bitmaps[d, (h >> _6) & _7] ^= _1 << (h & _63)
        sizes[d], answers[d], prefix_sizes[d] = size, answer, wanted
        tally[:] = 0
        for k in range(tied):
            tally[ties[k] & _255] += 1
        cut, last = _cut(tally, 0, wanted - rarer), 0
        for k in range(tied):
            h = ties[k]
            own_prefix[rarer], ties[last] = h >> _32, h
            rarer += (h & _255) < cut
            last += (h & _255) == cut
        _select(ties, last, wanted - rarer)
        for k in range(wanted - rarer):
            own_prefix[rarer + k] = ties[k] >> _32


_READ_ONLY = types.Array(boolean, 1, "C", readonly=True)
_DOCUMENTS = (int64[:, ::1], int64[:, ::1], int64, _READ_ONLY)
PREFIXES = (int64[::1], uint32[::1], int64[::1])
SETS = (int64[::1], int64[::1], uint64[:, ::1])
SIGNATURES = {
    find_slots: (*_DOCUMENTS, uint64, uint64, uint64, uint64[::1]),
    count_slots: (uint64[::1], uint8[::1]),
    choose_prefixes: (
        *(*_DOCUMENTS, uint64, uint64, uint8[::1], boolean, uint8[::1], float64, *PREFIXES, *SETS),
    ),
}
