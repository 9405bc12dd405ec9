"""Every name of the training libraries that the plugin uses and that they do not document as theirs to keep.

Each stands here with the versions it was seen in and what it is used for. `absent()` says which the installed
versions lack, and a test fails with that list, so a release that drops one is noticed before a user is.
Methods of Trainer are overridden where the trainer is (`training/trainer.py`, `preference.py`); what is read
or set is read and set here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from tokpack.errors import UsageError


class PrivateName(NamedTuple):
    """`place` is "module:name.name"; the last part is an attribute, or a name in the code of its owner."""

    place: str
    seen: str
    """First and last version it was looked for and found in."""
    use: str
    needed: bool = True
    """Whether something fails without it; other names are asked for first."""

    @property
    def library(self) -> str:
        return self.place.partition(".")[0]

    def present(self) -> bool:
        """Whether the installed library has it."""
        module, _, path = self.place.partition(":")
        *owners, last = path.split(".")
        try:
            owner: Any = import_module(module)
            for name in owners:
                owner = getattr(owner, name)
        except (ImportError, AttributeError):
            return False
        return hasattr(owner, last) or (bool(owners) and last in _names_in(owner))


def _names_in(owner: Any) -> set[str]:
    """Attributes and variables in the code of a function, or of the methods of a class."""
    methods = vars(owner).values() if inspect.isclass(owner) else [owner]
    functions = [getattr(method, "fget", None) or inspect.unwrap(method) for method in methods]
    todo: list[Any] = [function.__code__ for function in functions if inspect.isfunction(function)]
    found: set[str] = set()
    while todo:
        code = todo.pop()
        found.update(code.co_names, code.co_varnames, code.co_cellvars)
        todo += filter(inspect.iscode, code.co_consts)
    return found


TRAINER = tuple(
    PrivateName(f"transformers.trainer:Trainer.{name}", seen, use)
    for name, seen, use in (
        ("_run_epoch", "5.4 to 5.24", "an epoch that ends early; the check of a resumed run"),
        ("set_initial_training_values", "5.4 to 5.24", "the steps of a token budget"),
        ("train_sampling_strategy", "5.2 to 5.24", "an order of rows that the user asked Trainer for"),
        ("_get_train_sampler", "4.57 to 5.24", "the order of the rows"),
        ("get_batch_samples", "4.57 to 5.24", "counts and document ids of each batch"),
        ("_get_num_items_in_batch", "4.57 to 5.24", "what the loss of a global batch is divided by"),
        ("model_accepts_loss_kwargs", "4.57 to 5.24", "whether the model divides its loss itself"),
        ("current_gradient_accumulation_steps", "4.57 to 5.24", "what Trainer divides other losses by"),
        ("compute_loss_context_manager", "4.57 to 5.24", "mixed precision in an evaluation"),
        ("_prepare_inputs", "4.57 to 5.24", "batches of an evaluation on the device"),
        ("_save_checkpoint", "4.57 to 5.24", "counts in every checkpoint"),
        ("get_tp_size", "4.57 to 5.24", "processes that share a batch"),
        ("neftune_noise_alpha", "5.17 to 5.23", "noise on the embeddings by document instead of Trainer's"),
    )
)
"""Hooks of Trainer without which `PackedTrainer` cannot work."""
TRAINER_SINCE = "5.4"
"""First transformers that has them all."""

SHARDS_SINCE = "5.13"
"""First transformers that shards a model while it loads it."""

OTHERS = (
    PrivateName(
        "transformers.trainer:Trainer.loss_is_scaled_for_ga",
        "5.20 to 5.24",
        "says that compute_loss has divided by the global batch; before, `model_accepts_loss_kwargs` says it",
        needed=False,
    ),
    PrivateName(
        "transformers.configuration_utils:PretrainedConfig._attn_implementation",
        "4.57 to 5.24",
        "the attention that a model has now",
    ),
    PrivateName(
        "transformers.modeling_utils:PreTrainedModel._supports_sdpa",
        "4.57 to 5.24",
        "the attention that documents alone are probed with",
    ),
    PrivateName(
        "transformers.integrations.deepspeed:_hf_deepspeed_config_weak_ref",
        "4.57 to 5.24",
        "loads whole weights under DeepSpeed ZeRO-3, for the probe",
    ),
    PrivateName(
        "transformers.utils.hub:cached_files._raise_exceptions_for_missing_entries",
        "4.57 to 5.24",
        "asks for weights in one file or in several",
    ),
    PrivateName(
        "transformers.quantizers.base:HfQuantizer.preprocess_model",
        "4.57 to 5.24",
        "which layers bitsandbytes quantizes",
    ),
    PrivateName(
        "transformers.training_args:OptimizerNames", "4.57 to 5.24", "names an unknown optimizer in a recipe"
    ),
    PrivateName(
        "transformers.integrations.integration_utils:INTEGRATION_TO_CALLBACK",
        "4.57 to 5.24",
        "names an unknown logger in a recipe",
    ),
    PrivateName(
        "accelerate.accelerator:Accelerator._models", "1.10 to 1.15", "takes an evaluation's preparation back"
    ),
    PrivateName(
        "accelerate.accelerator:Accelerator._is_accelerate_prepared",
        "1.10 to 1.15",
        "takes an evaluation's preparation back",
    ),
    PrivateName("peft.utils.other:get_pattern_key", "0.18 to 0.21", "alpha of one layer in a merge"),
    PrivateName(
        "peft.tuners.lora.layer:LoraLayer.cast_input_dtype_enabled",
        "0.18 to 0.21",
        "inputs of adapters that are not cast to and fro in mixed precision",
    ),
    PrivateName(
        "bitsandbytes.nn.modules:Linear4bit.support_avx512bf16_for_cpu",
        "0.49 to 0.50",
        "keeps 4-bit layers differentiable on CPUs",
    ),
)
SERVING = tuple(
    PrivateName(f"torch.nn.modules.module:Module.{name}", "2.13", "PEFT's hooks go after an error")
    for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
)
"""Of torch, for `tokpack serve`."""
EVALUATION = tuple(
    PrivateName(f"lm_eval.{place}", "0.4.13", use)
    for place, use in (
        ("models.huggingface:HFLM._loglikelihood_tokens", "log-likelihoods in packed rows"),
        ("models.huggingface:HFLM.__init__._model", "the model that is asked"),
        ("models.huggingface:HFLM.__init__.batch_size_per_gpu", "all windows of a text at once"),
        ("evaluator:add_env_info", "no list of all packages at every task"),
        ("utils:env", "templates of task files in a sandbox"),
    )
)
"""Of lm-eval, for `tokpack eval --tasks`."""
NAMES = (*TRAINER, *OTHERS, *SERVING, *EVALUATION)


def absent(names: tuple[PrivateName, ...] = NAMES) -> list[str]:
    """A line for each needed name that is not there: place, versions it was seen in, version installed.

    Libraries that are not installed are left out.
    """
    return [
        f"{name.place} (seen in {name.library} {name.seen}, {version(name.library)} is installed): {name.use}"
        for name in names
        if name.needed and _installed(name.library) and not name.present()
    ]


@cache
def _installed(library: str) -> bool:
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


def require_trainer(what: str = "PackedTrainer") -> None:
    """Raise UsageError for a transformers whose Trainer lacks a hook that `PackedTrainer` overrides."""
    if lost := absent(TRAINER):
        raise UsageError(
            f"{what} needs transformers {TRAINER_SINCE} or later; {version('transformers')} has no "
            f"{lost[0].partition(' ')[0].rpartition(':')[2]}",
            hint="pip install -U transformers; collator, dataset, attention and probe work with a plain "
            "Trainer as they are (docs/compatibility.md)",
        )


def loss_is_complete(trainer: Any) -> None:
    """Tell a Trainer that `compute_loss` has divided by the whole global batch.

    Else it divides the loss of models that take no loss arguments by the accumulation steps once more.
    """
    if hasattr(type(trainer), "loss_is_scaled_for_ga"):
        trainer.loss_is_scaled_for_ga = True
    else:
        trainer.model_accepts_loss_kwargs = True


def checkpointing_key() -> str:
    """The name that TrainingArguments has for activation (gradient) checkpointing."""
    from transformers import TrainingArguments

    known = TrainingArguments.__dataclass_fields__
    return "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"


def warmup_key(steps: float) -> str:
    """The name that TrainingArguments has for a warmup; before 5 a share of the run had one of its own."""
    from transformers import TrainingArguments

    whole = TrainingArguments.__dataclass_fields__["warmup_steps"].type in (int, "int")
    return "warmup_ratio" if whole and steps < 1 else "warmup_steps"


def sharding_config(processes: int) -> Any:
    """For `from_pretrained`: the weights spread over the processes by FSDP2.

    Raises UsageError for a transformers that does not shard while it loads.
    """
    from transformers import distributed

    config: Any = distributed.DistributedConfig
    if "fsdp_size" not in config.__dataclass_fields__:
        raise UsageError(
            f"shard needs transformers {SHARDS_SINCE} or later; {version('transformers')} is installed",
            where="shard",
            hint="pip install -U transformers, or shard by accelerate (docs/training.md)",
        )
    return config(fsdp_size=processes)


def attention_in(config: Any) -> str | None:
    """The attention of a model's configuration, as `attn_implementation` takes it."""
    name = getattr(config, "_attn_implementation", None)
    return None if name is None else str(name)


def supports_sdpa(model: Any) -> bool:
    """Whether a model of transformers has PyTorch's own attention."""
    return bool(getattr(model, "_supports_sdpa", False))


@contextmanager
def whole_weights() -> Iterator[None]:
    """Under DeepSpeed ZeRO-3 transformers would spread the weights while it loads them: no probe could run;
    the engine spreads them when training begins."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    if config is None:
        yield
        return
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)


def file_of_model(model: str, name: str) -> str | None:
    """Path of a file of a model folder or Hub name; None where the model has none of that name."""
    from transformers.utils import cached_file

    found: str | None = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    return found


def forget_preparation(accelerator: Any, model: Any) -> None:
    """Make accelerate take a model for one that it has not prepared yet."""
    model._is_accelerate_prepared = False
    accelerator._models = [one for one in accelerator._models if one is not model]


def forget_quantization(model: Any) -> None:
    """Make a dequantized model save as a plain one."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_loaded_in_4bit = False
    model.is_quantized = False
    model.hf_quantizer = None


def keep_differentiable(layer: Any) -> None:
    """Keep a 4-bit layer of bitsandbytes from repacking its weights for AVX512-BF16, without a backward."""
    layer.support_avx512bf16_for_cpu = False
