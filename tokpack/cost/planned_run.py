"""The run that packing leaves: its steps, and the rows of a micro-batch."""

from __future__ import annotations

import math

from tokpack.cost import Estimate, Gpu, RunPlan, run_plan, slot_table
from tokpack.cost.training import CostedDocuments, Lengths, Training
from tokpack.settings.config import Config
from tokpack.stages.plan import make_plan


def settings_of(training: Training, documents: int, rows: int, fill_unpacked: float | None = None) -> RunPlan:
    """The run plan of so many pieces in so many rows; `fill_unpacked` as in `run_plan`."""
    settings = training.settings
    return run_plan(
        documents=documents,
        packed_rows=rows,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        gpu_count=settings.gpu_count,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        fill_unpacked=fill_unpacked,
    )


def plan_of(training: Training, documents: CostedDocuments) -> RunPlan:
    """The run plan of the pieces: what packing alone changes."""
    padded = slot_table(documents.pieces, documents.capacity, training.settings.batch_size, documents.rows)[1]
    return settings_of(training, len(documents.pieces), documents.rows, padded.fill)


def micro_batch(
    training: Training, pieces: int, rows: int, capacity: int, checkpointing: bool, gpu: Gpu | None = None
) -> int:
    """Rows of a micro-batch: as many as memory holds, so that samples per step stay as the plan has them."""
    plan, card = settings_of(training, pieces, rows).equal, gpu or training.gpu
    whole = plan.micro_batch * plan.accumulation
    most = 1
    if card is not None:
        most = max(1, training.fit(capacity, card, checkpointing).max_tokens // capacity)
    return max(n for n in range(1, whole + 1) if whole % n == 0 and n <= most)


def packed_run(
    training: Training,
    lengths: Lengths,
    rows: int,
    capacity: int,
    checkpointing: bool,
    gpu: Gpu | None = None,
) -> Estimate | None:
    """What training on pieces of `lengths` takes: for the bill, other cards, and budgets in money."""
    at_once = micro_batch(training, len(lengths), rows, capacity, checkpointing, gpu)
    return training.run(lengths, math.ceil(rows / at_once), checkpointing, gpu)


def planned_rows(config: Config, lengths: Lengths, capacity: int) -> int:
    """Rows that the planner of `config` makes of documents of `lengths` at another `capacity`."""
    # An exact solver is too slow to try with, and differs from bfd by less than a percent.
    planner = "bfd" if config.plan.planner == "optimal" else config.plan.planner
    return make_plan(lengths, capacity, planner, config.seed, config.plan.max_docs_per_row or None).rows


def micro_batches(rows: int, tokens: int, capacity: int) -> int:
    """Micro-batches of about `tokens` that `rows` of `capacity` make, whole rows each."""
    return math.ceil(rows / max(1, tokens // capacity))
