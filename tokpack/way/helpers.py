"""Pass 1 in several processes on this machine, where Python's own work bounds it.

Chats of texts alone are read, rendered and tokenized in columns, by threads. Calls, tools and reasoning are
values of any form, which Python goes through row by row; so a few blocks of such chats are worth the start of
helpers. Helpers that a command started first thing, copies of one, do all input: they have loaded the
vocabulary while the command imported itself. Where gigatoken does not serve it, threads share `tokenizers`. A
helper opens items and commits their batches as a part of a run does: the bytes are the same.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokpack.encoding.early import start_unless_proved
from tokpack.encoding.fast_forms import plan_file
from tokpack.encoding.fast_plan import is_served
from tokpack.encoding.snapshot import kept_snapshot
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.engine import early
from tokpack.engine.processes import Helpers
from tokpack.errors import TokpackError
from tokpack.frozen import frozen
from tokpack.run import Run
from tokpack.stages.clean import selected
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import Block, chunks
from tokpack.stages.render.reference import RenderSettings
from tokpack.stages.render.renderer import Renderer
from tokpack.stages.rules import RULES
from tokpack.way.bucket_store import open_store
from tokpack.way.store import Key, TokenStore

Process = Callable[[Run, TokenStore, Any], int]
"""Commits the batches of a piece of work, and returns the bytes of input behind them."""

FEWEST = 8
"""Blocks of chats with values that are worth a helper."""
HEAD = 1 << 16
"""Bytes that are looked at, of each kind of input."""
SHARE = 0.2
"""Of the chats that are looked at; with so many that have values, an input counts."""

FIRST_CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


@frozen
class Done:
    """What a helper did: bytes of input, and what the run has to know of its state."""

    size: int
    made_again: set[Key]
    warnings: list[str]
    """Of the renderer."""
    fast_refused: str
    asked: bool


def with_helpers(run: Run, store: TokenStore, process: Process, share: float) -> Helpers[Any, int]:
    """`process` for this run, in this process and in as many others as pay. `share`: of the input that is to
    be done."""
    here, took = partial(process, run, store), partial(_took, run, store)
    opened = partial(_opened, run, store.place, store.lasts, process)
    count = _count(run, share)
    if not count:
        early.dismiss()
    try:
        return Helpers(here, opened, took, run.workers, count)
    except (pickle.PicklingError, AttributeError, TypeError):  # a function of the moment is in it
        early.dismiss()
        return Helpers(here, opened, took, run.workers, 0)


def load_kept(what: str) -> None:
    """In a helper before its first question: load a tokenizer folder that was used before, compile its
    templates and render a first chat. What is loaded is kept for the run that comes; what `tokenizers` will
    be asked goes to one process of it for all copies of the helper. `what`: JSON, the tokenizer, how many
    copies, the inputs."""
    tokenizer, copies, paths = json.loads(what)
    if (folder := kept_snapshot(Path(tokenizer))) and plan_file(folder).is_file():
        with suppress(OSError):
            start_unless_proved(folder, paths, copies)
        loaded = load_tokenizer(tokenizer)
        if loaded.fast is not None:
            renderer = Renderer(loaded, RenderSettings())
            renderer.take_kept()
            renderer.reference(FIRST_CHAT)


def _count(run: Run, share: float) -> int:
    if run.workers < 2 or not set(selected(run.config.clean)) <= RULES.keys():
        return 0  # a rule of the user's may know what happens in this process
    ready = early.waiting() > 0
    all_of_it = ready and early.COPIES and is_served(run.tokenizer.folder)
    blocks = int(share * _work(run, all_of_it) / run.block_bytes)
    if blocks < (early.FEWEST if ready else FEWEST):
        return 0
    return min(run.workers, blocks) - (0 if ready else 1)  # then this process has loaded no tokenizer


def _work(run: Run, all_of_it: bool) -> int:
    """Bytes of the inputs that are work for helpers: all large ones, or those whose chats have values beside
    their texts; of each kind one is looked at."""
    sizes: dict[int, int] = {}
    for kind, source in zip(run.alike, run.sources, strict=True):
        sizes[kind] = sizes.get(kind, 0) + (source.size_bytes or 0)
    firsts = {kind: run.alike.index(kind) for kind, size in sizes.items() if size > run.block_bytes}
    return sum(
        sizes[kind]
        for kind, first in firsts.items()
        if _is_file(run, first) and (all_of_it or _has_values(run, first))
    )


def _is_file(run: Run, number: int) -> bool:
    """Of rows that are to be tokenized."""
    path = run.sources[number].path
    return run.shapes[number].format != TOKENS and path != "-" and "://" not in path


def _has_values(run: Run, number: int) -> bool:
    source, shape = run.sources[number], run.shapes[number]
    if shape.is_text or not run.by_chat_template:
        return False
    try:
        rows, lines, offset, data = next(chunks(replace(source, head_only=True), HEAD))
    except (TokpackError, StopIteration):  # who reads it in earnest says so
        return False
    extra = normalize(Block(0, number, 0, 0, rows, lines, data, offset), source, shape).documents["extra"]
    return len(extra) - extra.null_count() > SHARE * len(extra)


def _opened(run: Run, place: Path | str, lasts: bool, process: Process) -> Callable[[Any], Done]:
    """In a helper: what does a piece of work."""
    run.tokenizer.prepare(run.tokenizer.inputs)
    if run.tokenizer.fast is not None:
        run.tokenizer.fast.alone = True
    run.renderer.take_kept()
    return partial(_done, run, open_store(place, run.fingerprint(), lasts), process)


def _done(run: Run, store: TokenStore, process: Process, work: Any) -> Done:
    size = process(run, store, work)
    store.settle()
    run.renderer.keep()
    tokenizer = run.tokenizer
    return Done(size, store.made_again, run.renderer.warnings, tokenizer.fast_refused, tokenizer.asked)


def _took(run: Run, store: TokenStore, done: Done) -> int:
    store.made_again |= done.made_again
    if done.fast_refused:
        run.tokenizer.refuse_fast(done.fast_refused)
    run.tokenizer.asked |= done.asked
    for message in done.warnings:
        run.renderer.warn(message)
    return done.size
