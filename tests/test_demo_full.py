"""The demo set in its full size: as long as real sets, and no near duplicates but those it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_demo_data import Demo, contents, load, make

from tokpack.stages.near_dup.near_dup import find_near_duplicates
from tokpack.stages.selected_tokens import SelectedTokens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return make(tmp_path_factory.mktemp("demo") / "chat.jsonl")


def test_clean_lines_of_the_full_set_are_no_near_duplicates(full: Demo, smollm2: Path) -> None:
    # SmolLM2 cuts all scripts but Latin into bytes, which makes texts look more alike than elsewhere.
    texts = ["\n".join(contents(full.messages(number))) for number in full.clean()]
    ids = [one.ids for one in load(smollm2).encode_batch(texts, add_special_tokens=False)]
    tokens = SelectedTokens(np.concatenate(ids).astype(np.int32), np.cumsum([0, *map(len, ids)]))
    partners = find_near_duplicates([tokens], 0.8).partner  # exact: tests/test_near_dup.py
    assert len(partners) == len(texts)
    assert (partners == -1).all()


def test_the_full_set_has_the_lengths_of_real_sets(full: Demo, whole_qwen: Path) -> None:
    tokenizer = load(whole_qwen)
    texts = ["\n".join(contents(full.messages(number))) for number in full.clean()]
    some = sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(texts[::20]))
    assert 120 <= some[len(some) // 2] <= 180
    assert 180 <= sum(some) / len(some) <= 270
    longest = tokenizer.encode_batch(sorted(texts, key=len)[-100:])
    assert 2000 <= max(len(encoding.ids) for encoding in longest) <= 8000
