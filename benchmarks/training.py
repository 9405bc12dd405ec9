"""Whole trainings of a real model on a GPU: `tokpack train` in three ways, and TRL on the same documents.

    python benchmarks/training.py --model SmolLM2-135M-Instruct --data mix.jsonl --out training

`tokpack pack` holds a share of the documents out and says what the training will take; every training makes
one pass over the rest in steps of about `--step-tokens`. TRL is given the same token ids and the same trained
tokens, padded to the longest document of a batch or packed by itself, and saves its adapter; `tokpack eval`
judges its adapter and ours by the same held-out documents. Seconds are of whole processes (`whole_s`) and of
the training alone, memory is the peak that PyTorch counts. OUT/training.json has each as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

COMMAND = """
import sys, torch
from tokpack.__main__ import run
try:
    run()
finally:
    if torch.cuda.is_available():
        print("peak", torch.cuda.max_memory_allocated(), file=sys.stderr)
"""
"""A command of tokpack that says its peak of GPU memory at the end."""

TRL = """
import json, sys, time, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trainer_plugin import PackedDataset
given = json.loads(sys.argv[1])

def documents(folder):
    for row in PackedDataset(folder):
        start = 0
        for length in row["seq_lengths"]:
            part = slice(start, start := start + length)
            trained = (row["labels"][part] != -100).astype(int).tolist()
            yield {"input_ids": row["input_ids"][part].tolist(), "assistant_masks": trained}

rows = Dataset.from_generator(documents, gen_kwargs={"folder": given["packed"]}, cache_dir=given["out"])
gpu = torch.cuda.is_available()
settings = SFTConfig(output_dir=given["out"], packing=given["packing"], max_length=given["max_length"],
    per_device_train_batch_size=given["batch"],
    gradient_accumulation_steps=given["accumulation"], num_train_epochs=1, learning_rate=2e-4,
    lr_scheduler_type="cosine", warmup_steps=0.05, bf16=gpu, use_cpu=not gpu,
    gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=50,
    seed=0, disable_tqdm=True)
model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
tokenizer = AutoTokenizer.from_pretrained(given["model"])
trainer = SFTTrainer(
    model=model, args=settings, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
start = time.perf_counter()
done = trainer.train()
seconds = time.perf_counter() - start
trainer.save_model(given["out"])
print(json.dumps({"training_s": seconds, "steps": done.global_step, "documents": len(rows),
    "peak": torch.cuda.max_memory_allocated() if gpu else None}))
"""


class Run:
    """The folders and settings of one comparison."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.out: Path = given.out
        self.packed = self.out / "packed"
        self.found: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("torch", "transformers", "peft", "trl")},
            "command": " ".join(sys.argv),
            "ways": {},
        }

    def tokpack(self, *arguments: Any) -> tuple[float, str, str]:
        return timed([sys.executable, "-c", COMMAND, *map(str, arguments)])

    def keep(self, name: str, figures: dict[str, Any]) -> None:
        self.found["ways"][name] = figures
        (self.out / "training.json").write_text(json.dumps(self.found, indent=2), encoding="utf-8")
        print(name, json.dumps(figures), flush=True)

    def pack(self) -> None:
        given = self.given
        options = ["-t", given.model, "--max-length", given.max_length, "--val", given.val, "--json"]
        options += ["--model", given.model, "--gpu", given.gpu, "--method", "lora"]
        seconds, *_ = self.tokpack("pack", given.data, *options, "-o", self.packed)
        manifest = json.loads((self.packed / "manifest.json").read_text())
        ledger = manifest["ledger"]
        self.found |= {"rows": manifest["rows"], "packing_s": seconds, "ledger": ledger}

    @property
    def accumulation(self) -> int:
        return max(1, round(self.given.step_tokens / self.given.max_length))

    def train(self, method: str) -> None:
        out = self.out / method
        options = ["--method", method, "--accumulation", self.accumulation, "--gpu", self.given.gpu]
        if method == "full":
            options += ["--learning-rate", "2e-5"]
        if self.given.max_steps:
            options += ["--max-steps", self.given.max_steps]
        seconds, _, said = self.tokpack("train", self.packed, "-m", self.given.model, "-o", out, *options)
        result = json.loads((out / "result.json").read_text())
        names = ("tokens", "trained_tokens", "steps", "predicted_seconds", "tokens_per_second")
        names += ("evaluation_seconds", "loss_before", "loss_after")
        figures = {name: result[name] for name in names}
        figures |= {"training_s": result["seconds"] - result["evaluation_seconds"], "whole_s": seconds}
        peaks = [int(line.split()[1]) for line in said.splitlines() if line.startswith("peak ")]
        self.keep(f"tokpack {method}", figures | {"peak": peaks[-1] if peaks else None})

    def trl(self, packing: bool) -> None:
        """As many documents a step as a packed step has on average; the padded batch is of eight."""
        out = self.out / ("trl-packed" if packing else "trl-padded")
        row_documents = self.found["ledger"]["documents"]["kept"] / self.found["rows"]
        batch = 1 if packing else 8
        accumulation = (
            self.accumulation if packing else max(1, round(row_documents * self.accumulation / batch))
        )
        settings = {
            "packed": str(self.packed),
            "out": str(out),
            "packing": packing,
            "model": str(self.given.model),
        }
        settings |= {"max_length": self.given.max_length, "batch": batch, "accumulation": accumulation}
        seconds, said, _ = timed([sys.executable, "-c", TRL, json.dumps(settings)])
        figures = {"batch": batch, "accumulation": accumulation, **json.loads(said.splitlines()[-1])}
        self.keep(out.name, figures | {"whole_s": seconds})

    def judge(self, name: str) -> None:
        """The held-out loss of an adapter, as `tokpack eval` finds it."""
        options = ["--adapter", self.out / name, "--json", "--no-probe", "--no-check"]
        seconds, said, _ = self.tokpack("eval", self.packed, "-m", self.given.model, *options)
        (self.out / f"{name}.json").write_text(said, encoding="utf-8")
        found = json.loads(said)["held_out"]["comparisons"][0]
        names = ("documents", "trained_tokens", "base_loss", "loss", "difference", "improved")
        self.keep(f"judged {name}", {"whole_s": seconds} | {name: found[name] for name in names})


def timed(command: list[str]) -> tuple[float, str, str]:
    """Seconds, and what was said on stdout and stderr."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[-300:]} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - start, done.stdout, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpu", default="h100-sxm", help="for the prediction")
    parser.add_argument("--max-length", type=int, default=4096)
    parser.add_argument("--step-tokens", type=int, default=16384)
    parser.add_argument("--val", type=float, default=0.02)
    parser.add_argument("--max-steps", type=int, default=0, help="of tokpack's trainings, to try the script")
    parser.add_argument("--ways", default="lora,qlora,full,trl-padded,trl-packed")
    run = Run(parser.parse_args())
    run.out.mkdir(parents=True)
    run.pack()
    for way in run.given.ways.split(","):
        if way.startswith("trl"):
            run.trl(packing=way == "trl-packed")
        else:
            run.train(way)
        if way != "full":
            run.judge(way)


if __name__ == "__main__":
    main()
