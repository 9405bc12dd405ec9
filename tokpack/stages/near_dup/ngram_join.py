# mypy: disallow-untyped-decorators=False
"""The compiled loops of `near_dup` from the sets on; it holds the reasoning. Importing this imports numba.

Arrays are indexed by survivor: the documents that the uniqueness prune left, in input order.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numba import boolean, float64, int32, int64, uint8, uint64

from tokpack.stages.compiled import jit
from tokpack.stages.near_dup.kinds import SAME_ANSWER, SAME_PROMPT
from tokpack.stages.near_dup.ngram_sets import ANSWER, SLACK, Array, largest_of, put_all

STEPS = 16
"""A candidate costs 16 steps, an index entry passed over 1, an intersection 1 more for 16 grams."""
_LOW_48 = np.uint64(2**48 - 1)
_0, _1, _2, _4, _6, _7, _16, _56, _63 = (np.uint64(k) for k in (0, 1, 2, 4, 6, 7, 16, 56, 63))
_M1, _M2, _M4, _M8 = (
    np.uint64(k) for k in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)


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


@jit
def order_prefixes(
    grams: Array,
    starts: Array,
    sizes: Array,
    threshold: float,
    counts: Array,
    prefix_starts: Array,
    prefixes: Array,
    prefix_sizes: Array,
    bitmaps: Array,
) -> None:
    """Write the rarest |A| - ceil(t|A|) + 1 grams of each set to `prefixes`, rarest first.

    `counts`: in how many documents each of `grams` is. A key is the count (8 bits), 8 bits of 0, and the
    hash's upper 48 bits: one order for all sets. Grams of one document alone are left out: nothing can meet
    there; with too many of them the prefix is empty. `bitmaps[s]`: 512 bits, each the parity of the grams
    that fall on it.
    """
    longest = largest_of(sizes)
    keys, rare = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    ties = np.empty(longest + 1, np.uint64)
    tally = np.empty(256, np.int32)
    for s in range(len(sizes)):
        start, size = starts[s], sizes[s]
        tally[:] = 0
        for k in range(size):
            h = grams[start + k]
            count = counts[start + k]
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


@jit
def _differing_bits(bitmaps: Array, a: int, b: int, first: int, last: int) -> int:
    total = _0
    for w in range(first, last):
        x = bitmaps[a, w] ^ bitmaps[b, w]
        x -= (x >> _1) & _M1
        x = (x & _M2) + ((x >> _2) & _M2)
        total += (((x + (x >> _4)) & _M4) * _M8) >> _56
    return int(total)


@jit
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


@jit
def _in_parts(grams: Array, start: int, size: int, keys: Array, mask: Any, needed: int) -> tuple[int, int]:
    """The same for prompt and answer apart; where their sum is less than `needed`, counting ends early."""
    missing, allowed, prompt, answer = 0, size - needed, 0, 0
    for k in range(start, start + size):
        h = grams[k]
        slot = h & mask
        while keys[slot] != _0 and keys[slot] != h:
            slot = (slot + _1) & mask
        if keys[slot] == _0:
            missing += 1
            if missing > allowed:
                break
        elif h & ANSWER:
            answer += 1
        else:
            prompt += 1
    return prompt, answer


@jit
def _similarity(both: int, mine: int, theirs: int) -> float:
    """Two empty parts are the same."""
    return both / (mine + theirs - both) if mine + theirs > 0 else 1.0


@jit
def _may_reach(bitmaps: Array, a: int, b: int, mine: int, theirs: int, threshold: float, first: int) -> bool:
    """Whether sizes and bitmap of one part, words `first` to `first` + 3, allow the threshold."""
    if theirs < threshold * mine - SLACK or mine < threshold * theirs - SLACK:
        return False
    needed = ceil(threshold / (1 + threshold) * (mine + theirs) - SLACK)
    return bool(_differing_bits(bitmaps, a, b, first, first + 4) <= mine + theirs - 2 * needed)


@jit
def lay_out_index(starts: Array, prefixes: Array, sizes: Array, shift: Any, begins: Array) -> None:
    """`begins` (zeros): where the entries of each slot `hash >> shift` begin, with room for every prefix."""
    for s in range(len(sizes)):
        for p in range(starts[s], starts[s] + sizes[s]):
            begins[((prefixes[p] & _LOW_48) >> shift) + _1] += 1
    for k in range(len(begins) - 1):
        begins[k + 1] += begins[k]


@jit
def join(  # noqa: PLR0912, PLR0915 - one loop, compiled
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
    base: int,
    first: int,
    last: int,
    parts: bool,
    answers: Array,
    steps_left: Array,
    partner: Array,
    jaccard: Array,
    bounded: Array,
    kind: Array,
    alike: Array,
) -> None:
    """Survivors `first` to `last` - 1 in order against an index: first kept partner (or -1) and Jaccard.

    The index is of one block, of its kept survivors so far, from `base` on; those of the block are added.
    Slot k is `entries[begins[k] : ends[k]]`, ascending, from `base`; slots shared by chance only add
    candidates. `seen[s]`: the last document that s of the block was a candidate of, at first -1.
    `steps_left[s]`: what a document may still cost, see STEPS. One that has a partner by now is passed over.

    With `parts`, prompt and answer (`answers[s]` of the grams) must each reach the threshold; `jaccard[s]` is
    then of the two, else twice the same. `kind[s]` and `alike[s]`: for a kept document, what it has in common
    with an earlier one, the most found (0: nothing), and with which.
    """
    keys = np.empty(4 * largest_of(sizes[first:last]) + 4, np.uint64)
    for s in range(first, last):
        if partner[s] >= 0:
            continue
        mine, mask, best, steps = sizes[s], _0, np.int64(-1), steps_left[s]
        smallest, largest = ceil(threshold * mine - SLACK), mine / threshold + SLACK
        for p in range(prefix_starts[s], prefix_starts[s] + prefix_sizes[s]):
            slot = (prefixes[p] & _LOW_48) >> shift
            for e in range(begins[slot], ends[slot]):
                entry = entries[e]
                other = base + entry
                if steps <= 0 or (best >= 0 and other >= best):
                    break
                steps -= 1
                theirs = sizes[other]
                if theirs < smallest or theirs > largest or seen[entry] == s:
                    continue
                seen[entry] = s
                in_answer, theirs_in_answer = answers[s], answers[other]
                in_prompt, theirs_in_prompt = mine - in_answer, theirs - theirs_in_answer
                # With another answer to the same prompt known, only what is near in both is of interest.
                if (kind[s] == SAME_PROMPT or best >= 0) and parts:
                    steps -= 1
                    if not (
                        _may_reach(bitmaps, s, other, in_answer, theirs_in_answer, threshold, 4)
                        and _may_reach(bitmaps, s, other, in_prompt, theirs_in_prompt, threshold, 0)
                    ):
                        continue
                steps -= STEPS - 1
                needed = ceil(threshold / (1 + threshold) * (mine + theirs) - SLACK)
                if _differing_bits(bitmaps, s, other, 0, 8) > mine + theirs - 2 * needed:
                    continue
                if mask == _0:
                    mask = put_all(grams, starts[s], mine, keys)
                steps -= theirs // STEPS
                if not parts:
                    both = _intersection(grams, starts[other], theirs, keys, mask, needed)
                    if both / (mine + theirs - both) >= threshold:
                        best = np.int64(other)
                        jaccard[s, 0] = jaccard[s, 1] = both / (mine + theirs - both)
                    continue
                of_prompt, of_answer = _in_parts(grams, starts[other], theirs, keys, mask, needed)
                if (of_prompt + of_answer) / (mine + theirs - of_prompt - of_answer) < threshold:
                    continue
                prompt = _similarity(of_prompt, in_prompt, theirs_in_prompt)
                answer = _similarity(of_answer, in_answer, theirs_in_answer)
                if prompt >= threshold and answer >= threshold:
                    best = np.int64(other)
                    jaccard[s, 0], jaccard[s, 1] = prompt, answer
                else:
                    found = SAME_PROMPT if prompt >= threshold else SAME_ANSWER
                    if found > kind[s]:
                        kind[s], alike[s] = found, other
        partner[s], steps_left[s] = best, steps
        if best >= 0:
            kind[s] = 0
        elif s - base < len(seen):
            bounded[s] = steps <= 0
            for p in range(prefix_starts[s], prefix_starts[s] + prefix_sizes[s]):
                slot = (prefixes[p] & _LOW_48) >> shift
                entries[ends[slot]] = s - base
                ends[slot] += 1


_SETS = (uint64[::1], int64[::1], int64[::1])
_PREFIX = (int64[::1], uint64[::1], int64[::1])
_BITMAPS = uint64[:, ::1]
_INDEX = (uint64, int32[::1], int32[::1], int32[::1], int32[::1])
SIGNATURES = {
    order_prefixes: (*_SETS, float64, uint8[::1], *_PREFIX, _BITMAPS),
    lay_out_index: (*_PREFIX, uint64, int32[::1]),
    join: (
        *(*_SETS, float64, *_PREFIX, _BITMAPS, *_INDEX, int64, int64, int64, boolean),
        *(int64[::1], int64[::1], int64[::1], float64[:, ::1], boolean[::1], int64[::1], int64[::1]),
    ),
}
