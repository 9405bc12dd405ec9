"""Evaluation of `PackedTrainer`: weighted by trained tokens, every row once, on any number of ranks."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from trainer_plugin.losses.loss import loss_weights
from trainer_plugin.models.private_names import forget_preparation
from trainer_plugin.rows.balance import RankRows
from trainer_plugin.training.budget import Meter
from trainer_plugin.training.guards import refuse_evaluation
from trainer_plugin.training.progress import RichProgress

if TYPE_CHECKING:
    from trainer_plugin.training.trainer_hooks import TrainerHooks
else:
    TrainerHooks = object  # the Trainer that the mixin is put before

OWN_KEYS = ("packed_counts", "packed_doc_ids", "packed_documents")


class EvaluationMixin(TrainerHooks):
    """Trainer averages over batches, which weighs a long row like a short one; this counts labels."""

    progress: RichProgress | None
    meter: Meter
    _last_log: float | None
    _eval_sums: list[torch.Tensor]
    """Loss and weight of each batch that was evaluated, on its device: fp32[2]."""

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        return torch.utils.data.DataLoader(
            RankRows(dataset, self.args.process_index, self.args.world_size),  # type: ignore[arg-type]
            batch_size=self.args.eval_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        started = time.perf_counter()
        self._eval_sums = []
        untrained = not self.is_in_train and self.model_wrapped is self.model and self.args.world_size > 1
        if untrained:
            refuse_evaluation(self)
        forward = vars(self.model).get("forward")
        with self._evaluation_shown(len(dataloader)):
            output = super().evaluation_loop(
                dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        if untrained:
            self._take_back_preparation(forward)
        sums = torch.stack(self._eval_sums or [torch.zeros(2)]).cpu().double().sum(0)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        if sums[1] > 0:
            output.metrics[f"{metric_key_prefix}_loss"] = float(sums[0] / sums[1])
            output.metrics[f"{metric_key_prefix}_weight"] = float(sums[1])
        if self.is_in_train and self._last_log is not None:  # tokens per second are those of training
            self._last_log += time.perf_counter() - started
            self.meter.evaluation += time.perf_counter() - started
        return output

    def _over_ranks(self, items: Any, device: torch.device) -> torch.Tensor:
        """`items` of this rank's batches, summed over ranks where losses are means over the global batch."""
        count = torch.as_tensor(items, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def _rank_scale(self) -> int:
        """DDP averages gradients over ranks; a loss divided by the global count has to be summed."""
        if not self.args.average_tokens_across_devices:
            return 1
        return int(self.accelerator.num_processes // self.get_tp_size())

    def _evaluation_shown(self, batches: int) -> AbstractContextManager[None]:
        return nullcontext() if self.progress is None else self.progress.evaluation(self.args, batches)

    def _take_back_preparation(self, forward: Any) -> None:
        """accelerate takes a model that was prepared for evaluation for prepared altogether: `train()` would
        leave it without DDP, and every process would train alone (transformers 5.23)."""
        self.model_wrapped = self.model
        forget_preparation(self.accelerator, self.model)
        if forward is None:
            vars(self.model).pop("forward", None)
        else:
            self.model.forward = forward

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        inputs = {name: value for name, value in inputs.items() if name not in OWN_KEYS}
        inputs = self._prepare_inputs(inputs)
        labels, weight = inputs["labels"], loss_weights(inputs).sum()
        items = weight.clamp(min=torch.finfo(torch.float32).tiny)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = self.compute_loss(
                model, inputs, return_outputs=not prediction_loss_only, num_items_in_batch=items
            )
        loss, outputs = (found, None) if prediction_loss_only else found
        loss = loss.detach() / self._rank_scale()
        self._eval_sums.append(torch.stack([loss * items, weight]))
        if outputs is None:
            return loss, None, None
        return loss, outputs["logits"].detach(), labels
