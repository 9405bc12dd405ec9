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
from dataclasses import dataclass, field
from typing import Any, Literal

from tokpack.errors import SettingError
from tokpack.settings.config_limits import check_limits
from tokpack.settings.conversion import convert
from tokpack.settings.plain import to_plain
from tokpack.terminal.printable import portable_name

ShardFormat = Literal["arrow", "parquet", "index"]

Format = Literal[
    "auto",
    "preference",
    "ranked",
    "unpaired",
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
Overlong = Literal["auto", "drop", "right", "left", "turns", "split"]
SpecialInContent = Literal["strip", "keep", "drop"]
ExactKey = Literal["nfc", "raw", "folded", "off"]
NearDupOn = Literal["both", "all", "prompt", "answer"]
RenderMode = Literal["auto", "chat", "plain"]
Loss = Literal["assistant", "last", "all"]
ToolArguments = Literal["auto", "as-is", "object", "string"]
WeightBy = Literal["tokens", "trained"]
Method = Literal["qlora", "lora", "full"]
CheckpointingMode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    path: str
    """File, glob, folder, URL, or `-` for stdin."""
    name: str = ""
    """Name in reports; the file's own name when empty."""
    format: Format = "auto"
    container: str = ""
    """`jsonl`, `json`, `parquet`, `arrow`, `csv`, `tsv`, `text`; by ending or content when empty."""
    weight: float = 0.0
    """Share of `select.budget` relative to other sources; 0: by the source's tokens."""
    max_tokens: int = 0
    """Most tokens kept of this source, counted as `select.weight_by` says; 0: no limit."""
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
    special_in_content: SpecialInContent = "strip"
    """Special tokens written out in a content: `strip` those that only end or begin a text from its ends, or
    `drop` the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupConfig:
    exact: ExactKey = "nfc"
    """What makes two documents equal. `nfc`: Unicode NFC without outer whitespace; `raw`: every byte;
    `folded`: NFKC, lower case, inner whitespace collapsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDupConfig:
    threshold: float = 0.0
    """Jaccard similarity of token 5-grams from which the later document is dropped; 0 = off."""
    on: NearDupOn = "both"
    """What must be so similar. `both`: prompt and answer, each by itself; `all`: the two as one text."""
    memory_mb: int = 0
    """Memory that the command may take while it searches; 0: what the machine, or its cgroup, has free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminateConfig:
    against: tuple[str, ...] = ()
    """Evaluation files whose text must not be trained on."""
    ngram: int = 13
    """Tokens in a row that count as a match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    mode: RenderMode = "auto"
    chat_template: str = ""
    """File with a Jinja chat template that replaces the tokenizer's own."""
    loss: Loss = "assistant"
    loss_mask: str = ""
    """Segments of answers that are not trained, comma-separated: `template` (what the template writes by
    itself), `thinking`, `tool_calls`; `none` only measures them."""
    eos: bool = True
    """One EOS at the end of each plain document."""
    separator: str = "\n"
    """Between prompt and completion when they are rendered plain."""
    date: str = ""
    """Day that a template's `strftime_now` sees, as 2026-11-24; today when empty, and then recorded here."""
    tool_arguments: ToolArguments = "auto"
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
    weight_by: WeightBy = "tokens"
    """What a budget, weights of sources and their `max_tokens` count: all tokens, or `trained` ones."""
    diversity: float = 0.5
    """Jaccard similarity from which a document counts as a repeat and waits behind the others."""
    keep: str = ""
    """File with the numbers of documents that are kept whatever rules and duplicates say of them."""

    recorded: bool = False
    """Leave in `choice.parquet` what a choice under a budget goes by, for `repack --budget`."""

    @property
    def limited(self) -> bool:
        return bool(self.budget or self.budget_usd)

    @property
    def weighs(self) -> bool:
        """Whether it is asked how good a document is."""
        return self.limited or self.recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    planner: str = "bfd"
    """`bfd`, `xfill`, `optimal`, `sequential`, `none`, or `module:function`."""
    max_docs_per_row: int = 0
    """0 = no limit."""
    world_size: int = 0
    """Ranks whose rows are matched by cost; 0 = rows in a seeded shuffle."""
    rows_per_step: int = 1
    """Rows per rank and optimizer step (micro-batch rows x accumulation); with `world_size` or
    `mix_per_step`."""
    mix_per_step: bool = False
    """Every step of `rows_per_step` rows, of each rank, has its share of each source, within one document;
    counted as `select.weight_by` says."""
    parts: int = 1
    """Rows draw from one of so many parts of the corpus each, and lie part after part: then what writes them
    reads the token store part by part, in order, instead of at random places."""
    token_cost: int = 0
    """Work of a token in the weights, in units of a pair of tokens in attention; with `world_size`. 0: taken
    from `[cost] model` where one is given, and then recorded here; else attention alone counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    shard_format: ShardFormat = "arrow"
    """`arrow`: mapped from disk as it is; `parquet`: a fifth of the size, for storage and other tools;
    `index`: tokens once and rows as a plan, so that planning anew moves no tokens."""
    shard_mb: int = 512
    val: float = 0.0
    """Share of conversations held out into OUT/validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostConfig:
    """The planned training run, for the bill in the report; no part of the packed dataset."""

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
    method: Method = "qlora"
    rank: int = 16
    """LoRA rank."""
    checkpointing: CheckpointingMode = "auto"
    """Gradient checkpointing; `auto`: where a row does not fit without."""
    epochs: float = 1.0
    batch_size: int = 8
    """Documents per GPU and micro-batch of the recipe before packing."""
    accumulation: int = 1
    """Micro-batches per optimizer step of that recipe."""
    learning_rate: float = 2e-4
    """Peak learning rate of that recipe."""
    mfu: tuple[float, ...] = ()
    """Share of the peak that training reaches, low and high; empty takes published speeds."""


TOLD_WHERE_SET = (
    ("render", "loss_mask"),
    ("select", "keep"),
    ("select", "recorded"),
    ("select", "budget_usd"),
    ("select", "weight_by"),
    ("plan", "mix_per_step"),
    ("plan", "parts"),
)
"""Section and key of what a manifest has only where it is not as usual."""


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
    def from_dict(data: dict[str, Any]) -> Config:
        """Build and validate. Raises UsageError naming the key for anything unknown or of the wrong type."""
        _check_top_level(data)
        config: Config = convert(Config, data, "config")
        check_limits(config)
        return config

    def portable(self) -> dict[str, Any]:
        """What the packed rows depend on, as plain data without paths of this machine: for the manifest."""
        data: dict[str, Any] = to_plain(self)
        usual = to_plain(Config())
        del data["cost"]
        del data["read"]["max_line_mb"]  # decides whether the run ends, not what is in it
        del data["near_dup"]["memory_mb"]  # decides how it is found, not what
        for section, key in TOLD_WHERE_SET:
            if data[section][key] == usual[section][key]:
                del data[section][key]
        for source in data["source"]:
            source["path"] = portable_name(source["path"])
            if source["repeat"] == 1:
                del source["repeat"]
        for section, key in (("tokenize", "tokenizer"), ("render", "chat_template"), ("select", "keep")):
            if key in data[section]:
                data[section][key] = portable_name(data[section][key])
        data["decontaminate"]["against"] = [portable_name(path) for path in self.decontaminate.against]
        return data


def _check_top_level(data: dict[str, Any]) -> None:
    """A key of a table that stands outside of any is the usual slip in a TOML file: say the table."""
    known = {part.name: part.default for part in dataclasses.fields(Config)}
    for key in (key for key in data if key not in known):
        homes = [name for name, table in known.items() if hasattr(table, "__slots__") and hasattr(table, key)]
        if homes:
            hint = "write it below the line " + " or ".join(f"[{name}]" for name in homes)
            raise SettingError(f"the key {key!r} stands outside its table", where="config", hint=hint)
