"""The commands that read packed datasets: `verify`, `compare`, `inspect`, `export`, `merge`, `repack`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tokpack.cli.app import PACKED, app
from tokpack.cli.options import (
    EXPORTS,
    PACKED_HELP,
    WRITTEN,
    Json,
    MaxDocs,
    MixPerStep,
    NoCheck,
    NoProgress,
    Out,
    Packed,
    Parts,
    Planner,
    Quiet,
    RowsPerStep,
    ShardFormat,
    WorldSize,
    length,
    packed_folder,
)
from tokpack.cli.output import activity, say, show
from tokpack.settings.parsing import parse_repeats
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import hand_over, hand_over_json


@app.command(rich_help_panel=PACKED)
def verify(
    packed: Packed,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also prove isolation on this model.")
    ] = None,
    attn: Annotated[str | None, typer.Option(help="Only this attention backend.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps; the model's own choice when not given.")
    ] = None,
    json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Prove a packed dataset: bytes, rows, documents, ledger; with --model that no document sees another."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # two bars at once would write into each other
    with activity(quiet, "tokpack.packed.verification") as (tell, verification):
        result = verification.verify(packed, model, attn=attn, device=device, tell=tell)
    if json:
        import dataclasses

        checks = [dataclasses.asdict(check) | {"ok": check.ok} for check in result.checks]
        found = {"ok": result.ok, "checks": checks}
        if result.model is not None:
            found["isolation"] = result.model.to_dict()
        hand_over_json(found)
    else:
        show(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command(rich_help_panel=PACKED)
def compare(
    a: Annotated[
        Path,
        typer.Argument(
            help="A report.json, or a packed dataset: folder or URL.", parser=packed_folder, metavar="A"
        ),
    ],
    b: Annotated[Path, typer.Argument(help="Another one.", parser=packed_folder, metavar="B")],
    json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Put two reports side by side: documents, tokens, reasons, rows, cost."""
    with activity(quiet, "tokpack.report.compare") as (_, reports):
        result = reports.compare(a, b)
    if json:
        hand_over_json(result.data)
    else:
        show(result)


@app.command(rich_help_panel=PACKED)
def inspect(
    packed: Packed,
    row: Annotated[int | None, typer.Option(help="Row to show (default 0).")] = None,
    doc: Annotated[
        int | None, typer.Option(help="Show the row that holds this document, or why it was left out.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Show the first row with a document of this input.")
    ] = None,
    longest: Annotated[bool, typer.Option("--longest", help="Show the row of the longest document.")] = False,
    worst_fill: Annotated[
        bool, typer.Option("--worst-fill", help="Show the row with the fewest tokens.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Tokens shown of each document; 0: all.")] = 400,
    quiet: NoProgress = False,
) -> None:
    """Show a packed row: document boundaries, trained tokens in green, masked ones dim; or what was left out.

    Without color, lines of trained tokens have a mark in the margin. --doc also shows a document that was
    left out, with what triggered the rule, and the one that it repeats.
    """
    how: dict[str, Any] = {"source": source, "longest": longest, "worst_fill": worst_fill}
    with activity(quiet, "tokpack.packed.shown") as (tell, shown), tell.doing(f"reading {packed}"):
        found = shown.row_or_left_out(packed, row, doc, max_tokens, **how)
    show(found)


