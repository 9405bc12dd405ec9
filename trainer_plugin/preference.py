"""`PackedDPOTrainer`: preference optimization on packed pairs.

A row holds whole pairs: a chosen document, and behind it the rejected one to the same prompt, each with the
prompt in front and the prompt's labels at -100. With log-probabilities summed over each document's trained
tokens, the loss of `preference_loss.PreferenceLoss` is taken per pair:

    loss = mean over the pairs of the global batch

A pair weighs the same wherever it is packed: the mean is over pairs, not over rows. Before the first step the
policy is the reference, and the loss of DPO is ln 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tokpack.errors import DataError, UsageError
from tokpack.schema import IGNORE_INDEX
from trainer_plugin.collator import PackedCollator
from trainer_plugin.guards import refuse_batch
from trainer_plugin.loss import document_sums
from trainer_plugin.preference_loss import PairLosses, PreferenceLoss
from trainer_plugin.private_names import loss_is_complete
from trainer_plugin.strategies import fit_batch
from trainer_plugin.trainer import PackedTrainer
from trainer_plugin.trainer_evaluation import OWN_KEYS

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
                f"a pair has {lengths[number]:,} tokens, more than a row of {capacity:,}",
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

    takes_pairs = True

    def __init__(
        self,
        *args: Any,
        preference: PreferenceLoss | None = None,
        ref_model: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.preference = preference or PreferenceLoss()
        self.ref_model = ref_model
        loss_is_complete(self)
        self._rewards = self._no_rewards()
        if isinstance(self.data_collator, PackedCollator):
            self.data_collator.pairs = True
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

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Pairs of the global batch."""
        items = torch.as_tensor(sum(len(_pairs_of(batch)) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        return items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        refuse_batch(inputs)
        found, outputs = self._pair_losses(model, inputs, return_outputs)
        items = len(found.loss) if num_items_in_batch is None else num_items_in_batch
        loss = found.loss.sum() / items * self._rank_scale()
        if model.training:
            self._rewards += _sums_of(found)
        return (loss, outputs) if return_outputs else loss

    def _pair_losses(
        self, model: Any, inputs: dict[str, Any], with_outputs: bool = False
    ) -> tuple[PairLosses, Any]:
        pairs, labels, numbers = _pairs_of(inputs), inputs["labels"], inputs["seq_idx"]
        own = ("packed_pairs", "labels", *OWN_KEYS)
        batch = fit_batch(model, {name: value for name, value in inputs.items() if name not in own})
        labels, numbers = labels.to(self.args.device), numbers.to(self.args.device)
        documents = len(inputs["cu_seq_lens_q"]) - 1
        tokens = torch.bincount(numbers[labels != IGNORE_INDEX], minlength=documents)
        reference = None
        if self.preference.needs_reference:
            with torch.no_grad(), self._reference(model) as frozen:
                reference = -document_sums(self.losses_by_token(frozen, batch, labels)[0], numbers, documents)
        losses, outputs = self.losses_by_token(model, batch, labels, with_outputs=with_outputs)
        sums = -document_sums(losses, numbers, documents)
        before = None if reference is None else reference[pairs]
        return self.preference(sums[pairs], tokens[pairs], before), outputs

    def _reference(self, model: Any) -> AbstractContextManager[Any]:
        if self.ref_model is not None:
            return nullcontext(self.ref_model)
        return _WithoutAdapter(self.accelerator.unwrap_model(model))

    # Rewards

    def _no_rewards(self) -> torch.Tensor:
        return torch.zeros(len(METRICS) + 1, device=self.args.device)

    def _mean_rewards(self, sums: torch.Tensor, prefix: str = "") -> dict[str, float]:
        """Means over the pairs of all ranks; nothing without pairs."""
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        *values, pairs = sums.tolist()
        means = zip(METRICS, values, strict=True) if pairs else ()
        return {f"{prefix}{name}": round(value / pairs, 6) for name, value in means}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self._mean_rewards(self._rewards)
            self._rewards = self._no_rewards()
        super().log(logs, *args, **kwargs)

    # Evaluation

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        self._eval_rewards = self._no_rewards()
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
            found, _ = self._pair_losses(model, inputs)
        self._eval_rewards += _sums_of(found)
        self._eval_sums += torch.tensor([float(found.loss.sum()), len(found.loss)], dtype=torch.float64)
        return found.loss.mean() if len(found.loss) else found.loss.sum(), None, None


def _pairs_of(batch: dict[str, Any]) -> torch.Tensor:
    pairs = batch.get("packed_pairs")
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


class _WithoutAdapter(AbstractContextManager[Any]):
    """The same model with its adapter off and dropout off; both come back."""

    def __init__(self, model: Any) -> None:
        self.model, self.training = model, model.training
        self.off = model.disable_adapter()

    def __enter__(self) -> Any:
        self.off.__enter__()
        return self.model.eval()

    def __exit__(self, *error: Any) -> None:
        self.off.__exit__(*error)
        self.model.train(self.training)
