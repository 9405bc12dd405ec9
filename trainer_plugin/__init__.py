"""Train on packed rows with Hugging Face Trainer, with the proof that no document sees another.

Public names are loaded when first used: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "PackedDataset": "rows.dataset",
    "PackedCollator": "rows.collator",
    "BalancedSampler": "rows.balance",
    "register_attention": "models.attention",
    "use_tokpack_attention": "models.attention",
    "IsolationReport": "isolation.report",
    "ModelVerification": "isolation.report",
    "probe_isolation": "isolation.probe",
    "prepare_model": "isolation.verify",
    "verify_model": "isolation.verify",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "PackedTrainer": "training.trainer",
    "PackedTrainerMixin": "training.trainer",
    "PackedDPOTrainer": "training.preference",
    "pack_pairs": "training.preference",
    "PackedKTOTrainer": "training.unpaired",
    "PreferenceLoss": "losses.preference_loss",
    "load_model": "adapters.qlora",
    "prepare_lora": "adapters.qlora",
    "repair_linear4bit": "adapters.qlora",
    "merge_dequantized": "adapters.merge",
    "leave_processes": "processes",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name].startswith("training."):
        import_module(f"{__name__}.extras").load_bitsandbytes()
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
