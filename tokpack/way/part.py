"""`--part 3/16`: one of several processes, on any machines, that fill one token store together.

Each takes every 16th item and commits its batches under names that follow from the item alone, each file
written beside and renamed. So a part that runs twice, is killed, or meets another one at the same batch
leaves what one run would have left; nothing is locked, which many network file systems do not do.
"""

from __future__ import annotations

import logging
import re

from tokpack.errors import UsageError
from tokpack.frozen import frozen
from tokpack.run import Run
from tokpack.way.pass_one import cut_input, make_batches, warnings_of
from tokpack.way.store import TokenStore

log = logging.getLogger("tokpack")


@frozen
class PartDone:
    """What a part of a run did. It made batches of `items` of all `of` items of the input."""

    part: str
    items: int
    of: int
    store: str = ""
    """Where they are: the same for all parts."""

    def __str__(self) -> str:
        if not self.of:
            return f"part {self.part}: the output is finished, nothing to do"
        return (
            f"part {self.part}: {self.items:,} of {self.of:,} pieces of the input are in the token store "
            f"{self.store}; the same command without --part finishes"
        )


def parse_part(text: str) -> tuple[int, int]:
    """`"3/16"` -> (3, 16): the third of sixteen, counted from 1."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(
            f"{text[:40]!r} is no part",
            where="--part",
            hint="3/16 is the third of 16; they are 1/16 to 16/16",
        )
    return number, count


def refuse_pipes(run: Run, where: str) -> None:
    """For what reads the input more than once, or elsewhere."""
    if any(source.path == "-" for source in run.sources):
        raise UsageError(
            "standard input can be read once, by one process", where=where, hint="save it to a file first"
        )


def make_part(run: Run, store: TokenStore, text: str) -> PartDone:
    """Commit the batches of every item that falls to the part."""
    number, count = parse_part(text)
    items = cut_input(run)
    mine = range(number - 1, len(items), count)
    make_batches(run, store, items, mine)
    for message in warnings_of(run, store):
        log.warning(message)
    return PartDone(f"{number}/{count}", len(mine), len(items), str(store.place))
