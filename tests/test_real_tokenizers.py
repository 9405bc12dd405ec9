"""Chats with the real tokenizers and templates of gated models, against transformers and trl's tags."""

from __future__ import annotations

import families
import pyarrow as pa
import pytest
from encode_helpers import expected, template
from family_judge import Judge
from get_tokenizers import folder_of

from tokpack.encoding.fast_proof import difference, odd_strings
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.stages.render.render import Renderer

pytestmark = pytest.mark.slow

FAMILIES = {"gptoss": "gptoss", "gemma3": "gemma3", "llama3_1": "llama3_1", "deepseek_v3": "deepseekv3"}


def vocabulary(name):
    if not (folder_of(name) / "tokenizer.json").is_file():
        pytest.skip(f"the tokenizer of {name} is not there: python tests/get_tokenizers.py")
    return folder_of(name)


def judge_of(name, tmp_path):
    return Judge(tmp_path, vocabulary(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_labels_are_those_of_the_tagged_template(name, tmp_path):
    if families.folder() is None:
        pytest.skip("trl is not installed")
    cells = judge_of(name, tmp_path).cells(FAMILIES[name])
    assert all(cell.startswith(("equal", "refused")) for cell in cells.values())
    assert cells["multi-turn"] == "equal"


@pytest.mark.parametrize("name", [*FAMILIES, "llama2"])
def test_letters_that_one_library_alone_knows_have_the_ids_of_tokenizers(name):
    tokenizer = load_tokenizer(vocabulary(name))
    blocks = ((0x1A00, 0x1B00), (0xA700, 0xA800), (0xFB00, 0xFE00), (0x11D00, 0x11E00), (0x1F600, 0x1FC00))
    texts = [f"the {chr(number)} of" for first, end in blocks for number in range(first, end)]
    assert difference(tokenizer.encode_reference, tokenizer.fast, pa.array(texts, pa.large_string())) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_begin_with_an_added_token_have_the_ids_of_tokenizers_as_one_text(name):
    tokenizer = load_tokenizer(vocabulary(name))
    tokenizer.fast.alone = True
    added = list(tokenizer.added_tokens)[:300]
    odd = [*odd_strings(added), *(f"{token} \n" for token in added), "", "  \n\n", "a" * 5000]
    for first in added[:3]:
        rows = pa.array([first + text for text in odd], pa.large_string())
        assert difference(tokenizer.encode_reference, tokenizer.fast, rows) is None


def test_code_and_characters_that_are_written_as_bytes_go_by_the_fast_path_of_gemma():
    tokenizer = load_tokenizer(vocabulary("gemma3"))
    texts = ["def f():\n    return 1\n\n\n        # two", "a\u00a0b\u2009c \U0001fae9", "\u0780 \x85 <eos>  "]
    rows = pa.array(texts, pa.large_string())
    assert not tokenizer.fast.encode(rows)[1].any()
    assert difference(tokenizer.encode_reference, tokenizer.fast, rows) is None


def test_llama_2_has_the_ids_and_masks_of_transformers(tmp_path):
    judge = judge_of("llama2", tmp_path)
    renderer: Renderer = judge.renderer(template("llama2", tagged=False))
    for kind in ("plain", "system", "multi-turn", "ends on a user turn"):
        messages, tools = families.CHATS[kind]
        _, ids, mask = judge.labels(renderer, messages, tools)
        assert (ids, mask) == expected(judge.auto, messages, template("llama2"), tools)
