"""Rows of every format, mutated by seed, through every container: each is kept, dropped or set aside.

    python tests/fuzz_rows.py --rows 1000000 --tokenizer FOLDER

Rows run in batches in a process of their own. A batch on which it dies, or ends in anything but a documented
answer, is halved until one row is left, which is printed with its seed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well, hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["a"]}}}
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": CHAT, "tools": [TOOL], "id": 7, "more": {"a": [1.5, None], "b": {"c": "x"}}},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "well, hi"}],
        "system": "be kind",
    },
    "alpaca": {"instruction": "say hello", "input": "", "output": "hello", "history": [["q", "a"]]},
    "prompt_completion": {"prompt": "say hello", "completion": "hello", "id": "2020-01-01"},
    "text": {"text": "caf\u00e9 \U0001f642 and a few more words", "unused": {"a": {"a": []}}},
    "preference": {"prompt": "say hello", "chosen": "hello", "rejected": "no"},
    "tokens": {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "unused": "x"},
}
CONTAINERS = ("jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "parquet", "arrow")
BITS = [
    *[b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"/", b" ", b"\t", b"\r", b"{}", b"[]", b"{}{}"],
    *[b"null", b"true", b"1", b"-", b"1e5", b"0.5", b"1e400", b"9" * 5000, b"NaN", b"Infinity"],
    *[b"\\u0000", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00"],
    *[b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\0", b"\x0b"],
    *[b'{"a":' * 150, b"}" * 150, b"[" * 150, b"]" * 150, b"[" * 100_000],
    *[b'"text":1,', b'"tools":[],', b'"history":1,', b'"system":1,', b'"tokpack:unreadable":1,'],
    *[b'"input_ids":["\\ud800"],', b'"\\ud800":1,', b'"role":"tool",', b'"content":null,'],
]
VALUES: list[Any] = [
    *[None, True, False, 0, -1, 2**31, 2**63, -(2**70), 0.5, float("nan"), float("inf"), "", " ", "null"],
    *["[]", "{}", "[{", '[{"role": "user", "content": "x"}]', "\u202e\x1b[31m", "\0", "\ufeff", "a" * 5000],
    *["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>" * 50, "{{ 1/0 }}", "{% raw %}", "\U00100000"],
    *[[], {}, [[]], [None], [1], [{}], {"a": None}, [["q", "a"]], [["q"]], [{"role": "user"}], CHAT, TOOL],
    *[[TOOL], {"type": "text", "text": "x"}, [{"type": "image", "url": "x"}], "system", "tool", "assistant"],
]
KEYS = [
    "role",
    "content",
    "tools",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "tokpack:unreadable",
    "train",
]
KEYS += ["weight", "system", "history", "label", "reasoning_content", "chat_template_kwargs", "functions", ""]
BATCH = 1600
HEAD = 5
"""Rows as they should be at a batch's head, by which the format is recognized."""


