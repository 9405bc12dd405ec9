"""Every decoder family of transformers, tiny and random: packed equals alone, or is refused; never silent.

One or two families of each way run by default, all with `--slow`; docs/architectures.md lists the outcome.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

import transformers
from make_architecture_table import PAGE, read_table, table_line
from tiny_decoders import FAMILIES, NOT_BUILT, each, examine, why_not_built

WAYS = {
    **each("tokpack", "llama qwen3 gemma2 gpt_oss mixtral deepseek_v3 opt llava"),
    **each("native", "gptj deepseek_v32"),
    **each("mixers", "mamba2 qwen3_next lfm2 jamba falcon_h1 rwkv mpt"),
    **each("loop", "bloom"),
    **each("refused", "qwen2_vl reformer cpmant"),
}

QUICK = {"llama", "gpt_oss", "gptj", "mamba2", "qwen3_next", "bloom", "qwen2_vl"}

PAGE_IS_OF = re.search(r"family of transformers (\d+\.\d+)", PAGE.read_text(encoding="utf-8"))[1]
SAME_VERSION = transformers.__version__.startswith(f"{PAGE_IS_OF}.")
"""The way that a family goes is its code's in one version; that it is right is asked of every version."""


def check(family, way):
    if why := why_not_built(family):
        pytest.skip(why)
    found = examine(family)
    assert not found.silent, found
    assert found.leak > 0.05, "documents that leak would not show in these logits"
    if not SAME_VERSION:
        return
    assert found.way == way, found
    if way in ("mixers", "refused"):
        assert table_line(found) in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] * (family not in QUICK)) for family in WAYS]
)
def test_packed_rows_equal_documents_alone_or_are_refused(family):
    check(family, WAYS[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in {*NOT_BUILT, *WAYS}])
def test_every_decoder_family_goes_the_way_that_the_table_names(family):
    check(family, read_table().get(family))


@pytest.mark.skipif(not SAME_VERSION, reason=f"the table is of transformers {PAGE_IS_OF}")
def test_the_table_names_every_decoder_family_of_transformers_once():
    table = read_table()
    assert set(table) == set(FAMILIES)
    assert {family for family, way in table.items() if way == "not built"} == set(NOT_BUILT)
    assert {family: table[family] for family in WAYS} == WAYS
