"""What is read of an item -> documents with their tokens and hashes.

from text      normalize -> clean -> render -> hash, tokenize
from tokens    as they are
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Int32, UInt64
from tokpack.errors import DataError
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import TEMPLATE_ERROR
from tokpack.ranges import offsets_of
from tokpack.run import Run
from tokpack.stages.clean import clean
from tokpack.stages.dedup import content_hash, text_hash, token_hash
from tokpack.stages.normalize.documents import DESIRABLE, Normalized, Quarantined, text_documents
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.passed_over import PassedOver, together
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.read.blocks import Block, join
from tokpack.stages.read.sources import Source
from tokpack.stages.render.pieces import BlockSizeError
from tokpack.stages.render.render import Rendered, render
from tokpack.stages.render.variants import variants
from tokpack.stages.tokenize import TokenBatch, tokenize
from tokpack.terminal.printable import printable

BAD = np.uint64(0x9E3779B97F4A7C15)
"""Laid over the hash of a document whose answer is bad."""
LONGEST_DETAIL = 1000
"""Characters that are kept of what a template says about a document."""


@frozen
class Made:
    """The documents of some blocks with their tokens and hashes, and what happened on the way."""

    documents: pl.DataFrame
    tokens: TokenBatch
    hashes: UInt64
    """By which equal documents are found."""
    lots: UInt64
    """By which documents are drawn: of bare messages it is that of their contents, whatever the template."""
    variants: Int32
    """As of `tokpack.stages.render.variants`."""
    quarantined: list[Quarantined]
    counters: dict[str, int] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    spared: dict[int, str] = field(default_factory=dict)
    """Documents that are wanted -> the reason that is overruled."""
    passed_over: Mapping[int, PassedOver] = field(default_factory=dict)
    """As of `Normalized`."""


def is_tokens(run: Run, blocks: Sequence[Block]) -> bool:
    """Whether the rows are tokenized already: all of an item are, or none."""
    return bool(blocks) and run.shapes[blocks[0].source].format == TOKENS


def make_tokens(run: Run, blocks: Sequence[Block], before: int) -> Made:
    """From text: cleaned, hashed, rendered and tokenized. `before`: documents ahead of the blocks."""
    config = run.config
    normalized = normalize_blocks(run.sources, run.shapes, run.alike, blocks)
    cleaned = clean(normalized.documents, config.clean, run.special, run.pairs)
    wanted, spared = run.keep.spare(cleaned.documents, before)
    documents, rendered, tokens = encode(run, wanted)
    key = config.dedup.exact
    hashes = content_hash(wanted, key) if run.learned else text_hash(rendered, key)
    lots = hashes.copy()
    if run.draws and not run.learned:
        bare = wanted["extra"].is_null()
        lots[bare.to_numpy()] = content_hash(wanted.filter(bare), key)
    if DESIRABLE in documents.columns:  # one answer, called good here and bad there, is no duplicate
        for each in (hashes, lots):
            each[~documents[DESIRABLE].to_numpy()] ^= BAD
    kinds = variants(wanted, rendered, run.renderer)
    counters, paths = cleaned.counters | rendered.told, rendered.counters | tokens.stats
    over = normalized.passed_over
    return Made(documents, tokens, hashes, lots, kinds, normalized.quarantined, counters, paths, spared, over)


def take_ready_tokens(run: Run, blocks: Sequence[Block]) -> Made:
    """From rows that are tokenized already: as they are."""
    found = []
    for group in _groups(run.sources, run.alike, blocks, neighbors=True):
        source = group[0].source
        vocab_size = run.tokenizer.vocab_size
        normalized, tokens = take_tokens(join(group), run.sources[source], run.shapes[source], vocab_size)
        found.append((_named(run.sources, run.shapes, normalized, blocks), tokens))
    lengths = np.concatenate([np.diff(tokens.offsets) for _, tokens in found])
    batch = TokenBatch(
        offsets_of(lengths),
        np.concatenate([tokens.input_ids for _, tokens in found]),
        np.concatenate([tokens.flags for _, tokens in found]),
    )
    documents = pl.concat([normalized.documents for normalized, _ in found])
    quarantined = [one for normalized, _ in found for one in normalized.quarantined]
    hashes = token_hash(batch)
    return Made(documents, batch, hashes, hashes, np.zeros(len(documents), np.int32), quarantined)


def normalize_blocks(
    sources: Sequence[Source], shapes: Sequence[Shape], alike: Sequence[int], blocks: Sequence[Block]
) -> Normalized:
    """Blocks whose documents are numbered through, in order. Those of one shape are read together: a small
    file for itself costs as much as a large one.

    `alike`: of each source a number that those of one shape have in common.
    """
    groups = _groups(sources, alike, blocks)
    if not groups:
        return Normalized(text_documents([]), [])
    found = [normalize(join(group), sources[group[0].source], shapes[group[0].source]) for group in groups]
    if len(blocks) == 1:
        return found[0]
    quarantined = [
        one for normalized in found for one in _named(sources, shapes, normalized, blocks).quarantined
    ]
    documents = pl.concat([normalized.documents for normalized in found])
    return Normalized(
        documents.sort("doc_id") if len(found) > 1 else documents,
        sorted(quarantined, key=lambda one: one.doc_id),
        together(normalized.passed_over for normalized in found),
    )


def _groups(
    sources: Sequence[Source], alike: Sequence[int], blocks: Sequence[Block], neighbors: bool = False
) -> list[list[Block]]:
    """The blocks in groups that can be joined, each in order; with `neighbors` groups are in order too."""

    def kind(block: Block) -> tuple[Any, ...]:
        container = sources[block.source].container
        columns = None if isinstance(block.data, bytes) else block.data.schema
        return alike[block.source], container == "text", columns

    if len(blocks) == 1:
        return [list(blocks)]
    if neighbors:
        return [list(group) for _, group in groupby(blocks, kind)]
    groups: dict[tuple[Any, ...], list[Block]] = {}
    for block in blocks:
        groups.setdefault(kind(block), []).append(block)
    return list(groups.values())


def _named(
    sources: Sequence[Source], shapes: Sequence[Shape], normalized: Normalized, blocks: Sequence[Block]
) -> Normalized:
    """With each unreadable row under the name of its own source."""
    if len(blocks) == 1 or not normalized.quarantined:
        return normalized
    starts = np.array([block.first_doc_id for block in blocks])
    width = shapes[0].documents_per_row
    named = []
    for one in normalized.quarantined:
        block = blocks[int(np.searchsorted(starts, one.doc_id // width, side="right")) - 1]
        named.append(replace(one, source=sources[block.source].name))
    return replace(normalized, quarantined=named)


def encode(run: Run, documents: pl.DataFrame) -> tuple[pl.DataFrame, Rendered, TokenBatch]:
    """Render and tokenize; documents that the template refuses are marked."""
    try:
        rendered = render(documents, run.renderer)
    except BlockSizeError as error:
        row = documents.row(error.row, named=True)
        raise DataError(
            f"the chat template makes {error.whole:,} bytes and more of a block of {len(documents):,} "
            f"documents, {error.size:,} of this one",
            where=f"{run.sources[row['source']].name}, row {row['row']}",
            hint="is it from somebody you trust? read.block_mb = 1 makes blocks smaller",
        ) from None
    tokens = tokenize(rendered, run.tokenizer)
    if rendered.errors:
        rows = [row for row in sorted(rendered.errors) if documents["drop_reason"][row] is None]
        documents = documents.with_columns(
            documents["drop_reason"].clone().scatter(rows, [TEMPLATE_ERROR] * len(rows)),
            documents["drop_detail"]
            .clone()
            .scatter(rows, [printable(rendered.errors[row][:LONGEST_DETAIL]) for row in rows]),
        )
    return documents, rendered, tokens
