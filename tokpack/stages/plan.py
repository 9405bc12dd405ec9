"""Plan: which document goes into which packed row.

    make_plan(lengths, 2048)  ->  Plan(row_of_doc, rows, fill, bound, ...)

A planner decides from lengths and a capacity alone. Here planners are found by name, their output is checked
whoever wrote them (each document in exactly one row, no row over capacity), and the number of rows is set
against a lower bound. Nothing moves here: the write stage gathers tokens by the plan.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokpack import plugins
from tokpack.arrays import Int32, Int64
from tokpack.errors import InternalError, TokpackError, UsageError
from tokpack.ranges import counted_in
from tokpack.stages.planners.bounds import ceil_bound, l2_bound
from tokpack.stages.planners.deal import deal, idle_share, row_costs, row_order
from tokpack.stages.planners.mix import Mix, Mixed, mix_figures, mixed_rows
from tokpack.stages.planners.parts import Parted, Parts, part_figures, rows_apart

__all__ = [
    "BUILT_IN",
    "Plan",
    "bound",
    "deal",
    "idle_share",
    "make_plan",
    "resolve",
    "row_costs",
    "row_order",
]

log = logging.getLogger("tokpack")

Planner = Callable[..., Any]
BoundKind = Literal["ceil", "L2", "LP"]

BUILT_IN: dict[str, str | Planner] = {
    "bfd": "tokpack.stages.planners.bfd:bfd",
    "xfill": "tokpack.stages.planners.xfill:xfill",
    "optimal": "tokpack.stages.planners.optimal:optimal",
    "sequential": "tokpack.stages.planners.in_order:sequential",
    "none": "tokpack.stages.planners.in_order:none",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """A checked plan and its figures."""

    row_of_doc: Int32
    """Row of each document, int32[documents]; rows are numbered 0..rows-1 without gaps."""
    capacity: int
    """Tokens a row holds."""
    rows: int
    tokens: int
    bound: int
    """No plan has fewer rows than this."""
    bound_kind: BoundKind
    """Proof behind `bound`: "ceil" of tokens / capacity (or documents / max_docs_per_row), "L2", or "LP"."""
    gap: float
    """rows / bound - 1; 0.0 is proven optimal."""
    fill: float
    """tokens / (rows * capacity); 0.0 without rows."""
    note: str = ""
    """Why the same input may get another plan elsewhere; empty for nearly all plans."""
    mixed: Mixed | None = None
    """Where each step has its share of each source: rows are numbered step by step."""
    parted: Parted | None = None
    """Where rows draw from one part of the corpus each: they are numbered part by part."""
    part_rows: tuple[int, ...] = ()
    """Of each part."""


def make_plan(
    lengths: npt.ArrayLike,
    capacity: int,
    planner: str | Planner = "bfd",
    seed: int = 0,
    max_docs_per_row: int | None = None,
    *,
    pairs: npt.ArrayLike | None = None,
    mix: Mix | None = None,
    parts: Parts | None = None,
) -> Plan:
    """Plan documents of `lengths` (int[n], tokens, 1..capacity) into rows of `capacity` tokens.

    `pairs: int[n]` names the group of each document, -1 for none: a group goes into one row as one item of
    its summed length, and `max_docs_per_row` then allows for groups as large as the largest. `mix` makes the
    rows step by step, each by the planner; `parts` part by part.

    Raises UsageError for lengths, groups or options that cannot work and for a plug-in's bad plan,
    InternalError for a bad plan of ours.
    """
    name = planner if isinstance(planner, str) else getattr(planner, "__qualname__", repr(planner))
    function = resolve(planner)
    checked = check_input(lengths, capacity, seed, max_docs_per_row)
    items, item_of_doc, max_items = checked, None, max_docs_per_row
    proofs: list[tuple[int, str]] = []
    if pairs is not None:
        items, item_of_doc, max_items = group(checked, np.asarray(pairs), capacity, max_docs_per_row)

    def at_once(some: Int32) -> npt.NDArray[Any]:
        if planner != "optimal":
            return call(name, function, some, capacity, seed=seed, max_docs=max_items)
        from tokpack.stages.planners.optimal import solve

        found = solve(some, capacity, seed=seed, max_docs_per_row=max_items)
        proofs.append((found.proven, found.note))
        return found.row_of_doc

    parted, part_rows = None, list[int]()
    if len(items) == 0:
        row_of_item: npt.NDArray[Any] = np.empty(0, np.int32)
    elif mix is not None:
        mix = mix if item_of_doc is None else mix.of(item_of_doc)
        row_of_item = mixed_rows(items, mix, capacity, at_once, max_items, seed)
    elif parts is not None:
        parts = parts if item_of_doc is None else parts.of(item_of_doc)
        row_of_item, part_rows = rows_apart(items, parts, at_once)
        # What they cost is known by planning all at once too, but by `optimal`, which takes its time.
        undivided = 0 if planner == "optimal" else int(np.asarray(at_once(items)).max()) + 1
        parted = part_figures(items, parts, undivided)
    else:
        row_of_item = at_once(items)
    lp = proofs[0][0] if proofs and parted is None else 0
    note = next((said for _, said in proofs if said), "")
    if note:
        log.warning("planner %s: %s", name, note)
    fault = find_fault(row_of_item, items, capacity, max_items)
    if fault:
        if planner in BUILT_IN:
            raise InternalError(f"planner {name!r} made a bad plan: {fault}", hint="please report this")
        raise UsageError(f"planner {name!r} made a bad plan: {fault}", where=f"--planner {name}")
    row_of_doc = row_of_item if item_of_doc is None else row_of_item[item_of_doc]
    plan = with_figures(row_of_doc.astype(np.int32, copy=False), items, capacity, max_items, lp, note)
    plan = replace(plan, parted=parted, part_rows=tuple(part_rows))
    return plan if mix is None else replace(plan, mixed=mix_figures(mix, row_of_item))


def bound(lengths: npt.ArrayLike, capacity: int) -> int:
    """Rows that any plan needs: max(ceil(tokens / capacity), Martello-Toth L2)."""
    checked = check_input(lengths, capacity, 0, None)
    return max(ceil_bound(checked, capacity), l2_bound(checked, capacity))


def resolve(name: str | Planner) -> Planner:
    """A planner by name; see `tokpack.plugins`. Raises UsageError for one that cannot be found or loaded."""
    return plugins.resolve("planner", name, BUILT_IN)


def call(
    name: str, planner: Planner, lengths: Int32, capacity: int, *, seed: int, max_docs: int | None
) -> npt.NDArray[Any]:
    """Run a planner with those of `seed` and `max_docs_per_row` that it takes."""
    known = inspect.signature(planner).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    options: dict[str, int | None] = {"seed": seed, "max_docs_per_row": max_docs}
    if max_docs is not None and not takes_any and "max_docs_per_row" not in known:
        raise UsageError(
            f"planner {name!r} does not take max_docs_per_row",
            where=f"--max-docs-per-row {max_docs}",
            hint="leave the option out, or use a built-in planner",
        )
    passed = {key: value for key, value in options.items() if takes_any or key in known}
    try:
        return np.asarray(planner(lengths, capacity, **passed))
    except TokpackError:
        raise
    except Exception as error:
        if name in BUILT_IN:
            raise
        raise UsageError(
            f"planner {name!r} failed: {type(error).__name__}: {error}", where=f"--planner {name}"
        ) from error


def check_input(lengths: npt.ArrayLike, capacity: int, seed: int, max_docs_per_row: int | None) -> Int32:
    """`lengths` as int32[n], all in 1..capacity."""
    array = np.asarray(lengths)
    if array.size == 0:
        array = array.reshape(-1).astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(
            f"lengths must be a flat array of integers, got {array.dtype} of shape {array.shape}"
        )
    if not 1 <= capacity < 1 << 31:
        raise UsageError(
            f"capacity must be at least 1 token, got {capacity}", where=f"--max-length {capacity}"
        )
    if seed < 0:
        raise UsageError(
            f"seed must not be negative, got {seed}", where=f"--seed {seed}", hint="give 0 or more"
        )
    if max_docs_per_row is not None and max_docs_per_row < 1:
        raise UsageError(
            "a row must hold at least 1 document", where=f"--max-docs-per-row {max_docs_per_row}"
        )
    if len(array):
        shortest, longest = int(array.argmin()), int(array.argmax())
        for place, bad in ((shortest, array[shortest] <= 0), (longest, array[longest] > capacity)):
            if bad:
                raise UsageError(
                    f"a document of {array[place]} tokens does not fit rows of {capacity}",
                    where=f"document {place}",
                    hint="truncate or drop it first (--overlong)"
                    if array[place] > 0
                    else "drop empty documents first",
                )
    return array.astype(np.int32, copy=False)


def group(
    lengths: Int32, pairs: npt.NDArray[Any], capacity: int, max_docs_per_row: int | None
) -> tuple[Int32, Int64, int | None]:
    """Items in order of their first document: (item lengths, item of each document, most items in a row)."""
    if pairs.shape != lengths.shape:
        raise UsageError(
            f"pairs must name the group of each document: {len(lengths)} documents, {pairs.shape}"
        )
    if len(lengths) == 0:
        return lengths, np.empty(0, np.int64), max_docs_per_row
    alone = int(pairs.max()) + 1 + np.arange(len(pairs), dtype=np.int64)
    keys = np.where(pairs >= 0, pairs, np.maximum(alone, 0))
    _, first, item, size = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    item_of_doc = rank[item]
    summed = np.bincount(item_of_doc, weights=lengths).astype(np.int64)
    longest = int(summed.argmax())
    if summed[longest] > capacity:
        document = int(np.flatnonzero(item_of_doc == longest)[0])
        raise UsageError(
            f"a group of {summed[longest]} tokens does not fit a row of {capacity}",
            where=f"group {pairs[document]}, first document {document}",
            hint="truncate or drop the group first",
        )
    largest = int(size.max())
    if max_docs_per_row is not None and max_docs_per_row < largest:
        raise UsageError(
            f"a group of {largest} documents does not fit a row of {max_docs_per_row} documents",
            where=f"--max-docs-per-row {max_docs_per_row}",
            hint=f"allow at least {largest}",
        )
    max_items = None if max_docs_per_row is None else max_docs_per_row // largest
    return summed.astype(np.int32), item_of_doc, max_items


def find_fault(
    row_of_doc: npt.NDArray[Any], lengths: Int32, capacity: int, max_docs_per_row: int | None
) -> str | None:
    """What is wrong with a plan, or None."""
    if row_of_doc.shape != lengths.shape or row_of_doc.dtype.kind not in "iu":
        return f"{row_of_doc.dtype}{row_of_doc.shape} for {len(lengths)} documents, not one row number each"
    if len(lengths) == 0:
        return None
    low, high = int(row_of_doc.min()), int(row_of_doc.max())
    if low < 0 or high >= len(lengths):
        return f"row numbers from {low} to {high} for {len(lengths)} documents"
    documents = counted_in(row_of_doc, high + 1)
    tokens = counted_in(row_of_doc, high + 1, lengths)
    fault = None
    if documents.min() == 0:
        fault = f"row {documents.argmin()} is empty: rows are numbered without gaps"
    elif tokens.max() > capacity:
        fault = f"row {tokens.argmax()} has {tokens.max()} tokens, capacity is {capacity}"
    elif max_docs_per_row is not None and documents.max() > max_docs_per_row:
        fault = f"row {documents.argmax()} has {documents.max()} documents, allowed are {max_docs_per_row}"
    return fault


def with_figures(
    row_of_doc: Int32,
    items: Int32,
    capacity: int,
    max_items: int | None = None,
    lp: int = 0,
    note: str = "",
) -> Plan:
    """The plan of `items` (lengths of documents or groups) with its bound; `lp`: rows a program proved."""
    rows = int(row_of_doc.max()) + 1 if len(row_of_doc) else 0
    tokens = int(items.sum(dtype=np.int64))
    proofs: list[tuple[int, BoundKind]] = [
        (ceil_bound(items, capacity, max_items), "ceil"),
        (l2_bound(items, capacity), "L2"),
        (lp, "LP"),
    ]
    least, kind = max(proofs, key=lambda proof: proof[0])  # the first of equals: the simplest proof
    return Plan(
        row_of_doc=row_of_doc,
        capacity=capacity,
        rows=rows,
        tokens=tokens,
        bound=least,
        bound_kind=kind,
        gap=rows / least - 1 if least else 0.0,
        fill=tokens / (rows * capacity) if rows else 0.0,
        note=note,
    )
