"""`tokpack.clean`: the documents that `pack` would keep, as text, for trainers that tokenize themselves.

    pass 1, decide   as for a packed dataset: see `tokpack/pipeline.py`; the token store is temporary
    pass 2           the inputs once more, block by block: normalize -> kept? -> transforms -> JSON lines

No text is held between the passes; rows stand in input order. The bill is that of services which count
tokens.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tokpack.arrays import Int32, Int64
from tokpack.cost import ApiPrice, api_cost, find_api, load_apis
from tokpack.cost.money_budget import MoneyBudget, service_budget
from tokpack.engine.local import ordered_map
from tokpack.errors import DataError, UsageError, writing
from tokpack.files.durable import sync_file, sync_folder
from tokpack.files.locks import beside, only_writer
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.ledger import Ledger, TokenSums
from tokpack.on_disk.reasons import NOT_IN_FORMAT
from tokpack.pipeline import decided
from tokpack.report.clean_figures import CleanBill, CleanFigures, CleanInput, Price
from tokpack.report.figures import drop_figures, length_figures
from tokpack.report.nothing_kept import nothing_kept
from tokpack.run import MB, Run
from tokpack.settings.config import Config
from tokpack.settings.options import CleanOptions, make_config, with_options
from tokpack.settings.plain import to_plain
from tokpack.stages.clean import clean as clean_documents
from tokpack.stages.keep import kept_after_all
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.read.memory import Data, takes_rows
from tokpack.stages.read.sources import open_sources
from tokpack.stages.repeat import times_of
from tokpack.stages.write import write_json
from tokpack.terminal.activity import Activity, counted, default_activity
from tokpack.terminal.interrupts import scratch_folder
from tokpack.text.formats import TextFormat, text_format, write_rows
from tokpack.text.learned_tokenizer import NAME, learn_tokenizer
from tokpack.version import __version__
from tokpack.way.corpus import Corpus
from tokpack.way.documents import normalize_blocks
from tokpack.way.pass_one import Work, cut_input, dealt, readings
from tokpack.way.pass_two import write_dropped
from tokpack.way.store import TokenStore

NO_LIMIT = (1 << 31) - 1
OPENAI = "OpenAI"


@dataclass(frozen=True)
class CleanReport:
    """What was kept and left out, and what training on it costs. Prints as tables."""

    figures: CleanFigures
    path: Path

    @property
    def data(self) -> dict[str, Any]:
        """Plain data, as in `kept.report.json`."""
        data: dict[str, Any] = to_plain(self.figures)
        return data

    def __rich__(self) -> Any:
        from tokpack.report.clean_terminal import clean_view

        return clean_view(self.figures)

    def _repr_html_(self) -> str:
        from tokpack.report.terminal import to_html

        return to_html(self)

    def __repr__(self) -> str:
        documents = self.figures.ledger.documents
        return f"CleanReport({str(self.path)!r}: {documents.kept:,} of {counted(documents.read, 'document')})"


@with_options(CleanOptions)
@takes_rows
def clean(
    data: Data,
    out: str | os.PathLike[str],
    *,
    to: str = "openai",
    api_price: float | None = None,
    overwrite: bool = False,
    workers: int = 0,
    tell: Activity | None = None,
    **options: Unpack[CleanOptions],
) -> CleanReport:
    """Write the kept documents of `data` into the JSONL file `out`, one row each, in the shape `to`.

    Beside it, for `kept.jsonl`: `kept.dropped.parquet`, `kept.report.json`, and `kept.quarantine.jsonl` where
    a row could not be read. Without `tokenizer=` one is learned from the data, and token counts are
    estimates. `max_length=` drops longer documents.
    Raises DataError when no document is kept: then there is no `out`, but what is beside it.

        >>> tokpack.clean("chats.jsonl", "kept.jsonl", near_dup=0.8, api="openai-gpt-4o-mini")
    """
    out, shape = Path(out), text_format(to)
    config = make_config(data, options)
    limit = config.truncate.max_length if options.get("max_length") else NO_LIMIT
    config = replace(config, truncate=replace(config.truncate, max_length=limit, overlong="drop"))
    prices = find_prices(config, to, api_price)
    money = _money(config, prices)
    part = beside(out, "part")
    with (
        writing(out, resumes=False),
        only_writer(out),
        scratch_folder() as folder,
    ):
        _check_files(out, overwrite)
        try:
            _begin(part)  # a folder without rights is told before the work
            run = _start(config, workers, folder, tell or default_activity())
            _check_inputs(run, out)
            store = TokenStore(folder / "store", run.fingerprint(), lasts=False)
            run, corpus = decided(run, store, money)
            _write(run, corpus, shape, part)
            report = CleanReport(_figures(run, corpus, to, prices), out)
            _publish(run, corpus, report, part, out)
            if not corpus.kept().any():
                raise _nothing_kept(run, report)
        finally:
            part.unlink(missing_ok=True)
    return report


def find_prices(config: Config, to: str, api_price: float | None) -> list[ApiPrice]:
    """Prices to bill by: the one given, the service asked for, or those of OpenAI for its shape."""
    if api_price is not None:
        if config.cost.api or api_price < 0:
            what = "both a price and a service" if config.cost.api else f"a price cannot be {api_price}"
            raise UsageError(what, where="--api-price", hint="give dollars per million tokens, or --api")
        return [ApiPrice(key="given", usd_per_million=api_price, model="the price given")]
    apis = load_apis(config.cost.apis or None)
    if config.cost.api:
        return [find_api(config.cost.api, apis)]
    return [price for price in apis.values() if to == "openai" and price.provider == OPENAI]


def _money(config: Config, prices: list[ApiPrice]) -> MoneyBudget | None:
    usd = config.select.budget_usd
    if usd and len(prices) != 1:
        raise UsageError(
            "a budget in money needs one price to bill by",
            where=f"--budget {usd:g}usd",
            hint="add --api NAME, or --api-price in dollars per million tokens",
        )
    return service_budget(usd, prices[0], config.cost.epochs) if usd else None


def companions(out: Path) -> dict[str, Path]:
    """What is written beside `kept.jsonl`."""
    stem = out.name.removesuffix(".jsonl")
    names = {"dropped": "dropped.parquet", "report": "report.json", "quarantine": "quarantine.jsonl"}
    return {key: out.with_name(f"{stem}.{name}") for key, name in names.items()}


def _check_files(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise UsageError("the output is a folder", where=str(out), hint="give -o a file, as kept.jsonl")
    there = [path for path in (out, *companions(out).values()) if path.exists()]
    if not out.exists():  # then a run wrote what is beside it that kept nothing, or was killed at its end
        overwrite = overwrite or beside(out, "part").exists() or not _kept_some(companions(out)["report"])
    if there and not overwrite:
        raise UsageError(
            "the file exists already", where=str(there[0]), hint="give --overwrite, or another -o"
        )
    out.parent.mkdir(parents=True, exist_ok=True)


def _check_inputs(run: Run, out: Path) -> None:
    """The user's data is not replaced by what is kept of it."""
    written = [path for path in (out, *companions(out).values()) if path.exists()]
    for source in run.sources:
        if any(Path(source.path).exists() and path.samefile(source.path) for path in written):
            raise UsageError(
                "the output is one of the inputs", where=source.path, hint="give -o a name of its own"
            )


