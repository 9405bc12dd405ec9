"""`tokpack.analyze`, `tokpack.pack`, `tokpack.open_packed`: the commands, from Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from tokpack import pipeline, schema
from tokpack.cost import token_cost
from tokpack.cost.money_budget import money_budget
from tokpack.cost.training import Training, load_training, model_place
from tokpack.errors import UsageError, writing
from tokpack.on_disk.ledger import DocumentSums
from tokpack.on_disk.manifest import is_finished
from tokpack.packed.folder import PackedFolder
from tokpack.packed.push import write_to
from tokpack.packed_urls import is_url, local_folder
from tokpack.report.bill.advice import advise_near_duplicates
from tokpack.report.bill.bill import asked_bill
from tokpack.report.data.by_column import by_column_figures, check_column
from tokpack.report.data.rows_figures import kept_figures
from tokpack.report.data.vocabulary import language_figures, vocabulary_figures
from tokpack.report.figures import Report, documents_of, make_report
from tokpack.report.nothing_kept import nothing_kept
from tokpack.report.refusals import refusals_told
from tokpack.report.words import large_losses
from tokpack.run import Run
from tokpack.settings.config import Config
from tokpack.settings.options import AnalyzeOptions, PackOptions, make_config, with_options
from tokpack.settings.plain import to_plain
from tokpack.stages.read.memory import Data, takes_rows
from tokpack.stages.write import FlatBatch, write_json
from tokpack.terminal.activity import Activity
from tokpack.terminal.interrupts import scratch_folder
from tokpack.way import cluster, output, pass_two
from tokpack.way.already_there import what_differs
from tokpack.way.bucket_store import BucketStore, bucket_of, remove_bucket, remove_stores
from tokpack.way.corpus import Corpus
from tokpack.way.decide import near_duplicate_figures
from tokpack.way.part import PartDone, make_part, parse_part, refuse_pipes
from tokpack.way.pass_one import tell_found
from tokpack.way.store import TokenStore

log = logging.getLogger("tokpack")

Engine = Literal["local", "ray"]


@with_options(PackOptions)
@takes_rows
def pack(
    data: Data,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    workers: int = 0,
    work_dir: str | os.PathLike[str] | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
    html: bool = False,
    by: str | None = None,
    tell: Activity | None = None,
    **options: Unpack[PackOptions],
) -> PackedFolder:
    """Turn raw data into a packed dataset in the folder `out`; the same call goes on after a crash. `out` may
    be a URL, as s3://BUCKET/FOLDER: then it is written into the cache and pushed from there.

    `data`: files, globs, folders, URLs; a datasets.Dataset, a polars or pandas frame, an Arrow table, a list
    of dicts; or a list of several of them. A finished packed dataset of the same call is left as it is.
    `html` writes the report as a page too; `by` names a column of the data, as "source", whose values the
    report tells apart. `tell=Activity()` shows on stderr what goes on. `engine="ray"` runs pass 1 on the Ray
    cluster at `ray_address`, whose nodes see the same inputs and the same `out` (or `work_dir`); the bytes
    are the same. A `work_dir` that is a URL, s3://BUCKET/PREFIX, is where parts and nodes without a shared
    folder leave their blocks: they are fetched from there into `out`.
    Raises a TokpackError that says what happened, where, and what to do; a DataError when no document is
    kept, with the record of why in `out`, which is no packed dataset then.

        >>> packed = tokpack.pack("chats.jsonl", "packed", tokenizer="Qwen/Qwen2.5-0.5B", max_length=4096)
    """
    if is_url(out):

        def write(folder: Path) -> PackedFolder:
            return pack(data, folder, **elsewhere, **options)

        elsewhere: dict[str, Any] = {"overwrite": overwrite, "workers": workers, "work_dir": work_dir}
        elsewhere |= {"engine": engine, "ray_address": ray_address, "html": html, "by": by, "tell": tell}
        return write_to(os.fspath(out), write, overwrite, tell)
    out = Path(out)
    config = make_config(data, options)
    training = load_training(config.cost)
    money = money_budget(config, training)
    run = Run.start(_with_token_cost(config, training), workers, tell=tell)
    _check_by(run, by)
    seconds: dict[str, float] = {}
    url, on_nodes = bucket_of(work_dir), engine == "ray" and work_dir is None  # which see all of OUT
    differs = partial(what_differs, run, out, html, by, asked_bill(training))
    with writing(out), output.claim(out, overwrite, differs) as there:
        if there:
            log.info("already there, unchanged: %s", out)
            if url:
                remove_bucket(url, run.fingerprint())
            return PackedFolder(out)
        store = TokenStore(output.work_folder(out, None if url else work_dir), run.fingerprint())
        tell_found(run, store)
        bucket = BucketStore(url, run.fingerprint(), anew=overwrite) if url else None
        store = _shared(run, store, bucket, engine, ray_address)
        run, corpus = pipeline.decided(run, store, money, seconds)
        if not corpus.kept().any():
            figures = make_report(run, corpus, pipeline.plan_part(run, corpus))
            remove_stores(store, bucket)
            pass_two.leave_nothing(run, corpus, to_plain(figures), out)
            raise nothing_kept(
                figures.ledger.documents, config.clean, out / schema.DROPPED, out / schema.QUARANTINE
            )
        batches = corpus.mapped()
        _write_validation(run, corpus, out, batches)
        with pipeline.clock(seconds, "plan"):
            part = pipeline.plan_part(run, corpus)
        corpus.forget_pieces()
        by_column = None if by is None else by_column_figures(run, corpus, part.pieces, by)
        with pipeline.clock(seconds, "pass 2"):
            manifest = pass_two.write_packed(
                run,
                corpus,
                part,
                out,
                batches,
                elsewhere=partial(cluster.shards_on, corpus, out, ray_address) if on_nodes else None,
            )
        part = part.without_contents()
        with run.tell.doing("writing the report"):
            figures = make_report(run, corpus, part, manifest["ledger"], training)
            report = Report(replace(figures, kept=kept_figures(run, corpus, part.pieces), by=by_column))
            write_json(out / schema.REPORT, report.data)
            if html:
                report.save_html(out / "report.html")
        output.finish(out, manifest)
        pass_two.write_run(out, run, corpus.paths, seconds)
        remove_stores(store, bucket)
        output.leave_work(out)
        run.tokenizer.settle()
    _warn_of_losses(report.figures.ledger.documents, out / schema.DROPPED)
    return PackedFolder(out)


def _warn_of_losses(documents: DocumentSums, dropped: Path) -> None:
    for loss in large_losses(documents):
        log.warning("%s; %s names each", loss, dropped)
    for refusal in refusals_told(dropped):
        log.warning("%s", refusal)


@with_options(PackOptions)
@takes_rows
def pack_part(
    data: Data,
    out: str | os.PathLike[str],
    *,
    part: str,
    workers: int = 0,
    work_dir: str | os.PathLike[str] | None = None,
    tell: Activity | None = None,
    **options: Unpack[PackOptions],
) -> PartDone:
    """One part of `pack`, `part="3/16"` the third of sixteen: it fills the token store and ends.

    Parts run anywhere, in any order, at the same time, and again; all see the same inputs and the same `out`
    (and `work_dir`, which may be a URL that all reach: s3://BUCKET/PREFIX). Then `pack` with the same
    arguments finishes: it writes what it would have alone.
    """
    url = bucket_of(work_dir)
    if is_url(out) and not url:
        raise UsageError(
            "parts fill a token store that all of them see",
            where=os.fspath(out),
            hint="give --work-dir a bucket, s3://BUCKET/PREFIX, or a shared folder as -o",
        )
    parse_part(part)
    config = make_config(data, options)
    training = load_training(config.cost)
    run = Run.start(_with_token_cost(config, training), workers, tell=tell)
    differs = partial(what_differs, run, bill=asked_bill(training))
    refuse_pipes(run, "--part")
    if url:
        done = not is_url(out) and is_finished(Path(out)) and not differs(Path(out))
        return PartDone(part, 0, 0) if done else make_part(run, BucketStore(url, run.fingerprint()), part)
    out = Path(out)
    with writing(out), output.beside_others(out, partial(differs, out)) as there:
        if not there:
            return make_part(run, TokenStore(output.work_folder(out, work_dir), run.fingerprint()), part)
    log.info("already there: %s", out)
    return PartDone(part, 0, 0)


@with_options(AnalyzeOptions)
@takes_rows
def analyze(
    data: Data,
    *,
    calibrate: bool = False,
    by: str | None = None,
    workers: int = 0,
    tell: Activity | None = None,
    **options: Unpack[AnalyzeOptions],
) -> Report:
    """Everything `pack` would decide, and what it would save, without writing a packed dataset.

    `data` is what `pack` takes: paths, or a dataset, frame, table or list of dicts in memory.
    With `model=` (and `gpu=`) the report says what the training will cost, and with which settings;
    `calibrate` trains a few rows here and counts with their speed. `by` names a column of the data, as
    "source", whose values the report tells apart.

    >>> tokpack.analyze("chats.jsonl", tokenizer="Qwen/Qwen2.5-0.5B", max_length=4096)
    """
    config = make_config(data, options)
    training = load_training(config.cost, measured=calibrate)
    if calibrate and config.select.budget_usd:
        raise UsageError(
            "a budget in money is spent before the speed is measured",
            where="--calibrate",
            hint="measure first, then give the share it names as --mfu, with --budget",
        )
    money = money_budget(config, training)
    if calibrate and training is not None:
        from tokpack.calibration import measured, on_this_machine

        training = on_this_machine(training)
    run = Run.start(_with_token_cost(config, training), workers, tell=tell)
    _check_by(run, by)
    with scratch_folder() as folder:
        store = TokenStore(folder, run.fingerprint(), lasts=False)
        run, corpus = pipeline.decided(run, store, money)
        part = pipeline.plan_part(run, corpus)
        if calibrate and training is not None and part.plan.rows and not run.kind:
            documents = documents_of(run, corpus, part)
            with run.tell.doing("training a few rows for their speed", unit="tokens") as advance:
                training = measured(training, documents, corpus, part, advance)
        with run.tell.doing("counting and billing"):
            figures = make_report(run, corpus, part, planned=training)
        near, cost = near_duplicate_figures(run, corpus), figures.cost
        if cost:
            cost = advise_near_duplicates(cost, near, figures.ledger.tokens.packed)
        kept = kept_figures(run, corpus, part.pieces)
        by_column = None if by is None else by_column_figures(run, corpus, part.pieces, by)
        names = [source.name for source in run.sources]
        with run.tell.doing("vocabulary and languages"):
            vocabulary = vocabulary_figures(run.tokenizer, corpus, names)
            languages = language_figures(run.tokenizer, corpus, config.seed)
        run.tokenizer.settle()
    found = replace(figures, near_dup=near, cost=cost, kept=kept, by=by_column)
    found = replace(found, vocabulary=vocabulary, languages=languages)
    return Report(found, model_place(config.cost.model) if training is not None else "")


def _shared(
    run: Run, store: TokenStore, bucket: BucketStore | None, engine: Engine, address: str | None
) -> TokenStore:
    """The store with what other machines make, or made: they fill it, or the bucket."""
    if engine == "ray":
        cluster.fill(run, bucket or store, address)
        store = TokenStore(store.folder, run.fingerprint())
    if bucket is not None:
        BucketStore(bucket.url, run.fingerprint()).fetch(store, run.tell)
    return store


def _check_by(run: Run, by: str | None) -> None:
    if by is not None:
        refuse_pipes(run, "--by")
        check_column(run, by)


def open_packed(folder: str | os.PathLike[str]) -> PackedFolder:
    """Open a finished packed dataset: its folder, or a URL (`hf://datasets/USER/NAME`, `s3://...`).

    What lies behind a URL is fetched into the cache once, every sum compared. Raises UsageError for anything
    else.
    """
    return PackedFolder(local_folder(folder))


def _write_validation(run: Run, corpus: Corpus, out: Path, batches: Callable[[int], FlatBatch]) -> None:
    """The conversations that are held out, where some are."""
    if run.config.write.val:
        held = pipeline.plan_part(run, corpus, validation=True)
        inside = out / schema.VALIDATION
        record = pass_two.write_packed(run, corpus, held, inside, batches, validation=True)
        output.finish(inside, record)


def _with_token_cost(config: Config, training: Training | None) -> Config:
    """The model's own balance of weights and attention becomes part of the plan: it decides the order."""
    plan = config.plan
    if training is None or not plan.world_size or plan.token_cost:
        return config
    capacity = config.truncate.max_length
    checkpointing = training.checkpointing(capacity)
    cost = token_cost(training.shape, capacity, method=training.method, checkpointing=checkpointing)
    return replace(config, plan=replace(plan, token_cost=cost))
