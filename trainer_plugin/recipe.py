"""`Recipe`: everything a training run depends on besides the packed dataset and the model, in one TOML file.

    method = "qlora"
    learning_rate = 2e-4
    accumulation = 4

    [lora]                # handed to peft.LoraConfig as it is
    r = 16
    use_dora = true

    [trainer]             # handed to transformers.TrainingArguments as it is
    optim = "paged_adamw_8bit"

    [preference]          # for packed datasets of preferences
    loss = "dpo"
    beta = 0.1

The named fields are the ones that packing gives a meaning of its own. Everything else that PEFT and Trainer
can do (DoRA, rsLoRA, PiSSA, GaLore, APOLLO, schedules, reporting) is theirs, under their own names.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from tokpack.errors import UsageError, near_matches
from trainer_plugin.losses.preference_loss import PreferenceLoss
from trainer_plugin.models.private_names import checkpointing_key, warmup_key

if TYPE_CHECKING:
    from trainer_plugin.rows.balance import Order


NOT_NEGATIVE = (
    "token_budget",
    "gpu_price",
    "max_cost",
    "eval_steps",
    "save_steps",
    "patience",
    "lisa_layers",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One fine-tuning run. Frozen: the recipe saved beside the adapter is the one that ran."""

    method: Literal["lora", "qlora", "full"] = "qlora"
    attn: str = "auto"
    """"auto", "tokpack", "mixers", "loop", or any `attn_implementation` of transformers."""
    loss: Literal["token", "document"] = "token"
    """Mean over the trained tokens of the global batch, or over documents, each weighing the same."""
    order: Literal["auto", "packed", "balanced", "random"] = "auto"
    """Of the rows; auto: as packed where the packed dataset is a curriculum (`sequential`), else balanced."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and computation; auto: what this device is fast at (`trainer_plugin.dtypes`)."""
    epochs: float = 1.0
    max_steps: int = -1
    """Optimizer steps; -1: as many as `epochs` needs."""
    batch_rows: int = 1
    """Packed rows per device and micro-batch; they are flattened into one."""
    accumulation: int = 1
    """Micro-batches per optimizer step."""
    learning_rate: float = 2e-4
    lora_plus_ratio: float = 0.0
    """LoRA+: the learning rate of the adapters' B matrices over that of A, as 16; 0: the same rate."""
    lisa_layers: int = 0
    """LISA: train so many layers at a time, as 2, drawn by the seed; method full. 0: all layers."""
    lisa_steps: int = 20
    """Optimizer steps after which LISA draws anew."""
    warmup_steps: float = 0.05
    """Below 1: share of all steps; from 1 on: steps."""
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    pad_to_capacity: bool = False
    """Pad each batch to the capacity, so that all have one shape."""
    shard: bool = False
    """Spread weights, gradients and optimizer state over all processes (FSDP2); method full."""
    token_budget: int = 0
    """End with the row that reaches so many tokens; 0: no budget."""
    gpu: str = ""
    """Key of the GPU table, for prediction and price."""
    gpu_price: float = 0.0
    """Dollars an hour of one GPU; 0: the table's."""
    max_cost: float = 0.0
    """End when so many dollars are spent, all GPUs together; 0: no limit."""
    document_log: str = ""
    """`.parquet` or `.jsonl` file for the loss of each document in each epoch."""
    loss_by_source: bool = False
    """Log the loss of each source of a mix as well."""
    seed: int = 0
    log_steps: int = 1
    eval_steps: int = 0
    """0: before and after training only."""
    patience: int = 0
    """End when so many evaluations in a row brought no lower held-out loss, and keep the best; 0: never."""
    save_steps: int = 0
    """Checkpoints every so many steps; 0: only the result is written."""
    probe: bool = True
    lora: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    preference: Mapping[str, Any] = field(default_factory=dict)
    """For preference pairs: `loss` (dpo, ipo, orpo, simpo), `beta`, `gamma`; for unpaired preferences: `loss`
    (kto, apo_zero_unpaired), `beta`, `desirable_weight`, `undesirable_weight`."""

    def __post_init__(self) -> None:
        PreferenceLoss.of(self.preference)
        for name in ("batch_rows", "accumulation", "log_steps", "lisa_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1", where=f"{name}={getattr(self, name)}")
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be above 0, and finite", where=f"{name}={getattr(self, name)}")
        if self.max_steps < 1 and self.max_steps != -1:
            raise UsageError(
                "max_steps must be at least 1",
                where=f"max_steps={self.max_steps}",
                hint="leave it out for as many as the epochs need",
            )
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative", where=f"{name}={getattr(self, name)}")
        if self.lora_plus_ratio and (self.method == "full" or self.lora_plus_ratio < 1):
            raise UsageError(
                "LoRA+ is for adapters, and its ratio at least 1",
                where=f"lora_plus_ratio={self.lora_plus_ratio}",
                hint="16 is what its paper takes; leave it out to train A and B at one rate",
            )
        if self.lisa_layers and (self.method != "full" or self.shard):
            raise UsageError(
                "LISA draws among layers that are trained whole, in one process",
                where=f"lisa_layers={self.lisa_layers}",
                hint='method = "full", without shard; leave it out to train an adapter',
            )
        if self.patience and not self.eval_steps:
            raise UsageError(
                "patience counts evaluations, and there are none while it trains",
                where=f"patience={self.patience}",
                hint="say how often: --eval-steps 50",
            )
        if self.shard and self.method != "full":
            raise UsageError(
                f"method {self.method!r} cannot be sharded",
                where="shard",
                hint='method = "full"; for adapters: accelerate launch --config_file examples/accelerate/...',
            )

    @property
    def row_order(self) -> Order | None:
        """The order that was asked for; None leaves it to the packed dataset."""
        return None if self.order == "auto" else self.order

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def load_recipe(path: str | Path | None = None, **flags: Any) -> Recipe:
    """The recipe in `path`, changed by the flags that are not None.

    Raises UsageError naming the key that is unknown (with near matches) or has a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(Path(path))
        _check(values, str(path))
    given = {name: value for name, value in flags.items() if value is not None}
    with _named_as_flags(given):
        _check(given, "")
        return replace(Recipe(), **{**values, **given})


@contextmanager
def _named_as_flags(given: Mapping[str, Any]) -> Iterator[None]:
    """What is wrong with one of the flags names the flag as it was typed."""
    try:
        yield
    except UsageError as error:
        key = re.match(r"\w+", error.where or "")
        if key is None or key[0] not in given:
            raise
        flag = f"--{key[0].replace('_', '-')}"
        what = re.sub(rf"^{key[0]}\b", flag, error.what)
        raise UsageError(what, where=f"{flag} {given[key[0]]}", hint=error.hint) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no such recipe", where=str(path), hint=_hint_for_recipes(path)) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the recipe is not valid TOML: {error}", where=str(path), hint="mend it there"
        ) from None


def _hint_for_recipes(path: Path) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.glob("*.toml")] if folder.is_dir() else []
    return near_matches(path.name, names) if names else "examples/recipes/ of the repository has some to copy"


def _check(values: Mapping[str, Any], source: str) -> None:
    hints = get_type_hints(Recipe)
    if "source" in values or "tokenize" in values:
        raise UsageError(
            "these are settings of `tokpack pack`, which the packed dataset has already",
            where=source,
            hint="leave --recipe out, or give one for training: examples/recipes/ has some to copy",
        )
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"unknown key {name!r}", where=source, hint=near_matches(name, hints))
        if not _fits(value, hints[name]):
            raise UsageError(
                f"{name} = {value!r} does not fit",
                where=f"{source}: {name}".removeprefix(": "),
                hint=_expected(hints[name]),
            )


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is not None:
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(kind))
    return f"expected {'a table' if get_origin(kind) is not None else kind.__name__}"


def training_arguments(recipe: Recipe, output: str | Path, **changes: Any) -> Any:
    """`transformers.TrainingArguments` for a recipe; `[trainer]` wins over the named fields.

    Raises UsageError for a key that TrainingArguments does not know, and for a value it does not take.
    """
    import torch
    from transformers import TrainingArguments

    on_cpu = not torch.accelerator.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    values = {
        "output_dir": str(output),
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and processes > 1 else None,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": recipe.batch_rows,
        "per_device_eval_batch_size": recipe.batch_rows,
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        warmup_key(recipe.warmup_steps): recipe.warmup_steps,
        "lr_scheduler_type": recipe.scheduler,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        checkpointing_key(): recipe.gradient_checkpointing,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "logging_steps": recipe.log_steps,
        "eval_strategy": "steps" if recipe.eval_steps else "no",
        "eval_steps": recipe.eval_steps or None,
        "save_strategy": "steps" if recipe.save_steps or recipe.patience else "no",
        "save_steps": recipe.save_steps or recipe.eval_steps or 500,
        **(_keep_the_best(recipe) if recipe.patience else {}),
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "accelerator_config": {"non_blocking": torch.cuda.is_available()},
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **changes,
        **recipe.trainer,
    }
    if precision := mixed_precision(recipe):
        values[precision] = True
    known = {one.name for one in fields(TrainingArguments)}
    for name in values:
        if name not in known:
            raise UsageError(f"unknown key {name!r}", where="[trainer]", hint=near_matches(name, known))
    try:
        return TrainingArguments(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(
            f"transformers does not take these settings: {error}", where="recipe: [trainer]"
        ) from None


def _keep_the_best(recipe: Recipe) -> dict[str, Any]:
    """Trainer goes back to the checkpoint with the lowest held-out loss, and keeps that and the last."""
    limit = {} if recipe.save_steps else {"save_total_limit": 1}
    return {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", **limit}


def mixed_precision(recipe: Recipe) -> Literal["", "bf16", "fp16"]:
    """The dtype that an adapter's fp32 matrices multiply in on a GPU, as a flag of TrainingArguments.

    That of the 16-bit weights beside them: products in fp32 would take most of a step. In float16 the loss is
    scaled, else small gradients would become zero. A precision that the user chose stays; `recipe.dtype` is
    settled.
    """
    import torch

    if recipe.method == "full" or {"fp16", "bf16"} & recipe.trainer.keys():
        return ""
    if "ACCELERATE_MIXED_PRECISION" in os.environ or not torch.cuda.is_available():
        return ""
    if recipe.dtype == "float16":
        return "fp16"
    return "bf16" if recipe.dtype == "bfloat16" else ""
