"""`PackedTrainer`: Hugging Face Trainer on packed rows, with the loss of the unpacked run.

What the mixin changes, and nothing else:
- noise: NEFTune's is scaled by each document's length (`trainer_plugin.models.neftune`);
- loss: the mean over all trained tokens (or documents) of the global batch, whatever the model's own code can
  do under accumulation; equal to the unpacked run's to rounding;
- evaluate: weighted by trained tokens (Trainer averages over batches, which weighs a long row like a short
  one), every row once, on any number of ranks;
- guards: what silently mixes documents or weights raises (`trainer_plugin.training.guards`);
- probe: `train()` proves the isolation of documents before the first step;
- log: real tokens per second, fill of the rows, tokens and trained tokens so far (kept across a resume),
  money so far and for the whole run, and on request the loss of every source and document;
- stop: at a token budget, exactly, or when the money is spent (`trainer_plugin.training.budget`);
- resume: only where the checkpoint's rows are the first ones of this run, and never past the end.

    trainer = PackedTrainer(model, args, train_dataset=PackedDataset("packed"))
    trainer.train()
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from tokpack.errors import UsageError, VerifyError
from tokpack.schema import IGNORE_INDEX
from tokpack.terminal.activity import Activity, counted
from trainer_plugin.isolation.probe import probe_isolation
from trainer_plugin.isolation.verify import refuse_config
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.loss import document_sums, loss_weights, token_losses
from trainer_plugin.losses.source_losses import SourceLosses
from trainer_plugin.models.neftune import DocumentNoise
from trainer_plugin.models.private_names import loss_is_complete, require_trainer
from trainer_plugin.models.strategies import fit_batch, inner_model, is_sharded, reshard
from trainer_plugin.output_folder import saving_in
from trainer_plugin.rows.balance import BalancedSampler, Order, balanced_sampler, lost_mix
from trainer_plugin.rows.collator import Loss, PackedCollator
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.training import guards
from trainer_plugin.training.budget import EpochOfBudget, Meter, StopWhenSpent, limit_tokens
from trainer_plugin.training.document_log import DocumentLog
from trainer_plugin.training.module_walks import ModuleWalks
from trainer_plugin.training.progress import RichProgress
from trainer_plugin.training.trainer_counting import CountingMixin, none_so_far
from trainer_plugin.training.trainer_evaluation import EvaluationMixin

log = logging.getLogger("tokpack")

FORECAST_AT, FORECAST_STEPS = 0.05, 3
"""Share of the steps after which the time of the whole run is forecast, and the fewest: the first is slow."""
OUR_STRATEGIES = ("random", "sequential")
"""Values of TrainingArguments.train_sampling_strategy under which `BalancedSampler` orders the rows."""


class PackedTrainerMixin(EvaluationMixin, CountingMixin):
    """Put before a Trainer class: `class Mine(PackedTrainerMixin, SFTTrainer)`.

    loss: "token" or "document"; order: of the rows, as `BalancedSampler` has it; probe: run the isolation
    probe at the start of `train()`.
    token_budget: end with the row that reaches so many tokens. gpu_price: dollars an hour of one process, to
    tell the cost; max_cost: end when so many dollars are spent. document_log: a `.parquet` or `.jsonl` file
    for the loss of each document in each epoch. loss_by_source: log the loss of each source as well.
    """

    kind = ""
    """Of the rows, as in the manifest: `preference` for pairs, `unpaired`, empty for text to be learned."""

    def __init__(
        self,
        *args: Any,
        loss: Loss = "token",
        order: Order | None = None,
        probe: bool = True,
        token_budget: int | None = None,
        gpu_price: float | None = None,
        max_cost: float | None = None,
        document_log: str | Path | None = None,
        loss_by_source: bool = False,
        **kwargs: Any,
    ) -> None:
        require_trainer(type(self).__name__)
        if len(args) < 3 and kwargs.get("data_collator") is None:
            kwargs["data_collator"] = PackedCollator(loss=loss)
        super().__init__(*args, **kwargs)
        self.model_divides = bool(self.model_accepts_loss_kwargs)
        self.packed_loss, self.packed_order, self.probe_at_start = loss, order, probe
        self.progress: RichProgress | None = None
        self.isolation_report: Any = None
        self.chunked_loss = ChunkedLoss(self.model)
        alpha, self.neftune_noise_alpha = self.neftune_noise_alpha, None  # Trainer's knows no documents
        self.noise = None if alpha is None else DocumentNoise(alpha)
        self.args.remove_unused_columns = False
        self.args.logging_nan_inf_filter = False  # a loss that is no number stops the run instead
        self._first_step, self._begun = 0, False
        self._last_log: float | None = None
        self._walks = ModuleWalks(self.model)
        self._sharded = is_sharded(self.model)
        self._finite = guards.FiniteLosses(self.args.output_dir)
        self.token_budget = token_budget
        self.sampler: BalancedSampler | None = None
        if token_budget is not None:
            self.add_callback(EpochOfBudget(self))
        price = None if gpu_price is None else gpu_price * self.args.world_size
        self.meter = Meter(self.args.output_dir, price, max_cost)
        self.forecast: tuple[int, float] | None = None
        """Step, and the seconds of the whole run as they looked then."""
        if max_cost is not None:
            self.add_callback(StopWhenSpent(self))
        self.document_log: DocumentLog | None = None
        if document_log is not None:
            self._refuse_losses_of_documents("document_log")
            self.document_log = DocumentLog(document_log, self.args.output_dir, self.args.process_index)
        self.source_losses: SourceLosses | None = None
        if loss_by_source:
            self._refuse_losses_of_documents("loss_by_source")
            self.source_losses = SourceLosses(self.train_dataset)
        if isinstance(self.data_collator, PackedCollator):
            self.data_collator.counts, self.data_collator.loss = True, loss
            self.data_collator.documents = document_log is not None or loss_by_source
            if self.data_collator.loss_weights is None:
                self.data_collator.loss_weights = True
        if loss == "document" or not self.model_divides:
            loss_is_complete(self)
        guards.refuse_arguments(self.args, self.accelerator, loss, bool(self.kind))
        guards.refuse_dataset(self.train_dataset, self.kind)
        guards.refuse_dataset(self.eval_dataset, self.kind)

    def _refuse_losses_of_documents(self, where: str) -> None:
        ours = type(self).compute_loss is PackedTrainerMixin.compute_loss
        if not ours or not isinstance(self.data_collator, PackedCollator):
            raise UsageError(
                f"{type(self).__name__} with {type(self.data_collator).__name__} has no losses by document",
                where=where,
                hint="use PackedTrainer and PackedCollator",
            )

    # Training

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        dataset = self.train_dataset if isinstance(self.train_dataset, PackedDataset) else None
        refuse_config(inner_model(self.model).config, dataset)
        self.meter.start(resumed=bool(resume_from_checkpoint))
        if self.probe_at_start:
            self._probe()
        reshard(self.model)
        self._walks = ModuleWalks(self.model)
        self._last_log = time.perf_counter()
        try:
            noise = nullcontext() if self.noise is None else self.noise.on(self.model)
            with noise, guards.readable(resume_from_checkpoint, lambda: self._begun):
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.meter.end()
            if self.progress is not None:
                self.progress.tell.close()
        if self.document_log is not None:
            self.document_log.flush(self.state.global_step)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                self.document_log.finish(keep_parts=self.args.save_strategy != "no")
        return output

    def _probe(self) -> None:
        rows = [self.train_dataset[i] for i in range(min(4, len(self.train_dataset)))]
        self.isolation_report = probe_isolation(self.model, rows)
        if not self.isolation_report.ok:
            fault = "packed documents see each other in this model"
            if self.isolation_report.sees_ahead:
                fault = "this model sees the tokens that it is to predict"
            raise VerifyError(
                f"{fault}\n{self.isolation_report}",
                where=type(inner_model(self.model)).__name__,
                hint="call trainer_plugin.prepare_model(model) first: it finds a way that passes",
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Our order for our datasets; Trainer's own for others, and for a strategy asked for by length."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, PackedDataset) and self.args.train_sampling_strategy in OUR_STRATEGIES:
            sampler = balanced_sampler(dataset, self.args, inner_model(self.model), self.packed_order)
            if lost := lost_mix(dataset, sampler):
                log.warning(lost)
            return sampler
        return super()._get_train_sampler(train_dataset)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """Trainer's, with the steps of the token budget."""
        *values, steps = super().set_initial_training_values(args, dataloader)
        batches = getattr(dataloader, "batch_sampler", None)
        sampler = getattr(getattr(batches, "batch_sampler", batches), "sampler", None)
        self.sampler = sampler if isinstance(sampler, BalancedSampler) else None
        if self.token_budget is not None:
            if self.sampler is None:
                raise UsageError(
                    "a token budget needs a row order that is known beforehand",
                    where="token_budget",
                    hint="train on a trainer_plugin.PackedDataset, with the default train_sampling_strategy",
                )
            steps = limit_tokens(
                self.sampler,
                self.train_dataset.row_tokens(),
                self.token_budget,
                accumulation=args.gradient_accumulation_steps,
                steps=steps,
            )
        return (*values, steps)

    def _run_epoch(self, *, epoch: int, steps_in_epoch: int, **rest: Any) -> None:
        """Trainer's, which knows no epoch that ends early, and takes a step more than it should when it
        resumes at the end."""
        if epoch == rest["epochs_trained"]:
            self._begin_session(rest["resume_from_checkpoint"])
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        sampler = self.sampler
        if sampler is not None and sampler.stop is not None and epoch == sampler.stop.epoch:
            rows = sampler.stop.rows
            steps_in_epoch = -(-rows // sampler.hand)
            rest["num_update_steps_per_epoch"] = sampler.steps_for(
                rows, self.args.gradient_accumulation_steps
            )
        super()._run_epoch(epoch=epoch, steps_in_epoch=steps_in_epoch, **rest)

    def _begin_session(self, resumed: Any) -> None:
        if resumed:
            guards.check_resumed(self.optimizer, self.state, resumed)
        step = self._first_step = self.state.global_step
        if self.document_log is not None:
            self.document_log.begin(step)
        rows = self.counts()["rows"]
        if not resumed or not rows or self.sampler is None:
            return
        expected = len(self.sampler.rows_of(step, self.args.gradient_accumulation_steps))
        if rows != expected:
            raise UsageError(
                f"the checkpoint has trained on {counted(rows, 'row')} in {counted(step, 'step')}, "
                f"this run takes {expected:,}",
                where=str(resumed),
                hint="resume with the processes, batch_rows and accumulation of the run that wrote it; one "
                "that ended at a token budget goes on from the checkpoint before its last",
            )

    def agree(self, decision: bool) -> bool:
        """The first process's decision, on all of them."""
        if self.args.world_size == 1:
            return decision
        told = torch.tensor(float(decision), device=self.args.device)
        torch.distributed.broadcast(told, 0)
        return bool(told)

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's; a loss that is no number raises VerifyError before the weights change."""
        self._begun = True
        spared = self._walks.spared(model, autocast=self.accelerator.native_amp)
        with nullcontext() if self.args.torch_compile else spared:
            loss: torch.Tensor = super().training_step(model, *args, **kwargs)
        doc_ids = self._doc_ids.popleft() if self._doc_ids else np.zeros(0, np.int64)
        self._finite.add(loss, doc_ids)
        if self.accelerator.sync_gradients:
            self._finite.check(self.state.global_step + 1)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Sum of the loss weights of the global batch: its trained tokens, or its documents."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        items = sum(loss_weights(batch).sum() for batch in batch_samples)
        return self._over_ranks(items, device) / self.get_tp_size()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        guards.refuse_batch(inputs)
        documents, places = inputs.pop("packed_documents", None), inputs.pop("packed_places", None)
        seq_idx: Any = inputs.get("seq_idx")
        if self.noise is not None:
            self.noise.begin(inputs)
        inputs = fit_batch(model, inputs)
        weights = inputs.pop("loss_weights", None)
        plain = weights is None and documents is None and self.model_divides
        if plain and (return_outputs or not self._cut(inputs["input_ids"])):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        losses, outputs = self.losses_by_token(model, inputs, labels, places, with_outputs=return_outputs)
        weights = (labels != IGNORE_INDEX).float() if weights is None else weights
        items = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights[0, 1:]).sum() / items * self._rank_scale()
        if documents is not None:
            sums = document_sums(losses.detach(), seq_idx, len(documents))
            if self.document_log is not None:
                self.document_log.add(int(self.state.epoch or 0), documents, sums)
            if self.source_losses is not None:
                self.source_losses.add(documents, sums)
        return (loss, outputs) if return_outputs else loss

    def losses_by_token(
        self,
        model: Any,
        batch: dict[str, Any],
        labels: torch.Tensor,
        places: torch.Tensor | None,
        *,
        with_outputs: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """Cross entropy of each prediction, fp32[T - 1], and the model's outputs where they are wanted.

        In chunks where the logits of the row would be large (`trainer_plugin.losses.chunked_loss`). places:
        predictions of a label, where they are known.
        """
        if not with_outputs and self._cut(batch["input_ids"]):
            with self.accelerator.autocast():  # the head too, which is run by itself
                losses = self.chunked_loss(model, batch, labels, places)
            if losses is not None:
                return losses, None
            log.warning("the logits of a row are held whole: %s", self.chunked_loss.reason)
        outputs = model(**batch)
        return token_losses(outputs.logits, labels, places), outputs

    def _cut(self, input_ids: torch.Tensor) -> bool:
        """Whether logits of this row are made in chunks; sharded and compiled models run as they are."""
        whole = self.args.torch_compile or self.args.use_liger_kernel or self.args.label_smoothing_factor
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or self._sharded
        return not whole and not sharded and self.chunked_loss.fits(input_ids.shape[-1])

    # Logs and checkpoints

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            before = dict(self.state.stateful_callbacks.get("packed_counts", none_so_far()))
            now, counts = time.perf_counter(), self.counts()
            rows, tokens = counts["rows"] - before["rows"], counts["tokens"] - before["tokens"]
            if tokens and self._last_log is not None:
                logs["tokens_per_second"] = round(tokens / (now - self._last_log), 1)
                capacity = getattr(self.train_dataset, "capacity", None)
                if capacity:
                    logs["fill"] = round(tokens / (rows * capacity), 4)
                logs["tokens"], logs["trained_tokens"] = counts["tokens"], counts["trained_tokens"]
            self._last_log = now
            self._log_money(logs)
            if self.source_losses is not None:
                logs |= self.source_losses.take(lambda sums: self.accelerator.reduce(sums, "sum"))
        super().log(logs, *args, **kwargs)

    def _log_money(self, logs: dict[str, float]) -> None:
        step, meter = self.state.global_step, self.meter
        total = meter.total_seconds(step - self._first_step, self.state.max_steps - step)
        due = min(max(FORECAST_AT * self.state.max_steps, FORECAST_STEPS), self.state.max_steps)
        if self.forecast is None and step >= due:
            self.forecast = step, total
        if meter.price:
            logs["cost_usd"] = round(meter.dollars, 6)
            logs["cost_usd_total"] = round(total / 3600 * meter.price, 6)
        if self.args.save_strategy != "no" and self.is_world_process_zero():
            meter.save()

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.counts()
        if self.document_log is not None:
            self.document_log.flush(self.state.global_step)
        with saving_in(Path(str(self.args.output_dir))):
            super()._save_checkpoint(*args, **kwargs)


class PackedTrainer(PackedTrainerMixin, Trainer):
    """Trainer for packed rows. `progress=False` keeps Trainer's own progress bar or printer; an Activity is
    told instead of a new one."""

    def __init__(self, *args: Any, progress: bool | Activity = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if progress:
            for callback in (PrinterCallback, ProgressCallback):
                self.remove_callback(callback)
            self.progress = RichProgress(progress if isinstance(progress, Activity) else None)
            self.add_callback(self.progress)