@app.command(rich_help_panel=PACKED)
def export(
    packed: Packed,
    to: Annotated[
        str,
        typer.Option(
            help="trl, axolotl, llamafactory, megatron-bridge, megatron, or module:function.", **EXPORTS
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the export.", **WRITTEN)],
    cp: Annotated[
        int, typer.Option(help="Ranks that share a row (context parallelism), for megatron-bridge.")
    ] = 1,
    no_check: NoCheck = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in this folder.")
    ] = False,
    quiet: NoProgress = False,
) -> None:
    """Write a packed dataset in another trainer's layout, with its settings and a check of them."""
    with activity(quiet, "tokpack.export") as (tell, exports):
        written = exports.export(
            packed, to, out, context_parallel=cp, overwrite=overwrite, check=not no_check, tell=tell
        )
    hand_over(written)
    say("how to check and start it: README.md in that folder", quiet)


@app.command(rich_help_panel=PACKED)
def merge(
    packed_folders: Annotated[
        list[Path], typer.Argument(help=PACKED_HELP, parser=packed_folder, metavar="PACKED")
    ],
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of the new row order.")] = 0,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="One packed dataset after another, rows as they are.")
    ] = False,
    no_check: NoCheck = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packed dataset in OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Join packed datasets of one tokenizer, chat template, loss and capacity; nothing is tokenized again."""
    settings: dict[str, Any] = {"seed": seed, "keep_order": keep_order, "overwrite": overwrite}
    with (
        activity(quiet, "tokpack.packed.merging") as (tell, merging),
        tell.doing(f"merging {counted(len(packed_folders), 'packed dataset')}"),
    ):
        merged = merging.merge(packed_folders, out, check=not no_check, tell=tell, **settings)
    _written(merged, out, quiet)
    say("note: duplicates across the packed datasets are not looked for", quiet)


@app.command(rich_help_panel=PACKED)
def repack(
    packed: Packed,
    out: Out,
    max_length: Annotated[
        int | None,
        typer.Option(
            parser=length,
            metavar="TOKENS",
            help="New capacity of a row in tokens, as 4096 or 4k; as packed when not given.",
        ),
    ] = None,
    planner: Planner = None,
    max_docs_per_row: MaxDocs = None,
    world_size: WorldSize = None,
    rows_per_step: RowsPerStep = None,
    mix_per_step: MixPerStep = None,
    parts: Parts = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="How often a source's documents are packed, as code.jsonl=2.5; repeatable.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS", help="Keep at most so many, as 20M; needs what pack --record-choice leaves."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=W", help="A source's share of the budget, as code.jsonl=3; repeatable."),
    ] = None,
    shard_format: ShardFormat = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the row order; as packed when not given.")] = None,
    no_check: NoCheck = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packed dataset in OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Plan a packed dataset anew for another capacity or planner; nothing is tokenized again."""
    settings: dict[str, Any] = {"max_length": max_length, "planner": planner, "seed": seed}
    settings |= {"world_size": world_size, "rows_per_step": rows_per_step, "shard_format": shard_format}
    settings |= {"max_docs_per_row": max_docs_per_row, "mix_per_step": mix_per_step, "overwrite": overwrite}
    settings["parts"] = parts
    settings |= {"repeat": parse_repeats(repeat or []), "budget": budget}
    settings["weight"] = parse_repeats(weight or [], "weight")
    with activity(quiet, "tokpack.packed.repacking") as (tell, repacking), tell.doing("repacking"):
        repacked = repacking.repack(packed, out, check=not no_check, tell=tell, **settings)
    _written(repacked, out, quiet)
    if lost := repacking.lost_to_length(repacked):
        say(f"note: {lost}", quiet)


@app.command(rich_help_panel=PACKED)
def push(
    packed: Packed,
    url: Annotated[str, typer.Argument(help="hf://datasets/USER/NAME, s3://BUCKET/FOLDER, ...")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another one there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Copy a packed dataset to the Hugging Face Hub or other storage, with a card made from its ledger.

    `tokpack` opens such URLs wherever it takes a packed dataset, and compares every sum.
    """
    with activity(quiet, "tokpack.packed.push") as (tell, pushing):
        pushed = pushing.push(packed, url, overwrite=overwrite, private=private, tell=tell)
    hand_over(pushed)


def _written(packed: Any, out: Path, quiet: bool) -> None:
    """A new packed dataset: its panel and its place, or the place alone."""
    if quiet:
        hand_over(out)
    else:
        show(packed)
        say(f"packed dataset: {out}", quiet)
