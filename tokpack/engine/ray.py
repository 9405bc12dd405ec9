"""Run a function over items on a Ray cluster, a task each; results as they come, in any order.

Ray Core alone, and no state in it: what a task makes lies where the function puts it, so a node that dies
takes only its running tasks along, and they run again on another. Where none has ended for much longer than
one takes, those that run are run a second time, and the first result counts. So `function` may run twice for
an item, at the same time too. Tasks are spread over the nodes: by its usual strategy Ray fills the node of
the command first and lets others wait. Few more tasks are with Ray than there are cores, so that what they
are given takes little memory here.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from tokpack.errors import OutputError, TokpackError, UsageError
from tokpack.terminal.interrupts import SIGNALS

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 4
"""Of a task whose node or process died."""
PATIENCE, PATIENCE_SECONDS = 3.0, 30.0
"""Tasks are late when none ended for so many times what the median task took, and for no less than this."""
FEWEST_AHEAD = 64
"""Tasks with Ray at a time, or two for each core: a cluster that grows sees that there is more to do."""


def unordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], address: str | None = None
) -> Iterator[Result]:
    """Like `map`, on the cluster at `address` (None: RAY_ADDRESS, else one on this machine alone). An item is
    asked for when its task goes to Ray.

    `function` can be imported on every node. Raises UsageError without Ray or a cluster, OutputError for a
    task that dies again and again, and what the function raises.
    """

    def timed(item: Item) -> tuple[float, Result]:
        start = time.monotonic()
        result = function(item)
        return time.monotonic() - start, result

    with cluster(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(timed)
        ahead = max(FEWEST_AHEAD, 2 * cores(ray))
        waiting = iter(range(len(items)))
        running: dict[Any, int] = {}
        took: dict[int, float] = {}
        twice: set[int] = set()
        last = time.monotonic()
        try:
            while len(took) < len(items):
                for number in islice(waiting, max(0, ahead - len(running))):
                    running[task.remote(items[number])] = number
                ready, _ = ray.wait(list(running), timeout=1.0)
                for one in ready:
                    number, last = running.pop(one), time.monotonic()
                    if number not in took:
                        took[number], result = _result(ray, one)
                        yield result
                if took and time.monotonic() - last > max(
                    PATIENCE_SECONDS, PATIENCE * statistics.median(took.values())
                ):
                    again = set(running.values()) - took.keys() - twice
                    running |= {task.remote(items[number]): number for number in again}
                    twice |= again
        finally:
            for one in running:
                ray.cancel(one, force=True)


def cores(ray: Any) -> int:
    """Of all nodes together."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _result(ray: Any, one: Any) -> Any:
    try:
        return ray.get(one)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TokpackError):
            raise error.cause from None
        raise
    except (ray.exceptions.RaySystemError, ray.exceptions.RuntimeEnvSetupError) as error:
        raise UsageError(
            f"a node cannot run tokpack: {_last_line(error)}",
            where="--engine ray",
            hint="install the same tokpack on every node of the cluster",
        ) from None
    except ray.exceptions.RayError as error:
        raise OutputError(
            f"a task died {RETRIES + 1} times: {_last_line(error)}",
            where="--engine ray",
            hint="the same command goes on where this one stopped; nodes may lack memory: `ray memory`",
        ) from None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; let go again unless the caller had it so. Signals stay with who has them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "Ray is not installed", where="--engine ray", hint='pip install "tokpack[ray]"'
        ) from None
    if ray.is_initialized():
        yield ray
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except Exception as error:
        raise UsageError(
            f"no Ray cluster: {_last_line(error)}",
            where=f"--ray-address {address}" if address else "--engine ray",
            hint="`ray start --head` makes one, `auto` finds it; one with a token needs RAY_AUTH_MODE=token",
        ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()
