"""The output folder: claimed at the start, finished by the manifest and the sums at the end."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from tokpack import ledger as ledgers
from tokpack import schema
from tokpack.corpus import Corpus
from tokpack.errors import DataError, UsageError
from tokpack.nothing_kept import nothing_kept
from tokpack.pipeline import Part, Run
from tokpack.report.figures import Report
from tokpack.stages.order import plan_record
from tokpack.stages.write import FlatBatch, Written, write_json, write_shards, write_sums

TRUNCATED = "truncated"
"""Reason in dropped.parquet of documents that were shortened, not left out."""
SLICE = 1 << 16
"""Documents of dropped.parquet in work at a time: their columns of text take memory."""
ELSEWHERE = "elsewhere"
"""In OUT/.work: the path of a token store that `--work-dir` moved."""
OURS = (
    *("data-[0-9]*-of-[0-9]*.arrow", "data-[0-9]*-of-[0-9]*.parquet", "dataset_info.json", "state.json"),
    *(schema.MANIFEST, schema.RUN, schema.REPORT, "report.html", schema.DROPPED, schema.QUARANTINE),
    *(schema.SUMS, f".{schema.SUMS}.part", "cache-*"),
)
"""What an artefact consists of, beside its sub-folders."""


@contextmanager
def claim(out: Path, overwrite: bool) -> Iterator[None]:
    """Make `out` ours, and no other run's meanwhile.

    Raises UsageError when something finished, or of somebody else's, is there, or a run that still goes on.
    """
    if out.is_file():
        raise UsageError("the output is a file", where=str(out), hint="give -o a folder")
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        _check(out, overwrite)
        yield


def _check(out: Path, overwrite: bool) -> None:
    finished = (out / schema.MANIFEST).is_file() and (out / schema.SUMS).is_file()
    unfinished = (out / schema.WORK).is_dir()
    if overwrite and (finished or unfinished):
        clear(out)
    elif finished:
        raise UsageError(
            "a finished artefact is here", where=str(out), hint="give --overwrite, or another -o"
        )
    elif not unfinished and any(out.iterdir()):
        raise UsageError(
            "the folder is not empty and not tokpack's", where=str(out), hint="give -o a new folder"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises UsageError where another process holds the lock; a process that dies lets go of it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems know no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    "another run is writing here", where=str(folder), hint="wait for it, or give another -o"
                ) from None
        yield
    finally:
        os.close(handle)


def work_folder(out: Path, work_dir: str | os.PathLike[str] | None) -> Path:
    """OUT/.work, or a folder of this run's own in `work_dir`, of which OUT/.work keeps the path."""
    inside = out / schema.WORK
    inside.mkdir(exist_ok=True)
    if work_dir is None:
        return inside
    name = "tokpack-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    folder = Path(work_dir) / name
    (inside / ELSEWHERE).write_text(str(folder.resolve()), encoding="utf-8")
    return folder


def leave_work(out: Path) -> None:
    """Remove OUT/.work, and the store that it points to."""
    note = out / schema.WORK / ELSEWHERE
    if note.is_file():
        shutil.rmtree(note.read_text(encoding="utf-8"), ignore_errors=True)
    shutil.rmtree(out / schema.WORK, ignore_errors=True)


def clear(out: Path) -> None:
    """Remove what tokpack wrote, and nothing else."""
    leave_work(out)
    for name in (schema.VALIDATION, "tokenizer"):
        shutil.rmtree(out / name, ignore_errors=True)
    for pattern in OURS:
        for path in out.glob(pattern):
            path.unlink()


def write_artefact(
    run: Run,
    corpus: Corpus,
    part: Part,
    out: Path,
    batches: Callable[[int], FlatBatch],
    progress: Callable[[int], None],
    validation: bool = False,
) -> dict[str, Any]:
    """Shards, the record of what was left out, the tokenizer, and last the manifest. Returns the manifest.

    Raises InternalError when the ledger does not add up; then nothing is finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    copies = schema.COPIES in corpus.docs.columns and not validation
    columns = schema.row_schema(run.pairs, copies)
    written = write_shards(out, part.layout, part.placement, batches, columns, run.config.write, progress)
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
    ledger = ledgers.build(docs, names, by_source, packed)
    run.tokenizer.save(out / "tokenizer")
    return _manifest(run, part, written, ledger, validation, copies)


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
    held = docs.filter(pl.col("drop_reason") == ledgers.HELD_OUT).drop(schema.COPIES, strict=False)
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
    run: Run, part: Part, written: Written, ledger: dict[str, Any], validation: bool, copies: bool
) -> dict[str, Any]:
    from tokpack import __version__

    tokenizer, plan = run.tokenizer, part.plan
    return {
        "format_version": schema.FORMAT_VERSION,
        "tokpack_version": __version__,
        **({"kind": schema.PREFERENCE} if run.pairs else {}),
        **({schema.COPIES: True} if copies else {}),
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
                "sha256": source.sha256,
                "size_bytes": source.size_bytes,
                "format": shape.format,
            }
            for source, shape in zip(run.sources, run.shapes, strict=True)
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
