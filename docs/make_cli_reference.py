"""Write docs/cli.md from the commands themselves: `make docs`, or `python docs/make_cli_reference.py`.

A command is a typed function whose parameters are annotated with typer's options and arguments. All of the
page is read from there, plug-ins included; `tests/test_docs.py` compares the committed page with it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from tokpack import cli, errors

PAGE = Path(__file__).resolve().parent / "cli.md"

HEAD = """\
# The command line

<!-- Made by docs/make_cli_reference.py from the commands: change them and run `make docs`. -->

Results go to stdout; progress, warnings and errors to stderr. Every command has `-h`
(`--help`); `tokpack --version` prints the version; after `tokpack --install-completion` the shell completes
commands, flags and choices. `run.toml` can say what the flags say, see [configuration.md](configuration.md).

"""

EXITS = {
    "0": "done",
    str(
        errors.VerifyError.exit_code
    ): "a proof failed: `verify`, `verify-served`, the probe before training, a gate of `eval`; "
    "`doctor` found a fault, or `chat` left a turn without an answer",
    str(errors.UsageError.exit_code): "a flag, key or file name that cannot work",
    str(errors.DataError.exit_code): "input that cannot be read as the run demands",
    str(errors.InternalError.exit_code): "a bug in tokpack; please report it",
    str(errors.OutputError.exit_code): "the output cannot be written, for example because the disk is full",
    "130": "interrupted; the same command goes on where it stopped, `train` with `--resume`",
}


def commands() -> list[CommandInfo]:
    """All commands, in the order of `tokpack --help`."""
    cli.mount_plugins()
    return [named(command) for command in cli.app.registered_commands]


def named(command: CommandInfo) -> CommandInfo:
    """With the name that typer would give it."""
    if command.name is None and command.callback is not None:
        command.name = command.callback.__name__.replace("_", "-")
    return command


def parameters(command: CommandInfo) -> Iterator[tuple[str, Any, Any, OptionInfo | ArgumentInfo]]:
    """(name, type, default, typer's description) of each parameter."""
    hints = get_type_hints(command.callback, include_extras=True)
    for name, parameter in inspect.signature(command.callback).parameters.items():  # type: ignore[arg-type]
        kind, info = get_args(hints[name])[:2]
        yield name, kind, parameter.default, info


def flags(name: str, info: OptionInfo | ArgumentInfo) -> list[str]:
    """`["--out", "-o"]`, long forms first; of a pair like `--x/--no-x` both."""
    # In Annotated, typer takes the first flag for the option's default.
    given = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
    given = [flag for text in given or [f"--{name.replace('_', '-')}"] for flag in text.split("/")]
    return sorted(given, key=lambda flag: not flag.startswith("--"))


def value(kind: Any) -> str:
    """What follows a flag: `FILE` for a path, `NUMBER`, `TEXT`, nothing for a switch."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return " ".join(f"`{choice}`" for choice in get_args(kind))
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def section(command: CommandInfo) -> str:
    arguments, options = [], []
    usage = f"tokpack {command.name}"
    for name, kind, default, info in parameters(command):
        required = default in (inspect.Parameter.empty, ...)
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or name.upper()
            shown = f"{shown}..." if get_origin(kind) is list else shown if required else f"[{shown}...]"
            usage += f" {shown}"
            arguments.append(f"| `{shown.strip('[].')}` | {cell(info.help or '')} |")
        else:
            shown = ", ".join(f"`{flag}`" for flag in flags(name, info))
            meaning = cell(info.help or "") + (" **Required.**" if required else "")
            options.append(f"| {shown} | {info.metavar or value(kind)} | {meaning.strip()} |")
            usage += f" {flags(name, info)[0]} {info.metavar or value(kind)}" if required else ""
    lines = [f"## tokpack {command.name}", "", inspect.getdoc(command.callback) or "", ""]
    lines += ["```console", f"{usage} [OPTIONS]", "```", ""]
    if arguments:
        lines += ["| argument | |", "|---|---|", *arguments, ""]
    lines += ["| flag | value | meaning |", "|---|---|---|", *options, ""]
    return "\n".join(lines)


def make_page() -> str:
    found = commands()
    lines = ["| command | |", "|---|---|"]
    for command in found:
        anchor = f"tokpack-{command.name}"
        lines.append(f"| [`{command.name}`](#{anchor}) | {cell(inspect.getdoc(command.callback) or '')} |")
    exits = ["## Exit codes", "", "| code | |", "|---|---|"]
    exits += [f"| {code} | {meaning} |" for code, meaning in EXITS.items()]
    body = "\n".join(section(command) for command in found)
    return HEAD + "\n".join(lines) + "\n\n" + body + "\n" + "\n".join(exits) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE)
