"""The command line. Heavy imports happen inside the commands: `tokpack --help` stays light.

Results go to stdout; progress, warnings and errors to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tokpack import interrupts
from tokpack.cli_options import (
    ApiFile,
    Data,
    Epochs,
    InputFormat,
    Json,
    MaxDocs,
    NoCheck,
    Out,
    Planner,
    Quiet,
    RowsPerStep,
    ShardFormat,
    Workers,
    WorldSize,
    bill_options,
    content_options,
    row_options,
    takes,
)
from tokpack.errors import InternalError, OutputError, TokpackError
from tokpack.printable import printable

app = typer.Typer(
    name="tokpack",
    help="Turn raw fine-tuning data into packed token shards, accounted for to the last token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
@takes(content_options, row_options, bill_options)
def analyze(
    data: Data = None,
    *,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Train a few rows on this machine and count with its speed."),
    ] = False,
    workers: Workers = 0,
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Say what is in the data, what would be left out and why, and what packing saves. Writes no artefact.

    With --model and --gpu: what the training will cost, whether it fits, and with which settings to run it.
    """
    from tokpack.api import analyze as run

    settings: dict[str, Any] = {"calibrate": calibrate, "workers": workers, **_options(options)}
    with _progress(quiet) as progress:
        report = run(data or [], progress=progress, **settings)
    if html:
        from tokpack.errors import writing

        with writing(html, resumes=False):
            report.save_html(html)
        _say(f"report: {html}", quiet)
    if json:
        import json as codec

        typer.echo(codec.dumps(report.data, ensure_ascii=False, indent=2))
    elif not quiet:
        _print(report)


