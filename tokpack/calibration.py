"""The speed of this machine in the bill: a few packed rows are trained here, by whoever knows how.

Training needs torch; tokpack alone does not. The plug-in of the entry point `tokpack.calibrators` has
`device()` (kind, name, memory_bytes), `precision(model, method)` (the dtype that training takes here, and
why) and `measure(model, rows, ...)`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from tokpack.cost import Calibration, Gpu, flops
from tokpack.cost.gpus import GIB
from tokpack.cost.kept_speeds import KeptSpeed, keep_speed
from tokpack.cost.planned_run import micro_batch
from tokpack.cost.training import CostedDocuments, Training
from tokpack.errors import UsageError
from tokpack.schema import IGNORE_INDEX, TRAINED
from tokpack.way.corpus import Corpus
from tokpack.way.plan_part import Part

log = logging.getLogger("tokpack")

MOST_ROWS = 48


def on_this_machine(training: Training) -> Training:
    """The training on the present device: the GPU of `--gpu`, which it must then be, or its own.

    Raises UsageError when nothing can train here, and for another device than that of `--gpu`.
    """
    here = find_calibrator().device()
    if training.gpu is None:
        key, memory = here.name.partition(",")[0], here.memory_bytes / GIB
        own = Gpu(key=key, name=here.name, tflops=0.0, memory_gb=memory, reported_gib=memory)
        return replace(training, gpu=own, gpus={**training.gpus, own.key: own})
    if here.kind != "cuda":
        raise UsageError(
            f"the speed of this machine ({here.name}) says nothing about {training.gpu.key}",
            where="--calibrate",
            hint="leave out --gpu, or run the same command on a machine that has one",
        )
    if training.gpu.key.split("-")[0].lower() not in here.name.lower().replace(" ", ""):
        log.warning("the bill is for %s, the speed is measured on %s", training.gpu.key, here.name)
    return training


def measured(
    training: Training,
    documents: CostedDocuments,
    corpus: Corpus,
    part: Part,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Training:
    """The training with the speed that its first rows have here, in FLOP/s."""
    checkpointing = training.checkpointing(documents.capacity)
    batch_rows = micro_batch(
        training, len(documents.pieces), documents.rows, documents.capacity, checkpointing
    )
    calibrator = find_calibrator()
    taken = calibrator.measure(
        training.settings.model,
        first_rows(corpus, part, MOST_ROWS),
        method=training.method.kind,
        rank=training.method.rank,
        checkpointing=checkpointing,
        batch_rows=batch_rows,
        progress=progress,
    )
    precision = calibrator.precision(training.settings.model, training.method.kind)
    speed = speed_of(training, taken, checkpointing, precision)
    if training.settings.gpu:
        _keep(training, speed, batch_rows * documents.capacity)
    return replace(training, calibration=speed)


def _keep(training: Training, speed: Calibration, tokens: int) -> None:
    """For the next bill of this card; a machine that is no card of the table is measured anew."""
    assert training.gpu is not None
    assert speed.flops_per_second is not None
    shape = training.shape
    path = keep_speed(
        KeptSpeed(
            card=training.gpu.key,
            model=training.name,
            parameters=shape.total_params,
            layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            method=training.method.kind,
            rank=training.method.rank,
            tokens=tokens,
            flops_per_second=speed.flops_per_second,
            note=speed.note,
            read=date.today(),
        )
    )
    if path is not None:
        log.info("kept for the next bill of %s: %s", training.gpu.key, path)


def speed_of(
    training: Training, taken: list[tuple[list[int], float]], checkpointing: bool, precision: str
) -> Calibration:
    """The median speed of some steps: (document lengths, seconds) of each."""
    work = [
        flops(training.shape, lengths, method=training.method, checkpointing=checkpointing).total
        for lengths, _ in taken
    ]
    speeds = np.array(work) / np.array([seconds for _, seconds in taken])
    tokens = sum(sum(lengths) for lengths, _ in taken)
    middle = float(np.median(speeds))
    spread = float(np.abs(speeds - middle).max() / middle)
    return Calibration(
        flops_per_second=middle,
        note=f"in {len(taken)} steps of {tokens:,} tokens, which differ by up to {spread:.0%} from it; "
        f"weights in {precision}",
    )


def find_calibrator() -> Any:
    for entry in entry_points(group="tokpack.calibrators"):
        try:
            return entry.load()
        except ImportError as error:
            log.debug("%s does not load: %s", entry.name, error)
    raise UsageError(
        "measuring the speed of training needs torch and PEFT",
        where="--calibrate",
        hint='pip install "tokpack[train]"',
    )


def first_rows(corpus: Corpus, part: Part, most: int) -> list[dict[str, Any]]:
    """The first rows as training would read them: input_ids, labels, seq_lengths."""
    batches, contents, place = corpus.mapped(), part.contents, part.placement
    rows = []
    for row in range(min(most, len(contents.row_offsets) - 1)):
        pieces = contents.order[contents.row_offsets[row] : contents.row_offsets[row + 1]]
        ids, labels = [], []
        for piece in pieces:
            offsets, stored, flags, _ = batches(int(place.batch[piece]))
            index = int(place.index[piece])
            span = slice(int(offsets[index]), int(offsets[index + 1]))
            ids.append(stored[span])
            labels.append(np.where(flags[span] & TRAINED, stored[span], IGNORE_INDEX))
            labels[-1][:1] = IGNORE_INDEX
        rows.append(
            {
                "input_ids": np.concatenate(ids),
                "labels": np.concatenate(labels),
                "seq_lengths": place.length[pieces],
            }
        )
    return rows
