"""The local page at 100,000 documents: the first page, and what a filter, an order and a search take.

    python benchmarks/view.py [DATA] [--tokenizer FOLDER]

DATA is packed first; without it the public mix beside the repository (94,639 chats) is taken, or made-up
chats. Times are medians of five requests that no earlier one has answered, in wall time and processor time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line has it

HERE = Path(__file__).resolve().parent
MIX = HERE.parent.parent / "shared" / "data" / "mix.jsonl.zst"
REQUESTS = {
    "rows, as packed": "rows?page={n}",
    "documents, as packed": "kept?shortest={n}",
    "documents by length": "kept?sort=length&descending=1&shortest={n}",
    "documents by trained share": "kept?sort=trained&shortest={n}",
    "documents of a source, 100 to 400 tokens": "kept?source={source}&shortest=10{n}&longest=400",
    "left out, one reason": "left_out?reason={reason}&shortest={n}",
    "search in kept texts": "kept?text=ocean{n}",
    "search of a frequent word": "kept?text=the&shortest={n}",
    "search in left-out texts": "left_out?text=river{n}",
}


def data_of(folder: Path, given: str | None) -> Path:
    if given or MIX.is_file():
        return Path(given or MIX)
    made = folder / "chats.jsonl"
    script = HERE.parent / "examples" / "make_demo_data.py"
    subprocess.run(
        [sys.executable, script, made, "--documents", "100000"], check=True, stdout=subprocess.DEVNULL
    )
    return made


def timed(what: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--tokenizer", default=os.environ.get("TOKPACK_SMOLLM2"))
    given = parser.parse_args()
    import polars
    import starlette
    from starlette.testclient import TestClient

    import tokpack
    from tokpack.view.run import shown
    from tokpack.view.server import make_app

    print(f"tokpack {tokpack.__version__}, polars {polars.__version__}, starlette {starlette.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed = tokpack.pack(data_of(folder, given.data), folder / "packed", tokenizer=given.tokenizer)
        left_out = packed.ledger["documents"]["read"] - packed.manifest["documents"]
        print(
            f"{packed.manifest['documents']:,} documents packed, {left_out:,} left out, {len(packed):,} rows"
        )
        started, cpu = time.perf_counter(), time.process_time()
        with shown(tokpack.open_packed(packed.folder), folder / "keep.txt") as found:
            client = TestClient(make_app(found, "t"), base_url="http://127.0.0.1")
            client.get("/t/"), client.get("/t/api/summary"), client.get("/t/api/list/rows")
            wall, cpu = 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - cpu)
            print(f"{'first page, from opening':44} {wall:7.0f} ms {cpu:7.0f} ms")
            found.texts.hits("left_out", "x")
            print(f"{'all texts made, from opening':44} {1000 * (time.perf_counter() - started):7.0f} ms")
            source, reason = found.table.sources[0], found.table.left_out["reason"][0]
            for what, path in REQUESTS.items():
                urls = [f"/t/api/list/{path.format(n=n, source=source, reason=reason)}" for n in range(1, 6)]
                asked = [timed(partial(client.get, url)) for url in urls]
                wall, cpu = (median(times) for times in zip(*asked, strict=True))
                print(f"{what:44} {wall:7.0f} ms {cpu:7.0f} ms")


if __name__ == "__main__":
    main()