def mutated_line(line: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        start = draw.randrange(len(line) + 1)
        line = line[:start] + draw.choice([b"", *BITS]) + line[start + draw.randrange(5) :]
    return line.replace(b"\n", b"") or b"{}"


def mutated_row(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    row = copy.deepcopy(row)
    for _ in range(draw.choice([1, 1, 2, 3])):
        places = list(_places(row))
        if not places:
            return row
        holder, key = draw.choice(places)
        what = draw.randrange(4)
        if what == 0 and isinstance(holder, dict):
            holder[draw.choice(KEYS)] = copy.deepcopy(draw.choice(VALUES))
        elif what == 1:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return row


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def write_batch(form: str, container: str, seeds: range, folder: Path) -> int:
    """The rows of these seeds as files in `folder`; how many they are, the good ones at the head included."""
    good, draws = ROWS[form], [random.Random(f"{form} {container} {seed}") for seed in seeds]
    if container.startswith("jsonl"):
        plain = json.dumps(good, ensure_ascii=False).encode()
        lines = [plain] * HEAD + [mutated_line(plain, draw) for draw in draws]
        lines = [line if line.strip() else b"null" for line in lines]
        _write(folder / f"rows.{container}", b"\n".join(lines) + b"\n" * draws[0].randrange(2))
        return len(lines)
    rows = [good] * HEAD + [mutated_row(good, draw) for draw in draws]
    if container == "json":
        _write(folder / "rows.json", json.dumps(rows, indent=draws[0].choice([None, 1])).encode())
    elif container == "csv":
        _write(folder / "rows.csv", _csv(rows, good, draws))
    else:
        return _write_tables(rows, folder, container)
    return len(rows)


def _write(path: Path, data: bytes) -> None:
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if codec is None:
        path.write_bytes(data)
    else:
        with pa.CompressedOutputStream(str(path), codec) as out:
            out.write(data)


def _csv(rows: list[dict[str, Any]], good: dict[str, Any], draws: list[random.Random]) -> bytes:
    """Cells of text, some rows with too many or too few, or with bytes that are not UTF-8."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(good)
    for number, row in enumerate(rows):
        cells = [_cell(row.get(key, "")) for key in good]
        if number >= HEAD and draws[number - HEAD].random() < 0.1:
            cells = draws[number - HEAD].choice([cells[:1], [*cells, "more"], ["caf\udce9", *cells[1:]]])
        writer.writerow(cells if any(cells) else ["null"] * len(cells))
    return out.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write_tables(rows: list[dict[str, Any]], folder: Path, container: str) -> int:
    """A file for each set of types, since a column has one; rows that Arrow cannot hold are left out."""
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet as pq

    files: dict[pa.Schema, list[dict[str, Any]]] = {}
    for row in rows:
        try:
            kind = pa.Table.from_pylist([rows[0], row]).schema
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            continue
        files.setdefault(kind, []).append(row)
    count = 0
    for number, (kind, held) in enumerate(files.items()):
        table, path = (
            pa.Table.from_pylist([rows[0], *held], schema=kind),
            folder / f"{number:04d}.{container}",
        )
        try:
            pq.write_table(table, path) if container == "parquet" else pa.feather.write_feather(table, path)
        except pa.ArrowNotImplementedError:  # Parquet has no struct without fields
            path.unlink(missing_ok=True)
            continue
        count += table.num_rows
    return count


# The process that may die


def serve(tokenizer_folder: str) -> None:
    """Batches from stdin, an answer a line."""
    import logging
    import os

    logging.disable(logging.CRITICAL)
    os.fsync = lambda file: None
    from shared_tokenizers import share

    from tokpack.encoding.tokenizer import load_tokenizer

    share()
    tokenizer = load_tokenizer(tokenizer_folder)
    for request in sys.stdin:
        form, container, start, stop = json.loads(request)
        with tempfile.TemporaryDirectory(prefix="tokpack-fuzz-") as name:
            answer = run_batch(form, container, range(start, stop), Path(name), tokenizer)
        print(json.dumps(answer), flush=True)


def run_batch(form: str, container: str, seeds: range, folder: Path, tokenizer: Any) -> dict[str, Any]:
    from tokpack.errors import DataError
    from tokpack.run import Run
    from tokpack.settings.config import Config
    from tokpack.stages.normalize.values import UNFORESEEN
    from tokpack.way.pass_one import pass_one
    from tokpack.way.store import TokenStore

    data = folder / "data"
    data.mkdir()
    rows = write_batch(form, container, seeds, data)
    settings: dict[str, Any] = {"read": {"allow_bad": 1.0}, "tokenize": {"tokenizer": str(tokenizer.folder)}}
    settings["source"] = [{"path": str(path), "format": form} for path in sorted(data.iterdir())]
    try:
        run = replace(Run.start(Config.from_dict(settings), 1, tokenizer), learned=False)
        (folder / "store").mkdir()
        corpus = pass_one(run, TokenStore(folder / "store", run.fingerprint()))
    except DataError as error:
        return {"fate": "refused", "what": str(error)}
    except BaseException as error:
        return {"fate": "failed", "what": f"{type(error).__name__}: {error}"[:500]}
    if unforeseen := [line for line in corpus.quarantined if UNFORESEEN in line]:
        return {"fate": "failed", "what": unforeseen[0][:500]}
    width = corpus.width
    aside = [json.loads(line)["doc_id"] + i for line in corpus.quarantined for i in range(width)]
    found = sorted([*corpus.docs["doc_id"].to_list(), *aside])
    if found != list(range(rows * width)):
        return {"fate": "failed", "what": f"{rows} rows, documents {str(found)[:300]}"}
    dropped = corpus.docs["drop_reason"].count()
    counts = {"kept": len(corpus.docs) - dropped, "dropped": dropped, "set aside": len(aside)}
    return {"fate": "ran", "counts": {key: count // width for key, count in counts.items()}}


# The one that watches


@dataclass
class Tally:
    rows: int = 0
    refused: int = 0
    deaths: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Watch:
    def __init__(self, tokenizer: str) -> None:
        self._command = [sys.executable, __file__, "--serve", tokenizer]
        self._child: subprocess.Popen[str] | None = None
        self.tally = Tally()

    def run(self, form: str, container: str, seeds: range) -> None:
        answer = self._ask([form, container, seeds.start, seeds.stop])
        if answer["fate"] == "ran":
            self.tally.rows += len(seeds)
            self.tally.counts.update(answer["counts"])
        elif len(seeds) > 1:
            middle = (seeds.start + seeds.stop) // 2
            self.run(form, container, range(seeds.start, middle))
            self.run(form, container, range(middle, seeds.stop))
        else:
            self.tally.rows += 1
            self.tally.refused += answer["fate"] == "refused"
            if answer["fate"] != "refused":
                self.tally.failures.append(f"{form} {container} {seeds.start}: {answer['what']}")

    def _ask(self, request: list[Any]) -> dict[str, Any]:
        if self._child is None:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._child = subprocess.Popen(self._command, text=True, encoding="utf-8", **pipes)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        if line := self._child.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._child.wait()
        self._child = None
        self.tally.deaths += 1
        return {"fate": "died", "what": f"the process died with {code}"}

    def close(self) -> None:
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child.wait()


def fuzz(rows: int, tokenizer: str, first: int = 0) -> Tally:
    """`rows` mutated rows, spread evenly over all formats and containers."""
    watch = Watch(tokenizer)
    kinds = [(form, container) for form in ROWS for container in CONTAINERS]
    kinds = [kind for kind in kinds if kind != ("tokens", "csv")]  # cells of text hold no ids
    batch = min(BATCH, -(-rows // len(kinds)))
    done = number = 0
    try:
        while done < rows:
            form, container = kinds[number % len(kinds)]
            start = first + number // len(kinds) * batch
            watch.run(form, container, range(start, start + min(batch, rows - done)))
            done, number = done + batch, number + 1
    finally:
        watch.close()
    return watch.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    begun = time.monotonic()
    tally = fuzz(given.rows, given.tokenizer, given.first)
    print(f"{tally.rows:,} rows in {time.monotonic() - begun:.0f} s: {dict(tally.counts)},")
    print(f"{tally.refused:,} files refused, {tally.deaths:,} deaths, {len(tally.failures):,} failures")
    print("\n".join(tally.failures[:50]))
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
