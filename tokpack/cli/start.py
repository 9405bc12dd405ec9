"""`tokpack init`, `doctor` and `gpus`: what one asks before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokpack.cli.app import START, app
from tokpack.cli.options import FORMATS, GPUS, WRITTEN, Json, NoProgress, Quiet
from tokpack.cli.output import activity, say, show
from tokpack.terminal.printable import hand_over, hand_over_json


@app.command(rich_help_panel=START)
def init(
    data: Annotated[list[str], typer.Argument(help="Files, globs, folders or URLs.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model to train: its folder or Hub name.")],
    gpu: Annotated[
        str, typer.Option(help="GPU to train on, such as a10; `tokpack gpus` lists them.", **GPUS)
    ] = "",
    format: Annotated[
        str | None, typer.Option(help="Shape of the rows (default: recognized).", **FORMATS)
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Columns, with a comma between them, as prompt=question.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Recipe to write.", **WRITTEN)] = Path("run.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented run.toml after a look at the data: row length, template, method for the card.

    It runs as it is: `tokpack pack --config run.toml -o packed`.
    """
    from tokpack.errors import check_new
    from tokpack.settings.parsing import parse_map

    columns = parse_map(map) if map else None
    check_new(out, overwrite)
    with activity(quiet, "tokpack.starting") as (tell, starting):
        text = starting.first_recipe(data, model, out, gpu=gpu, format=format, map=columns, tell=tell)
        starting.write_recipe(text, out, overwrite)
    hand_over(out)
    say(f"next: tokpack analyze --config {out}", quiet)


@app.command(rich_help_panel=START)
def doctor(json: Json = False, quiet: NoProgress = False) -> None:
    """Look at this machine: versions, devices, speed of bf16, memory, disk, caches; and what to change."""
    with activity(quiet, "tokpack.doctor") as (tell, doctors):
        found = doctors.examine(tell)
    if json:
        hand_over_json([finding.to_dict() for finding in found.findings], ensure_ascii=True)
    else:
        show(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command(rich_help_panel=START)
def gpus(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words of the name, as rtx 4090; all when not given.")
    ] = None,
    min_memory: Annotated[float, typer.Option(help="Least memory, in GB.")] = 0.0,
    max_price: Annotated[float | None, typer.Option(help="Highest price, in dollars per hour.")] = None,
    file: Annotated[
        Path | None, typer.Option("--gpus", help="TOML file with GPUs and prices of your own.")
    ] = None,
    json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """List the GPUs that --gpu knows: memory, peak, power, price and where the price is from."""
    with activity(quiet, "tokpack.cost.gpu_table") as (_, table):
        from tokpack.cost.gpus import load_gpus

        found = table.chosen(load_gpus(file), words or [], min_memory, max_price)
    if json:
        import dataclasses

        hand_over_json([dataclasses.asdict(gpu) for gpu in found], ensure_ascii=True, default=str)
    else:
        show(table.gpu_table(found))
