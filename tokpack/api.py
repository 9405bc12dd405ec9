"""`tokpack.analyze`, `tokpack.pack`, `tokpack.open_packed`: the commands, from Python."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokpack import output, pipeline, schema
from tokpack.activity import Activity
from tokpack.already_there import is_already_there
from tokpack.artefact.folder import Artefact
from tokpack.config import Config
from tokpack.config_file import load_toml, merge
from tokpack.corpus import Corpus
from tokpack.cost import token_cost
from tokpack.decide import decide, near_duplicate_figures
from tokpack.errors import UsageError, near_matches, writing
from tokpack.interrupts import scratch_folder
from tokpack.money import MoneyBudget, money_budget
from tokpack.parsing import parse_budget
from tokpack.report.advice import advise_near_duplicates
from tokpack.report.figures import Report, documents_of, make_report
from tokpack.report.training import Training, load_training
from tokpack.report.vocabulary import language_figures, vocabulary_figures
from tokpack.report.words import large_losses
from tokpack.stages.write import write_json
from tokpack.store import TokenStore

log = logging.getLogger("tokpack")


def pack(
    data: str | os.PathLike[str] | list[str] | Config,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    workers: int = 0,
    work_dir: str | os.PathLike[str] | None = None,
    html: bool = False,
    tell: Activity | None = None,
    **options: Any,
) -> Artefact:
    """Turn raw data into a packed artefact in the folder `out`; the same call goes on after a crash.

    A finished artefact of the same call is left as it is. `tell=Activity()` shows on stderr what goes on.
    `options` are the flags of `tokpack pack` with underscores: `tokenizer=`, `max_length=`, `val=`, ...
    Raises a TokpackError that says what happened, where, and what to do; a DataError when no document is
    kept, with the record of why in `out`, which is no artefact then.

        >>> artefact = tokpack.pack("chats.jsonl", "packed", tokenizer="Qwen/Qwen2.5-0.5B", max_length=4096)
    """
    out = Path(out)
    config = make_config(data, options)
    training = load_training(config.cost)
    money = money_budget(config, training)
    run = pipeline.Run.start(_with_token_cost(config, training), workers, tell=tell)
    seconds: dict[str, float] = {}
    with writing(out), output.claim(out, overwrite, partial(is_already_there, run, out, html)) as there:
        if there:
            log.info("already there, unchanged: %s", out)
            return Artefact(out)
        store = TokenStore(output.work_folder(out, work_dir), run.fingerprint())
        corpus = _decided(run, store, money, seconds)
        if not corpus.kept().any():
            report = make_report(run, corpus, pipeline.plan_part(run, corpus))
            store.remove()
            raise output.leave_nothing(run, corpus, report, out)
        batches = corpus.mapped()
        if run.config.write.val:
            held = pipeline.plan_part(run, corpus, validation=True)
            inside = out / schema.VALIDATION
            output.finish(inside, output.write_artefact(run, corpus, held, inside, batches, validation=True))
        with _clock(seconds, "plan"):
            part = pipeline.plan_part(run, corpus)
        with _clock(seconds, "pass 2"):
            manifest = output.write_artefact(run, corpus, part, out, batches)
        with run.tell.doing("writing the report"):
            report = make_report(run, corpus, part, manifest["ledger"], training)
            write_json(out / schema.REPORT, report.data)
            if html:
                report.save_html(out / "report.html")
        output.finish(out, manifest)
        output.write_run(out, run, corpus.paths, seconds)
        store.remove()
        output.leave_work(out)
    for loss in large_losses(manifest["ledger"]["documents"]):
        log.warning("%s; %s names each", loss, out / schema.DROPPED)
    return Artefact(out)


def analyze(
    data: str | os.PathLike[str] | list[str] | Config,
    *,
    calibrate: bool = False,
    workers: int = 0,
    tell: Activity | None = None,
    **options: Any,
) -> Report:
    """Everything `pack` would decide, and what it would save, without writing an artefact.

    With `model=` (and `gpu=`) the report says what the training will cost, and with which settings;
    `calibrate` trains a few rows here and counts with their speed.

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
    run = pipeline.Run.start(_with_token_cost(config, training), workers, tell=tell)
    with scratch_folder() as folder:
        store = TokenStore(folder, run.fingerprint(), lasts=False)
        corpus = _decided(run, store, money, {})
        part = pipeline.plan_part(run, corpus)
        if calibrate and training is not None and part.plan.rows and not run.pairs:
            documents = documents_of(run, corpus, part)
            with run.tell.doing("training a few rows for their speed", unit="tokens") as advance:
                training = measured(training, documents, corpus, part, advance)
        with run.tell.doing("counting and billing"):
            report = make_report(run, corpus, part, planned=training)
        near = report.data["near_dup"] = near_duplicate_figures(run, corpus)
        if cost := report.data.get("cost"):
            advise_near_duplicates(cost, near, report.data["ledger"]["tokens"]["packed"])
        names = [source.name for source in run.sources]
        with run.tell.doing("vocabulary and languages"):
            report.data["vocabulary"] = vocabulary_figures(run.tokenizer, corpus, names)
            report.data["languages"] = language_figures(run.tokenizer, corpus, config.seed)
        return report


