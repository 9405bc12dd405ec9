"""Train on packed rows with Hugging Face Trainer, with the proof that no document sees another.

Public names are loaded when first used: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "PackedDataset": "dataset",
    "PackedCollator": "collator",
    "BalancedSampler": "balance",
    "register_attention": "attention",
    "use_tokpack_attention": "attention",
    "IsolationReport": "isolation_report",
    "ModelVerification": "isolation_report",
    "probe_isolation": "probe",
    "prepare_model": "isolation",
    "verify_model": "isolation",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "PackedTrainer": "trainer",
    "PackedTrainerMixin": "trainer",
    "PackedDPOTrainer": "preference",
    "pack_pairs": "preference",
    "PackedKTOTrainer": "unpaired",
    "PreferenceLoss": "preference_loss",
    "load_model": "qlora",
    "prepare_lora": "qlora",
    "repair_linear4bit": "qlora",
    "merge_dequantized": "merge",
    "leave_processes": "processes",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
