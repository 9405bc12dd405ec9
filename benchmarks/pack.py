"""`tokpack pack` as a whole and part by part, beside the reference on the same rows.

    python benchmarks/pack.py --data mix.jsonl --tokenizer FOLDER [--copies 10] [--json]

Without `--data`, the demo set is generated. Whole runs are processes, start to exit; parts are timed over
all blocks, one after another, so their sum is more than a run that overlaps them. The reference is
transformers' `apply_chat_template` with masks, two processes, on a sample of the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

ALONE = "gigatoken alone"
REFERENCE_ROWS = 4000
REFERENCE = """
import json, sys, time
from concurrent.futures import ProcessPoolExecutor
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
options = {"return_dict": True, "return_assistant_tokens_mask": True}
def encode(messages):
    return len(tokenizer.apply_chat_template(messages, **options)["input_ids"])
rows = [json.loads(line)["messages"] for line in open(sys.argv[2]).readlines()[: int(sys.argv[3])]]
with ProcessPoolExecutor(2) as pool:
    list(pool.map(encode, rows[:100], chunksize=10))
    start = time.perf_counter()
    tokens = sum(pool.map(encode, rows, chunksize=100))
print(json.dumps({"rows_per_s": len(rows) / (time.perf_counter() - start), "tokens": tokens}))
"""


def whole_run(
    data: Path, tokenizer: Path, capacity: int, command: str = "pack", watched: bool = False
) -> dict[str, Any]:
    """One command, start to exit: seconds. One that is `watched` takes longer, and has its peak memory in MB
    besides."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "tokpack", command, str(data), "-t", str(tokenizer), "-q"]
        arguments += ["--max-length", str(capacity)]
        if command == "pack":
            arguments += ["-o", f"{folder}/out"]
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        memory = peak_memory(process.pid) if watched else {}
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{command} failed with status {status}")
        stages = (
            json.loads(Path(folder, "out", "run.json").read_text())["seconds"] if command == "pack" else {}
        )
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_s": cpu, "stages": stages, **memory}


def watched_and_timed(data: Path, tokenizer: Path, capacity: int, command: str = "pack") -> dict[str, Any]:
    """Memory of one run, which fills caches, and seconds of another."""
    watched = whole_run(data, tokenizer, capacity, command, watched=True)
    return watched | whole_run(data, tokenizer, capacity, command)


def peak_memory(pid: int) -> dict[str, float]:
    """Peaks until the process ends, in MB: its own memory with that of its helpers, pages that they share
    counted once, and all of the process alone with the files it maps.

    Mapped pages of the token store belong to the kernel's page cache, which takes them back when it must.
    """
    own = resident = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        own = max(own, sum(kilobytes(one, "smaps_rollup", "Pss_Anon") for one in with_children(pid)))
        resident = max(resident, kilobytes(pid, "status", "VmRSS"))
        time.sleep(0.1)
    return {"peak_own_mb": own * 1024 / 1e6, "peak_resident_mb": resident * 1024 / 1e6}


def with_children(pid: int) -> Iterator[int]:
    """The process and all that it started."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from with_children(int(child))


def kilobytes(pid: int, file: str, name: str) -> int:
    """What a file of a process says of its memory; 0 of one that has ended."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def parts(data: Path, tokenizer: Path, capacity: int) -> list[dict[str, Any]]:
    """Each stage of pass 1 alone over all blocks: seconds, MB/s of input (pass 2: `shards.py`)."""
    import awkward
    import numpy as np

    from tokpack.run import Run
    from tokpack.settings.options import make_config
    from tokpack.stages.clean import clean
    from tokpack.stages.dedup import text_hash
    from tokpack.stages.normalize.normalize import normalize
    from tokpack.stages.read.blocks import read_blocks
    from tokpack.stages.render.render import render
    from tokpack.stages.tokenize import flag_tokens, tokenize
    from tokpack.stages.truncate import truncate

    run = Run.start(make_config(str(data), {"tokenizer": str(tokenizer), "max_length": capacity}))
    run.tokenizer.fast  # noqa: B018 - loaded in the background; wait for it here
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(name: str, function: Any, *arguments: Any) -> Any:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        cpu[name] = cpu.get(name, 0.0) + time.process_time() - start_cpu
        return result

    for block in timed("read", list, read_blocks(run.sources)):
        documents = timed("normalize", normalize, block, run.sources[0], run.shapes[0]).documents
        documents = timed("clean", clean, documents, run.config.clean, run.special).documents
        rendered = timed("render", render, documents, run.renderer)
        timed("hash", text_hash, rendered)
        if (fast := run.tokenizer.fast) is not None:
            timed(ALONE, fast.encoder.encode_batch, awkward.from_arrow(rendered.text))
        tokens = timed("tokenize and mask", tokenize, rendered, run.tokenizer)
        if fast is not None:
            encoded = fast.encode(rendered.text)[0]
            timed("of it masks", flag_tokens, rendered, encoded, np.arange(len(rendered.text)))
        timed("truncate", truncate, documents, tokens, capacity, "auto", True, None)
    size = data.stat().st_size / 1e6
    return [{"part": n, "seconds": s, "cpu_s": cpu[n], "mb_per_s": size / s} for n, s in seconds.items()]


TRL = """
import json, sys, tempfile, time
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
folder, data, capacity, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with tempfile.TemporaryDirectory() as cache:
    rows = load_dataset("json", data_files=data, split="train", cache_dir=cache).select_columns(["messages"])
    settings = SFTConfig(output_dir=cache, packing=True, packing_strategy="bfd", max_length=capacity,
        assistant_only_loss=True, report_to=[], use_cpu=True, bf16=False, dataset_num_proc=processes)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = time.perf_counter()
    SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    print(json.dumps({"rows_per_s": len(rows) / (time.perf_counter() - start)}))
"""


