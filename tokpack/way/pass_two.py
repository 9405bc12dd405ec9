"""Pass 2: the tokens of the plan from the store into shards, with the record of what was left out.

The manifest is made here and written last, by `output.finish`: until then the folder is unfinished.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack import schema
from tokpack.engine.local import release_memory
from tokpack.free_memory import free_bytes
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.reasons import HELD_OUT, TRUNCATED
from tokpack.on_disk.shards import INDEX
from tokpack.run import Run
from tokpack.stages.keep import kept_after_all, record
from tokpack.stages.order import plan_record
from tokpack.stages.write import FlatBatch, Placement, Shard, Written, WrittenShard, write_json
from tokpack.stages.write_index import write_rows
from tokpack.version import __version__
from tokpack.way.columns import REASON
from tokpack.way.corpus import Corpus
from tokpack.way.in_order import parts_ahead
from tokpack.way.in_runs import has_room, in_runs, run_bytes
from tokpack.way.output import leave_work
from tokpack.way.plan_part import Part

log = logging.getLogger("tokpack")

Elsewhere = Callable[[Part, pa.Schema, Callable[[int], None], list[Shard]], Iterable[WrittenShard]]
"""Writes the shards of a part, with these columns, in other processes."""
NO_ROOM = (
    "the disk of %s has no room for a second copy of the tokens: rows are read from all over the store, \
which takes long where it is larger than memory; --parts makes no copy"
)
SLICE = 1 << 16
"""Documents of dropped.parquet in work at a time: their columns of text take memory."""


def write_packed(
    run: Run,
    corpus: Corpus,
    part: Part,
    out: Path,
    batches: Callable[[int], FlatBatch],
    validation: bool = False,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """Shards, the record of what was left out, the tokenizer, and last the manifest. Returns the manifest.

    Raises InternalError when the ledger does not add up; then nothing is finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    copies = schema.COPIES in corpus.docs.columns and not validation
    weights = part.has_weights(corpus)
    columns = schema.row_schema(run.kind, copies, weights)
    release_memory()
    pieces, source = part.placement, batches
    if elsewhere is None:
        pieces, source = _as_rows_need_them(run, corpus, part, pieces, source, weights)
    what = "writing held-out rows" if validation else "writing rows"
    with run.tell.doing(what, part.plan.tokens, "M tokens", 1_000_000) as advance:
        written = write_rows(
            out,
            part.contents,
            pieces,
            source,
            columns,
            run.config.write,
            advance,
            ahead=parts_ahead(part, batches),
            elsewhere=None if elsewhere is None else partial(elsewhere, part, columns, advance),
        )
    del pieces, source
    release_memory()
    docs = _as_validation(corpus.docs) if validation else corpus.docs
    quarantined = [] if validation else corpus.quarantined
    names = [source.name for source in run.sources]
    details = corpus.details.clear() if validation else corpus.details
    write_record(out, docs, details, names, quarantined)
    if corpus.choice is not None and not validation:
        write_choice(out, corpus.choice)
    by_source = {} if validation else corpus.quarantined_by_source()
    packed = {
        "rows": written.rows,
        "capacity": part.plan.capacity,
        "tokens": written.tokens,
        "trained": written.trained,
        **({"segments": part.segments(corpus)} if run.config.render.loss_mask else {}),
    }
    after_all = {} if validation else kept_after_all(docs, corpus.spared)
    ledger = ledgers.build(docs, names, by_source, packed, after_all)
    run.tokenizer.save(out / "tokenizer")
    extra = {name: True for name, there in ((schema.COPIES, copies), (schema.LOSS_WEIGHTS, weights)) if there}
    return _manifest(run, corpus, part, written, ledger, validation, extra)


def _as_rows_need_them(
    run: Run,
    corpus: Corpus,
    part: Part,
    pieces: Placement,
    batches: Callable[[int], FlatBatch],
    weighted: bool,
) -> tuple[Placement, Callable[[int], FlatBatch]]:
    """The pieces and their batches; those of a second copy, in the order of rows, where the store is larger
    than what may be mapped, is not read in its own order, and the disk has room."""
    folder, tokens = corpus.store.folder, part.plan.tokens
    in_order = part.part_of_row is not None or run.config.plan.planner == schema.SEQUENTIAL
    in_order |= run.config.write.shard_format == INDEX
    size = 0 if in_order else run_bytes(tokens, free_bytes())
    if not size:
        return pieces, batches
    if not has_room(folder, tokens):
        log.warning(NO_ROOM, folder)
        return pieces, batches
    with run.tell.doing("putting tokens into the order of rows"):
        batch = corpus.batch  # each is mapped while it is read
        found = in_runs(part.contents, pieces, batch, weighted, folder, size)
    release_memory()
    return found


def write_record(
    out: Path, docs: pl.DataFrame, details: pl.DataFrame, names: list[str], quarantined: list[str]
) -> None:
    """What was left out: documents by their reason, and input that could not be read."""
    write_dropped(out / schema.DROPPED, docs, details, names)
    (out / schema.QUARANTINE).write_text("".join(line + "\n" for line in quarantined), encoding="utf-8")


