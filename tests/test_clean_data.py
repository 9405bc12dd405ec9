"""Cleaning on whole sets: the demo set's faults to the line, and real data without a wrong hit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import make_demo_data
import polars as pl
import pytest

from tokpack.settings.config import CleanConfig, SourceConfig
from tokpack.stages.clean import clean
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources
from tokpack.stages.special_tokens import SpecialTokens

REASON_OF = {
    "empty_answer": "empty_answer",
    "blank_answer": "empty_answer",
    "only_end_of_text": "empty_answer",
    "null_content": "null_content",
    "no_assistant_turn": "no_answer",
    "unknown_role": "unknown_role",
    "mojibake": "mojibake",
    "html_page": "html_boilerplate",
    "repeated_characters": "repetition",
    "repeated_words": "repetition",
    "repeated_lines": "repetition",
}
"""Category of the demo set -> the reason that its documents are dropped for; all others stay."""


def cleaned(path: Path, **config: object) -> pl.DataFrame:
    sources = open_sources((SourceConfig(path=str(path), **config),))  # type: ignore[arg-type]
    shape = detect_shape(sources[0])
    blocks = [normalize(block, sources[0], shape).documents for block in read_blocks(sources)]
    special = SpecialTokens(every=("<|endoftext|>",), ends=("<|endoftext|>",))
    return clean(pl.concat(blocks), CleanConfig(), special).documents


@pytest.mark.parametrize(
    ("documents", "seed"), [(1500, 0), pytest.param(6_000, 0, marks=pytest.mark.slow), (1500, 3)]
)
def test_the_demo_sets_faults_are_found_to_the_line(tmp_path: Path, documents: int, seed: int) -> None:
    path = tmp_path / "demo.jsonl"
    assert make_demo_data.main([str(path), "--documents", str(documents), "--seed", str(seed)]) == 0
    categories = json.loads(path.with_suffix(".truth.json").read_text(encoding="utf-8"))["categories"]
    wanted = {
        line: reason for category, reason in REASON_OF.items() for line in categories[category]["lines"]
    }
    found = dict(cleaned(path).select("row", "drop_reason").rows())
    broken = set(categories["wrong_shape"]["lines"]) & found.keys()
    assert {found[line] for line in broken} <= {"no_answer"}  # a question that stands for a list of messages
    assert {line: why for line, why in found.items() if why and line not in broken} == wanted


REAL = [
    ("t0_prompt_completion.jsonl.zst", {}, {"empty_answer": 1400}),
    ("gpteacher_alpaca.jsonl.zst", {}, {"mojibake": 4}),
    ("gsm8k_question_answer.jsonl", {"map": {"prompt": "question", "completion": "answer"}}, {}),
    ("alpaca_en_demo.json", {}, {}),
    ("c4_text.jsonl", {}, {}),
    ("glaive_toolcall_en_demo.json", {}, {"repetition": 1}),
]
"""File -> what the default preset drops of it; each hit was read. See docs/cleaning.md."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config", "hits"), REAL)
def test_real_data_loses_nothing_sound(
    real_data: Path, name: str, config: dict[str, object], hits: dict[str, int]
) -> None:
    dropped = cleaned(real_data / name, **config)["drop_reason"].drop_nulls()
    assert dict(Counter(dropped.to_list())) == hits
