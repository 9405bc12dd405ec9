"""How well a few calibration steps predict the rest of a training run: `tokpack analyze --calibrate`.

LoRA of rank 16 on rows of `--capacity` tokens with two to six documents, in the dtype that this machine is
fast at. Steps of a PackedTrainer run and calibration steps take turns, so that both meet the machine in the
same mood; processor time of one thread, medians.

    python benchmarks/calibration.py --model SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

from tokpack.cost import Method, ModelShape, flops
from trainer_plugin import PackedTrainer
from trainer_plugin.training.calibration import Trial, precision

Row = dict[str, np.ndarray]
WANTED = 0.10
"""Largest error of the prediction."""


def made_rows(count: int, capacity: int, seed: int) -> list[Row]:
    """Rows of documents of all lengths, as a plan makes them."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        cuts = np.sort(rng.choice(np.arange(8, capacity - 8), rng.integers(1, 6), replace=False))
        ids = rng.integers(3, 40_000, capacity).astype(np.int32)
        labels = ids.copy()
        labels[[0, *cuts]] = -100
        lengths = np.diff([0, *cuts, capacity]).astype(np.int32)
        rows.append({"input_ids": ids, "labels": labels, "seq_lengths": lengths})
    return rows


class Turns(TrainerCallback):
    """A step of the run, then one of the trial."""

    def __init__(self, trial: Trial, rows: list[Row]) -> None:
        self.trial, self.rows = trial, rows
        self.measured: list[float] = []
        self.trained: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.mark = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trained.append(time.process_time() - self.mark)
        if len(self.measured) < len(self.rows):
            self.measured.append(self.trial.step([self.rows[len(self.measured)]]))
        self.mark = time.process_time()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("TOKPACK_SMOLLM2", "SmolLM2-135M-Instruct")
    parser.add_argument("--model", default=default, help="model folder")
    parser.add_argument("--capacity", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    first = made_rows(args.steps - 1, args.capacity, seed=1)
    rest = made_rows(args.steps, args.capacity, seed=2)
    trial = Trial(args.model, method="lora", clock=time.process_time)
    trial.step(first[:1])
    turns = Turns(trial, first)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=1, num_train_epochs=1, learning_rate=1e-5, report_to="none",
            save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        run = PackedTrainer(trial.network, arguments, train_dataset=rest, probe=False, progress=False)
        run.add_callback(turns)
        run.train()
    shape, method = ModelShape.from_config(Path(args.model)), Method(kind="lora")

    def work(rows: list[Row]) -> list[float]:
        return [flops(shape, row["seq_lengths"], method=method).total for row in rows]

    speed = median(np.array(work(first)) / np.array(turns.measured))
    predicted, real = median(work(rest)[1:]) / speed, median(turns.trained[1:])  # the first step warms up
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {args.model}")
    print(f"weights in {precision(args.model, 'lora')}")
    print(
        f"calibration: {speed / 1e12:.3f} TFLOP/s; a step of the run: {predicted:.3f} s predicted, ", end=""
    )
    print(f"{real:.3f} s measured, {real / predicted - 1:+.1%}")
    return int(abs(predicted / real - 1) > WANTED)


if __name__ == "__main__":
    sys.exit(main())
