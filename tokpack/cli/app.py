"""The application that commands of tokpack and of its plug-ins are added to."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer

app = typer.Typer(
    name="tokpack",
    help="Turn raw fine-tuning data into packed token shards, accounted for to the last token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def mount_plugins() -> None:
    """Commands of installed plug-ins (`tokpack train`), found by entry point."""
    for entry in sorted(entry_points(group="tokpack.commands"), key=lambda e: e.name):
        try:
            app.registered_commands += entry.load().registered_commands
        except ImportError as error:
            typer.echo(f"warning: the plug-in {entry.name!r} does not load: {error}", err=True)
