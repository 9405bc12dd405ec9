"""The other side of `Helpers`: answers one pickled question after another, and ends with its pipe.

    python -m tokpack.engine.helper QUESTIONS:ANSWERS[,...] [MODULE | MODULE:FUNCTION=TEXT ...]

Of several pairs of descriptors each is served by a copy of the process.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from tokpack.engine import COLLECT
from tokpack.engine.arenas import share_arenas
from tokpack.engine.local import pass_over_pandas

IDLE = {"jemalloc_bg_thd", "polars-ooc-clea"}
"""Threads that polars and Arrow start when imported: the first is fit for a fork, the second waits for
files to delete."""
_copies: list[int] = []


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """The first question is (sys.path, what opens the function). An answer is (result,), or None where it
    raised."""
    waiting: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(questions, waiting), daemon=True).start()
    paths, opened = pickle.loads(waiting.get())
    sys.path[:] = paths
    function: Callable[[Any], Any] = pickle.loads(opened)()
    answer: tuple[Any] | None = (None,)
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        question = waiting.get()
        try:
            answer = (function(pickle.loads(question)),)
        except Exception:
            answer = None


def _make_ready(what: str) -> None:
    """Import `module`, or call `module:function=text` with the text."""
    name, _, call = what.partition(":")
    module = importlib.import_module(name)
    if call:
        function, _, text = call.partition("=")
        getattr(module, function)(text)


def _listen(questions: IO[bytes], waiting: SimpleQueue[bytes]) -> None:
    """The pipe ends when the process ends that asks, whatever ended it: then nobody waits for an answer.
    Copies hear the same, and are waited for: their time counts with that of this process."""
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            waiting.put(pickle.load(questions))
    with suppress(OSError):
        for copy in _copies:
            os.waitpid(copy, 0)
    os._exit(1)


def _own(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    """Which of the pairs this process serves: the first, and copies that it makes of itself the others."""
    own = pairs[0]
    if len(pairs) > 1 and _threads() <= IDLE:
        gc.freeze()
        with suppress(OSError):  # as many as the system allows
            for pair in pairs[1:]:
                if not (copy := os.fork()):
                    own = pair
                    _copies.clear()
                    break
                _copies.append(copy)
    for end in (end for pair in pairs if pair != own for end in pair):
        os.close(end)
    return own


def _threads() -> set[str]:
    """Names of threads beside this one: a copy has none of them, and what they hold is never let go there."""
    tasks = (task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid()))
    return {(task / "comm").read_text().strip() for task in tasks}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks hears it, too
    gc.set_threshold(*COLLECT)
    share_arenas(1)
    pass_over_pandas()
    for name in sys.argv[2:]:
        with suppress(Exception):  # what is wrong shows where it is needed
            _make_ready(name)
    listed = [pair.split(":") for pair in sys.argv[1].split(",")]
    asked, told = _own([(int(asked), int(told)) for asked, told in listed])
    serve(os.fdopen(asked, "rb"), os.fdopen(told, "wb"))
