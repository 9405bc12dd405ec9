"""Texts of ids without a tokenizer are those of `tokenizers`, or are not known."""

from __future__ import annotations

import json

import pytest
from encode_helpers import byte_level, sentencepiece_like, tokenizer_folder
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

import tokpack
from tokpack.encoding import tokenizer as tokenizers_
from tokpack.encoding.id_texts import file_of, kept_texts, texts_of
from tokpack.encoding.tokenizer import load_tokenizer

SPACED = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
MARKED = ["\u2581\u2581", "a\u2581b"]
"""Added tokens with word marks."""


def stripping():
    backend = sentencepiece_like("sections")
    backend.decoder = decoders.Sequence([*SPACED, decoders.Strip(" ", 1, 0)])
    return backend


KINDS = {
    "byte_level": byte_level,
    "bytes_missing": lambda: byte_level(drop_bytes=40),
    "gemma": sentencepiece_like,
    "llama2": stripping,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Each kind with the texts of its ids, which a first use has kept."""
    root, made = tmp_path_factory.mktemp("texts"), {}
    for kind, backend in KINDS.items():
        built = backend()
        built.add_tokens(MARKED if kind == "gemma" else [])
        made[kind] = load_tokenizer(tokenizer_folder(built, root / kind), root / "cache")
        assert made[kind].id_texts is None
        assert made[kind].fast is not None
        assert made[kind].id_texts is not None
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), plain=st.booleans())
def test_they_are_what_tokenizers_makes(loaded, kind, data, plain):
    tokenizer = loaded[kind]
    ids = st.integers(0, tokenizer.vocab_size - 1) | st.sampled_from(list(tokenizer.added_tokens.values()))
    rows = data.draw(st.lists(st.lists(ids, max_size=20), max_size=4))
    found = tokenizer.id_texts.decode(rows, tokenizer._special_ids if plain else ())
    want = tokenizer.reference.decode_batch(rows, skip_special_tokens=plain)
    if found is None:  # bytes that make no character alone
        assert tokenizer.id_texts.word_mark
        assert any("\ufffd" in text for text in want)
    else:
        assert found == want


@pytest.mark.parametrize("kind", KINDS)
def test_of_texts_they_are_known(loaded, kind):
    tokenizer = loaded[kind]
    texts = ["The lazy dog, again.", " two  spaces ", "caf\u00e9 \u5f20 \U0001f600", "", *MARKED, "</s><s> x"]
    rows = [item.ids for item in tokenizer.reference.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.id_texts.decode(rows) == tokenizer.reference.decode_batch(
        rows, skip_special_tokens=False
    )


def test_ids_that_have_none_are_not_known(loaded):
    for tokenizer in loaded.values():
        texts = tokenizer.id_texts
        assert texts.decode([[len(texts.texts)]]) is None
    missing = loaded["bytes_missing"]
    assert missing.id_texts.decode([[missing.fast.plan.first_sentinel]]) is None


def test_decoders_that_do_anything_else_are_left_to_tokenizers():
    vocab, other = {0: b"a"}, {"type": "WordPiece", "prefix": "##", "cleanup": True}
    assert texts_of(vocab, {}, 0, other) is None
    assert texts_of(vocab, {}, 0, {}) is None
    strip = {"type": "Strip", "content": " ", "start": 2, "stop": 0}
    assert texts_of(vocab, {}, 0, {"type": "Sequence", "decoders": [strip]}) is None
    assert texts_of(vocab, {}, 0, {"type": "ByteLevel"}).decode([[0, 0]]) == ["aa"]


def test_a_file_that_is_damaged_is_no_harm(loaded, tmp_path):
    assert kept_texts(tmp_path) is None
    file_of(tmp_path).write_bytes(b"ARROW1" * 100)
    assert kept_texts(tmp_path) is None
    whole = file_of(loaded["gemma"].folder).read_bytes()
    file_of(tmp_path).write_bytes(whole[:-200])
    assert kept_texts(tmp_path) is None


@pytest.mark.parametrize("kind", ["byte_level", "gemma"])
def test_what_was_packed_before_is_packed_and_shown_without_tokenizers(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    folder = tokenizer_folder(KINDS[kind](), tmp_path / "model")
    data = tmp_path / "data.jsonl"
    rows = [{"text": "The quick brown fox jumps over the lazy dog. " * n} for n in range(4, 9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    started, real = [], tokenizers_.ReferenceProcess
    monkeypatch.setattr(tokenizers_, "ReferenceProcess", lambda *given: started.append(given) or real(*given))
    packed = [tokpack.pack(data, tmp_path / name, tokenizer=str(folder)) for name in ("one", "two")]
    assert len(started) == 1
    assert packed[1].report["kept"] == packed[0].report["kept"]
    assert "quick brown fox" in packed[1].report["kept"][0]["runs"][0][0]
