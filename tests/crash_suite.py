"""Commands killed at random moments: the same command again gives the bytes of a run that nothing disturbed.

    python tests/crash_suite.py --tokenizer FOLDER [--tries 10] [--only pack] [--steps]

50 kills (SIGKILL) of pack, 20 each of pack --index-only, merge, repack, export and clean, or `--tries` of
each. The moments are drawn by `--seed`, but what a process has done by then depends on the machine. A kill
counts when it strikes before the command ends. With `--steps` each command is killed before the first thing
it makes, renames or takes away on disk, then before the second, and so on, with and without an older output.
Commands are forks of this process, which imports tokpack once and does no work.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from chats import messy_rows, write_rows

FULL = {"pack": 50, "index": 20, "merge": 20, "repack": 20, "export": 20, "clean": 20}
OPTIONS = {"max_length": 128, "block_mb": 1, "val": 0.05}
CLEARS = {"pack", "index"}
"""An older output goes before these begin, and they go on with what a killed one left."""
LONGEST = 120.0
"""Seconds after which a command hangs."""
STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}

Command = Callable[[Path, bool], Any]
"""Called with the output and `overwrite`, in a process of its own."""


@dataclass
class Tally:
    kills: int = 0
    late: int = 0
    """Commands that ended before they were killed: no tries."""
    failures: list[str] = field(default_factory=list)


@dataclass
class Step:
    """A moment: before the process does the thing of this number on disk."""

    number: int

    def kill_here(self) -> None:
        sys.addaudithook(self._count)
        self._me = os.getpid()

    def _count(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in STEPS or writes) and os.getpid() == self._me:
            self.number -= 1
            if self.number < 0:
                os.kill(self._me, signal.SIGKILL)


def started(command: Command, out: Path, overwrite: bool, step: Step | None = None) -> int:
    """A process that runs the command; its exit code is 1 for any error, which it prints."""
    if pid := os.fork():
        return pid
    code = 1
    if step:
        step.kill_here()
    try:
        command(out, overwrite)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def ended(pid: int, limit: float) -> int | None:
    """The process's exit code, negative for a signal; None when it still runs after `limit` seconds."""
    until = time.monotonic() + limit
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.0005)


def run(command: Command, out: Path, overwrite: bool = False) -> int:
    pid = started(command, out, overwrite)
    if (code := ended(pid, LONGEST)) is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return -signal.SIGKILL
    return code


def killed(command: Command, out: Path, overwrite: bool, moment: float | Step) -> bool:
    """Whether the process was killed at the moment, before it ended."""
    if isinstance(moment, Step):
        return ended(started(command, out, overwrite, moment), LONGEST) == -signal.SIGKILL
    pid = started(command, out, overwrite)
    if ended(pid, moment) is not None:
        return False
    os.kill(pid, signal.SIGKILL)
    return ended(pid, LONGEST) == -signal.SIGKILL


def digests(folder: Path) -> dict[str, str]:
    """Every file below, hidden ones too, but `run.json`, which holds times and places."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.json")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def try_one(
    command: Command,
    place: Path,
    older: Path | None,
    whole: dict[str, str],
    moments: Sequence[float | Step],
    clears: bool = False,
) -> Any:
    """Kill the command at each moment in turn, then run it to its end. Returns kills and what went wrong.

    Over an `older` output the command overwrites: after a kill, that output or the new one is there, unless
    the command `clears` it first.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if older:
        shutil.copytree(older, place, dirs_exist_ok=True)
    before, out = digests(place), place / "out"
    kills = 0
    for moment in moments:
        if not killed(command, out, older is not None, moment):
            break
        kills += 1
    if older and kills and not clears and not any(place.glob(".*.part")):
        left = {name: digest for name, digest in digests(place).items() if not name.startswith(".")}
        if left not in (before, whole):
            return kills, "neither the older output nor the new one after the kill"
    code = run(command, out, older is not None) if digests(place) != whole else 0
    after = digests(place)
    if code and after != whole:  # of an output that is there whole it says so
        return kills, f"the same command again ended with {code}"
    names = sorted(name for name in after.keys() | whole.keys() if after.get(name) != whole.get(name))
    return kills, f"differ or are left over: {', '.join(names[:5])}" if names else ""