def open_packed(folder: str | os.PathLike[str]) -> Artefact:
    """Open a finished artefact. Raises UsageError for anything else."""
    return Artefact(Path(folder))


def _decided(
    run: pipeline.Run,
    store: TokenStore,
    money: MoneyBudget | None,
    seconds: dict[str, float],
) -> Corpus:
    if money is not None and run.pairs:
        raise UsageError(
            "no bill is known for preference pairs: they are trained beside a reference model",
            where=f"--budget {money.usd:g}usd",
            hint="give tokens: --budget 20M",
        )
    with _clock(seconds, "pass 1"):
        corpus = pipeline.pass_one(run, store)
    with _clock(seconds, "decide"):
        decide(run, corpus, money)
    return corpus


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _with_token_cost(config: Config, training: Training | None) -> Config:
    """The model's own balance of weights and attention becomes part of the plan: it decides the order."""
    plan = config.plan
    if training is None or not plan.world_size or plan.token_cost:
        return config
    capacity = config.truncate.max_length
    checkpointing = training.checkpointing(capacity)
    cost = token_cost(training.shape, capacity, method=training.method, checkpointing=checkpointing)
    return replace(config, plan=replace(plan, token_cost=cost))


OPTIONS: dict[str, tuple[str, str]] = {
    "tokenizer": ("tokenize", "tokenizer"),
    "max_length": ("truncate", "max_length"),
    "overlong": ("truncate", "overlong"),
    "strict": ("read", "strict"),
    "allow_bad": ("read", "allow_bad"),
    "block_mb": ("read", "block_mb"),
    "max_line": ("read", "max_line_mb"),
    "clean": ("clean", "rules"),
    "special_in_content": ("clean", "special_in_content"),
    "mask_personal": ("clean", "mask_personal"),
    "exact_key": ("dedup", "exact"),
    "near_dup": ("near_dup", "threshold"),
    "near_dup_on": ("near_dup", "on"),
    "against": ("decontaminate", "against"),
    "budget": ("select", "budget"),
    "keep": ("select", "keep"),
    "render": ("render", "mode"),
    "chat_template": ("render", "chat_template"),
    "loss": ("render", "loss"),
    "tool_arguments": ("render", "tool_arguments"),
    "template_kwargs": ("render", "template_kwargs"),
    "eos": ("render", "eos"),
    "separator": ("render", "separator"),
    "paranoid": ("render", "paranoid"),
    "planner": ("plan", "planner"),
    "max_docs_per_row": ("plan", "max_docs_per_row"),
    "world_size": ("plan", "world_size"),
    "rows_per_step": ("plan", "rows_per_step"),
    "shard_format": ("write", "shard_format"),
    "shard_mb": ("write", "shard_mb"),
    "val": ("write", "val"),
    "model": ("cost", "model"),
    "gpu": ("cost", "gpu"),
    "gpus": ("cost", "gpus"),
    "api": ("cost", "api"),
    "apis": ("cost", "apis"),
    "gpu_price": ("cost", "gpu_price"),
    "gpu_count": ("cost", "gpu_count"),
    "method": ("cost", "method"),
    "epochs": ("cost", "epochs"),
    "batch_size": ("cost", "batch_size"),
    "accumulation": ("cost", "accumulation"),
    "learning_rate": ("cost", "learning_rate"),
    "mfu": ("cost", "mfu"),
}
"""Flag (with underscores) -> section and key of the config."""


def make_config(data: str | os.PathLike[str] | list[str] | Config, options: dict[str, Any]) -> Config:
    """Flags over `config=run.toml` over defaults. Raises UsageError for an unknown option."""
    if isinstance(data, Config):
        return data
    options = dict(options)
    base = load_toml(options["config"]) if options.get("config") else {}
    options.pop("config", None)
    paths = [data] if isinstance(data, str | os.PathLike) else list(data)
    source = {"format": options.pop("format", None) or "auto", "map": options.pop("map", None) or {}}
    flags: dict[str, Any] = {"seed": options.pop("seed", None)}
    if paths:
        flags["source"] = [{"path": str(path), **source} for path in paths]
    for name, value in options.items():
        if name not in OPTIONS:
            raise UsageError(f"unknown option {name!r}", where=name, hint=near_matches(name, OPTIONS))
        section, key = OPTIONS[name]
        values = {key: value}
        if name == "budget" and value is not None:
            values = parse_budget(value) if isinstance(value, str) else {key: value, "budget_usd": 0.0}
        flags.setdefault(section, {}).update(values)
    return Config.from_dict(merge(base, flags))
