"""The options of `analyze`, `pack` and `clean`: each once, for Python and for the command line.

An option is a keyword with a type and a sentence; None means that it was not given. The command line makes
its flags of them (`tokpack.cli.options`), `with_options` the signature and docstring that a notebook shows.
A name in backticks is an option; the command line shows its flag.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

from tokpack.errors import SettingError, UsageError, near_matches
from tokpack.settings.config import (
    CheckpointingMode,
    Config,
    ExactKey,
    Format,
    Loss,
    Method,
    NearDupOn,
    Overlong,
    RenderMode,
    ShardFormat,
    SpecialInContent,
    ToolArguments,
)
from tokpack.settings.config_file import load_toml, merge
from tokpack.settings.parsing import parse_budget, parse_length, parse_memory

StrPath = str | os.PathLike[str]
INDEX = "index"
Command = TypeVar("Command", bound=Callable[..., Any])


class ReadOptions(TypedDict, total=False):
    """Input"""

    config: Annotated[StrPath | None, "TOML file with settings; options win over it."]
    map: Annotated[Mapping[str, str] | None, "Columns, with a comma between them, as prompt=question."]
    strict: Annotated[bool | None, "Stop at the first unreadable row."]
    allow_bad: Annotated[float | None, "Share of unreadable rows that is fatal (default 0.05)."]
    max_line: Annotated[int | None, "Longest line, in MB; a longer one is an error (default 256)."]
    block_mb: Annotated[int | None, "Input worked on at once by each worker, in MB (default 8)."]


class FormatOptions(TypedDict, total=False):
    """Input"""

    format: Annotated[Format | None, "Shape of the rows (default: recognized)."]


class CleaningOptions(TypedDict, total=False):
    """What is kept"""

    clean: Annotated[
        str | None, "default, strict, off, or rules with commas between: empty_answer, module:function."
    ]
    mask_personal: Annotated[bool | None, "Replace e-mail addresses, phone numbers and keys."]
    exact_key: Annotated[ExactKey | None, "How exact duplicates compare (default nfc)."]
    near_dup: Annotated[float | None, "Drop documents this similar to an earlier one, as 0.8 (default: off)."]
    near_dup_on: Annotated[
        NearDupOn | None, "What `near_dup` compares: both prompt and answer (default), all, prompt or answer."
    ]
    memory: Annotated[
        int | str | None, "Memory for the search of near duplicates, as 8G (default: what is free)."
    ]
    against: Annotated[
        list[str] | None, "Drop documents that contain this evaluation file's text; repeatable."
    ]
    budget: Annotated[
        int | str | None,
        "Keep at most this, the best and most varied: 20M tokens, 5M-trained ones, or what 50usd pays for.",
    ]
    keep: Annotated[
        StrPath | None,
        "File of doc_ids to keep whatever rules and duplicates say: `tokpack view` writes it.",
    ]
    special_in_content: Annotated[
        SpecialInContent | None, "Special tokens written out in contents (default strip)."
    ]


class RenderOptions(TypedDict, total=False):
    """From documents to tokens"""

    tokenizer: Annotated[StrPath | None, "Folder or Hub name of your model; that of `model` without."]
    chat_template: Annotated[StrPath | None, "Jinja file that replaces the tokenizer's own."]
    render: Annotated[RenderMode | None, "By the chat template, or plain (default auto)."]
    loss: Annotated[Loss | None, "What is trained on (default assistant)."]
    loss_mask: Annotated[
        str | None,
        "Segments of answers not to be trained, as template,thinking; also tool_calls; none: only measured.",
    ]
    tool_arguments: Annotated[
        ToolArguments | None, "Arguments of calls as the template reads them (default auto)."
    ]
    template_kwargs: Annotated[
        Mapping[str, Any] | None, "Argument of the chat template, as enable_thinking=false; repeatable."
    ]
    eos: Annotated[bool | None, "An EOS after each plain document (default yes)."]
    separator: Annotated[
        str | None, "Between prompt and completion when they are rendered plain (default: a line break)."
    ]
    paranoid: Annotated[bool | None, "Prove every row against the reference."]


class RowOptions(TypedDict, total=False):
    """From tokens to rows"""

    max_length: Annotated[int | str | None, "Capacity of a row in tokens, as 4096 or 4k (default 2048)."]
    overlong: Annotated[Overlong | None, "What becomes of longer documents (default auto)."]
    planner: Annotated[str | None, "bfd (default), xfill, optimal, sequential, none, or module:function."]
    max_docs_per_row: Annotated[int | None, "0 (default): no limit."]
    world_size: Annotated[int | None, "Order rows so that this many ranks have equal work in each step."]
    rows_per_step: Annotated[
        int | None, "Rows per rank and optimizer step, with `world_size` or `mix_per_step` (default 1)."
    ]
    mix_per_step: Annotated[
        bool | None, "Give every optimizer step its share of each source, within one document."
    ]
    parts: Annotated[
        int | None, "Rows draw from one of so many parts of the corpus, written part by part (default 1)."
    ]
    val: Annotated[float | None, "Share of conversations held out into OUT/validation."]
    seed: Annotated[int | None, "Seed of shuffles and of the hold-out (default 0)."]


class WriteOptions(TypedDict, total=False):
    """Output"""

    shard_format: Annotated[
        ShardFormat | None,
        "arrow (default); parquet, a fifth of the size; index, tokens once and rows as a plan.",
    ]
    record_choice: Annotated[
        bool | None, "Leave what a choice under a budget goes by, so that `repack --budget` can choose later."
    ]
    shard_mb: Annotated[int | None, "Size of a shard in MB (default 512)."]


class BillOptions(TypedDict, total=False):
    """The training run, for the bill"""

    model: Annotated[StrPath | None, "Model to train: its folder, config.json or Hub name."]
    gpu: Annotated[str | None, "GPU to train on, such as a10 or h100-sxm; `tokpack gpus` lists them."]
    gpus: Annotated[StrPath | None, "TOML file with GPUs and prices of your own."]
    api: Annotated[str | None, "Managed service to set beside the GPU, such as together-lora-16b."]
    apis: Annotated[StrPath | None, "TOML file with services and prices of your own."]
    gpu_price: Annotated[float | None, "Dollars per GPU-hour; the table's when not given."]
    gpu_count: Annotated[int | None, "GPUs that train at once (default 1)."]
    method: Annotated[Method | None, "How the model is trained (default qlora)."]
    rank: Annotated[int | None, "LoRA rank (default 16)."]
    checkpointing: Annotated[
        CheckpointingMode | None, "Gradient checkpointing (default auto: where a row does not fit without)."
    ]
    epochs: Annotated[float | None, "Passes over the data (default 1)."]
    batch_size: Annotated[int | None, "Documents per GPU and micro-batch before packing (default 8)."]
    accumulation: Annotated[int | None, "Micro-batches per optimizer step (default 1)."]
    learning_rate: Annotated[float | None, "Peak learning rate before packing (default 2e-4)."]
    mfu: Annotated[
        tuple[float, float] | None, "Share of the GPU's peak, low,high (default: from published speeds)."
    ]


class AnalyzeOptions(ReadOptions, FormatOptions, CleaningOptions, RenderOptions, RowOptions, BillOptions):
    """What `analyze` takes."""


class PackOptions(AnalyzeOptions, WriteOptions):
    """What `pack` takes."""


class CleanOptions(ReadOptions, FormatOptions, CleaningOptions, total=False):
    """Tokens and bill"""

    tokenizer: Annotated[
        StrPath | None, "Tokenizer to count with; when not given, one is learned from the data."
    ]
    chat_template: Annotated[StrPath | None, "Jinja file that replaces the tokenizer's own."]
    max_length: Annotated[int | str | None, "Drop documents of more tokens (default: none)."]
    seed: Annotated[int | None, "Seed of the choice under a budget (default 0)."]
    api: Annotated[str | None, "Service to bill by, such as openai-gpt-4o."]
    apis: Annotated[StrPath | None, "TOML file with services and prices of your own."]
    epochs: Annotated[float | None, "Passes over the data (default 1)."]


def with_options(options: Any) -> Callable[[Command], Command]:
    """Spell the keywords of `**options: Unpack[...]` out, in the signature and at the docstring's end."""
    hints = get_type_hints(options, include_extras=True)

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        spelled = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint.__origin__)
            for name, hint in hints.items()
        ]
        command.__signature__ = own.replace(parameters=[*named, *spelled])  # type: ignore[attr-defined]
        lines = [f"    {name}: {meaning(hint)}" for name, hint in hints.items()]
        command.__doc__ = "\n".join([inspect.getdoc(command) or "", "", "Options:", *lines])
        return command

    return decorate