def crash(
    name: str, command: Command, other: Command, folder: Path, tries: int, draw: random.Random
) -> Tally:
    """`tries` kills of a command, or with 0 one at each step; `other` makes an older output that every other
    one overwrites."""
    tally = Tally()
    place, lasted = folder / "place", 0.0
    for made, how in (("older", other), ("whole", command)):  # in one place: outputs may name it
        place.mkdir()
        begun = time.monotonic()
        if run(how, place / "out"):
            raise SystemExit(f"{name} does not run at all")
        lasted = time.monotonic() - begun
        place.rename(folder / made)
    whole, number = digests(folder / "whole"), 0
    older = folder / "older"
    if not tries:
        for before in (None, older):
            number = 0
            while True:
                kills, fault = try_one(command, place, before, whole, [Step(number)], name in CLEARS)
                if fault:
                    tally.failures.append(f"{name} over {before}, killed before step {number}: {fault}")
                if not kills:
                    break
                tally.kills, number = tally.kills + 1, number + 1
    while tally.kills < tries and number < 4 * tries:
        moments = [draw.random() * lasted for _ in range(min(draw.choice([1, 1, 2, 3]), tries - tally.kills))]
        before = older if number % 2 and name not in CLEARS else None  # else each kill starts it over
        kills, fault = try_one(command, place, before, whole, moments)
        tally.kills, tally.late, number = tally.kills + kills, tally.late + (kills == 0), number + 1
        if fault:
            tally.failures.append(f"{name}, killed after {[round(m, 4) for m in moments]} s: {fault}")
    return tally


def commands(folder: Path, tokenizer: str, rows: int) -> dict[str, tuple[Command, Command]]:
    """Each command, and one of its kind that gives another output. Packs what the others work on."""
    import tokpack
    from tokpack.export import export
    from tokpack.packed.merging import merge  # all before the forks
    from tokpack.packed.repacking import repack
    from tokpack.text.cleaning import clean

    for late in ("gigatoken", "jinja2", "pandas"):  # pyarrow looks for pandas
        with suppress(ImportError):
            import_module(late)
    data = write_rows(folder / "chats.jsonl", messy_rows(rows, seed=3))
    parts = [folder / "part0", folder / "part1"]

    def pack(out: Path, overwrite: bool, **more: Any) -> None:
        tokpack.pack(data, out, tokenizer=tokenizer, overwrite=overwrite, **(OPTIONS | more))

    for number, part in enumerate(parts):
        if run(lambda out, overwrite, seed=number: pack(out, overwrite, seed=seed), part):
            raise SystemExit("pack does not run at all")
    return {
        "pack": (pack, lambda out, overwrite: pack(out, overwrite, seed=1)),
        "index": (
            lambda out, overwrite: pack(out, overwrite, shard_format="index"),
            lambda out, overwrite: pack(out, overwrite, shard_format="index", seed=1),
        ),
        "merge": (
            lambda out, overwrite: merge(parts, out, overwrite=overwrite),
            lambda out, overwrite: merge(parts, out, seed=1),
        ),
        "repack": (
            lambda out, overwrite: repack(parts[0], out, max_length=256, overwrite=overwrite),
            lambda out, overwrite: repack(parts[0], out, max_length=512),
        ),
        "export": (
            lambda out, overwrite: export(parts[0], "trl", out, overwrite=overwrite),
            lambda out, overwrite: export(parts[1], "trl", out),
        ),
        "clean": (
            lambda out, overwrite: clean(data, out, tokenizer=tokenizer, overwrite=overwrite),
            lambda out, overwrite: clean(data, out, tokenizer=tokenizer, max_length=64),
        ),
    }


def suite(tries: dict[str, int], tokenizer: str, rows: int = 4000, seed: int = 0) -> dict[str, Tally]:
    """Kills of each command named in `tries`."""
    tallies = {}
    with tempfile.TemporaryDirectory(prefix="tokpack-crash-") as name:
        known = commands(Path(name), tokenizer, rows)
        for command, count in tries.items():
            inside = Path(name) / command
            inside.mkdir()
            tallies[command] = crash(
                command, *known[command], inside, count, random.Random(f"{command} {seed}")
            )
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=0, help="kills of each command; else 50 and 20")
    parser.add_argument("--steps", action="store_true", help="kill at each step on disk instead")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(FULL), action="append")
    parser.add_argument("--tokenizer", required=True)
    given = parser.parse_args()
    begun = time.monotonic()
    tries = {name: 0 if given.steps else given.tries or FULL[name] for name in given.only or FULL}
    tallies = suite(tries, given.tokenizer, given.rows, given.seed)
    for name, tally in tallies.items():
        print(f"{name}: {tally.kills} kills ({tally.late} came too late), {len(tally.failures)} failures")
        print("".join(f"  {failure}\n" for failure in tally.failures), end="")
    print(f"{sum(t.kills for t in tallies.values())} kills in {time.monotonic() - begun:.0f} s")
    sys.exit(any(tally.failures or tally.kills < tries[name] for name, tally in tallies.items()))


if __name__ == "__main__":
    main()
