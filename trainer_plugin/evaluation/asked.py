"""What is asked of an evaluation, refused before a library of training is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tokpack.encoding.other_tokenizer import check_model_tokenizer
from tokpack.errors import UsageError
from tokpack.schema import UNPAIRED
from trainer_plugin.checkpoints.adapter_folder import check_adapters
from trainer_plugin.evaluation.gates import parse_gate
from trainer_plugin.recipe import Recipe
from trainer_plugin.rows.dataset import PackedDataset


def check_asked(
    packed: str | Path,
    model: str | None,
    adapters: Sequence[str],
    control: str | Path | None,
    gates: Sequence[str],
) -> None:
    """Raises UsageError for packed datasets, adapters, a base or gates that are none."""
    datasets = [PackedDataset(folder) for folder in (packed, control) if folder is not None]
    for dataset in datasets:
        refuse_unpaired(dataset)
    for gate in gates:
        parse_gate(gate)
    if base := check_adapters(adapters, model, "--model"):
        for dataset in datasets:
            check_model_tokenizer(base, dataset.manifest, dataset.folder)


def check_comparable(packed: str | Path, recipe: Recipe) -> None:
    """Before training: raises UsageError where there will be nothing to compare."""
    if recipe.method == "full":
        raise UsageError(
            "a model that was trained whole has no base inside to compare with",
            where="--eval",
            hint="--eval-steps tells its held-out loss",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "the comparison is for one process", where="--eval", hint="run `tokpack eval` after the training"
        )
    refuse_unpaired(PackedDataset(packed))
    if PackedDataset(packed).validation() is None:
        raise UsageError("nothing is held out to compare on", where="--eval", hint="pack with --val 0.01")


def refuse_unpaired(dataset: PackedDataset) -> None:
    """Raise UsageError for unpaired preferences: a better model gives their bad answers a higher loss."""
    if dataset.kind == UNPAIRED:
        raise UsageError(
            "unpaired preferences: a held-out loss would count bad answers like good ones",
            where=str(dataset.folder),
            hint="`tokpack train` tells their own held-out loss and rewards; evaluate on pairs or chats",
        )