def _begin(part: Path) -> None:
    """An empty scratch file; one that a run left, or a link that was planted, is taken away, not followed."""
    part.unlink(missing_ok=True)
    part.open("x").close()


def _kept_some(report: Path) -> bool:
    """Unless it is the report of a run that kept nothing, and left no rows."""
    try:
        data = json.loads(report.read_text(encoding="utf-8"))
        return bool(data["ledger"]["documents"]["kept"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _start(config: Config, workers: int, folder: Path, tell: Activity) -> Run:
    sources = open_sources(config.source, config.read.max_line_mb << 20)
    for source in sources:
        if source.path == "-":
            raise UsageError(
                "the input is read twice, and standard input cannot be",
                where="-",
                hint="save it to a file first",
            )
    shapes = [detect_shape(source) for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if shape.format == TOKENS or shape.documents_per_row > 1:
            what = "rows that are tokenized already" if shape.format == TOKENS else "preference pairs"
            raise UsageError(
                f"{what} cannot be written as text",
                where=source.path,
                hint="`tokpack pack` takes them",
            )
    learned = None
    if not config.tokenize.tokenizer:
        if config.render.chat_template:
            raise UsageError(
                "a chat template without a tokenizer",
                where="--chat-template",
                hint="add --tokenizer, the folder or Hub name of your model",
            )
        with tell.doing("learning a tokenizer from the data"):
            learned = learn_tokenizer(sources, shapes, folder / "tokenizer")
    return Run.start(config, workers, learned, tell)


# Pass 2


def _write(run: Run, corpus: Corpus, shape: TextFormat, path: Path) -> None:
    """All kept rows, in input order; documents that the shape cannot hold are marked."""
    kept = corpus.docs.filter(corpus.docs["drop_reason"].is_null())
    rows = partial(_rows, run, corpus, shape, kept["doc_id"].to_numpy(), times_of(kept))
    lost: list[Int64] = [np.empty(0, np.int64)]
    items = cut_input(run)
    doing = run.tell.doing("reading again and writing", run.input_bytes, "MB", MB)
    with path.open("wb") as file, doing as advance:
        for written in ordered_map(rows, dealt(run, items, range(len(items))), run.workers):
            for lines, not_held, read in written:
                file.write(lines)
                lost.append(not_held)
                advance(read)
    positions = np.searchsorted(corpus.docs["doc_id"].to_numpy(), np.concatenate(lost))
    corpus.drop(positions, NOT_IN_FORMAT)


def _rows(
    run: Run,
    corpus: Corpus,
    shape: TextFormat,
    kept: Int64,
    times: Int32,
    work: Work,
) -> list[tuple[bytes, Int64, int]]:
    """Of each batch: lines of its kept documents, doc_ids of those that the shape cannot hold, and bytes of
    input. A document of a source that repeats is written `times` in a row.

    Raises DataError for input that is not what pass 1 read.
    """
    transforms, made = replace(run.config.clean, rules="off"), []
    for number, reading, _ in readings(run, work):
        place = corpus.place_of((work.item.index, number), reading.digest())
        if place is None:
            raise DataError(
                "the input changed while it was read",
                where=", ".join(run.sources[extent.source].path for extent in work.item.extents[:3]),
                hint="repeat the command when nothing writes to it",
            )
        documents = normalize_blocks(run.sources, run.shapes, run.alike, reading.blocks).documents
        doc_ids = documents["doc_id"].to_numpy() + place
        at = np.searchsorted(kept, doc_ids)
        here = np.flatnonzero(np.append(kept, -1)[at] == doc_ids)
        chosen = np.repeat(here, times[at[here]])
        lines, lost = b"", np.empty(0, bool)
        if len(chosen):
            documents = clean_documents(documents[chosen], transforms, run.special).documents
            lines, lost = write_rows(documents, shape)
        made.append((lines, np.unique(doc_ids[chosen][lost]), reading.input_bytes))
    return made


# Figures


def _figures(run: Run, corpus: Corpus, to: str, prices: list[ApiPrice]) -> CleanFigures:
    docs = corpus.docs
    kept = docs["drop_reason"].is_null()
    document = corpus.pieces["document"].to_numpy()
    times = np.where(kept.to_numpy(), times_of(docs), 0).astype(np.int64)
    trained = (corpus.pieces["trained"].to_numpy() * times[document]).sum()
    tokens = int((docs["tokens"].to_numpy() * times).sum())
    names = [source.name for source in run.sources]
    packed = {"tokens": tokens, "trained": int(trained)}
    after_all = kept_after_all(docs, corpus.spared)
    quarantined = corpus.quarantined_by_source()
    ledger = Ledger.read(ledgers.build(docs, names, quarantined, packed, after_all))
    return CleanFigures(
        tokpack_version=__version__,
        tokenizer=run.tokenizer.name,
        estimated=run.tokenizer.name == NAME,
        to=to,
        inputs=[
            CleanInput(
                name=source.name,
                size_bytes=source.size_bytes,
                format=shape.format,
                sha256=corpus.sha256.get(number),
            )
            for number, (source, shape) in enumerate(zip(run.sources, run.shapes, strict=True))
        ],
        ledger=ledger,
        lengths=length_figures(docs.filter(kept)["tokens"].to_numpy(), run.config.truncate.max_length),
        drops=drop_figures(ledger, corpus.examples),
        counters=corpus.counters,
        bill=_bill(ledger.tokens, run.config.cost.epochs, prices),
        budget=corpus.money,
    )


def _bill(tokens: TokenSums, epochs: float, prices: list[ApiPrice]) -> CleanBill:
    """Services bill tokens x epochs, whatever the batches."""
    services = [
        Price(
            key=price.key,
            provider=price.provider,
            model=price.model,
            usd_per_million=price.usd_per_million,
            as_it_came=api_cost(tokens.tokenized, epochs, price),
            kept=api_cost(tokens.packed, epochs, price),
        )
        for price in prices
    ]
    return CleanBill(epochs=epochs, services=services)


def _nothing_kept(run: Run, report: CleanReport) -> DataError:
    files, documents = companions(report.path), report.figures.ledger.documents
    return nothing_kept(documents, run.config.clean, files["dropped"], files["quarantine"])


def _publish(run: Run, corpus: Corpus, report: CleanReport, part: Path, out: Path) -> None:
    """Each file whole, the rows last: they are there when everything is, and not when there are none."""
    beside_out = companions(out)
    scratch = {key: beside(path, "part") for key, path in beside_out.items()}
    try:
        for path in scratch.values():
            _begin(path)
        write_dropped(
            scratch["dropped"], corpus.docs, corpus.details, [source.name for source in run.sources]
        )
        write_json(scratch["report"], report.data)
        if corpus.quarantined:
            lines = "".join(line + "\n" for line in corpus.quarantined)
            scratch["quarantine"].write_text(lines, encoding="utf-8")
        else:
            scratch["quarantine"].unlink()
            beside_out["quarantine"].unlink(missing_ok=True)
        for key, path in scratch.items():
            if path.exists():
                sync_file(path)
                path.replace(beside_out[key])
        sync_file(part)
        if corpus.kept().any():
            part.replace(out)
        else:
            out.unlink(missing_ok=True)
        sync_folder(out.parent)
    finally:
        for path in scratch.values():
            path.unlink(missing_ok=True)
