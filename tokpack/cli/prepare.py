"""`tokpack analyze`, `pack` and `clean`: the commands that read raw data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tokpack.cli.app import RAW_DATA, app
from tokpack.cli.options import (
    SHAPES,
    WRITTEN,
    Data,
    Json,
    Quiet,
    Workers,
    takes,
)
from tokpack.cli.output import activity, say, show
from tokpack.encoding.early import load_early
from tokpack.engine import default_workers, early
from tokpack.errors import UsageError, check_place, writing
from tokpack.settings.options import (
    INDEX,
    BillOptions,
    CleaningOptions,
    CleanOptions,
    FormatOptions,
    ReadOptions,
    RenderOptions,
    RowOptions,
    WriteOptions,
)
from tokpack.terminal.printable import hand_over, hand_over_json

By = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Report figures for each value of this column, such as source.",
    ),
]


@app.command(rich_help_panel=RAW_DATA)
@takes(ReadOptions, FormatOptions, CleaningOptions, RenderOptions, RowOptions, BillOptions)
def analyze(
    data: Data = None,
    *,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Train a few rows on this machine and count with its speed."),
    ] = False,
    workers: Workers = 0,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write the report as a page.", **WRITTEN),
    ] = None,
    by: By = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print all of the report, not its first screen alone.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Say what is in the data, what would be left out and why, and what packing saves. Writes no rows.

    With --model and --gpu: what the training will cost, whether it fits, and with which settings to run it.
    """
    check_place(html, "--html")
    _begin(data or [], workers, options)
    with activity(quiet, "tokpack.api") as (tell, api):
        settings: dict[str, Any] = {"calibrate": calibrate, "by": by, "workers": workers}
        settings |= as_keywords(options)
        report = api.analyze(data or [], tell=tell, **settings)
        if html:
            with tell.doing("drawing the report"), writing(html, resumes=False):
                report.save_html(html)
            tell.say(f"report: {html}")
    if json:
        hand_over_json(report.data)
    elif not quiet:
        show(report.full() if full else report)


@app.command(rich_help_panel=RAW_DATA)
@takes(ReadOptions, FormatOptions, CleaningOptions, RenderOptions, RowOptions, BillOptions, WriteOptions)
def pack(
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Folder of the packed dataset, or a URL: s3://BUCKET/FOLDER, hf://datasets/USER/NAME.",
        ),
    ],
    data: Data = None,
    *,
    report: Annotated[bool, typer.Option("--report", help="Also write OUT/report.html.")] = False,
    by: By = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what tokpack wrote into OUT.")
    ] = False,
    work_dir: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Token store, a folder or s3://BUCKET/PREFIX; OUT/.work when not given."
        ),
    ] = None,
    index_only: Annotated[
        bool,
        typer.Option("--index-only", help="Tokens once and rows as a plan; short for --shard-format index."),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(metavar="N/OF", help="Fill the token store with one part, as 3/16, and end."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="Where pass 1 and pass 2 run: here, or on a Ray cluster. Never changes the output."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="auto, or ray://HOST:10001; RAY_ADDRESS when not given.")
    ] = None,
    workers: Workers = 0,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Write the packed dataset. The same command goes on where a killed run stopped."""
    settings: dict[str, Any] = {
        "overwrite": overwrite,
        "work_dir": work_dir,
        "html": report,
        "by": by,
        "workers": workers,
    }
    if engine == "ray":
        settings |= {"engine": engine, "ray_address": ray_address}
    elif ray_address:
        raise UsageError("an address of Ray for another engine", where="--ray-address", hint="--engine ray")
    if index_only:
        if options.get("shard_format") not in (None, INDEX):
            raise UsageError(
                "--index-only is a shard format", where="--shard-format", hint="give one of the two"
            )
        options["shard_format"] = INDEX
    if part is not None:
        _pack_part(part, out, data or [], settings, json, quiet, options)
        return
    _begin(data or [], workers if engine == "local" else 1, options)
    with activity(quiet, "tokpack.api") as (tell, api):
        packed = api.pack(data or [], out, tell=tell, **settings, **as_keywords(options))
    if json:
        hand_over_json(packed.manifest)
    elif quiet:
        hand_over(out)
    else:
        show(packed)
        from tokpack.report.words import budget_words
        from tokpack.settings.plain import from_plain
        from tokpack.way.figures import MoneyFigures

        if budget := packed.report.get("budget"):
            say(budget_words(from_plain(MoneyFigures, budget, "budget")), quiet)
        say(f"packed dataset: {out}", quiet)


def _begin(data: list[str], workers: int, options: dict[str, Any]) -> None:
    """What can be done beside the imports."""
    tokenizer = options.get("tokenizer") or options.get("model") or ""
    early.start(data, workers or default_workers(), tokenizer)
    if tokenizer and not early.waiting():
        load_early(tokenizer, data)


def _pack_part(
    part: str,
    out: str,
    data: list[str],
    settings: dict[str, Any],
    json: bool,
    quiet: bool,
    options: dict[str, Any],
) -> None:
    settings.pop("ray_address", None)
    last = {"--overwrite": "overwrite", "--report": "html", "--by": "by", "--engine ray": "engine"}
    for flag, name in last.items():
        if settings.pop(name, None):
            raise UsageError(
                f"a part only fills the token store; {flag} is for the command that finishes",
                where="--part",
                hint=f"leave {flag} out here",
            )
    with activity(quiet, "tokpack.api") as (tell, api):
        done = api.pack_part(data, out, part=part, tell=tell, **settings, **as_keywords(options))
    if json:
        import json as codec

        hand_over(codec.dumps({"part": done.part, "items": done.items, "of": done.of}))
    else:
        say(str(done), quiet)


@app.command(rich_help_panel=RAW_DATA)
@takes(ReadOptions, FormatOptions, CleaningOptions, CleanOptions)
def clean(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file to write, as kept.jsonl.", **WRITTEN)],
    data: Data = None,
    to: Annotated[
        str,
        typer.Option(help="Shape to write: openai, sharegpt, alpaca, prompt_completion or text.", **SHAPES),
    ] = "openai",
    *,
    api_price: Annotated[float | None, typer.Option(help="Dollars per million training tokens.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    workers: Workers = 0,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Write what pack would keep as text, for services and trainers that tokenize themselves.

    Beside kept.jsonl come kept.dropped.parquet and kept.report.json.
    """
    options |= {"to": to, "api_price": api_price}
    settings: dict[str, Any] = {"overwrite": overwrite, "workers": workers}
    with activity(quiet, "tokpack.text.cleaning") as (tell, cleaning):
        report = cleaning.clean(data or [], out, tell=tell, **settings, **as_keywords(options))
    if json:
        hand_over_json(report.data)
    elif quiet:
        hand_over(out)
    else:
        show(report)
        say(f"rows: {out}", quiet)


def as_keywords(given: dict[str, Any]) -> dict[str, Any]:
    """Flags as keyword options of the Python API; flags that were not given are None."""
    from tokpack.settings.parsing import parse_map, parse_numbers, parse_template_kwargs

    options = {name: None if value is False else value for name, value in given.items()}
    options["map"] = parse_map(options["map"]) if options["map"] else None
    given_kwargs = options.pop("template_kwarg", None)
    options["template_kwargs"] = parse_template_kwargs(given_kwargs) if given_kwargs else None
    mfu = options.get("mfu")
    options["mfu"] = parse_numbers(mfu, "--mfu") if mfu else None
    options["eos"] = False if options.pop("no_eos", None) else None
    return options
