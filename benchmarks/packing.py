"""Rows, fill, time and peak memory of packing plans: our planners against the rules of other trainers.

Lengths are those of `--lengths FILE.npy` (int, tokens), else `--documents` log-normal ones of mean 800 (sigma
0.6); `--hard` adds uniform lengths between a quarter and 0.55 of the capacity, where most rules lose several
percent. Lengths over the capacity are left out.

The rules of others are written down again here from what they publish, in a few lines of Python without their
data handling; TRL itself runs too where it is installed (its time includes moving the tokens, one byte each).
Time is the best of `--repeats` after a warm-up; memory is the growth of the resident set over the start of
the call, with the result.

    python benchmarks/packing.py --documents 100000 --capacity 2048 --hard
    python benchmarks/packing.py --documents 10000000 --only tokpack
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import platform
import shlex
import sys
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from rich.console import Console
from rich.table import Table

from tokpack.stages.plan import bound, deal, idle_share, make_plan, resolve, row_costs, row_order

RANKS, ROWS_PER_STEP = 8, (1, 2, 4, 8, 16)
WINDOW = 1000
"""Documents that `datasets.map` hands out at once, and so all that TRL, LLaMA-Factory and ms-swift see."""


def next_fit(lengths: np.ndarray, capacity: int) -> int:
    """torchtune: a row closes when the next document does not fit."""
    rows, free = 0, 0
    for length in lengths.tolist():
        if length > free:
            rows, free = rows + 1, capacity
        free -= length
    return rows


@njit(cache=True)
def first_fit(lengths: np.ndarray, capacity: int, chunk: int, most_docs: int) -> int:
    """Rows, by a tree over the free space of open rows: its left half is looked at first."""
    rows = 0
    for start in range(0, len(lengths), chunk):
        part = lengths[start : start + chunk]
        leaves = 1
        while leaves < len(part):
            leaves *= 2
        free, docs = np.full(2 * leaves, capacity), np.zeros(len(part), np.int64)
        used = 0
        for length in part:
            node = 1
            while node < leaves:
                node = 2 * node if free[2 * node] >= length else 2 * node + 1
            row = node - leaves
            used = max(used, row + 1)
            docs[row] += 1
            free[node] = free[node] - length if docs[row] < most_docs else 0
            while node > 1:
                node //= 2
                free[node] = max(free[2 * node], free[2 * node + 1])
        rows += used
    return rows


def axolotl(lengths: np.ndarray, capacity: int) -> int:
    """axolotl: first-fit in shuffled order, chunks of 100,000 documents, at most 200 in a row."""
    return int(first_fit(lengths, capacity, 100_000, 200))


def megatron_bridge(lengths: np.ndarray, capacity: int) -> int:
    """Megatron-Bridge, NeMo: first-fit over all documents, shuffled (`first_fit_shuffle`)."""
    return int(first_fit(lengths, capacity, len(lengths), len(lengths)))


def greedy_knapsack(lengths: np.ndarray, capacity: int) -> int:
    """LLaMA-Factory: row after row takes the longest document left that fits, in windows."""
    rows = 0
    for start in range(0, len(lengths), WINDOW):
        left = sorted(lengths[start : start + WINDOW].tolist())
        while left:
            free = capacity
            while place := bisect_right(left, free):
                free -= left.pop(place - 1)
            rows += 1
    return rows


def best_fit_window(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: rows as lists of lengths."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (space, row), sorted
    for length in sorted(lengths, reverse=True):
        place = bisect_left(free, (length, -1))
        if place < len(free):
            space, row = free.pop(place)
            rows[row].append(length)
        else:
            space, row = capacity, len(rows)
            rows.append([length])
        insort(free, (space - length, row))
    return rows


def trl_bfd(lengths: np.ndarray, capacity: int) -> int:
    """TRL "bfd": best-fit decreasing in windows."""
    windows = (lengths[start : start + WINDOW].tolist() for start in range(0, len(lengths), WINDOW))
    return sum(len(best_fit_window(window, capacity)) for window in windows)


def ms_swift(lengths: np.ndarray, capacity: int) -> int:
    """ms-swift: constant-volume binpacking (best-fit decreasing) in windows, the last row carried over."""
    rows, carried = 0, list[int]()
    for start in range(0, len(lengths), WINDOW):
        packed = best_fit_window(carried + lengths[start : start + WINDOW].tolist(), capacity)
        carried = packed.pop()
        rows += len(packed)
    return rows + bool(carried)


def trl_itself(lengths: np.ndarray, capacity: int) -> Callable[[], int]:
    """`trl.pack_dataset`, with its tokens: documents of one-byte zeros."""
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from datasets.table import InMemoryTable
    from trl import pack_dataset

    disable_progress_bars()
    ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    tokens = pa.array(np.zeros(ends[-1], np.int8))
    documents = pa.LargeListArray.from_arrays(pa.array(ends), tokens)
    dataset = Dataset(InMemoryTable(pa.table({"input_ids": documents})))
    options = {"keep_in_memory": True}
    return lambda: len(pack_dataset(dataset, capacity, strategy="bfd", map_kwargs=options))


PEERS: dict[str, Callable[[np.ndarray, int], int]] = {
    "next-fit (torchtune)": next_fit,
    "first-fit in chunks (axolotl)": axolotl,
    "first-fit, shuffled (Megatron-Bridge)": megatron_bridge,
    "greedy knapsack (LLaMA-Factory)": greedy_knapsack,
    "binpacking in windows (ms-swift)": ms_swift,
    "bfd in windows (TRL)": trl_bfd,
}


def lognormal(documents: int, capacity: int) -> np.ndarray:
    draws = np.random.default_rng(0).lognormal(np.log(800) - 0.18, 0.6, documents)
    return np.clip(draws, 1, capacity).astype(np.int32)


def hard(documents: int, capacity: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(capacity / 4, 0.55 * capacity, documents).astype(np.int32)


def contenders(lengths: np.ndarray, capacity: int) -> dict[str, Callable[[], Any]]:
    """Name -> a function that prepares a call that plans `lengths`.

    Ours return the row of each document (`optimal` its proven bound too), the rules of others only count
    rows.
    """
    found: dict[str, Callable[[], Any]] = {}
    for name in ("sequential", "bfd", "xfill"):
        found[f"tokpack {name}"] = lambda name=name: partial(resolve(name), lengths, capacity)
    if importlib.util.find_spec("highspy"):
        found["tokpack optimal"] = lambda: partial(optimal, lengths, capacity)
    for name, rule in PEERS.items():
        found[name] = lambda rule=rule: partial(rule, lengths, capacity)
    if importlib.util.find_spec("trl"):
        found[f"TRL {version('trl')} pack_dataset"] = lambda: trl_itself(lengths, capacity)
    return found


def optimal(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    from tokpack.stages.planners.optimal import solve

    found = solve(lengths, capacity)
    return found.row_of_doc, found.proven


def measure(call: Callable[[], Any], repeats: int) -> tuple[int, int, float, float | None]:
    """(rows, bound proven or 0, best seconds, peak growth in bytes; None where the system does not tell)."""
    seconds, peak = [], None
    for _ in range(repeats):
        before = resident("VmRSS") if forget_peak() else None
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
        if before is not None:
            peak = max(peak or 0.0, resident("VmHWM") - before)
    plan, proven = result if isinstance(result, tuple) else (result, 0)
    rows = int(plan.max()) + 1 if isinstance(plan, np.ndarray) else plan
    return rows, proven, min(seconds), peak


def forget_peak() -> bool:
    """Give freed memory back to the system and reset the peak of resident memory (Linux with glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return False
    return True


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def run(lengths: np.ndarray, capacity: int, only: list[str], repeats: int) -> dict[str, Any]:
    resolve("xfill")(lengths[:3], capacity)  # compiled before the clock starts
    first_fit(lengths[:3], capacity, 1, 1)
    least, tokens = bound(lengths, capacity), int(lengths.sum(dtype=np.int64))
    results = []
    for name, prepare in contenders(lengths, capacity).items():
        if only and not any(word in name for word in only):
            continue
        rows, proven, seconds, peak = measure(prepare(), repeats)
        least = max(least, proven)
        memory = None if peak is None else peak / len(lengths)
        results.append({"planner": name, "rows": rows, "seconds": seconds, "bytes_per_document": memory})
    for result in results:
        result |= {"over_bound": result["rows"] / least - 1, "fill": tokens / (result["rows"] * capacity)}
    figures = {"documents": len(lengths), "tokens": tokens, "capacity": capacity, "bound": least}
    return {**figures, "results": results}


def waiting(lengths: np.ndarray, capacity: int) -> list[dict[str, float]]:
    """Share of the ranks' time spent waiting, counting attention alone, by rows a rank and step."""
    plan = make_plan(lengths, capacity)
    costs = row_costs(lengths, plan.row_of_doc, linear=0.0)
    shuffled = row_order(plan.rows, 0)
    lines = []
    for rows in ROWS_PER_STEP:
        step = RANKS * rows
        start = time.perf_counter()
        dealt, leftover = deal(costs, RANKS, step, 0)
        lines.append(
            {
                "rows_per_step": rows,
                "shuffled": idle_share(costs[shuffled], RANKS, step),
                "dealt": idle_share(costs[dealt], RANKS, step),
                "leftover_rows": len(leftover),
                "seconds": time.perf_counter() - start,
            }
        )
    return lines


def show(name: str, report: dict[str, Any], console: Console) -> None:
    figures = f"{report['documents']:,} documents, {report['tokens']:,} tokens, capacity {report['capacity']}"
    table = Table(title=f"{name}: {figures}, bound {report['bound']:,} rows", title_justify="left")
    table.add_column("planner", no_wrap=True)
    for column in ("rows", "over bound", "fill", "seconds", "bytes/document"):
        table.add_column(column, justify="right")
    for result in report["results"]:
        memory = result["bytes_per_document"]
        table.add_row(
            result["planner"],
            f"{result['rows']:,}",
            f"{result['over_bound']:.3%}",
            f"{result['fill']:.3%}",
            f"{result['seconds']:.3f}",
            "-" if memory is None else f"{memory:.0f}",
        )
    console.print(table)
    waits = Table(title=f"{RANKS} ranks, attention alone: share of the time they wait", title_justify="left")
    for column in ("rows a rank and step", "shuffled", "dealt", "rows left over", "seconds"):
        waits.add_column(column, justify="right")
    for line in report["idle"]:
        shares = f"{line['shuffled']:.1%}", f"{line['dealt']:.3%}"
        waits.add_row(
            str(line["rows_per_step"]), *shares, str(line["leftover_rows"]), f"{line['seconds']:.3f}"
        )
    console.print(waits)


def machine() -> dict[str, str]:
    versions = {}
    for package in ("tokpack", "numpy", "numba", "highspy", "trl"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "-"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{len(lines)} x {lines[0].partition(':')[2].strip()}" if lines else cpu
    command = shlex.join(["python", *sys.argv])
    return {"cpu": cpu, "python": platform.python_version(), **versions, "command": command}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument(
        "--lengths", type=Path, help=".npy of document lengths in tokens, instead of log-normal"
    )
    parser.add_argument("--capacity", type=int, nargs="+", default=[2048])
    parser.add_argument(
        "--hard", action="store_true", help="also uniform lengths of capacity/4 .. 0.55 capacity"
    )
    parser.add_argument("--only", nargs="+", default=[], help="planners whose name holds one of these words")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="figures to stdout as JSON, no table")
    options = parser.parse_args()

    reports: dict[str, Any] = {"machine": machine()}
    for capacity in options.capacity:
        if options.lengths:
            lengths = np.load(options.lengths)
            sets = {options.lengths.stem: lengths[lengths <= capacity].astype(np.int32)}
        else:
            sets = {"log-normal": lognormal(options.documents, capacity)}
        if options.hard:
            sets["hard"] = hard(options.documents, capacity)
        for name, lengths in sets.items():
            report = run(lengths, capacity, options.only, options.repeats)
            reports[f"{name} {capacity}"] = {**report, "idle": waiting(lengths, capacity)}
    if options.json:
        print(json.dumps(reports, indent=1))
        return
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(
        ", ".join(f"{key} {value}" for key, value in reports.pop("machine").items()), soft_wrap=True
    )
    for name, report in reports.items():
        show(name, report, console)


if __name__ == "__main__":
    main()
