"""The data's way, in order: read this first.

    pass 1, by batch    read -> normalize -> clean -> dedup (hash) -> render -> tokenize -> truncate -> store
    between, globally   decide (duplicates, evaluation text, budget, hold-out) -> plan
    pass 2              write -> manifest -> report

Documents are marked, never deleted, until the plan: a `drop_reason` set once stays. Pass 1 leaves a token
store on disk, batch by batch, so that a killed run goes on where it stopped; between the passes only
numbers per document are in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tokpack.activity import Activity, default_activity
from tokpack.config import Config
from tokpack.corpus import EXAMPLES, Corpus
from tokpack.encoding.tokenizer import Tokenizer, load_tokenizer
from tokpack.engine.local import default_workers, ordered_map, release_memory
from tokpack.errors import DataError, UsageError
from tokpack.printable import printable
from tokpack.reasons import HELD_OUT, TEMPLATE_ERROR
from tokpack.schema import COPIES, PREFERENCE
from tokpack.stages.call_ids import writes_call_ids
from tokpack.stages.clean import clean, clean_by_tokens, rules_of
from tokpack.stages.dedup import content_hash, token_hash
from tokpack.stages.keep import KeepList
from tokpack.stages.normalize.detect import detect_shape
from tokpack.stages.normalize.normalize import Normalized, Quarantined, normalize
from tokpack.stages.normalize.rows import TOKENS
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.normalize.unread import tell as tell_unread
from tokpack.stages.order import order_rows
from tokpack.stages.pairs import WIDTH, drop_partners, pair_groups, pair_hash
from tokpack.stages.plan import Plan, make_plan
from tokpack.stages.plan import resolve as planner
from tokpack.stages.read.blocks import Block, read_blocks
from tokpack.stages.read.containers import notes
from tokpack.stages.read.sources import Source, open_sources
from tokpack.stages.render import left_out
from tokpack.stages.render.chat_template import check_template
from tokpack.stages.render.render import Renderer, RenderOptions, render
from tokpack.stages.render.template_markers import special_tokens_of
from tokpack.stages.repeat import with_copies
from tokpack.stages.select import quality
from tokpack.stages.special_tokens import SpecialTokens, told
from tokpack.stages.tokenize import TokenBatch, tokenize
from tokpack.stages.truncate import truncate
from tokpack.stages.write import Layout, Placement
from tokpack.store import INPUT_BYTES, TokenStore

log = logging.getLogger("tokpack")

SNIPPET = 400
MOST_TEXT = (1 << 31) - 1
"""Bytes of a block as it is tokenized: a token has one at least, and the store counts tokens in int32."""
LONGEST_DETAIL = 1000
"""Characters that are kept of what a template says about a document."""
MB = 1_000_000


@dataclass(slots=True)
class Run:
    """What one run works with: set up once, read by every stage."""

    config: Config
    tokenizer: Tokenizer
    renderer: Renderer
    sources: list[Source]
    shapes: list[Shape]
    workers: int
    special: SpecialTokens
    hide_ids: bool
    """Documents that differ in the ids of calls alone are equal: the template does not write them."""
    tell: Activity
    """Says what goes on."""
    keep: KeepList = field(default_factory=KeepList)
    """Documents that a person wants kept."""

    @staticmethod
    def start(
        config: Config, workers: int = 0, tokenizer: Tokenizer | None = None, tell: Activity | None = None
    ) -> Run:
        """Open the inputs, recognize their shapes, load the tokenizer. Raises before any work is done.

        `tokenizer` replaces the one of the config; `tell` gets to know what goes on.
        """
        tell = tell or default_activity()
        if not config.tokenize.tokenizer and tokenizer is None:
            raise UsageError(
                "no tokenizer given", where="--tokenizer", hint="the folder or Hub name of your model"
            )
        planner(config.plan.planner)
        rules_of(config.clean)
        keep = KeepList.load(config.select.keep)
        sources = open_sources(config.source, config.read.max_line_mb << 20)
        template = Path(config.render.chat_template) if config.render.chat_template else None
        with tell.doing("loading the tokenizer"):
            tokenizer = tokenizer or load_tokenizer(config.tokenize.tokenizer, chat_template=template)
            for text in (tokenizer.chat_template, tokenizer.tool_template):
                check_template(text)
            tokenizer.prepare()
        with tell.doing("looking at the inputs"):
            shapes = [detect_shape(source) for source in sources]
        for note in notes(sources):
            log.warning(note)
        tell_unread([source.name for source in sources], shapes)
        pairs = check_pairs(config, sources, shapes)
        settings = config.render
        options = RenderOptions(
            render=settings.mode,
            loss="completion" if pairs and settings.loss == "assistant" else settings.loss,
            eos=settings.eos,
            separator=settings.separator,
            paranoid=settings.paranoid,
            date=settings.date,
            tool_arguments=settings.tool_arguments,
            template_kwargs=settings.template_kwargs,
        )
        renderer = Renderer(tokenizer, options)
        if renderer.uses_date:
            config = replace(config, render=replace(settings, date=str(renderer.date)))
        brought = list(dict.fromkeys(name for shape in shapes for name in shape.arguments))
        if lost := renderer.unread_arguments(brought):
            log.warning("not read by the chat template, though rows bring them: %s", ", ".join(lost))
        readable = renderer.message_fields
        shapes = [replace(shape, readable=readable) for shape in shapes]
        return Run(
            config,
            tokenizer,
            renderer,
            sources,
            shapes,
            workers or default_workers(),
            special_tokens_of(tokenizer),
            not (renderer.tool_finder and writes_call_ids(renderer.tool_finder.template)),
            tell,
            keep.of_pairs() if pairs else keep,
        )

    @property
    def by_chat_template(self) -> bool:
        """Whether conversations are rendered by a chat template."""
        return self.config.render.mode != "plain" and self.tokenizer.chat_template is not None

    @property
    def pairs(self) -> bool:
        """Whether the documents are preference pairs: all of them, or none."""
        return self.shapes[0].format == PREFERENCE

    @property
    def input_bytes(self) -> int | None:
        """Of all inputs as they are stored; None where one does not say."""
        sizes = [source.size_bytes for source in self.sources]
        return sum(size for size in sizes if size) if None not in sizes else None

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for an unfinished run to be continued."""
        from tokpack import __version__

        inputs = [
            {"name": s.name, "size_bytes": s.size_bytes, "format": shape.format}
            for s, shape in self._inputs()
        ]
        config = self.config.portable()
        del config["read"]["allow_bad"]  # decides whether the run ends, not what is in it
        return {
            "tokpack": __version__,
            "config": config,
            "tokenizer": self.tokenizer.sha256,
            "template": self.tokenizer.template_sha256,
            "inputs": inputs,
            **({"keep": self.keep.sha256} if len(self.keep.doc_ids) else {}),
        }

    def _inputs(self) -> Iterator[tuple[Source, Shape]]:
        return zip(self.sources, self.shapes, strict=True)


