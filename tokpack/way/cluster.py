"""`--engine ray`: the nodes of a cluster fill one token store together; then the run goes on here.

A task makes the batches of some consecutive items, as a part of a run does. What it needs is the settings and
the place of the store: each process of a node opens the inputs and loads the tokenizer once.
"""

from __future__ import annotations

import logging
import platform
import secrets
from dataclasses import dataclass
from pathlib import Path

from tokpack.bucket_store import open_store
from tokpack.config import Config
from tokpack.engine.ray import unordered_map
from tokpack.errors import UsageError
from tokpack.run import MB, Run
from tokpack.store import RECORD, TokenStore
from tokpack.way.part import refuse_pipes
from tokpack.way.pass_one import cut_input, make_batches

log = logging.getLogger("tokpack")

MOST_TASKS = 1024
ENGINE = "--engine ray"


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive items of a run. `key` tells runs apart."""

    key: str
    config: Config
    place: Path | str
    """Of the token store: a folder that all nodes see, or a URL."""
    items: range


def fill(run: Run, store: TokenStore, address: str | None) -> None:
    """Commit every item's batches into the store from the cluster's nodes. It has to be opened again then.

    Raises UsageError for inputs that other nodes cannot open, and what a node raises, with its name.
    """
    refuse_pipes(run, ENGINE)
    if len(run.keep.doc_ids):
        raise UsageError(
            "a list of documents names them by their place, so all input is read in order",
            where="--keep",
            hint=f"leave out {ENGINE}",
        )
    count, key = len(cut_input(run)), secrets.token_hex(8)
    each = -(-count // MOST_TASKS) or 1
    pieces = [
        Piece(key, run.config, store.place, range(first, min(first + each, count)))
        for first in range(0, count, each)
    ]
    said: dict[str, None] = {}
    with run.tell.doing("reading and tokenizing on the cluster", run.input_bytes, "MB", MB) as advance:
        for size, warnings in unordered_map(make_piece, pieces, address):
            advance(size)
            said |= dict.fromkeys(warnings)
    for message in said:
        log.warning(message)


def make_piece(piece: Piece) -> tuple[int, list[str]]:
    """(bytes of input behind the piece, warnings), all its batches committed. Runs on any node."""
    try:
        run = _opened(piece)
        store = open_store(piece.place, run.fingerprint(), joins=True)
        size = make_batches(run, store, cut_input(run), piece.items)
    except UsageError as error:
        error.what = f"on node {platform.node()}: {error.what}"
        raise
    return size, [*store.warnings, *run.tokenizer.warnings, *run.renderer.warnings]


_runs: dict[str, Run] = {}
"""Of this process: the run that it works for."""


def _opened(piece: Piece) -> Run:
    if isinstance(piece.place, Path) and not (piece.place / RECORD).is_file():
        raise UsageError(
            "the token store is not there",
            where=str(piece.place),
            hint="give -o, or --work-dir, a folder that all nodes see under this path, or a bucket: s3://...",
        )
    if piece.key not in _runs:
        _runs.clear()
        _runs[piece.key] = Run.start(piece.config, workers=1)
    return _runs[piece.key]
