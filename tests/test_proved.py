"""Proofs of the fast path that are kept: asked once, believed only where they are the user's own."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from encode_helpers import byte_level, template, tokenizer_folder

import tokpack
from tokpack.encoding import fast_tokenizer
from tokpack.encoding import tokenizer as tokenizers_
from tokpack.encoding.fast_proof import odd_strings
from tokpack.encoding.proved import TokenizerProof
from tokpack.encoding.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tokenizer_folder(byte_level(), tmp_path_factory.mktemp("proved") / "model", template("llama3"))


@pytest.fixture
def pack(model, tmp_path, monkeypatch):
    """Packs some texts; returns how many references were started, and the digests of the shards."""
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    started, real = [], tokenizers_.ReferenceProcess

    def start(backend):
        started.append(backend)
        return real(backend)

    monkeypatch.setattr(tokenizers_, "ReferenceProcess", start)

    def run(*texts):
        data = tmp_path / "data.jsonl"
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        if not data.exists() or data.read_text() != lines:
            data.write_text(lines)
        started.clear()
        packed = tokpack.pack(data, tmp_path / "out", overwrite=True, tokenizer=model, max_length=64)
        return len(started), [shard["sha256"] for shard in packed.manifest["shards"]]

    return run


def test_what_was_proved_is_not_proved_again_and_other_texts_are(pack):
    texts = ["The quick brown fox jumps over the lazy dog, again and again." * 2, "Sure, here it is. " * 9]
    first, shards = pack(*texts)
    assert first == 1
    assert pack(*texts) == (0, shards)
    asked, others = pack(*texts, "Another text about the answer to it. " * 4)
    assert asked == 1
    assert others != shards


@pytest.mark.slow
def test_proofs_in_a_folder_that_others_can_write_into_are_not_believed(pack, tmp_path):
    texts = ["The quick brown fox jumps over the lazy dog, again and again." * 2]
    _, shards = pack(*texts)
    (tmp_path / "cache" / "proved").chmod(0o777)
    assert pack(*texts) == (1, shards)


def test_a_proof_stands_on_all_that_it_names(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    TokenizerProof("a" * 64, b"texts", b"plan", b"text").keep()
    assert TokenizerProof("a" * 64, b"texts", b"plan", b"text").is_kept()
    for other in (("b" * 64, b"texts", b"plan", b"text"), ("a" * 64, b"texts", b"pla", b"ntext")):
        assert not TokenizerProof(*other).is_kept()


def test_bytes_of_ids_are_their_text_and_rows_one_by_one_give_the_same_ids(model, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(model, tmp_path / "cache")
    fast = tokenizer.fast
    assert fast is not None
    texts = pa.array(list(odd_strings(tokenizer.added_tokens)), pa.large_string())
    single = fast.encode(texts)[0]
    monkeypatch.setattr(fast_tokenizer, "SINGLE_ROWS", 0)
    whole = fast.encode(texts)[0]
    assert single.ids.tolist() == whole.ids.tolist()
    assert single.offsets.tolist() == whole.offsets.tolist()
    rows = [[n, *whole.ids[at : at + 7].tolist()] for at, n in enumerate(tokenizer.added_tokens.values())]
    rows += [[number] for number in range(tokenizer.vocab_size)]
    for plain in (False, True):
        want = tokenizer.reference.decode_batch(rows, skip_special_tokens=plain)
        assert tokenizer.decode_rows(rows, plain) == want
    assert tokenizer.id_texts.decode([[tokenizer.vocab_size + 5]]) is None
