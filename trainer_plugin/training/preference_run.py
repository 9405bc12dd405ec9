"""The loss that a run takes for a packed dataset of preferences, and its trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.terminal.activity import counted, in_number
from trainer_plugin.losses.preference_loss import UNPAIRED, PreferenceLoss
from trainer_plugin.recipe import Recipe
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.training.guards import KINDS

START_RATE, HIGH_RATE = 1e-5, 5e-5
"""Learning rates on preferences: one to begin with, and one above which a run says so."""


def preference_of(dataset: PackedDataset, recipe: Recipe) -> PreferenceLoss | None:
    """The loss of a packed dataset of preferences, None for any other.

    Raises UsageError for a recipe that is not for it.
    """
    if not dataset.kind:
        if recipe.preference:
            raise UsageError(
                "the recipe is for preference pairs, the packed dataset holds no preference pairs",
                where=f"[preference], {dataset.folder}",
                hint="pack data with chosen and rejected answers, or leave the table out",
            )
        return None
    if recipe.loss == "document":
        raise UsageError(
            "preference pairs all weigh the same: there is no loss by document"
            if dataset.is_preference
            else "unpaired answers weigh by their labels: there is no loss by document",
            where="loss = document",
            hint='leave it out; [preference] loss = "ipo" counts by token'
            if dataset.is_preference
            else "leave it out; desirable_weight and undesirable_weight are in [preference]",
        )
    default = {} if dataset.is_preference else {"loss": "kto"}
    found = PreferenceLoss.of(default | dict(recipe.preference))
    if found.is_unpaired == dataset.is_preference:
        held, losses = KINDS[dataset.kind], UNPAIRED if not dataset.is_preference else ("dpo", "ipo")
        raise UsageError(
            f"{found.loss} is not for {held}, which the packed dataset holds",
            where=f"[preference] loss, {dataset.folder}",
            hint=f'loss = "{losses[0]}" or "{losses[1]}" is',
        )
    return found


def preference_lines(preference: PreferenceLoss, dataset: PackedDataset, recipe: Recipe) -> list[str]:
    """What the preference loss is given, a learning rate that is high for it, and how good and bad unpaired
    answers balance."""
    high = recipe.learning_rate > HIGH_RATE
    warned = [
        f"a learning rate of {recipe.learning_rate:g} is for supervised training; preferences want far less: "
        f"--learning-rate {START_RATE:g} is a start"
    ] * high
    if not preference.is_unpaired:
        return [f"{preference.loss} on preference pairs, beta {preference.strength:g}", *warned]
    good, bad = dataset.label_counts()
    lines = [
        f"{preference.loss} on {good:,} desirable and {counted(bad, 'undesirable answer')}, "
        f"beta {preference.strength:g}",
        *warned,
    ]
    if good and bad:
        weight = preference.desirable_weight, preference.undesirable_weight
        balance = weight[0] * good / (weight[1] * bad) if weight[1] else float("inf")
        if not 0.99 <= balance <= 4 / 3 + 0.01:
            more, fewer = max(good, bad), min(good, bad)
            better = f"{'un' if good > bad else ''}desirable_weight = {more / fewer:.3g}"
            lines.append(
                f"good answers weigh {balance:.2g} times as much as bad ones; KTO's authors take 1 to 1.33: "
                f"{better} in [preference]"
            )
    lonely = int((dataset.row_documents() < 2).sum())
    if preference.needs_divergence and recipe.batch_rows == 1 and lonely:
        lines.append(
            f"{lonely:,} of {counted(len(dataset), 'row')} {in_number(lonely, 'hold(s|)')} one document, "
            "whose divergence is measured on its own answer: batch_rows = 2 gives it another"
        )
    return lines


def trainer_of(
    preference: PreferenceLoss | None, model: str | Path, recipe: Recipe, attn: str
) -> Callable[..., Any]:
    """PackedTrainer, or that of a preference loss and, without an adapter, a second copy of the model as the
    reference."""
    if preference is None:
        from trainer_plugin.training.trainer import PackedTrainer

        return PackedTrainer
    from trainer_plugin.adapters.qlora import load_model
    from trainer_plugin.isolation.verify import prepare_model
    from trainer_plugin.training.preference import PackedDPOTrainer
    from trainer_plugin.training.unpaired import PackedKTOTrainer

    reference = None
    if recipe.method == "full" and preference.needs_reference:
        reference = load_model(model, recipe)
        prepare_model(reference, attn, probe=recipe.probe)
    trainer = PackedKTOTrainer if preference.is_unpaired else PackedDPOTrainer
    return partial(trainer, preference=preference, ref_model=reference)
