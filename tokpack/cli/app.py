"""The application that commands of tokpack and of its plug-ins are added to."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

import typer

from tokpack.version import __version__

START = "Before the first run"
RAW_DATA = "Raw data"
PACKED = "Packed datasets"

app = typer.Typer(
    name="tokpack",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokpack {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn raw fine-tuning data into packed token shards, accounted for to the last token."""


def mount_plugins() -> None:
    """Commands of installed plug-ins (`tokpack train`), found by entry point."""
    for entry in sorted(entry_points(group="tokpack.commands"), key=lambda e: e.name):
        try:
            app.registered_commands += entry.load().registered_commands
        except ImportError as error:
            typer.echo(f"warning: the plug-in {entry.name!r} does not load: {error}", err=True)
