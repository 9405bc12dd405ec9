"""The fast path gives the ids and places that `tokenizers` gives, or leaves a row to the slow path."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from encode_helpers import (
    byte_level,
    sentencepiece_like,
    tokenizer_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenize_helpers import KINDS, large, odd_texts, plain_batch, small_tokenizers
from tokenizers import AddedToken, Tokenizer

from tokpack.encoding import fast_proof
from tokpack.encoding.fast_forms import BYTE_ALPHABET
from tokpack.encoding.fast_proof import difference, odd_strings
from tokpack.encoding.fast_tokenizer import FastPlan, FastTokenizer
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.stages.tokenize import flag_tokens, tokenize


@pytest.fixture(scope="module")
def tokenizers_(tmp_path_factory):
    return small_tokenizers(tmp_path_factory.mktemp("tokenize"))


@pytest.mark.parametrize("kind", KINDS[:-2])
def test_the_fast_path_serves_common_kinds_of_tokenizers(tokenizers_, kind):
    tokenizer = tokenizers_(kind)
    assert tokenizer.fast is not None, tokenizer.fast_refused
    strings = large(odd_strings(tokenizer.added_tokens))
    assert difference(tokenizer.encode_reference, tokenizer.fast, strings) is None
    usual = ["hello lazy dog jumps over"[:n] + "</s>hello" for n in range(2, 26)] * 4
    tokens = tokenize(plain_batch(usual), tokenizer)
    assert tokens.stats["fast"] >= 0.9 * len(usual)


@pytest.mark.parametrize(("kind", "name"), [("lowercase", "Lowercase"), ("nfkc", "NFKC")])
def test_a_normalizer_that_rewrites_text_is_refused_with_a_warning_that_names_it(tokenizers_, kind, name):
    tokenizer = tokenizers_(kind)
    assert tokenizer.fast is None
    assert name in tokenizer.fast_refused
    assert "slow path" in tokenizer.warnings[0]
    assert tokenize(plain_batch(["ABC"]), tokenizer).stats == {"fast": 0, "slow": 1}


def test_characters_that_are_written_as_bytes_are_placed(tokenizers_):
    tokenizer, texts = (
        tokenizers_("gemma"),
        ["a\u00a0b", "\U0001f600\U0001f600 lazy", "caf\u00e9", "dog \u5f20"],
    )
    spans = [[(1, 3)], [(0, 4), (8, 12)], [(3, 5)], [(2, 7)]]
    batch = plain_batch(texts, spans, spans)
    tokens = tokenize(batch, tokenizer)
    assert tokens.stats == {"fast": 4, "slow": 0}
    slow = flag_tokens(batch, tokenizer.encode_reference(batch.text), np.arange(4))
    assert tokens.flags.tolist() == slow.tolist()
    names = [tokenizer.reference.id_to_token(number) for number in tokens.input_ids.tolist()]
    assert sum(name.startswith("<0x") for name in names) > 4


def test_spaces_that_become_an_added_token_of_word_marks_are_placed(tmp_path):
    backend = sentencepiece_like()
    backend.add_tokens(["\u2581\u2581"])  # Gemma's vocabulary has such
    merged = json.loads(backend.to_str())
    number = backend.token_to_id("\u2581\u2581")
    merged["model"]["vocab"]["\u2581\u2581"] = number
    merged["model"]["merges"].insert(0, ["\u2581", "\u2581"])
    tokenizer = load_tokenizer(tokenizer_folder(Tokenizer.from_str(json.dumps(merged)), tmp_path))
    texts = ["  a lazy  dog", "a\u2581\u2581b", "   a"]
    assert difference(tokenizer.encode_reference, tokenizer.fast, large(texts)) is None
    tokens = tokenize(plain_batch(texts), tokenizer)
    assert tokens.stats == {"fast": 2, "slow": 1}
    assert number in tokens.input_ids


def test_rows_with_characters_that_one_library_may_not_know_are_slow(tokenizers_):
    texts = ["the \u1ae4 of", "the \U0001fae9 of", "the \u0378 of"]  # of Unicode 17, of 16, of none yet
    assert tokenize(plain_batch(texts), tokenizers_("byte_level")).stats == {"fast": 1, "slow": 2}


def test_rows_the_normalizer_changes_and_rows_with_missing_bytes_are_slow(tokenizers_):
    assert tokenize(plain_batch(["caf\u00e9", "cafe\u0301", "cafe"]), tokenizers_("nfc")).stats["slow"] == 1
    tokenizer = tokenizers_("bytes_missing")
    sentinel = tokenizer.fast.plan.first_sentinel
    missing = [b for b in range(256) if BYTE_ALPHABET[b] not in tokenizer.reference.get_vocab()]
    assert len(missing) == 40
    assert sentinel == tokenizer.vocab_size
    texts = ["plain", "".join(chr(b) for b in missing if b < 128) or "\xff", "more"]
    tokens = tokenize(plain_batch(texts), tokenizer)
    assert tokens.stats == {"fast": 2, "slow": 1}
    assert tokens.input_ids.max() < sentinel


@pytest.mark.parametrize("kind", ["byte_level", "nfc", "trim", "gemma", "llama2", "metaspace"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \n<s>/ab\u0301"))), max_size=6
    )
)
def test_any_text_has_the_ids_and_places_of_tokenizers(tokenizers_, kind, texts):
    tokenizer = tokenizers_(kind)
    assert difference(tokenizer.encode_reference, tokenizer.fast, large(texts)) is None
    tokens = tokenize(plain_batch(texts, paranoid=True), tokenizer)
    items = tokenizer.reference.encode_batch(texts, add_special_tokens=False)
    assert tokens.input_ids.tolist() == [number for item in items for number in item.ids]
    assert not tokenizer.fast_refused


class Counted:
    """An encoder that counts its calls."""

    def __init__(self, encoder):
        self.encoder, self.calls = encoder, 0

    def encode(self, text):
        self.calls += 1
        return self.encoder.encode(text)

    def __getattr__(self, name):
        return getattr(self.encoder, name)


@pytest.mark.parametrize("kind", ["byte_level", "nfc", "trim", "gemma"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \n<s>/ab\u0301"))),
        min_size=2,
        max_size=6,
    )
)
def test_rows_that_begin_with_an_added_token_are_encoded_as_one_text(tokenizers_, kind, texts):
    tokenizer = tokenizers_(kind)
    rows = large(["<s>" + text for text in texts])
    fast = FastTokenizer(
        Counted(tokenizer.fast.encoder),
        tokenizer.fast.plan,
        tokenizer.added_tokens,
        tokenizer.id_texts.texts,
    )
    fast.alone = True
    assert difference(tokenizer.encode_reference, fast, rows) is None
    assert fast.encoder.calls == 1
    alone = [tokenizer.fast.encoder.encode(row.encode()) for row in rows.to_pylist()]
    ids = fast.encode(rows)[0]
    assert ids.ids.tolist() == np.concatenate(alone).tolist()
    assert np.diff(ids.offsets).tolist() == [*map(len, alone)]


def test_added_tokens_that_reach_into_the_row_before_leave_each_row_to_itself(tmp_path):
    backend = byte_level()
    backend.add_tokens([AddedToken("<turn>", lstrip=True, normalized=False)])
    tokenizer = load_tokenizer(tokenizer_folder(backend, tmp_path))
    assert tokenizer.fast is not None
    tokenizer.fast.alone = True
    rows = large(["<turn>lazy dog  ", "<turn> the\n", "<turn>jumps"])
    for _ in range(2):
        assert difference(tokenizer.encode_reference, tokenizer.fast, rows) is None


@pytest.mark.parametrize("plan", ["never", "first", "sections"])
@pytest.mark.parametrize("spares", [False, True])
def test_errors_of_places_that_cancel_are_seen(tokenizers_, plan, spares):
    tokenizer = tokenizers_("metaspace")
    guess = FastPlan(
        word_mark=True, mark_in_front=plan, spares_spaces=spares, compares=True
    )  # right or wrong
    fast = FastTokenizer(tokenizer.fast.encoder, guess, tokenizer.added_tokens, tokenizer.id_texts.texts)
    texts = ["   \n<s></s><s>你好", "   \nhello</s>hello", "  <s>a", " a<s>hello</s>  b</s> c", "a</s>b"]
    assert difference(tokenizer.encode_reference, fast, large(texts)) is None


def differ(got, want, row, text):
    """A row's ids, or the token that holds one of its characters, by a loop over them."""
    mine, theirs = (slice(*one.offsets[row : row + 2]) for one in (got, want))
    if got.ids[mine].tolist() != want.ids[theirs].tolist():
        return True
    for at in accumulate((len(character.encode()) for character in text[:-1]), initial=0):
        (token, hit), (true, true_hit) = (
            [each[0] for each in one.token_at(np.array([row]), np.array([at]))] for one in (got, want)
        )
        if text and (hit != true_hit or (hit and token - mine.start != true - theirs.start)):
            return True
    return False


