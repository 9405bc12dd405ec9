"""`PackedTrainer`: Hugging Face Trainer on packed rows, with the loss of the unpacked run.

What the mixin changes, and nothing else:
- loss: the mean over all trained tokens (or documents) of the global batch, whatever the model's own code can
  do under accumulation; equal to the unpacked run's to rounding;
- evaluate: weighted by trained tokens (Trainer averages over batches, which weighs a long row like a short
  one), every row once, on any number of ranks;
- guards: an attention mask, a cache, DataParallel, iterable datasets and context parallelism raise, because
  each of them silently mixes documents or weights;
- probe: `train()` proves the isolation of documents before the first step;
- log: real tokens per second, fill of the rows, tokens and trained tokens so far (kept across a resume).

    trainer = PackedTrainer(model, args, train_dataset=PackedDataset("packed"))
    trainer.train()
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, ProgressCallback, Trainer

from tokpack.errors import UsageError, VerifyError
from tokpack.schema import IGNORE_INDEX
from trainer_plugin.balance import BalancedSampler, pair_cost
from trainer_plugin.collator import Loss, PackedCollator
from trainer_plugin.dataset import PackedDataset
from trainer_plugin.isolation import probe_isolation, refuse_config
from trainer_plugin.progress import RichProgress
from trainer_plugin.strategies import fit_batch, inner_model

COUNTS = ("rows", "tokens", "trained_tokens", "documents")


class PackedTrainerMixin:
    """Put before a Trainer class: `class Mine(PackedTrainerMixin, SFTTrainer)`.

    loss: "token" or "document"; probe: run the isolation probe at the start of `train()`.
    """

    def __init__(self, *args: Any, loss: Loss = "token", probe: bool = True, **kwargs: Any) -> None:
        if len(args) < 3 and kwargs.get("data_collator") is None:
            kwargs["data_collator"] = PackedCollator(loss=loss)
        super().__init__(*args, **kwargs)
        self.packed_loss, self.probe_at_start = loss, probe
        self.isolation_report: Any = None
        self.args.remove_unused_columns = False
        self._pending_counts: list[torch.Tensor] = []
        self.session_tokens = 0
        self._last_log: float | None = None
        self._eval_sums = torch.zeros(2, dtype=torch.float64)
        if isinstance(self.data_collator, PackedCollator):
            self.data_collator.counts, self.data_collator.loss = True, loss
        if loss == "document" or not self.model_accepts_loss_kwargs:
            self.loss_is_scaled_for_ga = True
        self._refuse_settings()

    def _refuse_settings(self) -> None:
        args = self.args
        parallel = getattr(self.accelerator, "parallelism_config", None)
        problem = None
        if args.n_gpu > 1:
            problem = (
                f"DataParallel over {args.n_gpu} GPUs cuts packed rows apart",
                "start one process per GPU: `torchrun --nproc-per-node N`, or set CUDA_VISIBLE_DEVICES=0",
            )
        elif args.use_cache:
            problem = ("use_cache=True makes transformers ignore document boundaries", "leave it at False")
        elif args.world_size > 1 and not args.average_tokens_across_devices:
            problem = (
                "without average_tokens_across_devices the loss is no mean over the global batch",
                "leave it at True",
            )
        elif args.label_smoothing_factor and self.packed_loss == "document":
            problem = ("label smoothing knows no per-document mean", 'use loss="token"')
        elif parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            problem = ("context parallelism cuts documents apart", "use data parallelism or FSDP")
        if problem is not None:
            raise UsageError(problem[0], where="TrainingArguments", hint=problem[1])
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and not isinstance(dataset, dict) and not hasattr(dataset, "__len__"):
                raise UsageError(
                    "an iterable dataset: accelerate would slice cu_seq_lens as if it had one entry a row",
                    where=type(dataset).__name__,
                    hint="give trainer_plugin.PackedDataset, or a map-style dataset",
                )

    # Training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        dataset = self.train_dataset if isinstance(self.train_dataset, PackedDataset) else None
        refuse_config(inner_model(self.model).config, dataset)
        if self.probe_at_start:
            rows = [self.train_dataset[i] for i in range(min(4, len(self.train_dataset)))]
            self.isolation_report = probe_isolation(self.model, rows)
            if not self.isolation_report.ok:
                raise VerifyError(
                    f"packed documents see each other in this model\n{self.isolation_report}",
                    where=type(inner_model(self.model)).__name__,
                    hint="call trainer_plugin.prepare_model(model) first: it finds a way that passes",
                )
        self._last_log = time.perf_counter()
        return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The balanced order for our datasets; Trainer's own for others, and for a strategy asked for."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, PackedDataset) and self.args.train_sampling_strategy == "random":
            return balanced_sampler(dataset, self.args, inner_model(self.model))
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            counts = batch.pop("packed_counts", None)
            if counts is not None:
                self._pending_counts.append(counts)
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Sum of the loss weights of the global batch: its trained tokens, or its documents."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        items = sum(_weights(batch).sum() for batch in batch_samples)
        items = torch.as_tensor(items, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        return items / self.get_tp_size()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        refuse_batch(inputs)
        inputs = fit_batch(model, inputs)
        weights = inputs.pop("loss_weights", None)
        if weights is None and self.model_accepts_loss_kwargs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        weights = (labels != IGNORE_INDEX).float() if weights is None else weights
        items = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = weighted_loss(outputs.logits, labels, weights) / items * self._rank_scale()
        return (loss, outputs) if return_outputs else loss

    def _rank_scale(self) -> int:
        """DDP averages gradients over ranks; a loss divided by the global count has to be summed."""
        if not self.args.average_tokens_across_devices:
            return 1
        return int(self.accelerator.num_processes // self.get_tp_size())

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        if self.args.world_size == 1:
            return super().get_eval_dataloader(eval_dataset)
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        return torch.utils.data.DataLoader(
            RankRows(dataset, self.args.process_index, self.args.world_size),
            batch_size=self.args.eval_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        self._eval_sums = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(
            dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        sums = self._eval_sums
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        if sums[1] > 0:
            output.metrics[f"{metric_key_prefix}_loss"] = float(sums[0] / sums[1])
            output.metrics[f"{metric_key_prefix}_weight"] = float(sums[1])
        return output

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        inputs = {name: value for name, value in inputs.items() if name != "packed_counts"}
        inputs = self._prepare_inputs(inputs)
        labels, weight = inputs["labels"], _weights(inputs).sum()
        items = weight.clamp(min=torch.finfo(torch.float32).tiny)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = self.compute_loss(
                model, inputs, return_outputs=not prediction_loss_only, num_items_in_batch=items
            )
        loss, outputs = (found, None) if prediction_loss_only else found
        loss = loss.detach() / self._rank_scale()
        self._eval_sums += torch.stack([loss * items, weight]).double().cpu()
        if outputs is None:
            return loss, None, None
        return loss, outputs["logits"].detach(), labels

    # Counting

    def counts(self) -> dict[str, int]:
        """Rows, tokens, trained tokens and documents trained on so far, all ranks, earlier runs included."""
        kept = self.state.stateful_callbacks.setdefault("packed_counts", dict.fromkeys(COUNTS, 0))
        if self._pending_counts:
            fresh = torch.stack([one.to(self.args.device) for one in self._pending_counts]).sum(0)
            self._pending_counts = []
            if self.args.world_size > 1:
                fresh = self.accelerator.reduce(fresh, "sum")
            for name, count in zip(COUNTS, fresh.tolist(), strict=True):
                kept[name] += count
            self.session_tokens += int(fresh[1])
        return dict(kept)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            before = dict(self.state.stateful_callbacks.get("packed_counts", dict.fromkeys(COUNTS, 0)))
            now, counts = time.perf_counter(), self.counts()
            rows, tokens = counts["rows"] - before["rows"], counts["tokens"] - before["tokens"]
            if tokens and self._last_log is not None:
                logs["tokens_per_second"] = round(tokens / (now - self._last_log), 1)
                capacity = getattr(self.train_dataset, "capacity", None)
                if capacity:
                    logs["fill"] = round(tokens / (rows * capacity), 4)
                logs["tokens"], logs["trained_tokens"] = counts["tokens"], counts["trained_tokens"]
            self._last_log = now
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.counts()
        super()._save_checkpoint(*args, **kwargs)


class PackedTrainer(PackedTrainerMixin, Trainer):
    """Trainer for packed rows. `progress=False` keeps Trainer's own progress bar or printer."""

    def __init__(self, *args: Any, progress: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if progress:
            for callback in (PrinterCallback, ProgressCallback):
                self.remove_callback(callback)
            self.add_callback(RichProgress())


def balanced_sampler(dataset: PackedDataset, args: Any, model: Any) -> BalancedSampler:
    """The row order that a training run takes, known before it starts."""
    return BalancedSampler(
        dataset,
        args.world_size,
        batch_rows=args.per_device_train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        pair_cost=pair_cost(model),
    )


class RankRows(torch.utils.data.Dataset):
    """Every `ranks`-th row, as many on each rank: missing ones are repeats without labels, weight 0."""

    def __init__(self, dataset: Any, rank: int, ranks: int) -> None:
        self.dataset, self.rank, self.ranks = dataset, rank, ranks

    def __len__(self) -> int:
        return (len(self.dataset) + self.ranks - 1) // self.ranks

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index * self.ranks + self.rank
        if row < len(self.dataset):
            return dict(self.dataset[row])
        repeat = dict(self.dataset[len(self.dataset) - 1])
        return {**repeat, "labels": np.full(len(repeat["labels"]), IGNORE_INDEX)}


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of weight x cross entropy; logits `[1, T, V]`, labels and weights `[1, T]`, unshifted."""
    losses = cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * weights[0, 1:]).sum()


def refuse_batch(inputs: dict[str, Any]) -> None:
    """Raise UsageError for a batch in which documents would not be found."""
    if inputs.get("attention_mask") is not None:
        raise UsageError(
            "the batch has an attention_mask, and transformers then ignores document boundaries",
            where="batch",
            hint="collate with trainer_plugin.PackedCollator, which makes none",
        )
    if inputs.get("cu_seq_lens_q") is None or inputs.get("position_ids") is None:
        raise UsageError(
            "the batch does not say where documents end (cu_seq_lens_q, position_ids)",
            where="batch",
            hint="collate with trainer_plugin.PackedCollator",
        )


def _weights(batch: dict[str, Any]) -> torch.Tensor:
    if "loss_weights" in batch:
        return batch["loss_weights"]
    return (batch["labels"][..., 1:] != IGNORE_INDEX).float()
