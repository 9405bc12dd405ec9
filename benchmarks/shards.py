"""Pass 2 and `tokpack verify` in MB of shards per second, beside the disk's own speed.

    python benchmarks/shards.py [--data mix.jsonl] [--tokenizer FOLDER] [--copies 4] [--json]

Without `--data`, the demo set is generated. The rows are packed once; writing is then repeated by `repack`
without its planning, from mapped rows, in the seeded random order of pass 2. Figures count the bytes of the
shards as Arrow, for Parquet too. `dd` writes as many zeros into the same folder with a final fsync;
`sha256` hashes one shard in one thread: no `verify` that reads every byte is faster per core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokpack
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.schema import PACKED_SCHEMA
from tokpack.settings.config import WriteConfig
from tokpack.stages.plan import row_order
from tokpack.stages.write import write_shards


def shard_bytes(packed: tokpack.PackedFolder) -> int:
    return sum((packed.folder / shard["file"]).stat().st_size for shard in packed.manifest["shards"])


def best(call: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def write(packed: tokpack.PackedFolder, out: Path, shard_format: Any) -> None:
    """The rows of a packed dataset in another random order."""
    stored = StoredPieces.of([packed])
    layout = stored.in_rows(row_order(stored.rows, 1))
    out.mkdir(exist_ok=True)
    settings = WriteConfig(shard_format=shard_format)
    write_shards(out, layout, stored.placement, stored.batches, PACKED_SCHEMA, settings)


def zeros(out: Path, size: int) -> None:
    blocks = max(1, size >> 20)
    command = ["dd", "if=/dev/zero", f"of={out}", "bs=1M", f"count={blocks}", "conv=fsync"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def hash_shard(packed: tokpack.PackedFolder) -> None:
    with (packed.folder / packed.manifest["shards"][0]["file"]).open("rb") as file:
        hashlib.file_digest(file, "sha256")


def enlarged(packed: tokpack.PackedFolder, copies: int, out: Path) -> tokpack.PackedFolder:
    return tokpack.merge([packed] * copies, out) if copies > 1 else packed


def measure(packed: tokpack.PackedFolder, folder: Path, repeats: int) -> dict[str, Any]:
    size = shard_bytes(packed)
    first = (packed.folder / packed.manifest["shards"][0]["file"]).stat().st_size
    parquet = tokpack.repack(packed, folder / "parquet", shard_format="parquet")
    seconds = {
        "write, arrow": best(lambda: write(packed, folder / "out", "arrow"), repeats),
        "write, parquet": best(lambda: write(packed, folder / "out-parquet", "parquet"), repeats),
        "dd with fsync": best(lambda: zeros(folder / "zeros", size), repeats),
        "verify, arrow": best(lambda: check(packed), repeats),
        "verify, parquet": best(lambda: check(parquet), repeats),
        "sha256, one thread": best(lambda: hash_shard(packed), repeats) * size / first,
    }
    return {
        "mb": size / 1e6,
        "rows": len(packed),
        "parquet_mb": shard_bytes(parquet) / 1e6,
        "mb_per_s": {name: size / 1e6 / s for name, s in seconds.items()},
    }


def check(packed: tokpack.PackedFolder) -> None:
    result = tokpack.verify(packed.folder)
    if not result.ok:
        raise SystemExit("the packed dataset does not verify")


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": f"{os.cpu_count()} x {names[0] if names else platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokpack", "pyarrow", "numpy", "polars")},
        "command": shlex.join(["python", *sys.argv]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", default=os.environ.get("TOKPACK_SMOLLM2"))
    parser.add_argument("--capacity", type=int, default=4096)
    parser.add_argument("--copies", type=int, default=1, help="merge this many copies of the packed dataset")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data or folder / "demo.jsonl"
        if not options.data:
            script = Path(__file__).resolve().parent.parent / "examples" / "make_demo_data.py"
            subprocess.run([sys.executable, str(script), str(data)], check=True)
        settings = {"tokenizer": options.tokenizer, "max_length": options.capacity}
        packed = tokpack.pack(str(data), folder / "packed", **settings)
        packed = enlarged(packed, options.copies, folder / "large")
        result = machine() | measure(packed, folder, options.repeats)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{result['rows']:,} rows, {result['mb']:,.0f} MB; as Parquet {result['parquet_mb']:,.0f} MB")
    for name, speed in result["mb_per_s"].items():
        print(f"  {name:<20} {speed:8,.0f} MB/s")


if __name__ == "__main__":
    main()
