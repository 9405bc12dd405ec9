"""One frozen dataclass per stage; the section names of `run.toml` are the stages' names.

    [tokenize]            # same as the flags
    tokenizer = "Qwen/Qwen2.5-0.5B"
    [truncate]
    max_length = 4096
    [[source]]            # several inputs, each with its own settings
    path = "chats/*.jsonl"
    map = { prompt = "question", completion = "answer" }

Flags win over the file. Unknown keys and wrong types are errors that name the key.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokpack.errors import UsageError, near_matches
from tokpack.printable import portable_name

ShardFormat = Literal["arrow", "parquet"]

Format = Literal[
    "auto",
    "preference",
    "ranked",
    "tree",
    "tree_paths",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "text",
    "tokens",
]
TREES = ("tree", "tree_paths")
"""Rows that are messages of trees, read as conversations: one a tree, or one for each path."""
RANKED: Format = "ranked"
"""Rows whose answers stand in a list with a score each; read as pairs of the best and the worst."""
MOST_COPIES = 1000
MOST_TOKENS = 2**31 - 1
"""In a row, and in a document: places in it are int32."""
MOST_NUMBER = 2**63
MOST_RANKS = 1_000_000
MOST_SHARD_MB = 1 << 20
Overlong = Literal["auto", "drop", "right", "left", "turns", "split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    path: str
    """File, glob, folder, URL, or `-` for stdin."""
    name: str = ""
    """Name in reports; the file's own name when empty."""
    format: Format = "auto"
    container: str = ""
    """`jsonl`, `json`, `parquet`, `arrow`, `csv`, `text`; from the file's ending or content when empty."""
    weight: float = 0.0
    """Share of `select.budget` relative to other sources; 0: by the source's tokens."""
    max_tokens: int = 0
    """Most tokens kept of this source; 0: no limit."""
    repeat: float = 1.0
    """How often its documents are packed; 2.5: all twice, and a seeded half of them a third time."""
    map: dict[str, str] = field(default_factory=dict)
    """Field of tokpack -> column of the file: `{"prompt": "question"}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    strict: bool = False
    """The first unreadable row is fatal."""
    allow_bad: float = 0.05
    """Largest share of unreadable rows; more is fatal."""
    block_mb: int = 8
    """Input worked on at once by each worker; smaller blocks need less memory and give the same rows."""
    max_line_mb: int = 256
    """A longer line, or element of a JSON array, is an error; memory is bounded by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanConfig:
    rules: str = "default"
    """`default`, `strict`, `off`, or comma-separated rule names, each also as `module:function`.
    `default,+refusal,-mojibake` edits a preset."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rule -> its options, as tables: `[clean.options.mojibake] min_count = 20`."""
    mask_personal: bool = False
    """Replace e-mail addresses, telephone numbers and keys by `<EMAIL>`, `<PHONE>`, `<KEY>`; counted."""
    special_in_content: Literal["strip", "keep", "drop"] = "strip"
    """Special tokens written out in a content: `strip` those that only end or begin a text from its ends, or
    `drop` the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupConfig:
    exact: Literal["nfc", "raw", "folded", "off"] = "nfc"
    """What makes two documents equal. `nfc`: Unicode NFC without outer whitespace; `raw`: every byte;
    `folded`: NFKC, lower case, inner whitespace collapsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDupConfig:
    threshold: float = 0.0
    """Jaccard similarity of token 5-grams from which the later document is dropped; 0 = off."""
    on: Literal["both", "all", "prompt", "answer"] = "both"
    """What must be so similar. `both`: prompt and answer, each by itself; `all`: the two as one text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminateConfig:
    against: tuple[str, ...] = ()
    """Evaluation files whose text must not be trained on."""
    ngram: int = 13
    """Tokens in a row that count as a match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    mode: Literal["auto", "chat", "plain"] = "auto"
    chat_template: str = ""
    """File with a Jinja chat template that replaces the tokenizer's own."""
    loss: Literal["assistant", "last", "all"] = "assistant"
    eos: bool = True
    """One EOS at the end of each plain document."""
    separator: str = "\n"
    """Between prompt and completion when they are rendered plain."""
    date: str = ""
    """Day that a template's `strftime_now` sees, as 2026-11-24; today when empty, and then recorded here."""
    tool_arguments: Literal["auto", "as-is", "object", "string"] = "auto"
    """Form in which the template gets the arguments of calls; `auto`: the one that it reads."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, `enable_thinking` for example; a row's own win."""
    paranoid: bool = False
    """Prove every row of the fast paths against the reference, not a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeConfig:
    tokenizer: str = ""
    """Folder, or name on the Hugging Face Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateConfig:
    max_length: int = 2048
    """Capacity of a row, in tokens; a longer document is `overlong`."""
    overlong: Overlong = "auto"
    """`auto`: `turns` for chat, `split` for text, `right` for other plain documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    budget: int = 0
    """Most tokens kept over all sources; 0: no limit."""
    budget_usd: float = 0.0
    """Most dollars that training may cost; becomes a `budget` by the bill of the planned run."""
    diversity: float = 0.5
    """Jaccard similarity from which a document counts as a repeat and waits behind the others."""

    @property
    def limited(self) -> bool:
        return bool(self.budget or self.budget_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    planner: str = "bfd"
    """`bfd`, `xfill`, `optimal`, `sequential`, `none`, or `module:function`."""
    max_docs_per_row: int = 0
    """0 = no limit."""
    world_size: int = 0
    """Ranks whose rows are matched by cost; 0 = rows in a seeded shuffle."""
    rows_per_step: int = 1
    """Rows per rank and optimizer step (micro-batch rows x accumulation); with `world_size`."""
    token_cost: int = 0
    """Work of a token in the weights, in units of a pair of tokens in attention; with `world_size`. 0: taken
    from `[cost] model` where one is given, and then recorded here; else attention alone counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    shard_format: ShardFormat = "arrow"
    """`arrow`: mapped from disk as it is; `parquet`: a fifth of the size, for storage and other tools."""
    shard_mb: int = 512
    val: float = 0.0
    """Share of conversations held out into OUT/validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostConfig:
    """The planned training run, for the bill in the report; no part of the artefact."""

    model: str = ""
    """Folder with a config.json, the file itself, or a name on the Hugging Face Hub; empty: no bill."""
    gpu: str = ""
    """Name in the table of GPUs; empty: FLOPs and memory, no hours and no money."""
    gpus: str = ""
    """TOML file with GPUs of your own, and figures that replace the table's."""
    api: str = ""
    """Managed fine-tuning service to set beside the GPU, by its name in the table."""
    apis: str = ""
    """TOML file with services of your own, and prices that replace the table's."""
    gpu_price: float | None = None
    """Dollars per GPU-hour; the table's price when not given."""
    gpu_count: int = 1
    method: Literal["qlora", "lora", "full"] = "qlora"
    rank: int = 16
    """LoRA rank."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Gradient checkpointing; `auto`: where a row does not fit without."""
    epochs: float = 1.0
    batch_size: int = 8
    """Documents per GPU and micro-batch of the recipe before packing."""
    accumulation: int = 1
    """Micro-batches per optimizer step of that recipe."""
    learning_rate: float = 2e-4
    """Peak learning rate of that recipe."""
    mfu: tuple[float, ...] = (0.25, 0.45)
    """Share of the peak that training reaches, low and high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    source: tuple[SourceConfig, ...] = ()
    read: ReadConfig = ReadConfig()
    clean: CleanConfig = CleanConfig()
    dedup: DedupConfig = DedupConfig()
    near_dup: NearDupConfig = NearDupConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    render: RenderConfig = RenderConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    truncate: TruncateConfig = TruncateConfig()
    select: SelectConfig = SelectConfig()
    plan: PlanConfig = PlanConfig()
    write: WriteConfig = WriteConfig()
    cost: CostConfig = CostConfig()
    seed: int = 0

    @staticmethod
    def from_dict(data: dict[str, Any], where: str = "config") -> Config:
        """Build and validate. Raises UsageError naming the key for anything unknown or of the wrong type."""
        config: Config = convert(Config, data, where)
        _validate(config)
        return config

    def portable(self) -> dict[str, Any]:
        """What the artefact depends on, as plain data without paths of this machine: for the manifest."""
        data: dict[str, Any] = _plain(dataclasses.asdict(self))
        del data["cost"]
        del data["read"]["max_line_mb"]  # decides whether the run ends, not what is in it
        for source in data["source"]:
            source["path"] = portable_name(source["path"])
            if source["repeat"] == 1:
                del source["repeat"]
        if not self.select.budget_usd:
            del data["select"]["budget_usd"]
        data["tokenize"]["tokenizer"] = portable_name(self.tokenize.tokenizer)
        data["render"]["chat_template"] = portable_name(self.render.chat_template)
        data["decontaminate"]["against"] = [portable_name(path) for path in self.decontaminate.against]
        return data


def load_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a `run.toml`. Paths in it are relative to the file."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no such config file", where=str(path), hint="check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"not valid TOML: {error}", where=str(path), hint="see docs/configuration.md"
        ) from None
    for source in data.get("source", []):
        _anchor(source, "path", path.parent)
    _anchor(data.get("render", {}), "chat_template", path.parent)
    for key in ("gpus", "apis"):
        _anchor(data.get("cost", {}), key, path.parent)
    against = data.get("decontaminate", {}).get("against")
    if isinstance(against, list):
        data["decontaminate"]["against"] = [_beside(item, path.parent) for item in against]
    for section, key in (("tokenize", "tokenizer"), ("cost", "model")):
        table = data.get(section)
        if isinstance(table, dict) and key in table:
            table[key] = _beside(table[key], path.parent)
    return data


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins; sections merge key by key; None in `over` means not given."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        elif isinstance(value, dict):
            result[key] = merge({}, value)
        elif value is not None:
            result[key] = value
    return {key: value for key, value in result.items() if value != {}}


def _anchor(section: Any, key: str, folder: Path) -> None:
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(value, str) and value and value != "-" and "://" not in value:
        section[key] = str(folder / value)


def _beside(value: Any, folder: Path) -> Any:
    """A path relative to the file, where there is one; else the value, which may be a Hub name."""
    return str(folder / value) if isinstance(value, str) and (folder / value).exists() else value


def _validate(config: Config) -> None:
    checks = [
        (
            2 <= config.truncate.max_length <= MOST_TOKENS,
            "truncate.max_length",
            f"2 to {MOST_TOKENS:,} tokens",
        ),
        (0 <= config.read.allow_bad <= 1, "read.allow_bad", "a share between 0 and 1"),
        (1 <= config.read.block_mb <= 1024, "read.block_mb", "1 to 1024 MB"),
        (1 <= config.read.max_line_mb <= 2047, "read.max_line_mb", "1 to 2047 MB"),
        (0 <= config.write.val < 1, "write.val", "a share between 0 and 1"),
        (1 <= config.write.shard_mb <= MOST_SHARD_MB, "write.shard_mb", f"1 to {MOST_SHARD_MB:,} MB"),
        (0 <= config.near_dup.threshold <= 1, "near_dup.threshold", "a similarity between 0 and 1"),
        (0 <= config.select.budget < MOST_NUMBER, "select.budget", "a number of tokens"),
        (0 <= config.select.budget_usd < float("inf"), "select.budget_usd", "dollars, 0 or more"),
        (0 < config.select.diversity <= 1, "select.diversity", "a similarity above 0, at most 1"),
        (
            0 <= config.plan.max_docs_per_row <= MOST_TOKENS,
            "plan.max_docs_per_row",
            f"0 (no limit) to {MOST_TOKENS:,}",
        ),
        (1 <= config.plan.rows_per_step <= MOST_RANKS, "plan.rows_per_step", f"1 to {MOST_RANKS:,}"),
        (0 <= config.plan.world_size <= MOST_RANKS, "plan.world_size", f"0 to {MOST_RANKS:,}"),
        (
            config.plan.rows_per_step == 1 or config.plan.world_size > 0,
            "plan.rows_per_step",
            "plan.world_size (--world-size) as well: rows are dealt to that many ranks",
        ),
        (0 <= config.plan.token_cost < MOST_NUMBER, "plan.token_cost", "0 or more"),
        (
            config.plan.world_size == 0
            or (config.plan.world_size > 0 and config.plan.planner != "sequential"),
            "plan.world_size",
            "0 or more, and 0 with the planner `sequential`, whose order dealing would undo",
        ),
        ((config.cost.gpu_price or 0) >= 0, "cost.gpu_price", "dollars per hour, 0 or more"),
        (config.cost.gpu_count >= 1, "cost.gpu_count", "1 or more"),
        (config.cost.rank >= 1, "cost.rank", "1 or more"),
        (config.cost.epochs > 0, "cost.epochs", "more than 0"),
        (config.cost.batch_size >= 1, "cost.batch_size", "1 or more"),
        (config.cost.accumulation >= 1, "cost.accumulation", "1 or more"),
        (config.cost.learning_rate > 0, "cost.learning_rate", "more than 0"),
        (_is_range(config.cost.mfu), "cost.mfu", "two shares between 0 and 1, low first"),
    ]
    if not 0 <= config.seed < MOST_NUMBER:
        raise UsageError(f"seed cannot be {config.seed}", where="seed", hint=f"give 0 to {MOST_NUMBER - 1:,}")
    for number, source in enumerate(config.source):
        if not 0 <= source.max_tokens < MOST_NUMBER:
            raise UsageError(
                f"max_tokens cannot be {source.max_tokens}",
                where=f"source[{number}].max_tokens",
                hint="give a number of tokens; 0: no limit",
            )
        if not 1 <= source.repeat <= MOST_COPIES:
            raise UsageError(
                f"repeat cannot be {source.repeat:g}",
                where=f"source[{number}].repeat",
                hint=f"give 1 to {MOST_COPIES}; max_tokens takes less of a source",
            )
    if config.select.budget and config.select.budget_usd:
        raise UsageError(
            "a budget in tokens and one in dollars", where="select.budget_usd", hint="leave one of them out"
        )
    for ok, key, wanted in checks:
        if not ok:
            section, name = key.split(".")
            raise UsageError(
                f"{key} cannot be {getattr(getattr(config, section), name)}", where=key, hint=f"give {wanted}"
            )


def _is_range(mfu: tuple[float, ...]) -> bool:
    return len(mfu) == 2 and 0 < mfu[0] <= mfu[1] <= 1


def convert(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind
    """`value` as `kind`: dataclasses from dicts, tuples from lists, Literals and scalars checked."""
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise UsageError(
                f"{value!r} is not a choice", where=where, hint=near_matches(str(value), get_args(kind))
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(value, "a list", where)
        return tuple(convert(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        item_kind = get_args(kind)[1]
        if not isinstance(value, dict):
            raise _wrong_type(value, "a table", where)
        if item_kind is str and not all(isinstance(v, str) for v in value.values()):
            raise _wrong_type(value, "a table of strings", where)
        return {key: convert(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else convert(get_args(kind)[0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, kind.__name__, where)
    return value


def _convert_dataclass(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value):
        return value
    if not isinstance(value, dict):
        raise _wrong_type(value, "a table", where)
    hints = get_type_hints(kind)
    unknown = [key for key in value if key not in hints]
    if unknown:
        raise UsageError(f"unknown key {unknown[0]!r}", where=where, hint=near_matches(unknown[0], hints))
    required = [
        f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in value]
    if missing:
        raise UsageError(f"key {missing[0]!r} is missing", where=where, hint="add it to the table")
    return kind(**{key: convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _wrong_type(value: Any, wanted: str, where: str) -> UsageError:
    return UsageError(f"{value!r} is not {wanted}", where=where, hint=f"give {wanted}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def parse_map(text: str) -> dict[str, str]:
    """`"prompt=question,completion=answer"` -> `{"prompt": "question", "completion": "answer"}`."""
    if not re.fullmatch(r"\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*", text):
        raise UsageError(
            f"cannot read the map {text!r}", where="--map", hint="--map prompt=question,completion=answer"
        )
    pairs = (pair.split("=", 1) for pair in text.split(","))
    return {target.strip(): column.strip() for target, column in pairs}


def parse_template_kwargs(given: Sequence[str]) -> dict[str, Any]:
    """`["thinking=false", "date=May"]` -> `{"thinking": False, "date": "May"}`: values are JSON, or texts."""
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(
                f"cannot read the template argument {text!r}",
                where="--template-kwarg",
                hint="--template-kwarg enable_thinking=false",
            )
        try:
            arguments[name.strip()] = json.loads(value)
        except ValueError:
            arguments[name.strip()] = value
    return arguments


def parse_tokens(text: str) -> int:
    """`"20M"`, `"1.5B"`, `"500k"` or `"20000000"` -> tokens."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", text)
    if not match:
        raise UsageError(
            f"cannot read {text!r} as a number of tokens",
            where="--budget",
            hint="--budget 20M, or dollars: --budget 50usd",
        )
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match[2].lower()])


def parse_budget(text: str) -> dict[str, float]:
    """Keys of `[select]`: dollars of `"50usd"`, `"$50"`, `"50 USD"`, or tokens of `"20M"`."""
    number = r"(\d+(?:\.\d+)?|\.\d+)"
    match = re.fullmatch(rf"\s*(?:\$\s*{number}|{number}\s*(?:usd|\$))\s*", text, re.IGNORECASE)
    if match:
        return {"budget": 0, "budget_usd": float(match[1] or match[2])}
    return {"budget": parse_tokens(text), "budget_usd": 0.0}


def parse_numbers(text: str, where: str) -> list[float]:
    """`"0.25,0.45"` -> `[0.25, 0.45]`."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"cannot read the numbers {text!r}", where=where, hint=f"{where} 0.25,0.45"
        ) from None