# Timed as TRL is: imports and the tokenizer's loading do not count. A run over a few rows sees to it.
SECOND = """
import itertools, json, os, sys, tempfile, time
os.environ["POLARS_MAX_THREADS"] = "1"
import tokpack
options = {"tokenizer": sys.argv[1], "max_length": int(sys.argv[3])}
with tempfile.TemporaryDirectory() as folder:
    with open(sys.argv[2]) as data, open(f"{folder}/few.jsonl", "w") as few:
        few.writelines(itertools.islice(data, 100))
    tokpack.pack(f"{folder}/few.jsonl", f"{folder}/first", **options)
    start = time.perf_counter()
    packed = tokpack.pack(sys.argv[2], f"{folder}/second", **options)
    seconds = time.perf_counter() - start
    rows = packed.manifest["ledger"]["documents"]["read"]
print(json.dumps({"seconds": seconds, "rows_per_s": rows / seconds}))
"""


def peer(script: str, tokenizer: Path, data: Path, *numbers: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(tokenizer), str(data), *map(str, numbers)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def copies(data: Path, count: int, out: Path) -> Path:
    """`count` copies, made distinct by a number in the first content of each row."""
    content = re.compile(rb'"content": "')
    lines = data.read_bytes().splitlines()
    with out.open("wb") as file:
        for copy in range(count):
            mark = f'"content": "{copy} '.encode()
            file.write(b"\n".join(content.sub(mark, line, count=1) for line in lines) + b"\n")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=os.environ.get("TOKPACK_SMOLLM2"))
    parser.add_argument("--capacity", type=int, default=4096)
    parser.add_argument(
        "--copies", type=int, default=0, help="also pack this many distinct copies of the set"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trl", action="store_true", help="time TRL's preparation of all rows beside it")
    parser.add_argument("--processes", type=int, default=2, help="of TRL's preparation")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder, "demo.jsonl")
        if not arguments.data:
            script = Path(__file__).resolve().parent.parent / "examples" / "make_demo_data.py"
            subprocess.run([sys.executable, str(script), str(data)], check=True)
        rows = sum(1 for line in data.open("rb") if line.strip())
        result: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {
                name: version(name) for name in ("tokpack", "polars", "pyarrow", "gigatoken", "tokenizers")
            },
            "command": " ".join(sys.argv),
            "rows": rows,
            "mb": data.stat().st_size / 1e6,
        }
        first = watched_and_timed(data, arguments.tokenizer, arguments.capacity)
        more = (whole_run(data, arguments.tokenizer, arguments.capacity) for _ in range(1, arguments.repeats))
        result["pack"] = first | min([first, *more], key=lambda run: run["seconds"])
        calls = [
            peer(SECOND, arguments.tokenizer, data, arguments.capacity) for _ in range(arguments.repeats)
        ]
        result["second_call"] = min(calls, key=lambda call: call["seconds"])
        result["analyze"] = watched_and_timed(data, arguments.tokenizer, arguments.capacity, "analyze")
        result["reference"] = peer(REFERENCE, arguments.tokenizer, data, REFERENCE_ROWS)
        if arguments.trl:
            result["trl"] = peer(TRL, arguments.tokenizer, data, arguments.capacity, arguments.processes)
        result["parts"] = parts(data, arguments.tokenizer, arguments.capacity)
        if arguments.copies:
            large = copies(data, arguments.copies, Path(folder, "copies.jsonl"))
            result["copies"] = watched_and_timed(large, arguments.tokenizer, arguments.capacity)
            grown = result["copies"]["peak_own_mb"] - result["pack"]["peak_own_mb"]
            result["copies"]["bytes_per_document"] = grown * 1e6 / (rows * (arguments.copies - 1))
            per_row = result["copies"]["seconds"] / arguments.copies / result["pack"]["seconds"]
            result["copies"]["time_per_document_against_one_copy"] = per_row
    print(json.dumps(result, indent=2) if arguments.json else as_text(result))


def as_text(result: dict[str, Any]) -> str:
    lines = [
        f"{result['machine']}; {result['versions']}",
        result["command"],
        f"{result['rows']:,} rows, {result['mb']:.1f} MB",
    ]
    for name in ("pack", "second_call", "analyze", "copies"):
        if name in result:
            lines.append(
                f"{name}: " + ", ".join(f"{k} {v:,.2f}" for k, v in result[name].items() if k != "stages")
            )
    speed = result["rows"] / result["pack"]["seconds"]
    for name in ("reference", "trl"):
        if name in result:
            theirs = result[name]["rows_per_s"]
            second = result["second_call"]["rows_per_s"]
            ours = (("whole process", speed), ("imports and tokenizer loaded", second))
            times = "; ".join(f"{what}: {rate:,.0f}, {rate / theirs:.1f} times" for what, rate in ours)
            lines.append(f"{name}: {theirs:,.0f} rows/s; pack, {times}")
    for alone in (p["seconds"] for p in result["parts"] if p["part"] == ALONE):
        lines.append(f"pack takes {result['pack']['seconds'] / alone:.1f} times what gigatoken alone takes")
    for p in result["parts"]:
        figures = f"{p['seconds']:6.2f} s  {p['cpu_s']:6.2f} s CPU  {p['mb_per_s']:8.0f} MB/s"
        lines.append(f"  {p['part']:<20} {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
