"""`PackedKTOTrainer`: preference optimization on packed answers that are labeled good or bad one by one.

    loss = mean over the answers of the global batch, by `preference_loss.PreferenceLoss.unpaired`

KTO's divergence is measured on each micro-batch, over all ranks: the mean difference of policy and reference
on every prompt with the answer of the document before it (`trainer_plugin.rows.mismatched`), at least 0. A
micro-batch is the documents of `batch_rows` packed rows, so there are many to measure on; where a row holds
one document, that is its own answer, and `batch_rows` of 2 or more gives it another. For the same documents
in the same order loss and divergence are those of TRL's KTOTrainer.

What it costs: two more forward passes without gradients, each of as many tokens as the batch.
"""

from __future__ import annotations

from typing import Any

import torch

from tokpack.errors import DataError
from tokpack.schema import UNPAIRED
from trainer_plugin.losses.preference_loss import PreferenceLoss
from trainer_plugin.models.strategies import quiet_evaluation
from trainer_plugin.rows.collator import PackedCollator
from trainer_plugin.rows.mismatched import NO_ANSWER
from trainer_plugin.training.preference import PackedDPOTrainer

UNBOUNDED = 1 << 31


class PackedKTOTrainer(PackedDPOTrainer):
    """Preference optimization over rows of unpaired preferences, `kto` or `apo_zero_unpaired`.

    The reference is `ref_model`, or the model without its adapter when that is None. Logs the mean rewards of
    good and bad answers, their difference `rewards/margin`, and `kl`, means since the last log.
    """

    kind = UNPAIRED
    default = PreferenceLoss(loss="kto")

    def _set_collator(self, collator: PackedCollator) -> None:
        collator.unpaired = True
        if self.preference.needs_divergence:
            collator.mismatched = getattr(self.train_dataset, "capacity", UNBOUNDED)

    def _items(self, batch: dict[str, Any]) -> Any:
        return (_labels_of(batch) != NO_ANSWER).sum()

    def _losses(
        self, model: Any, inputs: dict[str, Any], with_outputs: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        labels = _labels_of(inputs).to(self.args.device)
        known = labels != NO_ANSWER
        kl = self._divergence(model, inputs, known)
        before = self._reference_log_probs(model, inputs)
        sums, outputs = self._log_probs(model, inputs, with_outputs)
        losses, rewards = self.preference.unpaired(sums - before, labels == 1, kl)
        return losses.where(known, 0), _sums_of(rewards.float(), labels, kl), outputs

    def _divergence(self, model: Any, inputs: dict[str, Any], known: torch.Tensor) -> torch.Tensor:
        """Mean log ratio of policy and reference on mismatched documents of all ranks, at least 0: fp32[]."""
        if not self.preference.needs_divergence:
            return torch.zeros((), device=self.args.device)
        batch = inputs.get("packed_mismatched")
        if batch is None:
            raise DataError(
                "the batch has no answers to other prompts (packed_mismatched)",
                where="batch",
                hint="collate with trainer_plugin.PackedCollator(unpaired=True, mismatched=CAPACITY)",
            )
        before = self._reference_log_probs(model, batch)
        policy = self.accelerator.unwrap_model(model)
        with quiet_evaluation(policy):
            ratios = (self._log_probs(policy, batch)[0] - before)[: len(known)]
        sums = torch.stack([ratios.where(known, 0).sum().float(), known.sum().float()])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return (sums[0] / sums[1].clamp(min=1)).clamp(min=0)

    def _means(self, sums: list[float]) -> dict[str, float]:
        good, goods, bad, bads, kl, answers = sums
        means = {"rewards/chosen": good / goods} if goods else {}
        means |= {"rewards/rejected": bad / bads} if bads else {}
        if goods and bads:
            means["rewards/margin"] = means["rewards/chosen"] - means["rewards/rejected"]
        return means | ({"kl": kl / answers} if answers and self.preference.needs_divergence else {})


def _labels_of(batch: dict[str, Any]) -> torch.Tensor:
    labels: torch.Tensor | None = batch.get("packed_desirable")
    if labels is None:
        raise DataError(
            "the batch does not say which answers are good (packed_desirable)",
            where="batch",
            hint="collate with trainer_plugin.PackedCollator(unpaired=True)",
        )
    return labels


def _sums_of(rewards: torch.Tensor, labels: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """Rewards and number of good answers, of bad ones, the divergence times the answers, answers: fp32[6]."""
    good, bad = labels == 1, labels == 0
    answers = good.sum() + bad.sum()
    values = [rewards.where(good, 0).sum(), good.sum(), rewards.where(bad, 0).sum(), bad.sum()]
    return torch.stack([value.float() for value in (*values, kl * answers, answers)])
