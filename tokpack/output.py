"""The output folder: claimed at the start, finished by the manifest and the sums at the end."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from tokpack import ledger as ledgers
from tokpack import schema
from tokpack.artefact.fresh_folder import clean_up
from tokpack.corpus import Corpus
from tokpack.errors import DataError, UsageError
from tokpack.locks import only_writer
from tokpack.manifest import is_blank, is_finished
from tokpack.nothing_kept import nothing_kept
from tokpack.own_files import (
    is_mine,
    is_packed_file,
    is_real_folder,
    is_store_file,
    links_in_the_way,
    remove_own,
)
from tokpack.reasons import HELD_OUT, TRUNCATED
from tokpack.report.figures import Report
from tokpack.run import Run
from tokpack.stages.keep import kept_after_all, record
from tokpack.stages.order import plan_record
from tokpack.stages.write import FlatBatch, Written, write_json, write_shards
from tokpack.store import RECORD as STORE_RECORD
from tokpack.store import read_record, remove_store
from tokpack.sums import write_sums
from tokpack.way.plan_part import Part

log = logging.getLogger("tokpack")

SLICE = 1 << 16
"""Documents of dropped.parquet in work at a time: their columns of text take memory."""
ELSEWHERE = "elsewhere"
"""In OUT/.work: the path of a token store that `--work-dir` moved."""
MOST_POINTER = 1 << 14
"""Bytes of that path that are read."""


@contextmanager
def claim(out: Path, overwrite: bool, same: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Make `out` ours, and no other run's meanwhile. Gives whether it is finished: `same` says of a finished
    folder that it is what this run would write.

    Raises UsageError when something finished, or of somebody else's, is there, or a run that still goes on.
    """
    if out.is_file():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    with only_writer(out):
        clean_up(out)
        out.mkdir(parents=True, exist_ok=True)
        yield _check(out, overwrite, same)


def _check(out: Path, overwrite: bool, same: Callable[[], bool]) -> bool:
    """Whether there is nothing to do."""
    finished = is_finished(out)
    cut_off = any((out / name).is_file() and is_blank(out / name) for name in (schema.MANIFEST, schema.SUMS))
    unfinished = (out / schema.WORK).is_dir() or cut_off
    if links := links_in_the_way(out):
        raise UsageError(
            f"a link is where tokpack writes: {links[0]}",
            where=str(out),
            hint="tokpack follows no link inside its folders: take it out, or give another -o",
        )
    if overwrite and (finished or unfinished):
        clear(out)
    elif finished:
        leave_work(out)  # of a run that was cut off after its last file
        if same():
            return True
        raise UsageError(
            "a finished artefact is here", where=str(out), hint="give --overwrite, or another -o"
        )
    elif not unfinished and any(out.iterdir()):
        raise UsageError(
            "the folder is not empty and not tokpack's", where=str(out), hint="give -o a new folder"
        )
    return False


def work_folder(out: Path, work_dir: str | os.PathLike[str] | None) -> Path:
    """OUT/.work, or a folder of this run's own in `work_dir`, of which OUT/.work keeps the path.

    Raises UsageError when that folder is a link, or others may write into it.
    """
    inside = out / schema.WORK
    inside.mkdir(exist_ok=True)
    if work_dir is None:
        return inside
    folder = Path(work_dir).resolve() / store_name(out)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not is_mine(folder):
        raise UsageError(
            "the folder of the token store is a link, or others can write into it",
            where=str(folder),
            hint="take it away, or give another --work-dir",
        )
    (inside / ELSEWHERE).write_text(str(folder), encoding="utf-8")
    return folder


def store_name(out: Path) -> str:
    """Of the folder in `--work-dir`: nothing but the output decides it."""
    return "tokpack-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]


def leave_work(out: Path) -> None:
    """Remove OUT/.work, and the store that it points to where that is the one of this output."""
    inside = out / schema.WORK
    if (store := _store_elsewhere(out)) is not None:
        _tell_left(store, remove_store(store))
    _tell_left(inside, remove_own(inside, lambda name: is_store_file(name) or name == ELSEWHERE))


def _store_elsewhere(out: Path) -> Path | None:
    """Where OUT/.work says that the store is; None for a place that no run with this output can have made.

    The pointer may come from anybody: it is only believed about a folder of this user's that is named after
    this very output and holds the record of a run.
    """
    note = out / schema.WORK / ELSEWHERE
    if not is_real_folder(note.parent) or not note.is_file() or note.is_symlink():
        return None
    try:
        text = note.read_bytes()[:MOST_POINTER].decode("utf-8")
        store = Path(text)
        if store.name == store_name(out) and is_mine(store) and read_record(store / STORE_RECORD) is not None:
            return store
        there = store.exists()
    except (ValueError, OSError):  # no text, a NUL, a name too long
        return None
    if there:
        log.warning("%s points to a folder that is no token store of this output: it is left alone", note)
    return None


def _tell_left(folder: Path, left: list[str]) -> None:
    if left:
        log.warning("left in %s, since tokpack did not write it: %s", folder, ", ".join(left[:3]))