def write_choice(out: Path, choice: pl.DataFrame) -> None:
    """What a choice under a budget goes by."""
    import pyarrow.parquet as pq

    pq.write_table(choice.to_arrow().cast(schema.CHOICE_SCHEMA), out / schema.CHOICE, compression="zstd")


def leave_nothing(run: Run, corpus: Corpus, report: dict[str, Any], out: Path) -> None:
    """For a run that keeps no document: its record and report in a folder that is no packed dataset.

    OUT/.work stays, empty, so that the folder counts as unfinished: the next run, of any settings, takes it.
    """
    (out / schema.WORK).mkdir(exist_ok=True)
    names = [source.name for source in run.sources]
    write_record(out, corpus.docs, corpus.details, names, corpus.quarantined)
    write_json(out / schema.REPORT, report)
    leave_work(out, stays=True)


def _as_validation(docs: pl.DataFrame) -> pl.DataFrame:
    """The held-out documents, as the documents of a packed dataset of their own."""
    held = docs.filter(pl.col("drop_reason") == HELD_OUT).drop(schema.COPIES, strict=False)
    return held.with_columns(drop_reason=pl.lit(None, REASON))


def write_dropped(path: Path, docs: pl.DataFrame, details: pl.DataFrame, names: list[str]) -> None:
    """One row for each document left out or shortened (`schema.DROPPED_SCHEMA`), a slice at a time."""
    details = details.sort("position")
    cuts = details["position"].search_sorted(np.arange(0, len(docs) + SLICE, SLICE)).to_list()
    left_out = pl.col("drop_reason").is_not_null()
    shortened = pl.col("drop_reason").is_null() & (pl.col("cut") > 0)
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema.DROPPED_SCHEMA, compression="zstd") as writer:
        for number, some in enumerate(docs.iter_slices(SLICE)):
            told = details[cuts[number] : cuts[number + 1]]
            detail = pl.repeat(None, len(some), dtype=pl.String, eager=True).alias("detail")
            detail = detail.scatter(told["position"] - number * SLICE, told["drop_detail"])
            record = (
                some.with_columns(detail)
                .filter(left_out | shortened)
                .select(
                    "doc_id",
                    pl.col("source").replace_strict(dict(enumerate(names)), return_dtype=pl.String),
                    "row",
                    pl.col("drop_reason").cast(pl.String).fill_null(TRUNCATED).alias("reason"),
                    "detail",
                    pl.when(left_out).then("tokens").otherwise("cut").cast(pl.Int64).alias("tokens_lost"),
                )
            )
            writer.write_table(record.to_arrow().cast(schema.DROPPED_SCHEMA))


def _manifest(
    run: Run,
    corpus: Corpus,
    part: Part,
    written: Written,
    ledger: dict[str, Any],
    validation: bool,
    extra: dict[str, Any],
) -> dict[str, Any]:
    tokenizer, plan = run.tokenizer, part.plan
    return {
        "format_version": schema.FORMAT_VERSION,
        "tokpack_version": __version__,
        **({"kind": run.kind} if run.kind else {}),
        **extra,
        **({"keep": record(run.keep)} if len(run.keep.doc_ids) else {}),
        "split": "validation" if validation else "train",
        "capacity": plan.capacity,
        "rows": written.rows,
        "tokens": written.tokens,
        "trained_tokens": written.trained,
        "documents": ledger["documents"]["kept"],
        "pieces": len(part.pieces),
        "tokenizer": {
            "name": tokenizer.name,
            "sha256": tokenizer.sha256,
            "vocab_sha256": tokenizer.vocab_sha256,
            "vocab_size": tokenizer.vocab_size,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        },
        "template": {
            "sha256": tokenizer.template_sha256,
            "loss": run.config.render.loss,
            **({"loss_mask": run.config.render.loss_mask} if run.config.render.loss_mask else {}),
        },
        "inputs": [
            {
                "name": source.name,
                "sha256": corpus.sha256.get(number),
                "size_bytes": source.size_bytes,
                "format": shape.format,
            }
            for number, (source, shape) in enumerate(zip(run.sources, run.shapes, strict=True))
        ],
        "shards": written.shards,
        **({"token_files": written.token_files} if written.token_files else {}),
        "plan": plan_record(run.config.plan.planner, plan, part.dealt),
        "ledger": ledger,
        "config": run.config.portable(),
    }


def write_run(out: Path, run: Run, paths: dict[str, int], seconds: dict[str, float]) -> None:
    """`run.json`: what is true of this run and this machine only, so no part of the dataset's bytes."""
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "workers": run.workers,
        "inputs": [str(Path(s.path).resolve()) if "://" not in s.path else s.path for s in run.sources],
        "tokenizer": run.config.tokenize.tokenizer,
        "paths": paths,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    write_json(out / schema.RUN, record)
