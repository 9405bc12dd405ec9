"""The application that commands of tokpack and of its plug-ins are added to."""

from __future__ import annotations

import inspect
from copy import copy
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated

import typer
from typer.models import CommandInfo

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


def application(command: str) -> typer.Typer:
    """The application, with this command alone where there is one of that name: typer makes objects of all
    flags of all commands it is given, and looks at one. Plug-ins are looked for where tokpack has none."""
    found = _named(command)
    if not found:
        mount_plugins()
        found = _named(command)
    if not found:
        return app
    alone = copy(app)
    alone.registered_commands = [_in_paragraphs(one) for one in found]
    return alone


def _in_paragraphs(command: CommandInfo) -> CommandInfo:
    """Its help text with lines that the terminal breaks: typer keeps those of the source."""
    paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
    whole = copy(command)
    whole.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return whole


def _named(command: str) -> list[CommandInfo]:
    return [one for one in app.registered_commands if name_of(one) == command]


def name_of(command: CommandInfo) -> str:
    """What is typed: `merge-adapter`."""
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


@cache
def mount_plugins() -> None:
    """Commands of installed plug-ins (`tokpack train`), found by entry point."""
    for entry in sorted(entry_points(group="tokpack.commands"), key=lambda e: e.name):
        try:
            app.registered_commands += entry.load().registered_commands
        except ImportError as error:
            typer.echo(f"warning: the plug-in {entry.name!r} does not load: {error}", err=True)
