"""Train on packed rows with Hugging Face Trainer, with the proof that no document sees another.

Public names are loaded when they are first used: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_plugin.attention import register_attention, use_tokpack_attention
    from trainer_plugin.balance import BalancedSampler
    from trainer_plugin.collator import PackedCollator
    from trainer_plugin.dataset import PackedDataset
    from trainer_plugin.isolation import IsolationReport, prepare_model, probe_isolation, verify_model
    from trainer_plugin.preference import PackedDPOTrainer
    from trainer_plugin.qlora import load_quantized, merge_dequantized, prepare_lora, repair_linear4bit
    from trainer_plugin.recipe import Recipe, load_recipe
    from trainer_plugin.trainer import PackedTrainer, PackedTrainerMixin

_HOME = {
    "PackedDataset": "dataset",
    "PackedCollator": "collator",
    "register_attention": "attention",
    "use_tokpack_attention": "attention",
    "IsolationReport": "isolation",
    "probe_isolation": "isolation",
    "prepare_model": "isolation",
    "verify_model": "isolation",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "PackedTrainer": "trainer",
    "PackedTrainerMixin": "trainer",
    "load_quantized": "qlora",
    "prepare_lora": "qlora",
    "repair_linear4bit": "qlora",
    "merge_dequantized": "qlora",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
