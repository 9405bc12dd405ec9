"""Requests for three adapters and their base: in one batch, as `tokpack serve` runs them, and one by one.

    OMP_NUM_THREADS=1 python benchmarks/serving.py [--model FOLDER] [--requests 12] [--tokens 32]
    python benchmarks/serving.py --dtype bfloat16 --requests 64 --tokens 128          on a GPU

The adapters have random weights; answers are greedy and of one length. Times are of the processor, on a GPU
of the clock, the reading of the prompts included.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

MODEL = os.environ.get("TOKPACK_SMOLLM2", "SmolLM2-135M-Instruct")
NAMES = ("math", "code", "chat")
QUESTION = "Write a short story about the number {number} and a lighthouse keeper who collects maps."


def save_adapters(model: str, folder: Path) -> list[Path]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(network, config)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(folder / name)
        network = adapted.unload()
    return [folder / name for name in NAMES]


def answers(engine: Any, jobs: list[Any]) -> list[str]:
    """The texts, once all are there."""
    from trainer_plugin.serving.values import Delta, End

    events: SimpleQueue[Any] = SimpleQueue()
    engine.submit(jobs, lambda number, event: events.put((number, event)))
    texts, left = [""] * len(jobs), len(jobs)
    while left:
        number, event = events.get()
        texts[number] += event.text if isinstance(event, Delta) else ""
        left -= isinstance(event, End)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    import torch

    from trainer_plugin.adapters.loaded import load_adapted
    from trainer_plugin.checkpoints.adapter_folder import read_adapter
    from trainer_plugin.serving.engine import Engine
    from trainer_plugin.serving.values import Job, Limits

    with tempfile.TemporaryDirectory() as folder:
        adapters = [read_adapter(str(path)) for path in save_adapters(options.model, Path(folder))]
        loaded = load_adapted(options.model, adapters, dtype=options.dtype)
    jobs = []
    for number in range(options.requests):
        messages = [{"role": "user", "content": QUESTION.format(number=number)}]
        prompt = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tuple(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        adapter = (None, *NAMES)[number % 4]
        jobs.append(
            Job(prompt=ids, adapter=adapter, max_tokens=options.tokens, temperature=0, ignore_end=True)
        )
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    engine = Engine(loaded, Limits(rows=options.requests)).start()
    answers(engine, jobs[:1])
    began = clock()
    together = answers(engine, jobs)
    middle = clock()
    alone = [answers(engine, [job])[0] for job in jobs]
    ended = clock()
    engine.close()

    tokens, equal = len(jobs) * options.tokens, sum(a == b for a, b in zip(together, alone, strict=True))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    card = f"{torch.cuda.get_device_name()}, " if gpu else ""
    print(f"{card}{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {libraries}")
    print(f"{Path(options.model).name}, {options.dtype}, 4 models", end=", ")
    print(f"{len(jobs)} requests of {options.tokens} tokens")
    unit = "s" if gpu else "s of processor time"
    for name, seconds in (("one batch", middle - began), ("one by one", ended - middle)):
        print(f"{name}: {seconds:.1f} {unit}, {tokens / seconds:.0f} tokens/s")
    print(f"{(ended - middle) / (middle - began):.2f} times as fast; {equal} of {len(jobs)} texts are equal")


if __name__ == "__main__":
    main()
