"""Packages of the extra `train`, and those that a recipe asks for: missing ones are named before loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from tokpack.errors import UsageError, near_matches

OPTIMIZERS = {
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_bnb": ("bitsandbytes", "bitsandbytes"),
    "adamw_8bit": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "rmsprop_bnb": ("bitsandbytes", "bitsandbytes"),
}
"""Beginning of a name that `optim` takes -> module and distribution it needs."""

LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


def need(*packages: str) -> None:
    """Raise UsageError for the first package of the extra `train` that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise UsageError(f"{package} is not installed", hint='pip install "tokpack[train]"')


def need_training() -> None:
    """Raise UsageError where a package that every command of training imports is not installed."""
    need("torch", "accelerate", "peft")


def check_extras(trainer: Mapping[str, Any]) -> None:
    """Raise UsageError with key and package when the `[trainer]` table asks for what is not installed."""
    optimizer = str(trainer.get("optim", "adamw_torch"))
    _check_optimizer(optimizer)
    for prefix, (module, package) in OPTIMIZERS.items():
        if optimizer.startswith(prefix):
            _need(module, package, f"optim = {optimizer!r}")
    if trainer.get("use_liger_kernel"):
        _need("liger_kernel", "liger-kernel", "use_liger_kernel = true")
    loggers = trainer.get("report_to", ())
    for logger in [loggers] if isinstance(loggers, str) else loggers:
        _check_logger(str(logger))


def _check_optimizer(name: str) -> None:
    from transformers.training_args import OptimizerNames

    known = [one.value for one in OptimizerNames]
    if name not in known:
        raise UsageError(
            f"unknown optimizer {name!r}", where="[trainer] optim", hint=near_matches(name, known)
        )


def _check_logger(name: str) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    if name in ("none", "all"):
        return
    if name not in INTEGRATION_TO_CALLBACK:
        hint = near_matches(name, INTEGRATION_TO_CALLBACK)
        raise UsageError(f"unknown logger {name!r}", where="[trainer] report_to", hint=hint)
    if name in LOGGERS:
        _need(LOGGERS[name], LOGGERS[name], f"report_to = {name!r}")


def _need(module: str, package: str, key: str) -> None:
    if find_spec(module) is None:
        raise UsageError(
            f"{key} needs the package {package}, which is not installed",
            where=f"[trainer] {key}",
            hint=f"pip install {package}",
        )


def ready_libraries() -> None:
    """Load bitsandbytes without the compiler, and keep the libraries quiet: their loading bars and advice
    would drown our own lines. Their errors still show."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    load_bitsandbytes()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def load_bitsandbytes() -> None:
    """Import it, where it is installed, without PyTorch's compiler: before peft or Trainer imports it."""
    with suppress(Exception), compiling_at_the_first_call():  # peft says what is wrong with it
        import_module("bitsandbytes")


@contextmanager
def compiling_at_the_first_call() -> Iterator[None]:
    """`torch.compile` gives functions that are compiled when they are called.

    bitsandbytes has it compile four functions of its optimizers as it is imported, and peft, which Trainer
    imports, imports bitsandbytes: all of the compiler would be loaded, in two seconds, for any training.
    """
    import torch

    at_once = torch.compile

    def later(function: Any = None, **options: Any) -> Any:
        if function is None:
            return partial(later, **options)
        compiled = cache(partial(at_once, function, **options))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    with patch.object(torch, "compile", later):
        yield
