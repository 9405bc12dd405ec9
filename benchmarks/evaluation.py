"""Log-likelihood tasks: lm-eval's `hf` model against `TokpackLM`, the same questions in turns in one process.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--model FOLDER] [--questions 500] [--batch 8]

Multiple choice: a question of grade-school mathematics (GSM8K where its file is there, else made up) and four
short answers, as ARC and its kin are asked. Both models are the one in memory; times are of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("TOKPACK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MODEL = os.environ.get("TOKPACK_SMOLLM2", "SmolLM2-135M-Instruct")
SLICE = 50


def questions(count: int) -> list[dict[str, Any]]:
    rng, rows = random.Random(0), []
    for text, answer in _problems(count, rng):
        wrong = rng.sample([n for n in range(max(answer - 9, 0), answer + 10) if n != answer], 3)
        choices = [f"The answer is {n}." for n in (answer, *wrong)]
        rng.shuffle(choices)
        rows.append(
            {"question": text, "choices": choices, "answer": choices.index(f"The answer is {answer}.")}
        )
    return rows


def _problems(count: int, rng: random.Random) -> list[tuple[str, int]]:
    path = DATA / "gsm8k_question_answer.jsonl"
    found = []
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")) if path.is_file() else ():
        row = json.loads(line)
        number = re.search(r"#### (\d+)$", row["answer"])
        if number and len(found) < count:
            found.append((row["question"], int(number[1])))
    while len(found) < count:
        a, b, c = (rng.randrange(2, 90) for _ in range(3))
        text = f"A shop sells {a} pens on Monday, {b} on Tuesday and {c} on Wednesday, and gives none away. "
        found.append(
            (text * 2 + "How many pens does the shop sell altogether on these three days?", a + b + c)
        )
    return found


def task(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": "mathematics",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8, help="of lm-eval's model")
    options = parser.parse_args()

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from trainer_plugin.adapters.loaded import load_adapted
    from trainer_plugin.evaluation.lm import TokpackLM, _as_it_came
    from trainer_plugin.evaluation.tasks import _quiet

    loaded = load_adapted(options.model, dtype="float32")
    hf = HFLM(loaded.network, tokenizer=loaded.tokenizer, batch_size=options.batch)
    ours = TokpackLM(loaded.network, tokenizer=loaded.tokenizer)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        config = task(Path(folder), questions(options.questions))
        one = TaskManager(include_defaults=False).load([config])["tasks"]["mathematics"]
        one.build_all_requests()
    instances: list[Instance] = one.instances
    times, answers = {"hf": 0.0, "tokpack": 0.0}, {"hf": [], "tokpack": []}
    for start in range(0, len(instances), 4 * SLICE):
        part = instances[start : start + 4 * SLICE]
        order = ("hf", "tokpack") if start // (4 * SLICE) % 2 else ("tokpack", "hf")
        for name in order:
            began = time.process_time()
            with _quiet():
                if name == "hf":
                    with _as_it_came(loaded.network):
                        answers[name] += hf.loglikelihood(part, disable_tqdm=True)
                else:
                    answers[name] += ours.loglikelihood(part, disable_tqdm=True)
            times[name] += time.process_time() - began
        ratio = times["hf"] / times["tokpack"]
        print(
            f"  {min(start // 4 + SLICE, options.questions)} questions: {ratio:.2f} times as fast", flush=True
        )
    report(options, times, answers, instances)


def report(
    options: argparse.Namespace, times: dict[str, float], answers: dict[str, list[Any]], instances: list[Any]
) -> None:
    apart = max(abs(a[0] - b[0]) for a, b in zip(answers["hf"], answers["tokpack"], strict=True))
    picks = {
        name: [
            max(range(4), key=lambda k, q=q, found=found: found[q + k][0]) for q in range(0, len(found), 4)
        ]
        for name, found in answers.items()
    }
    truth = [instances[q].doc["answer"] for q in range(0, len(instances), 4)]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("lm_eval", "torch", "transformers"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {libraries}")
    print(f"{Path(options.model).name}, float32, {options.questions} questions of 4 choices")
    for name, found in picks.items():
        right = sum(a == b for a, b in zip(found, truth, strict=True))
        batch = f", batch {options.batch}" if name == "hf" else ""
        print(f"{name}{batch}: {times[name]:.1f} s of processor time, {right} right")
    print(
        f"tokpack is {times['hf'] / times['tokpack']:.2f} times as fast; log-likelihoods within {apart:.1e}, "
        f"the same choice in {sum(a == b for a, b in zip(*picks.values(), strict=True))} of {len(truth)}"
    )


if __name__ == "__main__":
    main()
