"""Options that several commands take, and how a command takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    list[str] | None, typer.Argument(help="Files, globs, folders, URLs, or - for stdin.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the artefact.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", "-t", help="Folder or Hub name of your model.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; flags win over it.")]
MaxLength = Annotated[int | None, typer.Option(help="Capacity of a row in tokens (default 2048).")]
Format = Annotated[
    str | None,
    typer.Option(
        help="preference, messages, sharegpt, alpaca, prompt_completion, text or tokens; "
        "recognised when not given."
    ),
]
InputFormat = Annotated[
    str | None, typer.Option("--input-format", help="Of the rows that are read; recognised when not given.")
]
Map = Annotated[str | None, typer.Option("--map", help="Columns: prompt=question,completion=answer")]
Overlong = Annotated[str | None, typer.Option(help="auto (default), drop, right, left, turns or split.")]
Clean = Annotated[
    str | None, typer.Option(help="default, strict, off, or rules: empty_answer,module:function")
]
NearDup = Annotated[
    float | None, typer.Option(help="Drop documents this similar to an earlier one, as 0.8 (default: off).")
]
NearDupOn = Annotated[
    str | None,
    typer.Option(help="What --near-dup compares: both prompt and answer (default), all, prompt or answer."),
]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Drop documents that contain this evaluation file's text; repeatable."),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Most to keep, the best and most varied: tokens, as 20M, or what 50usd pay for."),
]
Keep = Annotated[
    Path | None,
    typer.Option(help="File of doc_ids to keep whatever rules and duplicates say: `tokpack view` writes it."),
]
MaskPersonal = Annotated[
    bool, typer.Option("--mask-personal", help="Replace e-mail addresses, phone numbers and keys.")
]
ExactKey = Annotated[
    str | None, typer.Option(help="Exact duplicates compare nfc (default), raw, folded, or off.")
]
Special = Annotated[
    str | None,
    typer.Option("--special-in-content", help="Special tokens in contents: strip (default), keep or drop."),
]
Render = Annotated[str | None, typer.Option(help="auto (default), chat or plain.")]
Template = Annotated[
    str | None, typer.Option("--chat-template", help="Jinja file that replaces the tokenizer's own.")
]
Loss = Annotated[str | None, typer.Option(help="Train on: assistant (default), last or all.")]
ToolArguments = Annotated[
    str | None,
    typer.Option(
        help="Arguments of calls as the template reads them: auto (default), as-is, object or string."
    ),
]
TemplateKwarg = Annotated[
    list[str] | None,
    typer.Option(help="Argument of the chat template, as enable_thinking=false; repeatable."),
]
NoEos = Annotated[bool, typer.Option("--no-eos", help="No EOS after plain documents.")]
Planner = Annotated[
    str | None, typer.Option(help="bfd (default), xfill, optimal, sequential, none, or module:function.")
]
MaxDocs = Annotated[int | None, typer.Option("--max-docs-per-row", help="0 (default): no limit.")]
WorldSize = Annotated[
    int | None, typer.Option(help="Order rows so that this many ranks have equal work in each step.")
]
RowsPerStep = Annotated[
    int | None, typer.Option(help="Rows per rank and optimizer step, with --world-size (default 1).")
]
ShardFormat = Annotated[
    str | None, typer.Option(help="arrow (default), mapped from disk, or parquet, a fifth of the size.")
]
Val = Annotated[float | None, typer.Option(help="Share of conversations held out into OUT/validation.")]
Seed = Annotated[int | None, typer.Option(help="Of shuffles and the hold-out (default 0).")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable row.")]
MaxLine = Annotated[
    int | None,
    typer.Option("--max-line", help="Longest line, in MB; a longer one is an error (default 256)."),
]
AllowBad = Annotated[
    float | None, typer.Option(help="Share of unreadable rows that is fatal (default 0.05).")
]
Paranoid = Annotated[bool, typer.Option("--paranoid", help="Prove every row against the reference.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model to train: its folder, config.json or Hub name.")
]
GpuName = Annotated[str | None, typer.Option("--gpu", help="GPU to train on, such as a10 or h100-sxm.")]
GpuFile = Annotated[Path | None, typer.Option("--gpus", help="TOML file with GPUs and prices of your own.")]
ApiName = Annotated[
    str | None,
    typer.Option("--api", help="Managed service to set beside the GPU, such as together-lora-16b."),
]
ApiFile = Annotated[
    Path | None, typer.Option("--apis", help="TOML file with services and prices of your own.")
]
GpuPrice = Annotated[float | None, typer.Option(help="Dollars per GPU-hour; the table's when not given.")]
GpuCount = Annotated[int | None, typer.Option(help="GPUs that train at once (default 1).")]
Method = Annotated[str | None, typer.Option(help="qlora (default), lora or full.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data (default 1).")]
BatchSize = Annotated[
    int | None, typer.Option(help="Documents per GPU and micro-batch before packing (default 8).")
]
Accumulation = Annotated[int | None, typer.Option(help="Micro-batches per optimizer step (default 1).")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate before packing (default 2e-4).")]
Mfu = Annotated[str | None, typer.Option(help="Share of the GPU's peak, low,high (default 0.25,0.45).")]
Workers = Annotated[
    int, typer.Option(help="Blocks worked on at once; 0: one a core. Never changes the output.")
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Do not compare the sums of the shards first.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
Json = Annotated[bool, typer.Option("--json", help="The figures as JSON on stdout.")]


def content_options(
    tokenizer: Tokenizer = None,
    config: ConfigFile = None,
    max_length: MaxLength = None,
    format: Format = None,
    map: Map = None,
    clean: Clean = None,
    mask_personal: MaskPersonal = False,
    exact_key: ExactKey = None,
    near_dup: NearDup = None,
    near_dup_on: NearDupOn = None,
    against: Against = None,
    budget: Budget = None,
    keep: Keep = None,
    special_in_content: Special = None,
    chat_template: Template = None,
    seed: Seed = None,
    strict: Strict = False,
    allow_bad: AllowBad = None,
    max_line: MaxLine = None,
) -> None:
    """What to read and what to keep."""


def row_options(
    overlong: Overlong = None,
    render: Render = None,
    loss: Loss = None,
    tool_arguments: ToolArguments = None,
    template_kwarg: TemplateKwarg = None,
    no_eos: NoEos = False,
    paranoid: Paranoid = False,
    planner: Planner = None,
    max_docs_per_row: MaxDocs = None,
    world_size: WorldSize = None,
    rows_per_step: RowsPerStep = None,
    val: Val = None,
) -> None:
    """How documents become tokens, and tokens rows."""


def bill_options(
    model: Model = None,
    gpu: GpuName = None,
    gpus: GpuFile = None,
    api: ApiName = None,
    apis: ApiFile = None,
    gpu_price: GpuPrice = None,
    gpu_count: GpuCount = None,
    method: Method = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    accumulation: Accumulation = None,
    learning_rate: LearningRate = None,
    mfu: Mfu = None,
) -> None:
    """The training run that the bill is for."""


def takes(*groups: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The command takes the options of the groups, in `**options`, but those that it declares itself.

    They come after its positional parameters and before its keyword-only ones.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        first = [p for p in own.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        last = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
        shared = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for group in groups
            for name, parameter in inspect.signature(group, eval_str=True).parameters.items()
            if name not in own.parameters
        ]
        parameters = [*first, *shared, *last]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate
