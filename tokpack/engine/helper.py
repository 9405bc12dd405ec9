"""The other side of `Helpers`: answers one pickled question after another, and ends with its pipe."""

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
from queue import SimpleQueue
from typing import IO, Any

from tokpack.engine.local import pass_over_pandas

COLLECT = (50_000, 20, 100)
"""As in the command: values of rows are made by the thousand, and hardly any is in a circle."""


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
    """The pipe ends when the process ends that asks, whatever ended it: then nobody waits for an answer."""
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            waiting.put(pickle.load(questions))
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks hears it, too
    gc.set_threshold(*COLLECT)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    pass_over_pandas()
    for name in sys.argv[1:]:
        with suppress(Exception):  # what is wrong shows where it is needed
            _make_ready(name)
    serve(sys.stdin.buffer, out)
