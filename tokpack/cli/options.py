"""Flags: those of single commands, and those made of the options of the Python API."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from tokpack.errors import UsageError, near_matches
from tokpack.hub import no_url
from tokpack.settings.config import Format
from tokpack.settings.options import meaning
from tokpack.settings.parsing import parse_length

PACKED_HELP = "Folder that `tokpack pack -o` wrote, or a URL: hf://datasets/USER/NAME, s3://..."


def completed(*values: str) -> dict[str, Any]:
    """Known values of an option that takes others too: what the shell completes."""
    return {"autocompletion": lambda: values}


def _gpus(incomplete: str) -> list[str]:
    """Names that go on from what is typed, in any letter case; read without the libraries that figure with
    them."""
    import tomllib

    known = tomllib.loads((files("tokpack") / "cost" / "gpus.toml").read_text(encoding="utf-8"))
    typed = len(incomplete)
    return [incomplete + name[typed:] for name in known if name[:typed].lower() == incomplete.lower()]


EXPORTS = completed("trl", "axolotl", "llamafactory", "megatron-bridge", "megatron")
SHAPES = completed("openai", "sharegpt", "alpaca", "prompt_completion", "text")
PLANNERS = completed("bfd", "xfill", "optimal", "sequential", "none")
FORMATS = completed(*get_args(Format))
GPUS: dict[str, Any] = {"autocompletion": _gpus}


def packed_folder(text: str) -> Path:
    """The folder; of a URL, its copy in the cache."""
    if "://" not in text:
        return Path(text)
    from tokpack.packed_urls import local_folder
    from tokpack.terminal.activity import Activity

    quiet = not {"-q", "--quiet"}.isdisjoint(sys.argv)  # the flag may stand after the URL
    with Activity(quiet=quiet) as tell:
        return local_folder(text, tell)


Data = Annotated[
    list[str] | None, typer.Argument(help="Files, globs, folders, URLs, or - for stdin.", show_default=False)
]
Packed = Annotated[Path, typer.Argument(help=PACKED_HELP, parser=packed_folder)]


def local_out(given: str | Path) -> Path:
    """A folder or file to write, maybe the default; not a URL, which would become a folder of that name."""
    if "://" in str(given):
        raise UsageError(
            "not a path on this machine",
            where=str(given),
            hint="write it here; tokpack push copies a packed dataset to a URL, push-adapter an adapter",
        )
    return Path(given)


NAMED: dict[str, Any] = {"parser": no_url}
"""A model or adapter: refused as a URL before any library is loaded."""
FOLDER: dict[str, Any] = {"parser": lambda text: Path(no_url(text, by_name=False))}
WRITTEN: dict[str, Any] = {"parser": local_out, "metavar": "PATH"}


Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the packed dataset.", **WRITTEN)]
Planner = Annotated[
    str | None,
    typer.Option(help="bfd (default), xfill, optimal, sequential, none, or module:function.", **PLANNERS),
]
MaxDocs = Annotated[int | None, typer.Option("--max-docs-per-row", help="0 (default): no limit.")]
WorldSize = Annotated[
    int | None, typer.Option(help="Order rows so that this many ranks have equal work in each step.")
]
RowsPerStep = Annotated[
    int | None,
    typer.Option(help="Rows per rank and optimizer step, with --world-size or --mix-per-step (default 1)."),
]
MixPerStep = Annotated[
    bool | None,
    typer.Option(
        "--mix-per-step/--no-mix-per-step",
        help="Give every optimizer step its share of each source, within one document.",
    ),
]
Parts = Annotated[
    int | None, typer.Option(help="Rows draw from one of so many parts of the corpus, written part by part.")
]
ShardFormat = Annotated[
    str | None,
    typer.Option(
        help="arrow (default); parquet, a fifth of the size; index, tokens once and rows as a plan.",
        **completed("arrow", "parquet", "index"),
    ),
]
Workers = Annotated[
    int, typer.Option(help="Blocks worked on at once; 0: one per core. Never changes the output.")
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Do not compare the sums of the shards first.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
NoProgress = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="The figures as JSON on stdout.")]


def one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UsageError for another value."""
    if value not in known:
        raise UsageError(f"no such value {value!r}", where=flag, hint=near_matches(value, known))


def length(text: str) -> int:
    """A number of tokens, as 4096 or 4k."""
    try:
        return parse_length(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


SHORT = {"tokenizer": "-t", "model": "-m"}
NAMES = {"template_kwargs": "template_kwarg", "eos": "no_eos"}
"""Options whose flags have other names: repeated, or turned around."""
MEANINGS = {"eos": "No EOS after plain documents."}
KINDS: dict[str, Any] = {
    "map": str,
    "budget": str,
    "memory": str,
    "mfu": str,
    "template_kwargs": list[str],
    "config": Path,
    "keep": Path,
    "gpus": Path,
    "apis": Path,
}
"""What is typed, where that is not the first kind of value that the Python API takes."""
COMPLETED = {"gpu": GPUS, "planner": PLANNERS}
MOST_SHOWN = 20
"""Characters of choices beside a flag in a help of 80 columns; more would be broken in mid-word."""
WITHOUT = {"block_mb", "separator"}
"""Options that have no flag."""


def flag_of(option: str) -> str:
    """`--max-length` of `max_length`."""
    return f"--{NAMES.get(option, option).replace('_', '-')}"


def takes(*groups: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The command takes the options of the groups, in `**options`, but those that it declares itself.

    Each group, a TypedDict of `tokpack.settings.options`, is a panel of the help, by its docstring; where two
    have an option, the first counts. Shared options come after the command's positional parameters and before
    its keyword-only ones.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        first = [p for p in own.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        last = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
        shared: dict[str, inspect.Parameter] = {}
        for parameter in (p for group in groups for p in _parameters(group)):
            shared.setdefault(parameter.name, parameter)
        parameters = [*first, *(p for name, p in shared.items() if name not in own.parameters), *last]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate


def _with_choices(text: str, choices: tuple[str, ...]) -> str:
    named = all(re.search(rf"\b{choice}\b", text) for choice in choices)
    return text if named else f"{text} One of {', '.join(choices)}."


@cache
def _parameters(group: Any) -> list[inspect.Parameter]:
    """A group's options as parameters that typer reads."""
    panel, parameters = inspect.getdoc(group), []
    for option, hint in get_type_hints(group, include_extras=True).items():
        if option in WITHOUT:
            continue
        kind = KINDS.get(option) or get_args(hint.__origin__)[0]
        text = re.sub(r"`(\w+)`", lambda name: flag_of(name[1]), MEANINGS.get(option) or meaning(hint))
        settings: dict[str, Any] = {"help": text, "rich_help_panel": panel, **COMPLETED.get(option, {})}
        if get_origin(kind) is Literal and len("|".join(get_args(kind))) > MOST_SHOWN:
            settings |= {"help": _with_choices(text, get_args(kind)), "metavar": "CHOICE"}
        if option == "max_length":
            settings |= {"parser": length, "metavar": "TOKENS"}
        flags = [flag_of(option), *filter(None, [SHORT.get(option)])]
        switch = kind is bool
        parameter = inspect.Parameter(
            NAMES.get(option, option),
            inspect.Parameter.KEYWORD_ONLY,
            default=False if switch else None,
            annotation=Annotated[kind if switch else kind | None, typer.Option(*flags, **settings)],
        )
        parameters.append(parameter)
    return parameters
