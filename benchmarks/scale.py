"""Pass 1 in processes of one core each against one: `--part`, and the nodes of a Ray cluster.

    python benchmarks/scale.py --data mix.jsonl --tokenizer FOLDER [--copies 4] [--repeats 3] [--cores 0,1]

The nodes are one machine's: each process is held to a core of its own, of `--cores`. Parts are timed as
commands, start to exit; of a cluster pass 1 alone, after a first run that loads the tokenizer on all nodes.
Processor time says what the work itself took where others use the machine as well; load is the system's
average before a run.
Processes that share nothing say what the machine allows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pack import copies

CAPACITY = "4096"


def parts(data: Path, tokenizer: Path, cores: list[int]) -> dict[str, Any]:
    """A part on each core at the same time: seconds to the end of the last, and of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tokpack", "pack", str(data), "-t", str(tokenizer), "-q"]
        command += ["--max-length", CAPACITY, "-o", f"{folder}/out", "--workers", "1"]
        load, start = os.getloadavg()[0], time.perf_counter()
        started = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *command, "--part", f"{number}/{len(cores)}"],
                stdout=subprocess.DEVNULL,
            )
            for number, core in enumerate(cores, 1)
        ]
        usages = [os.wait4(process.pid, 0) for process in started]
        seconds = time.perf_counter() - start
    if any(status for _, status, _ in usages):
        raise SystemExit("a part failed")
    cpu = [usage.ru_utime + usage.ru_stime for _, _, usage in usages]
    return {"seconds": seconds, "cpu_s": max(cpu), "load": load}


READ = """
import json, sys
rows = open(sys.argv[1], "rb").read(40_000_000).splitlines()[:-1]
for _ in range(5):
    for row in rows:
        json.loads(row)
"""


def bystanders(data: Path, cores: list[int]) -> dict[str, Any]:
    """Processes that know nothing of each other, one on each core, read the same rows with json: what the
    machine itself loses where both cores work. `seconds` is a share of the work, as for parts."""
    start = time.perf_counter()
    command = [sys.executable, "-c", READ, str(data)]
    started = [subprocess.Popen(["taskset", "-c", str(core), *command]) for core in cores]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a reader failed")
    return {"seconds": (time.perf_counter() - start) / len(cores), "load": os.getloadavg()[0]}


@contextmanager
def cluster(on: list[int]) -> Iterator[str]:
    """Its address. There is a node on each core; this process is held to none."""
    from ray.cluster_utils import Cluster

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on[:1])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for core in on[1:]:
        os.sched_setaffinity(0, {core})
        made.add_node(num_cpus=1)
    os.sched_setaffinity(0, cores)
    try:
        yield made.address
    finally:
        made.shutdown()


def on_ray(data: Path, tokenizer: Path, cores: list[int], repeats: int) -> dict[str, Any]:
    """Seconds of pass 1, the best."""
    import ray

    from tokpack.run import Run
    from tokpack.settings.config import Config
    from tokpack.terminal.activity import default_activity
    from tokpack.way import cluster as way
    from tokpack.way.store import TokenStore

    config = Config.from_dict(
        {
            "source": [{"path": str(data)}],
            "tokenize": {"tokenizer": str(tokenizer)},
            "truncate": {"max_length": int(CAPACITY)},
        }
    )
    run = Run.start(config, 1, tell=default_activity())
    found = []
    with cluster(cores) as address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        for _ in range(repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                store = TokenStore(Path(folder), run.fingerprint())
                load, start = os.getloadavg()[0], time.perf_counter()
                way.fill(run, store, address)
                found.append((time.perf_counter() - start, load))
        ray.shutdown()
    seconds, load = min(found[1:])
    return {"seconds": seconds, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], default=[0, 1])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = copies(given.data, given.copies, Path(folder, "data.jsonl"))
        size = data.stat().st_size / 1e6
        runs: dict[str, Any] = {"size_mb": size}
        for cores in (given.cores[:1], given.cores):
            count = len(cores)
            each = [parts(data, given.tokenizer, cores) for _ in range(given.repeats)]
            runs[f"{count} parts"] = min(each, key=lambda run: run["seconds"])
            each = [bystanders(data, cores) for _ in range(given.repeats)]
            runs[f"{count} bystanders"] = min(each, key=lambda run: run["seconds"])
        for cores in (given.cores[:1], given.cores):
            runs[f"{len(cores)} nodes"] = on_ray(data, given.tokenizer, cores, given.repeats)
    most = len(given.cores)
    for kind in ("parts", "nodes", "bystanders"):
        runs[kind] = runs[f"1 {kind}"]["seconds"] / runs[f"{most} {kind}"]["seconds"]
    runs["versions"] = {name: version(name) for name in ("tokpack", "ray", "polars", "pyarrow")}
    if given.json:
        print(json.dumps(runs, indent=2))
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {size:.0f} MB")
    print(" ".join(f"{name} {number}" for name, number in runs["versions"].items()))
    for name in ("1 parts", f"{most} parts", "1 nodes", f"{most} nodes"):
        run = runs[name]
        cpu = f", {run['cpu_s']:.1f} s of a core" if "cpu_s" in run else ""
        print(
            f"{name}: {run['seconds']:.1f} s, {size / run['seconds']:.1f} MB/s{cpu}, load {run['load']:.1f}"
        )
    print(f"{most} against one: parts {runs['parts']:.2f}, nodes {runs['nodes']:.2f} times the rate")
    print(f"{most} that read rows with json and share nothing: {runs['bystanders']:.2f} times the rate")


if __name__ == "__main__":
    main()
