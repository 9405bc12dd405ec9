"""The bill before training: what a run will cost, from the lengths of its documents and the plan's rows.

`make_cost` returns a `Cost`, which is `cost` of report.json.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tokpack.cost import (
    Figure,
    Gpu,
    RunPlan,
    SlotRow,
    TrainerSettings,
    flops,
    gpu_price,
    memory,
    slot_table,
)
from tokpack.cost.figure import count
from tokpack.cost.gpus import GIB
from tokpack.cost.memory import Loss, Remedy
from tokpack.cost.planned_run import micro_batch, micro_batches, packed_run, plan_of, settings_of
from tokpack.cost.slots import PACKED, PACKED_CLEANED, PADDED_LONGEST, PADDED_MAX, PADDED_SORTED
from tokpack.cost.training import CostedDocuments, Training
from tokpack.report.bill.advice import advise, cards, curve, managed, saving
from tokpack.report.bill.cost_figures import (
    BilledRecipe,
    Cost,
    GpuFigures,
    MemoryFigures,
    MemoryParts,
    MethodFigures,
    ModelFigures,
    PlannedRun,
    PlannedSettings,
    Saved,
    Way,
)
from tokpack.settings.config import CostConfig
from tokpack.settings.plain import to_plain

LOSSES: tuple[Loss, Loss] = ("chunked", "copied")
"""That of `tokpack train`, and the one that takes most, of trainers that pad."""


def make_cost(training: Training, documents: CostedDocuments) -> Cost | None:
    """None when nothing is left to train on."""
    if not documents.rows:
        return None
    checkpointing = training.checkpointing(documents.capacity)
    plan = plan_of(training, documents)
    fit = memory_of(training, documents.capacity, checkpointing)
    pieces, rows, capacity = documents.pieces, documents.rows, documents.capacity
    rows_at_once = micro_batch(training, len(pieces), rows, capacity, checkpointing)
    tokens_at_once = rows_at_once * capacity
    final = packed_run(training, pieces, rows, capacity, checkpointing)
    table = comparison(training, documents, checkpointing, tokens_at_once)
    cost = Cost(
        model=_model(training),
        gpu=_gpu(training),
        method=_method(training, checkpointing),
        recipe=_recipe(training),
        estimate=final,
        calibrated=training.calibration is not None,
        comparison=table,
        saved_share=saved_share(table),
        memory=fit,
        run_plan=planned_run(training, plan, rows_at_once, checkpointing),
        curve=curve(training, documents, tokens_at_once),
        cards=cards(training, documents),
        api=managed(training, documents),
    )
    return replace(cost, recommendations=advise(cost, documents.capacity))


def asked_bill(training: Training | None) -> dict[str, Any] | None:
    """What report.json will record of the run that is to be billed; None where it does not record all."""
    if training is None:
        return None
    settings, usual = training.settings, CostConfig()
    for name in ("api", "apis", "checkpointing", "mfu"):
        if getattr(settings, name) != getattr(usual, name):
            return None
    method: dict[str, Any] = to_plain(_method(training, checkpointing=False))
    del method["checkpointing"]
    parts = {"model": _model(training), "gpu": _gpu(training), "recipe": _recipe(training)}
    return {"method": method} | {name: to_plain(part) for name, part in parts.items()}


def _method(training: Training, checkpointing: bool) -> MethodFigures:
    method = training.method
    rank = method.rank if method.adapts else None
    weights = method.base_weights
    return MethodFigures(kind=method.kind, rank=rank, weights=weights, checkpointing=checkpointing)


def _recipe(training: Training) -> BilledRecipe:
    settings = training.settings
    return BilledRecipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        learning_rate=settings.learning_rate,
    )


def _model(training: Training) -> ModelFigures:
    shape, method = training.shape, training.method
    trained = shape.lora_params(method.rank) if method.adapts else shape.total_params
    return ModelFigures(
        name=training.name,
        type=shape.model_type,
        parameters=count(shape.total_params, "parameters"),
        trained=count(trained, "parameters"),
        max_positions=training.max_positions,
        notes=list(shape.notes),
    )


def _gpu(training: Training) -> GpuFigures | None:
    gpu = training.gpu
    if gpu is None:
        return None
    return GpuFigures(
        key=gpu.key,
        name=gpu.name or gpu.key,
        count=training.settings.gpu_count,
        peak=_peak(gpu),
        memory=Figure(gpu.memory_gb, "GiB", "assumed", "as sold"),
        price=gpu_price(gpu, training.settings.gpu_price) if training.priced else None,
        sources=list(gpu.sources),
        read=gpu.read.isoformat() if gpu.read else None,
    )


def _peak(gpu: Gpu) -> Figure | None:
    if not gpu.tflops:
        return None
    return Figure(gpu.tflops, "TFLOP/s", "assumed", f"dense {gpu.dtype}, from data sheets")


def comparison(
    training: Training, documents: CostedDocuments, checkpointing: bool, tokens_at_once: int
) -> list[Way]:
    """The ways to train on the same data: padded, sorted, packed, packed and cleaned.

    `tokens_at_once`: slots of a micro-batch of packed rows.
    """
    settings, capacity = training.settings, documents.capacity
    raw = np.minimum(documents.raw, capacity)
    untouched = len(raw) == len(documents.pieces) and bool(np.array_equal(raw, documents.pieces))
    raw_rows = documents.rows if untouched else documents.rows_for(raw, capacity)
    table = slot_table(
        raw,
        capacity,
        settings.batch_size,
        raw_rows,
        cleaned_lengths=None if untouched else documents.pieces,
        cleaned_rows=None if untouched else documents.rows,
    )
    ways = [_way(training, row, untouched, checkpointing, capacity, tokens_at_once) for row in table]
    padded = next(way for way in ways if way.key == PADDED_LONGEST)
    return [replace(way, saved=_saved(padded, way)) for way in ways]


def _saved(padded: Way, way: Way) -> Saved:
    money, share = saving(padded, way)
    fewer = padded.slots.value - way.slots.value
    return Saved(slots=count(fewer, "slots"), share=count(share, "share"), money=money)


def _way(
    training: Training,
    row: SlotRow,
    untouched: bool,
    checkpointing: bool,
    capacity: int,
    tokens_at_once: int,
) -> Way:
    settings, micro = training.settings, training.settings.batch_size
    packed = row.name in (PACKED, PACKED_CLEANED)
    batches = micro_batches(row.rows, tokens_at_once, capacity) if packed else row.steps
    run = training.run(row.widths, batches, checkpointing)
    if packed:
        steps = settings_of(training, row.widths.size, row.rows).equal.steps
    else:
        per_step = micro * settings.accumulation * settings.gpu_count
        steps = int(np.ceil(np.ceil(row.rows / per_step) * settings.epochs))
    return Way(
        key=row.name,
        name=way_name(row.name, micro, untouched),
        rows=count(row.rows, "rows" if packed else "documents"),
        steps=count(steps, "optimizer steps", "with an equal recipe" if packed else "all epochs"),
        slots=count(row.slots, "slots", "one epoch"),
        tokens=count(row.content, "tokens", "one epoch"),
        fill=count(row.fill, "share of slots"),
        flops=run.flops if run else _work(training, row, batches, checkpointing),
        hours=run.gpu_hours if run else None,
        wall_hours=run.wall_hours if run else None,
        tokens_per_second=run.tokens_per_second if run else None,
        money=run.money if run else None,
        energy=run.energy if run else None,
    )


def _work(training: Training, row: SlotRow, batches: int, checkpointing: bool) -> Figure:
    """FLOPs of all epochs, where no GPU makes an estimate of them."""
    how: dict[str, Any] = {"method": training.method, "checkpointing": checkpointing}
    epoch = flops(training.shape, row.widths, micro_batches=batches, **how)
    return count(epoch.total * training.settings.epochs, "FLOPs")


def way_name(key: str, batch_size: int, untouched: bool) -> str:
    names = {
        PADDED_MAX: "padded to the full row",
        PADDED_LONGEST: f"padded to the longest of {batch_size}",
        PADDED_SORTED: f"sorted by length, padded to the longest of {batch_size}",
        PACKED: "packed" if untouched else "packed as it came",
        PACKED_CLEANED: "cleaned and packed",
    }
    return names[key]


def saved_share(table: list[Way]) -> Figure:
    """What cleaning and packing save of padded batches: of the hours, or of the FLOPs without a GPU."""
    share = table[-1].saved.share.value
    of = "FLOPs" if table[-1].hours is None else "GPU-hours"
    return count(share, "share", f"of the {of} of padded batches")


def planned_run(training: Training, plan: RunPlan, micro: int, checkpointing: bool) -> PlannedRun:
    """The run plan, and the settings to use, with `micro` rows at once."""
    whole = plan.equal.micro_batch * plan.equal.accumulation
    use = replace(plan.equal, micro_batch=micro, accumulation=whole // micro)
    flags = [
        f"--method {training.method.kind}",
        f"--epochs {training.settings.epochs:g}",
        f"--batch-rows {use.micro_batch}",
        f"--accumulation {use.accumulation}",
        f"--learning-rate {use.learning_rate:.3g}",
    ]
    return PlannedRun(
        before=_settings(plan.before),
        unchanged=_settings(plan.unchanged),
        use=_settings(use),
        documents_per_row=plan.documents_per_row,
        recommendation=plan.recommendation,
        reason=plan.reason,
        warnings=list(plan.warnings),
        flags=flags + (["--gradient-checkpointing"] if checkpointing else []),
    )


def _settings(settings: TrainerSettings) -> PlannedSettings:
    return PlannedSettings(
        micro_batch=settings.micro_batch,
        accumulation=settings.accumulation,
        gpu_count=settings.gpu_count,
        samples_per_step=count(settings.samples_per_step, "documents"),
        steps=count(settings.steps, "optimizer steps", "all epochs"),
        learning_rate=settings.learning_rate,
    )


def memory_of(training: Training, capacity: int, checkpointing: bool) -> MemoryFigures:
    """Does a row fit, how many at once, and what to change if none does: with the loss of `tokpack train`."""
    needed, whole = (
        memory(
            training.shape,
            capacity,
            method=training.method,
            checkpointing=checkpointing,
            head_bytes=training.head_bytes,
            loss=loss,
        )
        for loss in LOSSES
    )
    parts = MemoryParts(**needed.figures())
    whole_logits = Figure(whole.total / GIB, "GiB", "assumed", "in a trainer that holds all logits of a row")
    if training.gpu is None:
        cards = [g for g in training.gpus.values() if training.holds(capacity, g, checkpointing)]
        smallest = min(cards, key=lambda g: (g.memory_gb, g.key)) if cards else None
        holds = smallest and Remedy(
            f"{smallest.key} ({smallest.memory_gb:g} GB) holds it", f"--gpu {smallest.key}"
        )
        return MemoryFigures(
            parts=parts,
            whole_logits=whole_logits,
            fits=None,
            usable=None,
            micro_batch_tokens=None,
            micro_batch_rows=None,
            padded_fits=None,
            advice=[holds] if holds else [],
        )
    fit = training.fit(capacity, training.gpu, checkpointing)
    padded = training.settings.batch_size * capacity
    driver = "as the driver reports it, 5 % lost to fragmentation"
    return MemoryFigures(
        parts=parts,
        whole_logits=whole_logits,
        fits=fit.fits,
        usable=Figure(fit.usable / GIB, "GiB", "assumed", driver),
        micro_batch_tokens=Figure(fit.max_tokens, "tokens", "assumed", "largest that fits"),
        micro_batch_rows=Figure(fit.max_tokens // capacity, "rows", "assumed"),
        padded_fits=training.holds(padded, training.gpu, checkpointing, LOSSES[1]),
        advice=list(fit.advice),
    )
