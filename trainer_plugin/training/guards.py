"""What PackedTrainer refuses, because it would silently mix documents or weights."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokpack.errors import DataError, TokpackError, UsageError, VerifyError
from tokpack.schema import PREFERENCE, UNPAIRED
from trainer_plugin.output_folder import last_checkpoint

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tokpack")


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
    if inputs["position_ids"].ndim != 2:
        raise UsageError(
            f"position_ids of shape {tuple(inputs['position_ids'].shape)}: 3-D positions (text and image) do "
            "not tell where documents end",
            where="batch",
            hint="train a text-only model of the family, and collate with trainer_plugin.PackedCollator",
        )


SHOWN_DOCUMENTS = 10


def diverged(loss: float, step: int, doc_ids: np.ndarray, checkpoint: Path | None) -> VerifyError:
    """The error of a run whose loss is no number any more; `step` counts from 1."""
    shown = ", ".join(map(str, doc_ids[:SHOWN_DOCUMENTS].tolist()))
    more = f" and {len(doc_ids) - SHOWN_DOCUMENTS:,} more" if len(doc_ids) > SHOWN_DOCUMENTS else ""
    there = f"the last checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint (--save-steps)"
    return VerifyError(
        f"the loss is {loss} in step {step:,}: the run has diverged, and stops before the weights change",
        where=f"documents {shown}{more}" if len(doc_ids) else f"step {step:,}",
        hint=f"look at these documents, or lower the learning rate; {there}",
    )


class FiniteLosses:
    """The losses of the micro-batches of a step, looked at once: each look waits for a GPU to be done."""

    def __init__(self, output: str | Path) -> None:
        self.output = Path(output)
        self._kept: list[tuple[torch.Tensor, np.ndarray]] = []

    def add(self, loss: torch.Tensor, doc_ids: np.ndarray) -> None:
        """The loss of a micro-batch, and its documents."""
        self._kept.append((loss, doc_ids))

    def check(self, step: int) -> None:
        """Raise VerifyError for a loss that is no number, with its documents; `step` counts from 1."""
        import torch

        kept, self._kept = self._kept, []
        for value, (_, doc_ids) in zip(torch.stack([loss for loss, _ in kept]).tolist(), kept, strict=True):
            if not math.isfinite(value):
                raise diverged(value, step, doc_ids, last_checkpoint(self.output))


@contextmanager
def readable(checkpoint: Any, begun: Callable[[], bool]) -> Iterator[None]:
    """What is raised about the files of a checkpoint before the first step after it, in our words.

    Trainer unpickles numbers alone (`weights_only`); cut or altered files end in whatever they end in.
    """
    try:
        yield
    except TokpackError:
        raise
    except Exception as error:
        if not checkpoint or begun():
            raise
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise DataError(
            f"the checkpoint cannot be read: {type(error).__name__}: {line[:200]}",
            where=str(checkpoint),
            hint="take it away: --resume goes on from the checkpoint before it",
        ) from None


AS_WEIGHTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg"}
AS_WEIGHTS |= {"acc_delta", "sum", "state1", "state2"}
"""States of an optimizer that have the shape of their weight; fused kernels write beyond shorter ones."""


def check_resumed(optimizer: Any, state: Any, checkpoint: Any) -> None:
    """Raise DataError for a history, or a state of the optimizer, that no run of these weights wrote; warn of
    states that are not there."""
    for entry in state.log_history:
        numbers = isinstance(entry, dict) and [entry.get("step"), entry.get("eval_loss", 0.0)]
        if not numbers or not all(isinstance(one, int | float) for one in numbers):
            raise _unfit(f"history {str(entry)[:40]!r} is no entry of a log", checkpoint)
    for name in ("logging_steps", "save_steps", "eval_steps"):
        steps = getattr(state, name, None)
        if steps is not None and not (isinstance(steps, int | float) and steps > 0):
            raise _unfit(f"state {name} is {str(steps)[:40]!r}", checkpoint)
    for weight, values in getattr(optimizer, "state", {}).items():
        for name, value in values.items():
            if name in AS_WEIGHTS and getattr(value, "shape", None) != weight.shape:
                raise _unfit(
                    f"optimizer {name} has not the shape of its weight, {tuple(weight.shape)}", checkpoint
                )
            if getattr(value, "is_floating_point", bool)() and not bool(value.isfinite().all()):
                raise _unfit(f"optimizer {name} holds what is no number", checkpoint)
    defaults = getattr(optimizer, "defaults", {})
    for group in getattr(optimizer, "param_groups", ()):
        for name, default in defaults.items():
            if _numbers(default) and _numbers(group.get(name)) != _numbers(default):
                raise _unfit(f"optimizer {name} is {str(group.get(name))[:40]!r}", checkpoint)
    if lost := started_over(Path(checkpoint)):
        log.warning("%s has not all of its files: %s", checkpoint, lost)


STATES = {
    "optimizer": "the optimizer begins anew: its moments are 0",
    "scheduler": "the learning rate begins anew, with its warm-up",
    "rng_state": "dropout draws as a new run does",
}
ELSEWHERE = ("global_step", "optimizer_", "pytorch_model_fsdp")
"""Beginnings of the names of folders in which DeepSpeed and FSDP keep states."""
BOTH = {"optimizer", "scheduler"}
"""Trainer takes both or none."""


def started_over(checkpoint: Path) -> str:
    """What a checkpoint without all of its files does not go on with, which Trainer passes over in silence;
    empty where nothing is missing, or states are kept elsewhere."""
    names = [path.name for path in checkpoint.iterdir()] if checkpoint.is_dir() else []
    if not names or any(name.startswith(ELSEWHERE) for name in names):
        return ""
    missing = {state for state in STATES if not any(name.startswith(state) for name in names)}
    if missing & BOTH:
        missing |= BOTH
    return "; ".join(meaning for state, meaning in STATES.items() if state in missing)


def _numbers(value: Any) -> int:
    """How many numbers a setting is; 0 where it is something else."""
    values = value if isinstance(value, list | tuple) else [value]
    plain = all(isinstance(one, int | float) or getattr(one, "ndim", 1) == 0 for one in values)
    return len(values) if plain else 0


def _unfit(what: str, checkpoint: Any) -> DataError:
    return DataError(
        f"the checkpoint cannot be read: in its {what}",
        where=str(checkpoint),
        hint="take it away: --resume goes on from the checkpoint before it",
    )


def refuse_arguments(args: Any, accelerator: Any, loss: str, takes_pairs: bool = False) -> None:
    """Raise UsageError for TrainingArguments under which packed rows train wrongly."""
    parallel = getattr(accelerator, "parallelism_config", None)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    problem = None
    if args.n_gpu > 1:
        problem = (
            f"DataParallel over {args.n_gpu} GPUs cuts packed rows apart",
            "start one process per GPU: `torchrun --nproc-per-node N`, or set CUDA_VISIBLE_DEVICES=0",
        )
    elif processes > args.world_size:
        problem = (
            f"{processes} processes were started, but each would train alone, on all rows",
            'on CPUs give use_cpu=True and ddp_backend="gloo"',
        )
    elif args.use_cache:
        problem = ("use_cache=True makes transformers ignore document boundaries", "leave it at False")
    elif args.world_size > 1 and not args.average_tokens_across_devices:
        problem = (
            "without average_tokens_across_devices the loss is no mean over the global batch",
            "leave it at True",
        )
    elif args.label_smoothing_factor and loss == "document":
        problem = ("label smoothing knows no per-document mean", 'use loss="token"')
    elif takes_pairs and args.neftune_noise_alpha is not None:
        problem = ("noise on the embeddings would make the policy another than its reference", "leave it out")
    elif parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
        problem = ("context parallelism cuts documents apart", "use data parallelism or FSDP")
    elif _fsdp_ignored(accelerator):
        problem = (
            "FSDP was asked for, but accelerate ignores it on CPUs: every process would train a whole copy",
            "leave the FSDP configuration out; `shard = true` in the recipe shards on CPUs too",
        )
    if problem is not None:
        raise UsageError(problem[0], where="TrainingArguments", hint=problem[1])


def _fsdp_ignored(accelerator: Any) -> bool:
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and accelerator.num_processes > 1 and accelerator.distributed_type.value == "MULTI_CPU"


def refuse_evaluation(trainer: Any) -> None:
    """Raise UsageError for an evaluation before `train()` that would spread the weights for good."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UsageError(
            "FSDP and DeepSpeed spread the weights when training begins: no evaluation before",
            where="evaluate()",
            hint="set eval_on_start=True in TrainingArguments",
        )


KINDS = {PREFERENCE: "preference pairs", UNPAIRED: "unpaired preferences"}
TRAINERS = {"": "PackedTrainer", PREFERENCE: "PackedDPOTrainer", UNPAIRED: "PackedKTOTrainer"}


def refuse_dataset(dataset: Any, kind: str = "") -> None:
    """Raise UsageError for an iterable dataset, and for preferences where other documents are expected, or
    the other way round. kind: that of the manifest of what the trainer takes."""
    held = getattr(dataset, "kind", kind)
    if held != kind:
        wrong = "rejected" if held == PREFERENCE else "bad"
        teaches = f"this trainer would teach the {wrong} answers as well"
        raise UsageError(
            f"the packed dataset holds {f'no {KINDS[kind]}' if kind else f'{KINDS[held]}: {teaches}'}",
            where=str(dataset.folder),
            hint=f"use trainer_plugin.{TRAINERS[held]}",
        )
    if dataset is None or isinstance(dataset, dict) or hasattr(dataset, "__len__"):
        return
    raise UsageError(
        "an iterable dataset: accelerate would slice cu_seq_lens as if it had one entry a row",
        where=type(dataset).__name__,
        hint="give trainer_plugin.PackedDataset, or a map-style dataset",
    )
