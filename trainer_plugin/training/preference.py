"""`PackedDPOTrainer`: preference optimization on packed pairs.

A row holds whole pairs: a chosen document, and behind it the rejected one to the same prompt, each with the
prompt in front and the prompt's labels at -100. With log-probabilities summed over each document's trained
tokens, the loss of `preference_loss.PreferenceLoss` is taken per pair:

    loss = mean over the pairs of the global batch

A pair weighs the same wherever it is packed: the mean is over pairs, not over rows. Before the first step the
policy is the reference, and the loss of DPO is ln 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from tokpack.errors import DataError, UsageError
from tokpack.schema import IGNORE_INDEX, PREFERENCE, UNPAIRED
from tokpack.terminal.activity import counted
from trainer_plugin.losses.loss import document_sums
from trainer_plugin.losses.preference_loss import PairLosses, PreferenceLoss
from trainer_plugin.models.private_names import loss_is_complete
from trainer_plugin.models.strategies import fit_batch
from trainer_plugin.rows.collator import PackedCollator
from trainer_plugin.training.guards import TRAINERS, refuse_batch
from trainer_plugin.training.trainer import PackedTrainer

Answer = tuple[Sequence[int], Sequence[int]]
"""`(input_ids, labels)` of prompt and answer, labels unshifted."""

METRICS = ("rewards/accuracy", "rewards/margin", "rewards/chosen", "rewards/rejected")


def pack_pairs(pairs: Sequence[tuple[Answer, Answer]], capacity: int) -> list[dict[str, list[Any]]]:
    """Packed rows of (chosen, rejected) pairs, best fit, longest first; a pair is never torn apart.

    For pairs that are in memory; `tokpack pack` packs raw data. Raises DataError for a pair that is longer
    than `capacity`.
    """
    lengths = [len(chosen[0]) + len(rejected[0]) for chosen, rejected in pairs]
    rows: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(pairs)), key=lambda i: -lengths[i]):
        if lengths[number] > capacity:
            raise DataError(
                f"a pair has {counted(lengths[number], 'token')}, more than a row of {capacity:,}",
                where=f"pair {number}",
                hint="shorten or leave out the pair, or give a larger capacity",
            )
        fitting = [row for row, left in enumerate(free) if left >= lengths[number]]
        if not fitting:
            rows.append([])
            free.append(capacity)
            fitting = [len(rows) - 1]
        row = min(fitting, key=free.__getitem__)
        rows[row].append(number)
        free[row] -= lengths[number]
    return [_row(pairs, numbers) for numbers in rows]


def _row(pairs: Sequence[tuple[Answer, Answer]], numbers: list[int]) -> dict[str, list[Any]]:
    answers = [answer for number in numbers for answer in pairs[number]]
    return {
        "input_ids": [token for ids, _ in answers for token in ids],
        "labels": [label for _, labels in answers for label in labels],
        "seq_lengths": [len(ids) for ids, _ in answers],
        "doc_ids": [2 * number + which for number in numbers for which in (0, 1)],
        "pair_ids": [number for number in numbers for _ in range(2)],
        "is_chosen": [True, False] * len(numbers),
    }


class PackedDPOTrainer(PackedTrainer):
    """Preference optimization over rows of pairs: a packed dataset of preference data, or `pack_pairs`.

    The reference of DPO and IPO is `ref_model`, or the model without its adapter when that is None; ORPO and
    SimPO have none. Logs `rewards/accuracy`, `rewards/margin` and the rewards of both answers, means over the
    pairs since the last log.
    """

    kind = PREFERENCE
    default = PreferenceLoss()

    def __init__(
        self,
        *args: Any,
        preference: PreferenceLoss | None = None,
        ref_model: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.preference = preference or self.default
        self.ref_model = ref_model
        loss_is_complete(self)
        if self.preference.is_unpaired != self.default.is_unpaired:
            raise UsageError(
                f"{self.preference.loss} is {'not ' if self.default.is_unpaired else ''}for unpaired answers",
                where=type(self).__name__,
                hint=f"use trainer_plugin.{TRAINERS[PREFERENCE if self.default.is_unpaired else UNPAIRED]}",
            )
        self._rewards: torch.Tensor | float = 0.0
        if isinstance(self.data_collator, PackedCollator):
            self._set_collator(self.data_collator)
        if not self.preference.needs_reference:
            self.ref_model = None
        elif ref_model is not None:
            ref_model.eval().requires_grad_(False).to(self.args.device)
        elif not hasattr(self.model, "disable_adapter"):
            raise UsageError(
                f"{self.preference.loss} needs a reference model",
                where="ref_model",
                hint="give ref_model, train an adapter (the model without it is then the reference), or take "
                "a loss without one: orpo, simpo",
            )

    def _set_collator(self, collator: PackedCollator) -> None:
        collator.pairs = True

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Pairs of the global batch, or answers."""
        return self._over_ranks(sum(self._items(batch) for batch in batch_samples), device)

    def _items(self, batch: dict[str, Any]) -> Any:
        return len(_pairs_of(batch))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        refuse_batch(inputs)
        losses, rewards, outputs = self._losses(model, inputs, return_outputs)
        items = rewards[-1].clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / items * self._rank_scale()
        if model.training:
            self._rewards = self._rewards + rewards
        return (loss, outputs) if return_outputs else loss

    def _losses(
        self, model: Any, inputs: dict[str, Any], with_outputs: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Losses of the pairs of a batch, what `_means` makes rewards of, their number last, and the model's
        outputs."""
        pairs, tokens = _pairs_of(inputs), self._trained_tokens(inputs)
        before = None
        if self.preference.needs_reference:
            before = self._reference_log_probs(model, inputs)[pairs]
        sums, outputs = self._log_probs(model, inputs, with_outputs)
        found = self.preference(sums[pairs], tokens[pairs], before)
        return found.loss, _sums_of(found), outputs

    def _trained_tokens(self, inputs: dict[str, Any]) -> torch.Tensor:
        labels, numbers = (inputs[name].to(self.args.device) for name in ("labels", "seq_idx"))
        trained = (labels[0, 1:] != IGNORE_INDEX).float()
        return document_sums(trained, numbers, len(inputs["cu_seq_lens_q"]) - 1)

    def _log_probs(
        self, model: Any, inputs: dict[str, Any], with_outputs: bool = False
    ) -> tuple[torch.Tensor, Any]:
        """Log-probability of the trained tokens of each document, fp32[D], and the model's outputs."""
        own = {name: value for name, value in inputs.items() if not name.startswith("packed_")}
        places = inputs.get("packed_places")
        labels, numbers = (inputs[name].to(self.args.device) for name in ("labels", "seq_idx"))
        del own["labels"]
        batch = fit_batch(model, own)
        losses, outputs = self.losses_by_token(model, batch, labels, places, with_outputs=with_outputs)
        return -document_sums(losses, numbers, len(inputs["cu_seq_lens_q"]) - 1), outputs

    def _reference_log_probs(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad(), self._reference(model) as frozen:
            return self._log_probs(frozen, inputs)[0]

    def _reference(self, model: Any) -> AbstractContextManager[Any]:
        if self.ref_model is not None:
            return nullcontext(self.ref_model)
        return _without_adapter(self.accelerator.unwrap_model(model))

    # Rewards

    def _mean_rewards(self, sums: torch.Tensor | float, prefix: str = "") -> dict[str, float]:
        """Means over all ranks; nothing without answers."""
        if not isinstance(sums, torch.Tensor):
            return {}
        total: torch.Tensor = self.accelerator.reduce(sums, "sum") if self.args.world_size > 1 else sums
        return {f"{prefix}{name}": round(value, 6) for name, value in self._means(total.tolist()).items()}

    def _means(self, sums: list[float]) -> dict[str, float]:
        *values, pairs = sums
        means = zip(METRICS, values, strict=True) if pairs else ()
        return {name: value / pairs for name, value in means}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self._mean_rewards(self._rewards)
            self._rewards = 0.0
        super().log(logs, *args, **kwargs)

    # Evaluation

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        self._eval_rewards: torch.Tensor | float = 0.0
        output = super().evaluation_loop(
            dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        output.metrics.update(self._mean_rewards(self._eval_rewards, f"{metric_key_prefix}_"))
        return output

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, rewards, _ = self._losses(model, inputs)
        self._eval_rewards = self._eval_rewards + rewards
        self._eval_sums.append(torch.stack([losses.sum(), rewards[-1]]))
        return losses.sum() / rewards[-1].clamp(min=1), None, None


def _pairs_of(batch: dict[str, Any]) -> torch.Tensor:
    pairs: torch.Tensor | None = batch.get("packed_pairs")
    if pairs is None:
        raise DataError(
            "the batch does not say which documents are a pair (packed_pairs)",
            where="batch",
            hint="collate with trainer_plugin.PackedCollator(pairs=True)",
        )
    return pairs


def _sums_of(found: PairLosses) -> torch.Tensor:
    """The values of METRICS summed over pairs, and the pairs: fp32[5]."""
    margin = found.chosen - found.rejected
    values = [margin > 0, margin, found.chosen, found.rejected, torch.ones_like(margin)]
    return torch.stack([value.float().sum() for value in values])


@contextmanager
def _without_adapter(model: Any) -> Iterator[Any]:
    """The same model with its adapter off and dropout off; both come back."""
    training = model.training
    try:
        with model.disable_adapter():
            yield model.eval()
    finally:
        model.train(training)
