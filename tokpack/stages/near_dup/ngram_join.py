# mypy: disallow-untyped-decorators=False
"""The compiled loops of `near_dup` from prefixes to pairs; it holds the reasoning. This imports numba."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numba import boolean, float64, int32, int64, uint64

from tokpack.stages.compiled import jit
from tokpack.stages.near_dup.kinds import SAME_ANSWER, SAME_PROMPT
from tokpack.stages.near_dup.ngram_sets import (
    ANSWER,
    PREFIXES,
    SETS,
    SLACK,
    Array,
    empty_table,
    hash_grams,
    prefetch,
    put,
)

STEPS = 16
"""A candidate costs 16 steps, an index entry passed over 1, an intersection 1 more for 16 grams."""
_0, _1, _2, _4, _8, _56 = (np.uint64(k) for k in (0, 1, 2, 4, 8, 56))
_M1, _M2, _M4, _M8 = (
    np.uint64(k) for k in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)


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
def _in_common(
    grams: Array, size: int, needed: int, keys: Array, mask: Any, marks: Array, mark: int
) -> tuple[int, int]:
    """How many of the prompt's grams and of the answer's are in the table `keys`, each once.

    Where their sum is less than `needed`, counting ends early. `marks`: by which `mark`, one for each call, a
    key was last seen.
    """
    missing, allowed, prompt, answer = 0, size - needed, 0, 0
    for k in range(size):
        h = grams[k]
        slot = h & mask
        while keys[slot] != _0 and keys[slot] != h:
            slot = (slot + _1) & mask
        if keys[slot] == _0 or marks[slot] == mark:
            missing += 1
            if missing > allowed:
                break
        else:
            marks[slot] = mark
            answer += (h & ANSWER) != _0
            prompt += (h & ANSWER) == _0
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
def lay_out_index(starts: Array, prefixes: Array, sizes: Array, shift: Any, index: Array) -> None:
    """`index` (int32[slots, 2], zeros): where the entries of each slot `prefix >> shift` begin, twice."""
    for d in range(len(sizes)):
        own = prefixes[starts[d] : starts[d] + sizes[d]]
        for prefix in own:
            prefetch(index.ctypes.data + (np.uint64(prefix) >> shift) * _8)
        for prefix in own:
            index[np.uint64(prefix) >> shift, 0] += 1
    end = 0
    for slot in range(len(index)):
        size = index[slot, 0]
        index[slot, 0] = index[slot, 1] = end
        end += size


@jit
def join(  # noqa: PLR0912, PLR0915 - one loop, compiled
    spans: Array,
    parts: Array,
    n: int,
    longest: int,
    threshold: float,
    starts: Array,
    prefixes: Array,
    prefix_sizes: Array,
    sizes: Array,
    answers: Array,
    bitmaps: Array,
    shift: Any,
    index: Array,
    entries: Array,
    seen: Array,
    base: int,
    first: int,
    last: int,
    adds: bool,
    steps_left: Array,
    partner: Array,
    jaccard: Array,
    bounded: Array,
    kind: Array,
    alike: Array,
) -> None:
    """Documents `first` to `last` - 1 in order against an index: first kept partner (or -1) and Jaccard.

    The index is of one block, of its kept documents so far, from `base` on. With `adds` documents meet only
    those from `first` on, and are added; the others they must have met before.
    Slot k is `entries[index[k, 0] : index[k, 1]]`, ascending, from `base`; slots shared by chance only add
    candidates. `seen[d]`: the last document that d of the block was a candidate of, at first -1.
    `steps_left[d]`: what a document may still cost, see STEPS. One that has a partner by now is passed over.

    With two `parts`, prompt and answer (`answers[d]` of the grams) must each reach the threshold;
    `jaccard[d]` is then of the two, else twice the same. `kind[d]` and `alike[d]`: for a kept document, what
    it has in common with an earlier one, the most found (0: nothing), and with which.
    """
    grams, keys = np.empty(longest + 1, np.uint64), np.empty(4 * longest + 4, np.uint64)
    marks, mark, apart = np.empty(len(keys), np.int32), 0, len(parts) > 1
    for d in range(first, last):
        if partner[d] >= 0 or prefix_sizes[d] == 0:
            continue
        mine, mask, best, steps = sizes[d], _0, np.int64(-1), steps_left[d]
        smallest, largest = ceil(threshold * mine - SLACK), mine / threshold + SLACK
        own_prefix = prefixes[starts[d] : starts[d] + prefix_sizes[d]]
        for prefix in own_prefix:
            prefetch(index.ctypes.data + (np.uint64(prefix) >> shift) * _8)
        for prefix in own_prefix:
            prefetch(entries.ctypes.data + index[np.uint64(prefix) >> shift, np.int64(adds)] * _4)
        for prefix in own_prefix:
            if steps <= 0:
                break
            slot = np.uint64(prefix) >> shift
            begin, end = index[slot, 0], index[slot, 1]
            if adds:
                begin, lowest = end, begin
                while begin > lowest and entries[begin - 1] >= first - base:
                    begin -= 1
            for e in range(begin, end):
                entry = entries[e]
                other = base + entry
                if steps <= 0 or (best >= 0 and other >= best):
                    break
                steps -= 1
                theirs = sizes[other]
                if theirs < smallest or theirs > largest or seen[entry] == d:
                    continue
                seen[entry] = d
                in_answer, theirs_in_answer = answers[d], answers[other]
                in_prompt, theirs_in_prompt = mine - in_answer, theirs - theirs_in_answer
                # With another answer to the same prompt known, only what is near in both is of interest.
                if (kind[d] == SAME_PROMPT or best >= 0) and apart:
                    steps -= 1
                    if not (
                        _may_reach(bitmaps, d, other, in_answer, theirs_in_answer, threshold, 4)
                        and _may_reach(bitmaps, d, other, in_prompt, theirs_in_prompt, threshold, 0)
                    ):
                        continue
                steps -= STEPS - 1
                needed = ceil(threshold / (1 + threshold) * (mine + theirs) - SLACK)
                if _differing_bits(bitmaps, d, other, 0, 8) > mine + theirs - 2 * needed:
                    continue
                if mask == _0:
                    found = hash_grams(spans[d], parts, n, grams)
                    mask = empty_table(keys, found)
                    for k in range(found):
                        put(grams[k], keys, mask)
                    marks[: mask + _1] = mark = 0
                steps -= theirs // STEPS
                mark += 1
                found = hash_grams(spans[other], parts, n, grams)
                of_prompt, of_answer = _in_common(grams, found, needed, keys, mask, marks, mark)
                prompt = answer = _similarity(of_prompt + of_answer, mine, theirs)
                if prompt < threshold:
                    continue
                if apart:
                    prompt = _similarity(of_prompt, in_prompt, theirs_in_prompt)
                    answer = _similarity(of_answer, in_answer, theirs_in_answer)
                if prompt >= threshold and answer >= threshold:
                    best = np.int64(other)
                    jaccard[d, 0], jaccard[d, 1] = prompt, answer
                else:
                    common = SAME_PROMPT if prompt >= threshold else SAME_ANSWER
                    if common > kind[d]:
                        kind[d], alike[d] = common, other
        partner[d], steps_left[d] = best, steps
        if best >= 0:
            kind[d] = 0
        elif adds:
            bounded[d] = steps <= 0
            for prefix in own_prefix:
                slot = np.uint64(prefix) >> shift
                entries[index[slot, 1]] = d - base
                index[slot, 1] += 1


SIGNATURES = {
    lay_out_index: (*PREFIXES, uint64, int32[:, ::1]),
    join: (
        *(int64[:, ::1], int64[:, ::1], int64, int64, float64, *PREFIXES, *SETS),
        *(uint64, int32[:, ::1], int32[::1], int32[::1], int64, int64, int64, boolean),
        *(int64[::1], int64[::1], float64[:, ::1], boolean[::1], int64[::1], int64[::1]),
    ),
}