def meaning(hint: Any) -> str:
    """The sentence of an option."""
    return str(hint.__metadata__[0])


RENAMED = {
    "clean": "rules",
    "exact_key": "exact",
    "max_line": "max_line_mb",
    "memory": "memory_mb",
    "near_dup": "threshold",
    "near_dup_on": "on",
    "record_choice": "recorded",
    "render": "mode",
}
"""Options that have another name than the key of the config that they set."""
WITHOUT_KEY = ("config", "format", "map", "seed")
"""Options that are of no section: the file itself, what is of a source, the seed."""
_SECTIONS = {
    key.name: section.name
    for section in fields(Config)
    if is_dataclass(section.default)
    for key in fields(section.default)
}
OPTIONS: dict[str, tuple[str, str]] = {
    option: (_SECTIONS[key], key)
    for option in PackOptions.__annotations__
    if option not in WITHOUT_KEY
    for key in [RENAMED.get(option, option)]
}
"""Option -> section and key of the config."""


LENGTHS: dict[str, tuple[Callable[[str], int], str]] = {
    "max_length": (parse_length, "give 4096, or 4k"),
    "memory": (parse_memory, "give 8G, or 8000 for megabytes"),
}
"""Options that may be written with a unit: what reads them, and how they are written."""


def make_config(data: Any, options: Mapping[str, object]) -> Config:
    """Options over `config=run.toml` over defaults.

    Raises UsageError that names the option, or the file's table and key, which cannot work.
    """
    if isinstance(data, Config):
        return _with_tokenizer_of_model(data)
    given = {name: _plain(value) for name, value in options.items()}
    file = given.pop("config", None)
    base = load_toml(file) if file else {}
    paths = [data] if isinstance(data, str | os.PathLike) else list(data)
    source = {"format": given.pop("format", None) or "auto", "map": given.pop("map", None) or {}}
    flags: dict[str, Any] = {"seed": given.pop("seed", None)}
    if paths:
        flags["source"] = [{"path": str(path), **source} for path in paths]
    places = {"seed": "seed"} if flags["seed"] is not None else {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise UsageError(f"unknown option {name!r}", where=name, hint=near_matches(name, OPTIONS))
        section, key = OPTIONS[name]
        if value is not None:
            flags.setdefault(section, {}).update(_as_keys(name, key, value))
            places[f"{section}.{key}"] = name
    try:
        config = Config.from_dict(merge(base, flags))
    except SettingError as error:
        raise error.given(places, file) from None
    return _with_tokenizer_of_model(config)


def _with_tokenizer_of_model(config: Config) -> Config:
    """The config with the tokenizer of the model that is costed, where none is given."""
    model = config.cost.model
    if config.tokenize.tokenizer or not model:
        return config
    folder = str(Path(model).parent) if model.endswith(".json") else model
    return replace(config, tokenize=replace(config.tokenize, tokenizer=folder))


def _plain(value: object) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_keys(name: str, key: str, value: Any) -> dict[str, Any]:
    """The keys of its section that an option sets."""
    parse, hint = LENGTHS.get(name, (None, ""))
    if parse is not None and isinstance(value, str):
        try:
            return {key: parse(value)}
        except ValueError as error:
            raise SettingError(str(error), where=name, hint=hint).given({name: name}, None) from None
    if name == "budget":
        return parse_budget(value) if isinstance(value, str) else {key: value, "budget_usd": 0.0}
    return {key: value}
