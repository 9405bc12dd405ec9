"""`PackedDPOTrainer`: direct preference optimisation on packed pairs.

A row holds whole pairs: its documents 2k and 2k + 1 are the chosen and the rejected answer to one prompt,
each with the prompt in front and the prompt's labels at -100. With log-probabilities summed over each
document's trained tokens, policy minus reference:

    loss = mean over the pairs of the global batch of  -log sigmoid(beta * (chosen - rejected))

A pair weighs the same wherever it is packed: the mean is over pairs, not over rows. Before the first step the
policy is the reference and the loss is ln 2.

Direct Preference Optimization, Rafailov et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from tokpack.errors import DataError, UsageError
from tokpack.schema import IGNORE_INDEX
from trainer_plugin.strategies import fit_batch
from trainer_plugin.trainer import PackedTrainer, refuse_batch

Answer = tuple[Sequence[int], Sequence[int]]
"""`(input_ids, labels)` of prompt and answer, labels unshifted."""


def pack_pairs(pairs: Sequence[tuple[Answer, Answer]], capacity: int) -> list[dict[str, list[int]]]:
    """Packed rows of (chosen, rejected) pairs, best fit, longest first; a pair is never torn apart.

    Raises DataError for a pair that is longer than `capacity`.
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


def _row(pairs: Sequence[tuple[Answer, Answer]], numbers: list[int]) -> dict[str, list[int]]:
    answers = [answer for number in numbers for answer in pairs[number]]
    return {
        "input_ids": [token for ids, _ in answers for token in ids],
        "labels": [label for _, labels in answers for label in labels],
        "seq_lengths": [len(ids) for ids, _ in answers],
        "doc_ids": [number for number in numbers for _ in range(2)],
    }


class PackedDPOTrainer(PackedTrainer):
    """DPO over rows of pairs. The reference is `ref_model`, or the model without its adapter when that is
    None.

    beta: strength of the pull to the reference. Do not pad (`PackedCollator(capacity=None)`): a padding
    document would be half a pair. Logs `rewards/accuracy` and `rewards/margin` of the last micro-batch.
    """

    def __init__(self, *args: Any, beta: float = 0.1, ref_model: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.ref_model = beta, ref_model
        self.loss_is_scaled_for_ga = True
        self._rewards: dict[str, float] = {}
        if ref_model is None and not hasattr(self.model, "disable_adapter"):
            raise UsageError(
                "DPO needs a reference model",
                where="ref_model",
                hint="give ref_model, or train an adapter: the model without it is then the reference",
            )
        if ref_model is not None:
            ref_model.eval().requires_grad_(False).to(self.args.device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Pairs of the global batch."""
        pairs = sum((len(batch["cu_seq_lens_q"]) - 1) // 2 for batch in batch_samples)
        items = torch.as_tensor(pairs, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        return items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        refuse_batch(inputs)
        inputs = fit_batch(model, inputs)
        labels, bounds = inputs.pop("labels"), inputs["cu_seq_lens_q"]
        if len(bounds) % 2 == 0:
            raise DataError(
                f"a row holds {len(bounds) - 1} documents: pairs make an even number",
                where="batch",
                hint="pack pairs whole (trainer_plugin.preference.pack_pairs), without padding",
            )
        with torch.no_grad(), self._reference(model) as reference:
            kept = document_log_probs(reference(**inputs).logits, labels, bounds)
        outputs = model(**inputs)
        rewards = self.beta * (document_log_probs(outputs.logits, labels, bounds) - kept)
        margins = rewards[0::2] - rewards[1::2]
        items = len(margins) if num_items_in_batch is None else num_items_in_batch
        loss = -logsigmoid(margins).sum() / items * self._rank_scale()
        self._rewards = {
            "rewards/accuracy": float((margins > 0).float().mean()),
            "rewards/margin": float(margins.detach().mean()),
        }
        return (loss, outputs) if return_outputs else loss

    def _reference(self, model: Any) -> AbstractContextManager[Any]:
        if self.ref_model is not None:
            return nullcontext(self.ref_model)
        return _WithoutAdapter(self.accelerator.unwrap_model(model))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self._rewards
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        inputs = {name: value for name, value in inputs.items() if name != "packed_counts"}
        inputs = self._prepare_inputs(inputs)
        pairs = (len(inputs["cu_seq_lens_q"]) - 1) // 2
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=pairs) / self._rank_scale()
        trained = bool(
            (inputs["labels"] != IGNORE_INDEX).any()
        )  # rows that only fill up a rank weigh nothing
        self._eval_sums += torch.tensor([float(loss) * pairs * trained, pairs * trained], dtype=torch.float64)
        return loss.detach(), None, None


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


def document_log_probs(logits: torch.Tensor, labels: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Log-probability of each document's trained tokens: fp32[documents]; logits `[1, T, V]`."""
    losses = cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORE_INDEX, reduction="none")
    lengths = bounds.diff().long()
    document = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return -losses.new_zeros(len(lengths)).index_add(0, document[1:], losses)
