"""Pass 1: every item of the input through the batch stages into the token store.

Items are opened by the workers, in any order; one that can only be read from its start is read here and dealt
out batch by batch. What an earlier run committed is not made again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial

import numpy as np
import polars as pl

from tokpack.engine.local import ordered_map, release_memory
from tokpack.errors import DataError
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import CHOSEN_EQUALS_REJECTED
from tokpack.on_disk.shards import INDEX
from tokpack.run import MB, Run
from tokpack.schema import COPIES, DRAWN, PAIR_WIDTH, UNPAIRED, VARIANT
from tokpack.stages.clean import clean_by_tokens, selected
from tokpack.stages.clean import told as told_by_rules
from tokpack.stages.dedup import Hashes, draw
from tokpack.stages.normalize.documents import DESIRABLE, Quarantined
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.layouts.unread import tell_passed_over
from tokpack.stages.normalize.passed_over import record_of
from tokpack.stages.pairs import drop_equal, drop_partners, pair_hash
from tokpack.stages.read.digests import digests_behind
from tokpack.stages.read.items import Item, Reading, cut, read_item, rows_before
from tokpack.stages.read.sources import Source
from tokpack.stages.read.unchanged import Stamp
from tokpack.stages.render import left_out
from tokpack.stages.repeat import copies_of
from tokpack.stages.select import quality
from tokpack.stages.special_tokens import told
from tokpack.stages.tokenize import TokenBatch, weighed
from tokpack.stages.truncate import Pieces, drop_cut_alike, truncate
from tokpack.stages.write_index import no_weights
from tokpack.terminal.activity import counted
from tokpack.way.corpus import EXAMPLES, Corpus
from tokpack.way.documents import Made, encode, is_tokens, make_tokens, take_ready_tokens
from tokpack.way.helpers import with_helpers
from tokpack.way.store import INPUT_BYTES, TokenStore

log = logging.getLogger("tokpack")

SNIPPET = 400
"""Characters of a document that is shown."""


def pass_one(run: Run, store: TokenStore) -> Corpus:
    """All items through the batch stages into the store, and back as numbers."""
    items = cut_input(run)
    digests = digests_behind(_to_digest(run, items))
    with digests as found:
        make_batches(run, store, items)
    for message in warnings_of(run, store):
        log.warning(message)
    release_memory()
    corpus = Corpus.load(store, len(items), PAIR_WIDTH if run.pairs else 1)
    release_memory()
    _check_bad_rows(run, len(corpus.docs) // corpus.width, corpus.quarantined)
    corpus.sha256 |= found
    corpus.keep = run.keep
    run.keep.check(corpus.docs, {s.name: corpus.sha256.get(n) for n, s in enumerate(run.sources)})
    special = told(corpus.counters, run.config.render.mode == "plain", run.config.render.eos)
    for message in (*special, *told_by_rules(corpus.counters), *left_out.warnings(corpus.counters)):
        log.warning(message)
    tell_passed_over([source.name for source in run.sources], run.shapes, corpus.passed_over)
    if corpus.docs.is_empty() and not corpus.quarantined:
        raise _nothing(run)
    return corpus


def warnings_of(run: Run, store: TokenStore) -> list[str]:
    """Of what made batches."""
    return [*store.warnings, *run.tokenizer.warnings, *run.renderer.warnings]


def make_batches(
    run: Run, store: TokenStore, items: list[Item], wanted: Collection[int] | None = None
) -> int:
    """Commit the batches of all items, or of those `wanted`, that are not in the store. Returns the bytes of
    input behind them."""
    works = dealt(run, items, range(len(items)) if wanted is None else wanted, store)
    total, share = 0, 1.0 if wanted is None else len(wanted) / max(1, len(items))
    try:
        with (
            run.tell.doing("reading and tokenizing", run.input_bytes, "MB", MB) as advance,
            with_helpers(run, store, _process, share) as process,
        ):
            for size in ordered_map(process, works, run.workers):
                advance(size)
                total += size
    finally:
        store.settle()
    return total


def cut_input(run: Run) -> list[Item]:
    """The input as items; rows that are tokenized already share none with others."""
    ready = [shape.format == TOKENS for shape in run.shapes]
    return cut(run.sources, run.block_bytes, ready)


def _to_digest(run: Run, items: list[Item]) -> dict[int, tuple[Source, Stamp]]:
    """Sources in several items, with the stamp that they had when they were cut."""
    return {
        extent.source: (run.sources[extent.source], extent.stamp)
        for item in items
        for extent in item.extents
        if item.kind in ("lines", "groups")
    }


def tell_found(run: Run, store: TokenStore) -> None:
    """That an earlier run got so far, before this one goes on."""
    if found := store.input_bytes():
        total = f" of {run.input_bytes / MB:,.1f}" if run.input_bytes else ""
        log.info("going on with an unfinished run: %s%s MB were done", f"{found / MB:,.1f}", total)


def _nothing(run: Run) -> DataError:
    return DataError(
        "no document in the input",
        where=", ".join(s.path for s in run.sources),
        hint="there are only blank lines: check the step that wrote it",
    )


@frozen
class Work:
    """An item, or what was read of it already: its reading of that number, after so many rows."""

    item: Item
    number: int = 0
    reading: Reading | None = None
    before: int = 0


def dealt(
    run: Run, items: list[Item], wanted: Collection[int], store: TokenStore | None = None
) -> Iterator[Work]:
    """The wanted items for workers to open. Streams are read here, but those that are in the store; so is all
    input where a list names documents by their place among all, which only who reads in order knows."""
    in_order, before = len(run.keep.doc_ids) > 0, 0
    for item in items:
        mine = item.index in wanted
        if not in_order and not mine:
            continue
        if not in_order and (item.kind != "stream" or _found(store, item) is not None):
            yield Work(item)
            continue
        for number, reading in enumerate(read_item(item, run.sources, run.block_bytes)):
            if mine:
                yield Work(item, number, reading, before)
            before += reading.rows


def _found(store: TokenStore | None, item: Item) -> int | None:
    """Bytes of input behind an item that is in the store, of the file as it is; None: it is to be read."""
    stamp = item.extents[0].stamp
    return store.finished(item.index, stamp) if store is not None and stamp else None


def readings(run: Run, work: Work) -> Iterator[tuple[int, Reading, int]]:
    """What is read of an item, each with its number and the rows before it, where these are known."""
    if work.reading is not None:
        yield work.number, work.reading, work.before
        return
    for number, reading in enumerate(read_item(work.item, run.sources, run.block_bytes)):
        yield number, reading, 0


def _process(run: Run, store: TokenStore, work: Work) -> int:
    """Through all batch stages, committed. Returns the bytes of input behind it."""
    if work.reading is None and (size := _found(store, work.item)) is not None:
        return size
    return sum(_commit(run, store, work.item, *one) for one in readings(run, work))


def _commit(run: Run, store: TokenStore, item: Item, number: int, reading: Reading, before: int) -> int:
    key, digest = (item.index, number), reading.digest()
    if store.has(key):
        names = [run.sources[extent.source].path for extent in item.extents]
        others = f" or one of {len(names) - 1} files beside it" if len(names) > 1 else ""
        store.check_block(key, digest, f"{names[0]}{others}")
        return reading.input_bytes
    ready = is_tokens(run, reading.blocks)
    ahead = before * (PAIR_WIDTH if run.pairs else 1)
    made = take_ready_tokens(run, reading.blocks) if ready else make_tokens(run, reading.blocks, ahead)
    if run.config.read.strict and made.quarantined:
        raise _unreadable(made.quarantined[0], rows_before(item, run.sources))
    pieces, spared = _pieces(run, made, ahead)
    if run.config.write.shard_format == INDEX:
        _refuse_weights(run, item, pieces)
    rest = {
        "quarantined": [one.record() for one in made.quarantined],
        "counters": made.counters,
        "paths": made.paths,
        "spared": spared | made.spared,
        "over": record_of(made.passed_over),
        "examples": _examples(pieces.documents, partial(_decoded, run, made.tokens) if ready else None),
        "rows": reading.rows,
        "lines": reading.lines,
        "sha256": reading.sha256,
        "last": reading.last,
        "stamp": item.extents[0].stamp,
        INPUT_BYTES: reading.input_bytes,
    }
    store.commit(key, digest, _docs(run, made, pieces), pieces, rest)
    return reading.input_bytes


def _pieces(run: Run, made: Made, ahead: int) -> tuple[Pieces, dict[int, str]]:
    """What rules in tokens and truncation leave of the documents, and the reasons that wishes overrule.
    `ahead`: documents before them."""
    config, tokens = run.config, made.tokens
    documents = clean_by_tokens(made.documents, np.diff(tokens.offsets), config.clean, run.pairs)
    no_equal = run.pairs and CHOSEN_EQUALS_REJECTED in selected(config.clean)
    if no_equal:
        documents = drop_equal(documents, tokens.input_ids, tokens.offsets)
    documents, spared = run.keep.spare(documents, ahead)
    if run.pairs:
        documents = drop_partners(documents)
    overlong = config.truncate.overlong
    pieces = truncate(
        documents,
        tokens,
        config.truncate.max_length,
        "drop" if run.kind == UNPAIRED and overlong == "auto" else overlong,
        run.by_chat_template,
        lambda shortened: encode(run, shortened)[2],
        run.pairs,
    )
    if no_equal:
        pieces = drop_cut_alike(pieces, run.keep.holds(documents["doc_id"].to_numpy() + ahead))
    return pieces, spared


def _docs(run: Run, made: Made, pieces: Pieces) -> pl.DataFrame:
    """The documents as `Batch` has them."""
    documents, of_pairs = pieces.documents, run.pairs
    hashes, lots = (pair_hash(each) if of_pairs else each for each in (made.hashes, made.lots))
    return documents.select(
        "doc_id",
        "source",
        "row",
        "drop_reason",
        "drop_detail",
        pl.Series("hash_high", hashes[:, 0]),
        pl.Series("hash_low", hashes[:, 1]),
        pl.Series("tokens", np.diff(made.tokens.offsets), dtype=pl.Int32),
        pl.Series("cut", pieces.cut, dtype=pl.Int32),
        pl.Series(VARIANT, made.variants),
        *_drawn(run, documents, (lots[:, 0], lots[:, 1])),
        *([_labels(documents)] if run.kind == UNPAIRED else []),
        *([quality(documents)] if run.config.select.weighs else []),
    )


def _drawn(run: Run, documents: pl.DataFrame, lots: Hashes) -> Iterator[pl.Series]:
    """Which documents would be held out, and how often each is packed, where that is asked for."""
    if run.config.write.val:
        yield pl.Series(DRAWN, draw(lots, run.config.write.val, run.config.seed))
    if max(run.repeat) > 1:
        yield pl.Series(COPIES, copies_of(lots, documents["source"].to_numpy(), run.repeat, run.config.seed))


def _labels(documents: pl.DataFrame) -> pl.Series:
    """Which answers are good; a batch without documents has no such column."""
    there = DESIRABLE in documents.columns
    return documents[DESIRABLE] if there else pl.Series(DESIRABLE, [], dtype=pl.Boolean)


def _decoded(run: Run, tokens: TokenBatch, position: int) -> str:
    start, end = tokens.offsets[position : position + 2]
    return run.tokenizer.decode(tokens.input_ids[start : min(end, start + SNIPPET)])


def _examples(documents: pl.DataFrame, text_of: Callable[[int], str] | None = None) -> dict[str, list[str]]:
    """The first few documents of each drop reason, shortened, for the report.

    `text_of` a position in the batch: for documents without contents.
    """
    first = (
        documents.with_row_index("position")
        .filter(pl.col("drop_reason").is_not_null())
        .group_by("drop_reason", maintain_order=True)
        .head(EXAMPLES)
        .select("drop_reason", "position", pl.col("contents").list.join("\n", ignore_nulls=True))
    )
    examples: dict[str, list[str]] = {}
    for reason, position, contents in first.rows():
        text = text_of(position) if text_of else contents
        examples.setdefault(reason, []).append(text[:SNIPPET] if text else text)
    return examples


def _unreadable(first: Quarantined, before: int) -> DataError:
    return DataError(
        f"unreadable row: {first.reason}",
        where=f"{first.source}:{before + first.row}",
        hint="mend the row, or leave out --strict to set such rows aside in quarantine.jsonl",
    )


def _refuse_weights(run: Run, item: Item, pieces: Pieces) -> None:
    """Raises UsageError for a kept document that an index cannot hold."""
    tokens = pieces.tokens
    if tokens.weights is None:
        return
    kept = pieces.documents["drop_reason"].is_null().to_numpy()[pieces.document]
    found = np.flatnonzero(kept & weighed(tokens.offsets, tokens.flags, tokens.weights))
    if len(found):
        source, row = pieces.documents.select("source", "row").row(int(pieces.document[found[0]]))
        raise no_weights(f"{run.sources[source].name}:{rows_before(item, run.sources) + row}")


def _check_bad_rows(run: Run, read: int, quarantined: list[str]) -> None:
    """Stops a run of whose input more than the allowed share is broken."""
    bad, rows = len(quarantined), read + len(quarantined)
    share = bad / max(1, rows)
    if share > run.config.read.allow_bad:
        first = json.loads(quarantined[0])
        raise DataError(
            f"{bad:,} of {counted(rows, 'row')} cannot be read ({share:.1%}), the first: {first['reason']}",
            where=f"{first['source']}:{first['row']}",
            hint=f"check --format and --map; --allow-bad {min(1.0, share + 0.01):.2f} sets all aside",
        )
