"""The forms in which gigatoken loads a vocabulary soonest give the ids that its tokenizer.json gives."""

from __future__ import annotations

import json
from itertools import pairwise

import pyarrow as pa
import pytest
from get_tokenizers import folder_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tokpack.encoding.fast_forms import as_ranks, from_json, from_ranks, kept_merges
from tokpack.encoding.fast_plan import measure
from tokpack.encoding.fast_proof import odd_strings
from tokpack.encoding.merges import all_merges, applied_merges


@st.composite
def tables(draw):
    """(vocabulary, merges): what merges make of characters, in any order, the same token by several."""
    tokens = list("abc")
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in merges:
            merges.append(pair)
            tokens += [pair[0] + pair[1]] * (pair[0] + pair[1] not in tokens)
    more = [pair for pair in all_merges({token: i for i, token in enumerate(tokens)}) if pair not in merges]
    merges += draw(st.permutations(more))[: draw(st.integers(0, len(more)))]
    return {token: i for i, token in enumerate(tokens)}, draw(st.permutations(merges))


def by_hand(merges, text):
    """(the symbols of a text, the merges applied): the first of the table that fits, leftmost first."""
    rank = {pair: number for number, pair in enumerate(merges)}
    symbols, applied = list(text), []
    while fits := [(rank[p], i) for i, p in enumerate(pairwise(symbols)) if p in rank]:
        number, at = min(fits)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        applied.append(merges[number])
    return symbols, applied


@settings(max_examples=300)
@given(tables(), st.lists(st.text("abc", max_size=20), max_size=8))
def test_merges_that_are_left_out_are_never_applied(table, texts):
    vocab, merges = table
    kept = applied_merges(vocab, merges)
    assert set(kept.merges) == {pair for pair in merges if by_hand(merges, "".join(pair))[1][-1:] == [pair]}
    assert kept.merges == sorted(kept.merges, key=merges.index)
    for text in texts:
        assert by_hand(merges, text) == by_hand(kept.merges, text)
        assert by_hand(merges, text)[0] == Tokenizer(models.BPE(vocab, kept.merges)).encode(text).tokens


@settings(max_examples=100)
@given(tables())
def test_merges_in_the_order_of_ranks_come_after_those_of_their_parts(table):
    vocab, merges = table
    kept = applied_merges(vocab, merges)
    made = {a + b for a, b in merges}
    found = {token: by_hand(merges, token) for token in made}
    assert kept.by_rank == all(
        symbols == [token] and max(map(merges.index, applied)) == merges.index(applied[-1])
        for token, (symbols, applied) in found.items()
    )


def test_a_table_that_does_not_say_one_thing_is_left_as_it_is():
    vocab = {"a": 0, "b": 1, "ab": 2, "é": 3}
    assert applied_merges(vocab, [("a", "b"), ("a", "b")]) is None
    assert applied_merges(vocab, [("a", "c")]) is None
    assert applied_merges(vocab, [("b", "a")]) is None
    assert applied_merges({"a": 0, "xy": 1, "axy": 2}, [("a", "xy")]) is None  # x and y are no tokens


def config_of(folder):
    return json.loads((folder / "tokenizer.json").read_bytes())


def ids(encoder, strings):
    return [row.tolist() for row in map(encoder.encode, strings)]


@pytest.mark.slow
def test_qwens_vocabulary_is_loaded_as_ranks(qwen, tmp_path):
    data = (qwen / "tokenizer.json").read_bytes()
    added = {token["content"]: token["id"] for token in json.loads(data)["added_tokens"]}
    plain = from_json(data)
    fast, plan, ranks, texts = measure(data, added, Tokenizer.from_buffer(data))
    assert plan.scheme == "qwen2"
    assert texts is not None
    assert len(ranks) < len(data) / 2
    (tmp_path / "ranks").write_bytes(ranks)
    loaded = from_ranks(tmp_path / "ranks", plan.scheme, added)
    assert loaded.vocab == plain.vocab == fast.encoder.vocab
    strings = pa.array(list(odd_strings(added)), pa.large_string())
    strings = strings.filter(pa.array(~fast.encode(strings)[1])).to_pylist()
    assert ids(loaded, strings) == ids(plain, strings)


def test_ranks_are_taken_only_where_they_say_the_same(qwen):
    config = config_of(qwen)
    kept = kept_merges(config)
    assert kept.by_rank
    assert as_ranks(config, kept)[1] == "qwen2"

    def altered(**changes):
        return as_ranks({**config, **changes}, kept)

    split, by_bytes = config["pre_tokenizer"]["pretokenizers"]
    other = {**split, "pattern": {"Regex": split["pattern"]["Regex"].replace(r"\p{N}|", r"\p{N}+|")}}
    assert altered(pre_tokenizer={"type": "Sequence", "pretokenizers": [other, by_bytes]}) is None
    assert altered(pre_tokenizer=by_bytes) is None
    first, *rest = config["added_tokens"]
    assert altered(added_tokens=[{**first, "lstrip": True}, *rest]) is None
    assert altered(model={**config["model"], "byte_fallback": True}) is None
    gap = {token: number + (number > 1000) for token, number in config["model"]["vocab"].items()}
    assert altered(model={**config["model"], "vocab": gap}) is None
    first, second, *rest = kept.merges
    assert as_ranks(config, kept._replace(merges=[second, first, *rest])) is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), [("gptoss", "o200k"), ("llama3_1", None), ("llama2", None)])
def test_published_vocabularies_give_the_same_ids_with_fewer_merges(name, scheme):
    if not (folder_of(name) / "tokenizer.json").is_file():
        pytest.skip(f"the tokenizer of {name} is not there: python tests/get_tokenizers.py")
    config = config_of(folder_of(name))
    whole = Tokenizer.from_str(json.dumps(config))
    before = len(config["model"]["merges"])
    kept = kept_merges(config)
    assert len(kept.merges) < 0.5 * before
    ranks = as_ranks(config, kept)
    assert (ranks and ranks[1]) == scheme
    strings = list(odd_strings([token["content"] for token in config["added_tokens"]][:50]))
    fewer = Tokenizer.from_str(json.dumps(config))
    for mine, theirs in zip(fewer.encode_batch(strings), whole.encode_batch(strings), strict=True):
        assert mine.ids == theirs.ids
