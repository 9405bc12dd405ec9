"""Run a function over blocks in this process and in helpers beside it, for work that keeps the interpreter
lock.

A helper is `python -m tokpack.engine.helper`: it imports nothing of the caller's script, so a script needs no
`if __name__ == "__main__"`, and a notebook no module. It ends as soon as its pipe does, however this process
ended. What it cannot do (it died, it raised, it does not start) is done here, where its cause will show.
"""

from __future__ import annotations

import io
import logging
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import pyarrow as pa

from tokpack.engine import early

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 1.0
"""Seconds for helpers that have nothing to do to end by themselves: then their time counts with ours."""

log = logging.getLogger("tokpack")


class Helpers(Generic[Item, Result]):
    """A function for `workers` threads to call: `count` of them have a helper do it, the others do it here.

    `opened` is called once in each helper and gives the function for there, which may return more: `took`
    makes of that what `here` returns. Raises what pickle raises for an `opened` that cannot be sent.
    """

    def __init__(
        self,
        here: Callable[[Item], Result],
        opened: Callable[[], Callable[[Item], Any]],
        took: Callable[[Any], Result],
        workers: int,
        count: int,
    ) -> None:
        self._here, self._took = here, took
        self._free: SimpleQueue[_Helper | None] = SimpleQueue()
        self._closed = False
        first = packed((sys.path, packed(opened))) if count else b""
        helpers = early.take(count)
        with suppress(OSError):
            if missing := count - len(helpers):
                helpers += early.start_helpers(missing, *early.IMPORTS)
        self._all = [_Helper(helper) for helper in helpers]
        for _ in range(workers - len(helpers)):
            self._free.put(None)
        for helper in self._all:
            Thread(target=self._open, args=(helper, first), name="tokpack-helper", daemon=True).start()

    def __call__(self, item: Item) -> Result:
        helper = self._free.get()
        if helper is None:
            try:
                return self._here(item)
            finally:
                self._free.put(None)
        answer = helper.ask(item)
        self._free.put(helper if helper.alive else None)
        if not helper.alive and not self._closed:
            log.warning("a worker process ended by itself%s: what it did is done again", helper.ending())
        return self._here(item) if answer is None else self._took(answer[0])

    def _open(self, helper: _Helper, first: bytes) -> None:
        """Where a helper is not ready, a thread does its work."""
        self._free.put(helper if helper.send(first) == (None,) else None)

    def __enter__(self) -> Helpers[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if kind:
            self._end(0.0)
        else:  # the run goes on meanwhile; a process ends when its threads have
            Thread(target=self._end, args=(PATIENCE,), name="tokpack-helpers-end").start()

    def _end(self, patience: float) -> None:
        for helper in reversed(self._all):
            helper.end(patience)


class _Helper:
    """A question at a time, an answer each."""

    def __init__(self, helper: early.Helper) -> None:
        self._helper = helper
        self.alive = True

    def ask(self, item: Any) -> tuple[Any] | None:
        """What the function returned; None where there is no answer."""
        return self.send(packed(item))

    def send(self, question: bytes) -> tuple[Any] | None:
        questions, answers = self._helper.pipes
        try:
            pickle.dump(question, questions)
            questions.flush()
            return cast("tuple[Any] | None", pickle.load(answers))
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            self.alive = False
            return None

    def end(self, patience: float = 0.0) -> None:
        self.alive = False
        self._helper.end(patience)

    def ending(self) -> str:
        """How it ended, as far as that is known."""
        self._helper.end()  # it may live on, and its pipe be broken
        if self._helper.copy:
            return ""
        code = self._helper.process.wait()
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"


def packed(value: Any) -> bytes:
    """Pickled. Of a slice of a table Arrow would pickle all that it was cut from."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, pa.Table):
            return NotImplemented
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return _table, (sink.getvalue().to_pybytes(),)


def _table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
