# mypy: disallow-untyped-decorators=False
"""The compiled loops of `near_dup`, which holds the reasoning. Importing this module imports numba.

Sets are sets of 64-bit hashes of token n-grams, never 0. Arrays of `order_prefixes` and `join` are
indexed by survivor: the documents that the uniqueness prune left, in input order.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numba
import numpy as np
from numba import boolean, float64, int32, int64, uint8, uint64

Array = np.ndarray[Any, Any]

_BASE, _ODD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_LOW_32, _LOW_48 = np.uint64(2**32 - 1), np.uint64(2**48 - 1)
_0, _1, _2, _3, _6, _7, _16, _29, _33, _48, _63 = (
    np.uint64(k) for k in (0, 1, 2, 3, 6, 7, 16, 29, 33, 48, 63)
)
_M1, _M2, _M4, _M8 = (
    np.uint64(k) for k in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)
_4, _56 = np.uint64(4), np.uint64(56)
SLACK = 1e-6
"""Rounding may spare a candidate, never lose one."""
STEPS = 16
"""A candidate costs 16 steps, an index entry passed over 1, an intersection 1 more for 16 grams."""


def _jit(function: Any) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to cache in can be written
        return numba.njit(nogil=True)(function)


@_jit
def _finish(h: Any) -> Any:
    """Spread the bits of a rolling hash (the 64-bit finalizer of MurmurHash3)."""
    h = (h ^ (h >> _33)) * _MIX_1
    h = (h ^ (h >> _33)) * _MIX_2
    return max(h ^ (h >> _33), _1)


@_jit
def _hash_grams(
    tokens: Array, flags: Array, bit: int, start: int, stop: int, n: int, window: Array, out: Array
) -> int:
    """Hash the n-grams of the selected tokens into `out`, repeats included; returns how many.

    A polynomial in _BASE modulo 2**64 over mixed tokens, rolled along the document. Fewer than n
    selected tokens give one hash, of the whole sequence and its length; none give none.
    """
    top = _1
    for _ in range(n):
        top *= _BASE
    length, place = 0, 0
    rolling = _0
    for i in range(start, stop):
        if bit != 0 and (flags[i] & bit) == 0:
            continue
        x = (np.uint64(tokens[i]) + _1) * _ODD
        x ^= x >> _29
        rolling = rolling * _BASE + x
        if length >= n:
            rolling -= window[place] * top
        window[place] = x
        place = place + 1 if place + 1 < n else 0
        length += 1
        if length >= n:
            out[length - n] = _finish(rolling)
    if length >= n:
        return length - n + 1
    if length > 0:
        out[0] = _finish(rolling ^ (np.uint64(length) * _MIX_1))
        return 1
    return 0


@_jit
def _largest(sizes: Array) -> int:
    largest = 1
    for size in sizes:
        largest = max(largest, size)
    return largest


@_jit
def count_sample(
    tokens: Array,
    flags: Array,
    bit: int,
    offsets: Array,
    eligible: Array,
    n: int,
    sample: Any,
    shift: Any,
    table: Array,
) -> None:
    """Count the sampled grams of a batch in `table`: four two-bit counters a byte, stopping at 2."""
    out, window = np.empty(_largest(np.diff(offsets)), np.uint64), np.empty(n, np.uint64)
    for d in range(len(offsets) - 1):
        if not eligible[d]:
            continue
        grams = _hash_grams(tokens, flags, bit, offsets[d], offsets[d + 1], n, window, out)
        for k in range(grams):
            if (out[k] & _LOW_32) <= sample:
                slot = out[k] >> shift
                place = (slot & _3) << _1
                held = np.uint64(table[slot >> _2])
                if ((held >> place) & _3) < _2:
                    table[slot >> _2] = np.uint8(held + (_1 << place))


@_jit
def find_survivors(
    tokens: Array,
    flags: Array,
    bit: int,
    offsets: Array,
    eligible: Array,
    n: int,
    sample: Any,
    shift: Any,
    table: Array,
    threshold: float,
    grams_of: Array,
) -> None:
    """`grams_of[d]`: the grams of document d, repeats included, or 0 where it provably has no partner."""
    out, window = np.empty(_largest(np.diff(offsets)), np.uint64), np.empty(n, np.uint64)
    for d in range(len(offsets) - 1):
        if not eligible[d]:
            continue
        grams = _hash_grams(tokens, flags, bit, offsets[d], offsets[d + 1], n, window, out)
        spare = (1 - threshold) * grams + SLACK
        alone = 0
        for k in range(grams):
            if (out[k] & _LOW_32) <= sample:
                slot = out[k] >> shift
                alone += ((np.uint64(table[slot >> _2]) >> ((slot & _3) << _1)) & _3) == _1
                if alone > spare:
                    break
        if alone <= spare:
            grams_of[d] = grams


@_jit
def _put(h: Any, keys: Array, mask: Any) -> bool:
    """Put `h` into an open-addressing table; False when it was there."""
    slot = h & mask
    while keys[slot] != _0:
        if keys[slot] == h:
            return False
        slot = (slot + _1) & mask
    keys[slot] = h
    return True


@_jit
def _empty_table(keys: Array, size: int) -> Any:
    """Clear room for `size` keys at half load; returns the mask."""
    room = 4
    while room < 2 * size:
        room *= 2
    keys[:room] = 0
    return np.uint64(room - 1)


@_jit
def _put_all(grams: Array, start: int, size: int, keys: Array) -> Any:
    """Fill a cleared table with a set; returns the mask."""
    mask = _empty_table(keys, size)
    for k in range(start, start + size):
        _put(grams[k], keys, mask)
    return mask


@_jit
def gather_sets(
    tokens: Array,
    flags: Array,
    bit: int,
    offsets: Array,
    grams_of: Array,
    n: int,
    starts: Array,
    grams: Array,
    sizes: Array,
) -> None:
    """Write the set of the k-th document with grams_of > 0 to `grams` at starts[k], its size to sizes[k]."""
    longest = _largest(np.diff(offsets))
    out, window = np.empty(longest, np.uint64), np.empty(n, np.uint64)
    keys = np.empty(4 * longest + 4, np.uint64)
    survivor = 0
    for d in range(len(offsets) - 1):
        if grams_of[d] == 0:
            continue
        found = _hash_grams(tokens, flags, bit, offsets[d], offsets[d + 1], n, window, out)
        mask = _empty_table(keys, found)
        end = starts[survivor]
        for k in range(found):
            if _put(out[k], keys, mask):
                grams[end] = out[k]
                end += 1
        sizes[survivor] = end - starts[survivor]
        survivor += 1


@_jit
def count_documents(grams: Array, starts: Array, sizes: Array, shift: Any, counts: Array) -> None:
    """Count the documents of each gram in `counts` (uint8, stopping at 255), by slot `hash >> shift`."""
    for s in range(len(sizes)):
        for k in range(starts[s], starts[s] + sizes[s]):
            slot = grams[k] >> shift
            if counts[slot] < 255:
                counts[slot] += 1


@_jit
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


@_jit
def _shell_sort(keys: Array, size: int) -> None:
    gap = 1
    while gap < size // 3:
        gap = 3 * gap + 1
    while gap >= 1:
        for i in range(gap, size):
            key = keys[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key
        gap //= 3


@_jit
def order_prefixes(
    grams: Array,
    starts: Array,
    sizes: Array,
    threshold: float,
    shift: Any,
    counts: Array,
    prefix_starts: Array,
    prefixes: Array,
    prefix_sizes: Array,
    bitmaps: Array,
) -> None:
    """Write the rarest |A| - ceil(t|A|) + 1 grams of each set to `prefixes`, rarest first.

    A key is the count (8 bits), 8 bits of 0, and the hash's upper 48 bits: one order for all sets. Grams
    of one document alone are left out: nothing can meet there; with too many of them the prefix is
    empty. `bitmaps[s]`: 512 bits, each the parity of the grams that fall on it.
    """
    longest = _largest(sizes)
    keys, rare = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    ties = np.empty(longest + 1, np.uint64)
    tally = np.empty(256, np.int32)
    for s in range(len(sizes)):
        start, size = starts[s], sizes[s]
        tally[:] = 0
        for k in range(size):
            h = grams[start + k]
            count = counts[h >> shift]
            tally[count] += 1
            keys[k] = (np.uint64(count) << _56) | (h >> _16)
            bitmaps[s, (h >> _6) & _7] ^= _1 << (h & _63)
        wanted = size - ceil(threshold * size - SLACK) + 1 - tally[1]
        if wanted <= 0:
            continue
        cut, below = 2, 0
        while below + tally[cut] < wanted:
            below += tally[cut]
            cut += 1
        rarer, tied = 0, 0
        for k in range(size):
            count = int(keys[k] >> _56)
            rare[rarer], ties[tied] = keys[k], keys[k]
            rarer += (count > 1) & (count < cut)
            tied += count == cut
        _select(ties, tied, wanted - below)
        for k in range(below, wanted):
            rare[k] = ties[k - below]
        _shell_sort(rare, wanted)
        for k in range(wanted):
            prefixes[prefix_starts[s] + k] = rare[k]
        prefix_sizes[s] = wanted


@_jit
def _differing_bits(bitmaps: Array, a: int, b: int) -> int:
    total = _0
    for w in range(8):
        x = bitmaps[a, w] ^ bitmaps[b, w]
        x -= (x >> _1) & _M1
        x = (x & _M2) + ((x >> _2) & _M2)
        total += (((x + (x >> _4)) & _M4) * _M8) >> _56
    return int(total)


@_jit
def _intersection(grams: Array, start: int, size: int, keys: Array, mask: Any, needed: int) -> int:
    """How many grams of a set are in the table `keys`, or less than `needed` as soon as that is certain."""
    missing, allowed = 0, size - needed
    for k in range(start, start + size):
        h = grams[k]
        slot = h & mask
        while keys[slot] != _0 and keys[slot] != h:
            slot = (slot + _1) & mask
        missing += keys[slot] == _0
        if missing > allowed:
            break
    return size - missing


@_jit
def lay_out_index(starts: Array, prefixes: Array, sizes: Array, shift: Any, begins: Array) -> None:
    """`begins` (zeros): where the entries of each slot `hash >> shift` begin, with room for every prefix."""
    for s in range(len(sizes)):
        for p in range(starts[s], starts[s] + sizes[s]):
            begins[((prefixes[p] & _LOW_48) >> shift) + _1] += 1
    for k in range(len(begins) - 1):
        begins[k + 1] += begins[k]


@_jit
def join(
    grams: Array,
    starts: Array,
    sizes: Array,
    threshold: float,
    prefix_starts: Array,
    prefixes: Array,
    prefix_sizes: Array,
    bitmaps: Array,
    shift: Any,
    begins: Array,
    ends: Array,
    entries: Array,
    seen: Array,
    limit: int,
    partner: Array,
    jaccard: Array,
    bounded: Array,
) -> None:
    """Survivors in order against an index of the kept ones: first kept partner (or -1) and Jaccard.

    Slot k of the index is `entries[begins[k] : ends[k]]`, ascending; slots shared by chance only add
    candidates. `seen[s]`: the last document that s was a candidate of, at first -1. `limit`:
    candidates a document may cost, see STEPS.
    """
    keys = np.empty(4 * _largest(sizes) + 4, np.uint64)
    for s in range(len(sizes)):
        mine, mask, best, steps = sizes[s], _0, np.int64(-1), limit * STEPS
        smallest, largest = ceil(threshold * mine - SLACK), mine / threshold + SLACK
        for p in range(prefix_starts[s], prefix_starts[s] + prefix_sizes[s]):
            slot = (prefixes[p] & _LOW_48) >> shift
            for e in range(begins[slot], ends[slot]):
                other = entries[e]
                if steps <= 0 or (best >= 0 and other >= best):
                    break
                steps -= 1
                theirs = sizes[other]
                if theirs < smallest or theirs > largest or seen[other] == s:
                    continue
                seen[other] = s
                steps -= STEPS - 1
                needed = ceil(threshold / (1 + threshold) * (mine + theirs) - SLACK)
                if _differing_bits(bitmaps, s, other) > mine + theirs - 2 * needed:
                    continue
                if mask == _0:
                    mask = _put_all(grams, starts[s], mine, keys)
                steps -= theirs // STEPS
                both = _intersection(grams, starts[other], theirs, keys, mask, needed)
                if both / (mine + theirs - both) >= threshold:
                    best = np.int64(other)
                    jaccard[s] = both / (mine + theirs - both)
        partner[s] = best
        bounded[s] = best < 0 and steps <= 0
        if best < 0:
            for p in range(prefix_starts[s], prefix_starts[s] + prefix_sizes[s]):
                slot = (prefixes[p] & _LOW_48) >> shift
                entries[ends[slot]] = s
                ends[slot] += 1


def _read_only(kind: Any) -> Any:
    return numba.types.Array(kind, 1, "C", readonly=True)


_BATCH = (_read_only(int32), _read_only(uint8), int64, _read_only(int64))
_SETS = (uint64[::1], int64[::1], int64[::1])
_PREFIXES = (int64[::1], uint64[::1], int64[::1], uint64[:, ::1])
_SAMPLE = (_read_only(boolean), int64, uint64, uint64, uint8[::1])
SIGNATURES = {
    count_sample: (*_BATCH, *_SAMPLE),
    find_survivors: (*_BATCH, *_SAMPLE, float64, int64[::1]),
    gather_sets: (*_BATCH, int64[::1], int64, int64[::1], uint64[::1], int64[::1]),
    count_documents: (*_SETS, uint64, uint8[::1]),
    order_prefixes: (*_SETS, float64, uint64, uint8[::1], *_PREFIXES),
    lay_out_index: (*_PREFIXES[:3], uint64, int32[::1]),
    join: (
        *_SETS,
        float64,
        *_PREFIXES,
        uint64,
        *[int32[::1]] * 4,
        int64,
        int64[::1],
        float64[::1],
        boolean[::1],
    ),
}
