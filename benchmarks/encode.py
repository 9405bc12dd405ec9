"""MB/s of rendering and of tokenizing with masks, against transformers on a sample in the same run.

Input is `mix.jsonl.zst` of the data folder (`TOKPACK_DATA`): 94,639 chats, 82 MB of text. Both sides give
the same: ids and assistant mask of every chat, which is checked on the sample. transformers renders and masks
chat by chat (`apply_chat_template(..., return_assistant_tokens_mask=True)`); its tokens come from the same
`tokenizers` library that is tokpack's reference. Loading is left out on both sides.

    python benchmarks/encode.py --tokenizer Qwen2.5-0.5B
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import polars as pl

from tokpack.encoding.token_places import encode_reference
from tokpack.encoding.tokenizer import Tokenizer, load_tokenizer
from tokpack.schema import TRAINED
from tokpack.stages.render.render import Rendered, Renderer, RenderSettings, render
from tokpack.stages.tokenize import TokenBatch, tokenize

REPO_ROOT = Path(__file__).resolve().parent.parent
BATCH_ROWS = 33_000
CHATML = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}{%- else %}
{{- message.content + '<|im_end|>' }}{%- endif %}{{- '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""Marked with `{% generation %}`, so that transformers can give a mask at all."""

Result = TypeVar("Result")


def timed(function: Callable[[], Result], repeats: int = 1) -> tuple[Result, float]:
    """(result, best seconds of the repeats)."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return result, best


def read_chats(data: Path) -> pl.DataFrame:
    messages = pl.read_ndjson(data / "mix.jsonl.zst")["messages"]
    nothing = pl.lit(None, pl.String)
    return pl.DataFrame({"messages": messages}).select(
        doc_id=pl.int_range(pl.len(), dtype=pl.Int64),
        kind=pl.lit("chat"),
        roles=pl.col("messages").list.eval(pl.element().struct.field("role")),
        contents=pl.col("messages").list.eval(pl.element().struct.field("content")),
        extra=nothing,
        drop_reason=nothing,
        drop_detail=nothing,
    )


def tokpack_run(
    batches: list[pl.DataFrame], tokenizer: Tokenizer, repeats: int
) -> tuple[list[Rendered], list[TokenBatch], float, float]:
    renderer = Renderer(tokenizer, RenderSettings())
    rendered, render_seconds = timed(lambda: [render(batch, renderer) for batch in batches], repeats)
    tokens, seconds = timed(lambda: [tokenize(batch, tokenizer) for batch in rendered], repeats)
    return rendered, tokens, render_seconds, seconds


def transformers_run(auto: Any, chats: list[list[dict[str, str]]]) -> tuple[list[dict[str, Any]], float]:
    def run() -> list[dict[str, Any]]:
        options = {"chat_template": CHATML, "return_dict": True, "return_assistant_tokens_mask": True}
        return [auto.apply_chat_template(chat, **options) for chat in chats]

    return timed(run)


def check_equal(tokens: TokenBatch, expected: list[dict[str, Any]]) -> None:
    for row, encoding in enumerate(expected):
        here = slice(*tokens.offsets[row : row + 2])
        if tokens.input_ids[here].tolist() != encoding["input_ids"]:
            raise SystemExit(f"ids of chat {row} differ from transformers'")
        if (tokens.flags[here] & TRAINED).tolist() != encoding["assistant_masks"]:
            raise SystemExit(f"the mask of chat {row} differs from transformers'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = os.environ.get("TOKPACK_QWEN") or os.environ.get("TOKPACK_SMOLLM2")
    parser.add_argument(
        "--tokenizer", default=known, help="folder of a tokenizer with ChatML's special tokens"
    )
    parser.add_argument(
        "--data", default=os.environ.get("TOKPACK_DATA", REPO_ROOT.parent / "shared" / "data")
    )
    parser.add_argument("--sample", type=int, default=2000, help="chats for transformers (default 2000)")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs (default 3)")
    arguments = parser.parse_args()
    if not arguments.tokenizer or not (Path(arguments.data) / "mix.jsonl.zst").is_file():
        print("skipped: needs --tokenizer FOLDER, and mix.jsonl.zst in --data", file=sys.stderr)
        return
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(arguments.tokenizer, chat_template=CHATML)
    tokenizer.load()
    documents = read_chats(Path(arguments.data))
    batches = [part.rechunk() for part in documents.iter_slices(BATCH_ROWS)]
    rendered, tokens, render_seconds, seconds = tokpack_run(batches, tokenizer, arguments.repeats)
    size = sum(batch.text.nbytes for batch in rendered) / 1e6
    count = sum(len(batch.input_ids) for batch in tokens)

    sample = documents[: arguments.sample]
    chats = [
        [{"role": role, "content": content} for role, content in zip(*row, strict=True)]
        for row in sample.select("roles", "contents").iter_rows()
    ]
    expected, by_transformers = transformers_run(AutoTokenizer.from_pretrained(arguments.tokenizer), chats)
    check_equal(tokens[0], expected)
    part = rendered[0].text.slice(0, len(sample))
    sample_size = int(sum(len(text.as_py().encode()) for text in part)) / 1e6
    _, by_tokenizers = timed(lambda: encode_reference(tokenizer.reference, part))

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(
        ", ".join(f"{name} {version(name)}" for name in ("gigatoken", "tokenizers", "transformers", "polars"))
    )
    print(f"{len(documents):,} chats, {size:.1f} MB rendered, {count:,} tokens; {tokenizer.name}")
    both = render_seconds + seconds
    rows = [
        ("tokpack: render", render_seconds, size, len(documents)),
        ("tokpack: tokenize and mask", seconds, size, len(documents)),
        ("tokpack: both", both, size, len(documents)),
        ("tokenizers with offsets (tokpack's slow path)", by_tokenizers, sample_size, len(sample)),
        ("transformers: render, tokenize and mask", by_transformers, sample_size, len(sample)),
    ]
    for name, took, megabytes, chats_done in rows:
        print(f"{name:48}{took:8.2f} s{chats_done:9,} chats{megabytes / took:9.1f} MB/s")
    times = (size / both) / (sample_size / by_transformers)
    print(f"{times:.0f} times transformers; ids and masks of the sample are equal")


if __name__ == "__main__":
    main()