@app.command()
@takes(content_options, row_options, bill_options)
def pack(
    out: Out,
    data: Data = None,
    *,
    shard_format: ShardFormat = None,
    shard_mb: Annotated[int | None, typer.Option(help="Size of a shard in MB (default 512).")] = None,
    report: Annotated[bool, typer.Option("--report", help="Also write OUT/report.html.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what tokpack wrote into OUT.")
    ] = False,
    work_dir: Annotated[Path | None, typer.Option(help="Token store; OUT/.work when not given.")] = None,
    workers: Workers = 0,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Write the packed artefact. The same command goes on where a killed run stopped."""
    from tokpack.api import pack as run
    from tokpack.report.words import budget_words

    settings: dict[str, Any] = {
        "overwrite": overwrite,
        "work_dir": work_dir,
        "html": report,
        "workers": workers,
    }
    options |= {"shard_format": shard_format, "shard_mb": shard_mb}
    with _progress(quiet) as progress:
        artefact = run(data or [], out, progress=progress, **settings, **_options(options))
    if json:
        import json as codec

        typer.echo(codec.dumps(artefact.manifest, ensure_ascii=False, indent=2))
    elif quiet:
        typer.echo(out)
    else:
        _print(artefact)
        if budget := artefact.report.get("budget"):
            _say(budget_words(budget), quiet)
        _say(f"artefact: {out}", quiet)


@app.command()
@takes(content_options)
def clean(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file to write, as kept.jsonl.")],
    data: Data = None,
    format: Annotated[
        str, typer.Option(help="Shape to write: openai, sharegpt, alpaca, prompt_completion or text.")
    ] = "openai",
    input_format: InputFormat = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", "-t", help="To count with; when not given, one is learned from the data."
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Drop documents of more tokens (default: none).")
    ] = None,
    *,
    api: Annotated[
        str | None, typer.Option("--api", help="Service to bill by, such as openai-gpt-4o.")
    ] = None,
    apis: ApiFile = None,
    api_price: Annotated[float | None, typer.Option(help="Dollars per million training tokens.")] = None,
    epochs: Epochs = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    workers: Workers = 0,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Write what pack would keep as text, for services and trainers that tokenise themselves.

    Beside kept.jsonl come kept.dropped.parquet and kept.report.json.
    """
    from tokpack.cleaning import clean as run

    options |= {"format": format, "input_format": input_format, "tokenizer": tokenizer}
    options |= {"max_length": max_length, "api": api, "apis": apis, "api_price": api_price, "epochs": epochs}
    settings: dict[str, Any] = {"overwrite": overwrite, "workers": workers, **_options(options)}
    with _progress(quiet) as progress:
        report = run(data or [], out, progress=progress, **settings)
    if json:
        import json as codec

        typer.echo(codec.dumps(report.data, ensure_ascii=False, indent=2))
    elif quiet:
        typer.echo(out)
    else:
        _print(report)
        _say(f"rows: {out}", quiet)


@app.command()
def verify(
    artefact: Annotated[Path, typer.Argument(help="Folder that `tokpack pack -o` wrote.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also prove isolation on this model.")
    ] = None,
    attn: Annotated[str | None, typer.Option(help="Only this attention backend.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps; the model's own choice when not given.")
    ] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Prove an artefact: bytes, rows, documents, ledger; with --model that no document sees another."""
    from tokpack.activity import Activity
    from tokpack.artefact.verification import verify as run

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # two bars at once would write into each other
    with Activity(quiet=quiet) as tell:
        result = run(artefact, model, attn=attn, device=device, tell=tell)
    if json:
        import dataclasses
        import json as codec

        checks = [dataclasses.asdict(check) | {"ok": check.ok} for check in result.checks]
        found = {"ok": result.ok, "checks": checks}
        if result.model is not None:
            found["isolation"] = result.model.to_dict()
        typer.echo(codec.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A report.json, or the folder of an artefact.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Put two reports side by side: documents, tokens, reasons, rows, cost."""
    from tokpack.report.compare import compare as run

    result = run(a, b)
    if json:
        import json as codec

        typer.echo(codec.dumps(result.data, ensure_ascii=False, indent=2))
    else:
        _print(result)


@app.command()
def inspect(
    artefact: Annotated[Path, typer.Argument(help="Folder that `tokpack pack -o` wrote.")],
    row: Annotated[int | None, typer.Option(help="Row to show (default 0).")] = None,
    doc: Annotated[int | None, typer.Option(help="Show the row that holds this document.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Show the first row with a document of this input.")
    ] = None,
    longest: Annotated[bool, typer.Option("--longest", help="Show the row of the longest document.")] = False,
    worst_fill: Annotated[
        bool, typer.Option("--worst-fill", help="Show the row with the fewest tokens.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Tokens shown of each document; 0: all.")] = 400,
) -> None:
    """Show a packed row: document boundaries, trained tokens in green, masked ones dim."""
    from tokpack.artefact.folder import Artefact
    from tokpack.artefact.viewer import choose_row, row_view

    opened = Artefact(artefact)
    chosen = choose_row(opened, row, doc, source=source, longest=longest, worst_fill=worst_fill)
    _print(row_view(opened, chosen, max_tokens))


@app.command()
def export(
    artefact: Annotated[Path, typer.Argument(help="Folder that `tokpack pack -o` wrote.")],
    to: Annotated[
        str,
        typer.Option(help="trl, axolotl, llamafactory, megatron-bridge, megatron, or module:function."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the export.")],
    no_check: NoCheck = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in this folder.")
    ] = False,
) -> None:
    """Write an artefact in another trainer's layout, with its settings and a check that they take effect."""
    from tokpack.export import export as run

    typer.echo(run(artefact, to, out, overwrite=overwrite, check=not no_check))
    _say("how to check and start it: README.md in that folder", quiet=False)


@app.command()
def merge(
    artefacts: Annotated[list[Path], typer.Argument(help="Folders that `tokpack pack -o` wrote.")],
    out: Out,
    seed: Annotated[int, typer.Option(help="Of the new order of all rows.")] = 0,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="One artefact after another, rows as they are.")
    ] = False,
    no_check: NoCheck = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artefact in OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Join artefacts of one tokenizer, chat template, loss and capacity; nothing is tokenised again."""
    from tokpack.artefact.merging import merge as run

    merged = run(artefacts, out, seed=seed, keep_order=keep_order, overwrite=overwrite, check=not no_check)
    _written(merged, out, quiet)
    _say("note: duplicates across the artefacts are not looked for", quiet)


@app.command()
def repack(
    artefact: Annotated[Path, typer.Argument(help="Folder that `tokpack pack -o` wrote.")],
    out: Out,
    max_length: Annotated[
        int | None, typer.Option(help="New capacity of a row in tokens; as packed when not given.")
    ] = None,
    planner: Planner = None,
    max_docs_per_row: MaxDocs = None,
    world_size: WorldSize = None,
    rows_per_step: RowsPerStep = None,
    shard_format: ShardFormat = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows; as packed when not given.")] = None,
    no_check: NoCheck = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artefact in OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Plan an artefact anew for another capacity or planner; nothing is tokenised again."""
    from tokpack.artefact.repacking import lost_to_length
    from tokpack.artefact.repacking import repack as run

    settings: dict[str, Any] = {"max_length": max_length, "planner": planner, "seed": seed}
    settings |= {"world_size": world_size, "rows_per_step": rows_per_step, "shard_format": shard_format}
    repacked = run(
        artefact, out, max_docs_per_row=max_docs_per_row, overwrite=overwrite, check=not no_check, **settings
    )
    _written(repacked, out, quiet)
    if lost := lost_to_length(repacked):
        _say(f"note: {lost}", quiet)


def _written(artefact: Any, out: Path, quiet: bool) -> None:
    """A new artefact: its panel and its place, or the place alone."""
    if quiet:
        typer.echo(out)
    else:
        _print(artefact)
        _say(f"artefact: {out}", quiet)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Flags as keyword options of the Python API; flags that were not given are None."""
    from tokpack.config import parse_map, parse_numbers, parse_template_kwargs

    options = dict(given)
    options["map"] = parse_map(options["map"]) if options["map"] else None
    given_kwargs = options.pop("template_kwarg", None)
    options["template_kwargs"] = parse_template_kwargs(given_kwargs) if given_kwargs else None
    options["mfu"] = parse_numbers(options["mfu"], "--mfu") if options.get("mfu") else None
    for flag in ("gpus", "apis"):
        options[flag] = str(options[flag]) if options.get(flag) else None
    options["eos"] = False if options.pop("no_eos", False) else None
    for flag in ("strict", "paranoid", "mask_personal"):
        options[flag] = options.get(flag) or None
    return options


def _print(renderable: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140, no_color=True)  # piped: plain text, no line broken to fit a screen
    console.print(renderable)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(text, err=True)


UNITS = {
    "pass 1": (1e6, "MB read"),
    "pass 2": (1e6, "M tokens written"),
    "calibrate": (1, "tokens trained"),
}
"""Stage -> what one unit of its progress is."""


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A bar for each pass on stderr, only where a person looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    _Stderr.quiet = quiet
    if quiet or not console.is_terminal:
        yield lambda stage, amount: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, amount: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.update(earlier, total=bars.tasks[earlier].completed)
                tasks[stage] = bars.add_task(stage, total=None, shown="")
            bars.advance(tasks[stage], amount)
            size, unit = UNITS[stage]
            done = bars.tasks[tasks[stage]].completed / size
            digits = 1 if size > 1 and done < 10 else 0
            bars.update(tasks[stage], shown=f"{done:,.{digits}f} {unit}")

        yield advance
        for task in tasks.values():
            bars.update(task, total=bars.tasks[task].completed)


def main() -> NoReturn:
    """Entry point: errors as three lines on stderr, each kind with its exit code."""
    # Several blocks are in work at once: threads inside each would be in one another's way.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    interrupts.watch(next((name for name in sys.argv[1:] if not name.startswith("-")), ""))
    _mount_plugins()
    logging.basicConfig(level=logging.WARNING, handlers=[_Stderr()])
    logging.getLogger("tokpack").setLevel(logging.INFO)
    try:
        code = app(standalone_mode=False)
        if code == interrupts.EXIT_CODE:  # typer takes the exception and returns this
            interrupts.leave()
    except TokpackError as error:
        _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        interrupts.leave()
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        where = str(error.filename) if error.filename else None
        _fail(OutputError(f"cannot open or write: {what}", where=where, hint="check the path and its rights"))
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            _usage(error)
        import traceback

        typer.echo(printable(traceback.format_exc()), err=True)
        _fail(
            InternalError(
                f"{type(error).__name__}: {error}", hint="a bug in tokpack: please report the lines above"
            )
        )
    sys.exit(code if isinstance(code, int) else 0)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is now: a progress bar puts itself there, and keeps lines above it.

    What is no warning is a note, and not said with --quiet."""

    quiet = False

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        return f"{kind}: {printable(record.getMessage())}"

    def emit(self, record: logging.LogRecord) -> None:
        if _Stderr.quiet and record.levelno < logging.WARNING:
            return
        self.stream = sys.stderr
        super().emit(record)


def _usage(error: Any) -> NoReturn:
    """`error` comes from typer; where there was no argument at all, it has just printed the help."""
    if message := error.format_message():
        command = f"tokpack {error.ctx.info_name}" if error.ctx and error.ctx.parent else "tokpack"
        typer.echo(f"error: {printable(message)}\n  hint: {command} --help", err=True)
    sys.exit(2)


def _fail(error: TokpackError) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def _mount_plugins() -> None:
    """Commands of installed plug-ins (`tokpack train`), found by entry point."""
    for entry in sorted(entry_points(group="tokpack.commands"), key=lambda e: e.name):
        try:
            app.registered_commands += entry.load().registered_commands
        except ImportError as error:
            typer.echo(f"warning: the plug-in {entry.name!r} does not load: {error}", err=True)