def test_a_difference_is_found_wherever_it_is(tokenizers_, monkeypatch):
    rng, tokenizer = random.Random(5), tokenizers_("trim")
    texts = [*odd_texts(3, 12)[:12], "", "é ", " a lazy dog", ""]
    want = tokenizer.encode_reference(large(texts))
    found = set()
    for _ in range(80):
        ids, ends, offsets = want.ids.copy(), want.ends.copy(), want.offsets.copy()
        starts, number = want.starts.copy(), rng.randrange(len(want.ids))
        kind = rng.choice(["id", "end", "start", "border", "none"])
        if kind == "id":
            ids[number] += 1
        elif kind == "end":
            ends[number] = max(ends[number - 1] if number else 0, ends[number] - 1)
        elif kind == "start":
            starts[number] += 1
        elif kind == "border":
            offsets[rng.randrange(1, len(texts))] = number
            offsets.sort()
        got = replace(want, ids=ids, ends=ends, offsets=offsets, starts=starts)
        slow = np.array([rng.random() < 0.1 for _ in texts])
        fast = SimpleNamespace(encode=lambda text, got=got, slow=slow: (got, slow))
        sure = [row for row in range(len(texts)) if not slow[row]]
        wrong = next((texts[row] for row in sure if differ(got, want, row, texts[row])), None)
        monkeypatch.setattr(fast_proof, "AT_ONCE", rng.choice([1, 5, 100]))
        assert difference(lambda text: want, fast, large(["before", *texts])[1:]) == wrong
        found.add((kind, wrong is None))
    assert {(kind, False) for kind in ("id", "end", "start", "border")} <= found
    assert ("none", False) not in found