def clear(out: Path) -> None:
    """Remove what tokpack wrote, and nothing else."""
    leave_work(out)
    remove_own(out, is_packed_file)
    out.mkdir(exist_ok=True)


def write_artefact(
    run: Run,
    corpus: Corpus,
    part: Part,
    out: Path,
    batches: Callable[[int], FlatBatch],
    validation: bool = False,
) -> dict[str, Any]:
    """Shards, the record of what was left out, the tokenizer, and last the manifest. Returns the manifest.

    Raises InternalError when the ledger does not add up; then nothing is finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    copies = schema.COPIES in corpus.docs.columns and not validation
    columns = schema.row_schema(run.pairs, copies)
    what = "writing held-out rows" if validation else "writing rows"
    with run.tell.doing(what, part.plan.tokens, "M tokens", 1_000_000) as advance:
        written = write_shards(out, part.layout, part.placement, batches, columns, run.config.write, advance)
    docs = _as_validation(corpus.docs) if validation else corpus.docs
    quarantined = [] if validation else corpus.quarantined
    names = [source.name for source in run.sources]
    write_record(out, docs, names, quarantined)
    by_source = {} if validation else corpus.quarantined_by_source()
    packed = {
        "rows": written.rows,
        "capacity": part.plan.capacity,
        "tokens": written.tokens,
        "trained": written.trained,
    }
    after_all = {} if validation else kept_after_all(docs, corpus.spared)
    ledger = ledgers.build(docs, names, by_source, packed, after_all)
    run.tokenizer.save(out / "tokenizer")
    return _manifest(run, corpus, part, written, ledger, validation, copies)


def write_record(out: Path, docs: pl.DataFrame, names: list[str], quarantined: list[str]) -> None:
    """What was left out: documents by their reason, and input that could not be read."""
    write_dropped(out / schema.DROPPED, docs, names)
    (out / schema.QUARANTINE).write_text("".join(line + "\n" for line in quarantined), encoding="utf-8")


def leave_nothing(run: Run, corpus: Corpus, report: Report, out: Path) -> DataError:
    """For a run that keeps no document: its record and report in a folder that is no artefact.

    OUT/.work stays, empty, so that the folder counts as unfinished: the next run, of any settings, takes it.
    """
    write_record(out, corpus.docs, [source.name for source in run.sources], corpus.quarantined)
    write_json(out / schema.REPORT, report.data)
    leave_work(out)
    (out / schema.WORK).mkdir()
    documents = report.data["ledger"]["documents"]
    return nothing_kept(documents, run.config.clean, out / schema.DROPPED, out / schema.QUARANTINE)


def finish(out: Path, manifest: dict[str, Any]) -> None:
    """The manifest, then the sums: from here on the folder is an artefact."""
    write_json(out / schema.MANIFEST, manifest)
    write_sums(out, {shard["file"]: shard["sha256"] for shard in manifest["shards"]})


def _as_validation(docs: pl.DataFrame) -> pl.DataFrame:
    """The held-out documents, as the documents of an artefact of their own."""
    held = docs.filter(pl.col("drop_reason") == HELD_OUT).drop(schema.COPIES, strict=False)
    return held.with_columns(drop_reason=pl.lit(None, pl.String))


def write_dropped(path: Path, docs: pl.DataFrame, names: list[str]) -> None:
    """One row for each document left out or shortened (`schema.DROPPED_SCHEMA`), a slice at a time."""
    left_out = pl.col("drop_reason").is_not_null()
    shortened = pl.col("drop_reason").is_null() & (pl.col("cut") > 0)
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema.DROPPED_SCHEMA, compression="zstd") as writer:
        for some in docs.iter_slices(SLICE):
            record = some.filter(left_out | shortened).select(
                "doc_id",
                pl.col("source").replace_strict(dict(enumerate(names)), return_dtype=pl.String),
                "row",
                pl.col("drop_reason").fill_null(TRUNCATED).alias("reason"),
                pl.col("drop_detail").alias("detail"),
                pl.when(left_out).then("tokens").otherwise("cut").cast(pl.Int64).alias("tokens_lost"),
            )
            writer.write_table(record.to_arrow().cast(schema.DROPPED_SCHEMA))


def _manifest(
    run: Run,
    corpus: Corpus,
    part: Part,
    written: Written,
    ledger: dict[str, Any],
    validation: bool,
    copies: bool,
) -> dict[str, Any]:
    from tokpack import __version__

    tokenizer, plan = run.tokenizer, part.plan
    return {
        "format_version": schema.FORMAT_VERSION,
        "tokpack_version": __version__,
        **({"kind": schema.PREFERENCE} if run.pairs else {}),
        **({schema.COPIES: True} if copies else {}),
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
        "template": {"sha256": tokenizer.template_sha256, "loss": run.config.render.loss},
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
        "plan": plan_record(run.config.plan.planner, plan, part.dealt),
        "ledger": ledger,
        "config": run.config.portable(),
    }


def write_run(out: Path, run: Run, paths: dict[str, int], seconds: dict[str, float]) -> None:
    """`run.json`: what is true of this run and this machine only, so no part of the artefact's bytes."""
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