def check_pairs(config: Config, sources: list[Source], shapes: list[Shape]) -> bool:
    """Whether the inputs are preference pairs. Raises UsageError for what cannot be done with pairs."""
    pairs = [shape.format == PREFERENCE for shape in shapes]
    if not any(pairs):
        return False
    if not all(pairs):
        raise UsageError(
            f"{sources[pairs.index(True)].name} holds preference pairs, {sources[pairs.index(False)].name} "
            f"holds {shapes[pairs.index(False)].format}: one artefact cannot hold both",
            where=sources[pairs.index(False)].path,
            hint="pack them apart, or read both alike with --format",
        )
    if config.render.loss == "all":
        raise UsageError(
            "preference pairs are compared by their completions: there is no loss on the prompt",
            where="--loss all",
            hint="leave it out, or give last: the last answer of a completion of several turns",
        )
    if config.truncate.overlong == "split":
        raise UsageError(
            "splitting would tear preference pairs",
            where="--overlong split",
            hint="drop (the default for pairs), right, left or turns",
        )
    return True


# Pass 1


def pass_one(run: Run, store: TokenStore) -> Corpus:
    """Every block through the batch stages into the store; blocks committed by an earlier run are skipped."""
    batches = 0
    bad = _BadRows(run)
    blocks = read_blocks(run.sources, run.config.read.block_mb << 20)
    _tell_found(run, store)
    try:
        with run.tell.doing("reading and tokenizing", run.input_bytes, "MB", MB) as advance:
            for index, size in ordered_map(partial(_process, run, store, bad), blocks, run.workers):
                batches = index + 1
                advance(size)
    finally:
        store.settle()
    for message in (*store.warnings, *run.tokenizer.warnings, *run.renderer.warnings):
        log.warning(message)
    if not batches:
        raise _nothing(run)
    release_memory()
    corpus = Corpus.load(store, batches, WIDTH if run.pairs else 1)
    bad.check(len(corpus.docs) // corpus.width, corpus.quarantined)
    corpus.keep = run.keep
    run.keep.check(corpus.docs, {source.name: source.sha256 for source in run.sources})
    special = told(corpus.counters, run.config.render.mode == "plain", run.config.render.eos)
    for message in (*special, *left_out.warnings(corpus.counters)):
        log.warning(message)
    if corpus.docs.is_empty() and not corpus.quarantined:
        raise _nothing(run)
    return corpus


def _tell_found(run: Run, store: TokenStore) -> None:
    if found := store.input_bytes():
        total = f" of {run.input_bytes / MB:,.1f}" if run.input_bytes else ""
        log.info("going on with an unfinished run: %s%s MB were done", f"{found / MB:,.1f}", total)


def _nothing(run: Run) -> DataError:
    return DataError(
        "no document in the input",
        where=", ".join(s.path for s in run.sources),
        hint="there are only blank lines: check the step that wrote it",
    )


def _process(run: Run, store: TokenStore, bad: _BadRows, block: Block) -> tuple[int, int]:
    """One block through all batch stages, committed. Returns its index and the bytes of input behind it."""
    digest = block.digest()
    if store.has(block.index):
        store.check_block(block.index, digest)
        return block.index, block.input_bytes
    config = run.config
    ready = run.shapes[block.source].format == TOKENS
    made = (_take_tokens if ready else _make_tokens)(run, bad, block)
    tokens, hashes = made.tokens, made.hashes
    documents = clean_by_tokens(made.documents, np.diff(tokens.offsets), config.clean, run.pairs)
    documents, spared = run.keep.spare(documents)
    if run.pairs:
        hashes, documents = pair_hash(hashes), drop_partners(documents)
    pieces = truncate(
        documents,
        tokens,
        config.truncate.max_length,
        config.truncate.overlong,
        run.by_chat_template,
        lambda shortened: encode(run, shortened)[1],
        run.pairs,
    )
    docs = pieces.documents.select(
        "doc_id",
        "source",
        "row",
        "drop_reason",
        "drop_detail",
        pl.Series("hash_high", hashes[:, 0]),
        pl.Series("hash_low", hashes[:, 1]),
        pl.Series("tokens", np.diff(tokens.offsets), dtype=pl.Int32),
        pl.Series("cut", pieces.cut, dtype=pl.Int32),
        quality(documents) if config.select.limited else pl.lit(0.0, pl.Float32).alias("quality"),
    )
    rest = {
        "quarantined": [q.to_json() for q in made.quarantined],
        "counters": made.counters,
        "paths": made.paths,
        "spared": spared | made.spared,
        "examples": _examples(pieces.documents, partial(_decoded, run, tokens) if ready else None),
        INPUT_BYTES: block.input_bytes,
    }
    store.commit(block.index, digest, docs, pieces, rest)
    return block.index, block.input_bytes


@dataclass(frozen=True, slots=True)
class _Made:
    """The documents of a block with their tokens and hashes, and what happened on the way."""

    documents: pl.DataFrame
    tokens: TokenBatch
    hashes: Any
    quarantined: list[Quarantined]
    counters: dict[str, int] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    spared: dict[int, str] = field(default_factory=dict)
    """Documents that are wanted -> the reason that is overruled."""


def _make_tokens(run: Run, bad: _BadRows, block: Block) -> _Made:
    """From text: cleaned, hashed, rendered and tokenized."""
    config = run.config
    normalized = normalize(block, run.sources[block.source], run.shapes[block.source])
    bad.see(normalized)
    cleaned = clean(normalized.documents, config.clean, run.special, run.pairs)
    hashes = content_hash(cleaned.documents, config.dedup.exact, run.hide_ids)
    wanted, spared = run.keep.spare(cleaned.documents)
    documents, tokens, paths, told = encode(run, wanted)
    counters = cleaned.counters | told
    return _Made(documents, tokens, hashes, normalized.quarantined, counters, paths, spared)


def _take_tokens(run: Run, bad: _BadRows, block: Block) -> _Made:
    """From rows that are tokenized already: as they are."""
    source, shape = run.sources[block.source], run.shapes[block.source]
    normalized, tokens = take_tokens(block, source, shape, run.tokenizer.vocab_size)
    bad.see(normalized)
    return _Made(normalized.documents, tokens, token_hash(tokens), normalized.quarantined)


def _decoded(run: Run, tokens: TokenBatch, position: int) -> str:
    start, end = tokens.offsets[position : position + 2]
    return run.tokenizer.decode(tokens.input_ids[start : min(end, start + SNIPPET)])


def encode(
    run: Run, documents: pl.DataFrame
) -> tuple[pl.DataFrame, TokenBatch, dict[str, int], dict[str, int]]:
    """Render and tokenize; documents that the template refuses are marked.

    Returns documents, tokens, rows by path, and what the template left out.
    """
    rendered = render(documents, run.renderer)
    if (size := rendered.text.nbytes) > MOST_TEXT:
        raise DataError(
            f"a block of {len(documents):,} documents is {size:,} bytes of text to the model, "
            f"more than {MOST_TEXT:,}",
            where=run.sources[documents["source"][0]].path,
            hint="the chat template writes very much for each; read.block_mb = 1 makes blocks smaller",
        )
    tokens = tokenize(rendered, run.tokenizer)
    if rendered.errors:
        rows = [row for row in sorted(rendered.errors) if documents["drop_reason"][row] is None]
        documents = documents.with_columns(
            documents["drop_reason"].clone().scatter(rows, [TEMPLATE_ERROR] * len(rows)),
            documents["drop_detail"]
            .clone()
            .scatter(rows, [printable(rendered.errors[row][:LONGEST_DETAIL]) for row in rows]),
        )
    return documents, tokens, rendered.counters | tokens.stats, rendered.told


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


@dataclass(slots=True)
class _BadRows:
    """Stops a run whose input is broken: at once with `strict`, else above the allowed share."""

    run: Run

    def see(self, normalized: Normalized) -> None:
        if self.run.config.read.strict and normalized.quarantined:
            first = normalized.quarantined[0]
            raise DataError(
                f"unreadable row: {first.reason}",
                where=f"{first.source}:{first.row}",
                hint="mend the row, or leave out --strict to set such rows aside in quarantine.jsonl",
            )

    def check(self, read: int, quarantined: list[str]) -> None:
        bad, rows = len(quarantined), read + len(quarantined)
        share = bad / max(1, rows)
        if share > self.run.config.read.allow_bad:
            first = json.loads(quarantined[0])
            raise DataError(
                f"{bad} of {rows} rows are unreadable ({share:.1%}), the first: {first['reason']}",
                where=f"{first['source']}:{first['row']}",
                hint=f"check --format and --map; --allow-bad {min(1.0, share + 0.01):.2f} sets all aside",
            )


# Between the passes


@dataclass(frozen=True, slots=True)
class Part:
    """One artefact to be written: its pieces, their plan, their order."""

    pieces: pl.DataFrame
    plan: Plan
    layout: Layout
    dealt: dict[str, Any] = field(default_factory=dict)
    """With `plan.world_size`: steps, rows left over at the end, idle share of a step."""

    @property
    def placement(self) -> Placement:
        names = ("batch", "index", "length", "doc_id", "number", "copy")
        return Placement(*(self.pieces[name].to_numpy() for name in names))


def plan_part(run: Run, corpus: Corpus, validation: bool = False) -> Part:
    """Plan the kept pieces (or the held-out ones) into rows, and put the rows in order."""
    reason = pl.col("drop_reason")
    wanted = reason == HELD_OUT if validation else reason.is_null()
    chosen = corpus.docs.select("doc_id", chosen=wanted.fill_null(False))
    pieces = corpus.pieces.with_columns(
        doc_id=chosen["doc_id"].gather(corpus.pieces["document"]),
    ).filter(chosen["chosen"].gather(corpus.pieces["document"]))
    pieces = pieces.with_columns(copy=pl.lit(0, pl.Int32))
    if COPIES in corpus.docs.columns and not validation:
        pieces = with_copies(pieces, corpus.docs[COPIES].to_numpy())
    settings, seed = run.config.plan, run.config.seed
    limit = settings.max_docs_per_row or None
    with run.tell.doing(f"planning rows of {len(pieces):,} documents"):
        plan = make_plan(
            pieces["length"].to_numpy(),
            run.config.truncate.max_length,
            settings.planner,
            seed,
            limit,
            pairs=pair_groups(pieces["doc_id"].to_numpy(), pieces["copy"].to_numpy()) if run.pairs else None,
        )
        order = replace(settings, world_size=0) if validation else settings
        rows, dealt = order_rows(order, plan, pieces["length"].to_numpy(), seed)
    return Part(pieces, plan, Layout.of(plan.row_of_doc, rows), dealt)
