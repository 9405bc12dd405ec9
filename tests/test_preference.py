"""Preference pairs through the whole way: both documents or neither, in one row, rendered as by reference."""

from __future__ import annotations

import json
import random

import numpy as np
import polars as pl
import pytest
from encode_helpers import byte_level, template, tokenizer_folder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from preference_pairs import check_pairs, pair, places_of, reasons, words, write
from rich.console import Console

import tokpack
from tokpack import schema
from tokpack.errors import DataError, UsageError
from tokpack.on_disk import ledger

TRANSFORMED = {"human": "user", "gpt": "assistant", "system": "system"}


def shown(renderable):
    console = Console(width=160, no_color=True, record=True, file=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def recorded(folder):
    """Documents in the records of a run that kept nothing, in order."""
    dropped = pl.read_parquet(folder / schema.DROPPED)["doc_id"].to_list()
    unreadable = [json.loads(line)["doc_id"] for line in (folder / schema.QUARANTINE).open()]
    return sorted([*dropped, *(doc + i for doc in unreadable for i in (0, 1))])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small tokenizer with a chat template: it loads at once."""
    return tokenizer_folder(byte_level(), tmp_path_factory.mktemp("tiny"), template("qwen2_5"))


# Ids and masks


@pytest.fixture(scope="module")
def demo(real_data):
    path = real_data / "dpo_en_demo.json"
    if not path.is_file():
        pytest.skip("no preference data: dpo_en_demo.json")
    return path


@pytest.fixture(scope="module")
def packed(demo, whole_qwen, tmp_path_factory):
    return tokpack.pack(
        demo, tmp_path_factory.mktemp("pairs") / "a", tokenizer=str(whole_qwen), max_length=2048
    )


@pytest.mark.slow
def test_ids_and_masks_of_real_pairs_equal_the_reference(demo, packed, whole_qwen):
    from tokpack.encoding.snapshot import auto_tokenizer

    reference = auto_tokenizer(whole_qwen)
    rows = json.loads(demo.read_text(encoding="utf-8"))
    found = check_pairs(packed, len(rows))
    assert len(found) > 400
    for doc_id, (_, _, ids, labels) in found.items():
        row = rows[doc_id // 2]
        answer = row["rejected"] if doc_id % 2 else row["chosen"]
        prompt, full = (
            [{"role": TRANSFORMED[turn["from"]], "content": turn["value"]} for turn in turns]
            for turns in (row["conversations"], [*row["conversations"], answer])
        )
        expected = reference.apply_chat_template(full, return_dict=True, return_assistant_tokens_mask=True)
        before = len(reference.apply_chat_template(prompt, return_dict=True)["input_ids"])
        mask = np.array(expected["assistant_masks"], bool) & (np.arange(len(ids)) >= before)
        assert ids.tolist() == expected["input_ids"]
        assert labels.tolist() == np.where(mask, expected["input_ids"], -100).tolist()


def test_the_packed_dataset_opens_in_datasets_and_passes_verify(packed):
    datasets = pytest.importorskip("datasets")

    opened = datasets.load_from_disk(str(packed.folder))
    assert opened.column_names == schema.PREFERENCE_SCHEMA.names
    assert opened[0]["is_chosen"] == [True, False] * (len(opened[0]["is_chosen"]) // 2)
    assert packed.manifest["kind"] == "preference"
    verified = tokpack.verify(packed.folder)
    assert verified.ok
    assert [check.name for check in verified.checks][2:4] == ["documents", "pairs"]


@pytest.mark.slow
def test_reports_and_rows_speak_of_pairs(packed, demo, whole_qwen, tmp_path):
    from tokpack.packed.viewer import row_view

    report = tokpack.analyze(demo, tokenizer=str(whole_qwen))
    assert report.data["kind"] == "preference"
    assert "600 documents (300 pairs)" in shown(report)
    here = next(line for line in report.data["truncation"] if line["capacity"] == 2048)
    overlong = next(drop for drop in report.data["drops"] if drop["reason"] == "overlong")
    assert (here["documents"], here["tokens"]) == (overlong["documents"], overlong["tokens"])
    report.save_html(tmp_path / "report.html")
    assert "600 documents (300 pairs)" in (tmp_path / "report.html").read_text(encoding="utf-8")
    view = shown(row_view(packed, 0, max_tokens=20))
    number = int(packed[0]["pair_ids"][0])
    assert f"pair {number}, chosen, document {2 * number}: " in view
    assert f"number {number + 1} of dpo_en_demo.json" in view
    assert f"({packed.manifest['documents'] // 2} pairs)" in shown(packed)


# Both or neither

SOUND = ["plain words", "other words", "more of the same", "a longer answer of several words in a row"]
texts = st.one_of(
    st.sampled_from([*SOUND, "", " ", "<|im_end|>", "Â£60 Ã© Ã¨ Ã¼"]), st.integers(1, 40).map("so ".__mul__)
)
turns = st.lists(texts.map(lambda text: text or "hm"), max_size=2)
rows = st.builds(
    lambda history, question, chosen, rejected: pair(
        [
            {"role": role, "content": text}
            for text in history
            for role, text in (("user", text), ("assistant", "I see"))
        ]
        + [{"role": "user", "content": question}],
        chosen,
        rejected,
    ),
    turns,
    texts,
    texts,
    texts,
)
options = st.fixed_dictionaries(
    {"overlong": st.sampled_from(["auto", "drop", "right", "left", "turns"])},
    optional={
        "near_dup": st.just(0.6),
        "budget": st.integers(100, 1500),
        "val": st.just(0.3),
        "planner": st.sampled_from(["xfill", "sequential", "none"]),
        "max_docs_per_row": st.integers(2, 5),
        "loss": st.just("last"),
        "special_in_content": st.just("drop"),
    },
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(rows, rows, rows, st.just({"prompt": "a", "chosen": 1})), min_size=1, max_size=12),
    options,
)
@example([{"prompt": "a", "chosen": 1}], {"overlong": "auto", "budget": 100})
@example([pair("plain words", "so " * 300, "other words")], {"overlong": "auto", "budget": 1})
def test_pairs_are_never_torn_and_the_ledger_adds_up(tmp_path_factory, tiny, rows, options):
    rows = [pair("a first question", "its good answer", "a bad one"), *rows]
    folder = tmp_path_factory.mktemp("pairs")
    path = write(folder / "rows.jsonl", rows)
    settings = {"tokenizer": str(tiny), "max_length": 256, "allow_bad": 1.0, **options}
    try:
        packed = tokpack.pack(path, folder / "packed", **settings)
    except DataError as error:
        if "nothing is left to train on" not in error.what:
            raise
        assert recorded(folder / "packed") == list(range(2 * len(rows)))
        return
    assert tokpack.verify(packed.folder).ok
    quarantined = [json.loads(line)["doc_id"] // 2 for line in (packed.folder / schema.QUARANTINE).open()]
    found, left_out = places_of(packed), reasons(packed)
    gone = {doc: reason for doc, reason in left_out.items() if reason != "truncated"}
    assert found.keys() | gone.keys() | {2 * q + i for q in quarantined for i in (0, 1)} == set(
        range(2 * len(rows))
    )
    for chosen in range(0, 2 * len(rows), 2):
        assert (chosen in found) == (chosen + 1 in found)
        if chosen in found:
            assert found[chosen][:2] == (found[chosen + 1][0], found[chosen + 1][1] - 1)
            assert all((found[doc][3] != -100).any() for doc in (chosen, chosen + 1))
        elif chosen in gone:
            either = {gone[chosen], gone[chosen + 1]}
            assert either != {"pair_dropped"}
    ledger.check(packed.ledger)
    assert packed.ledger["documents"]["read"] == 2 * len(rows)
    if packed.validation:
        held = places_of(packed.validation)
        assert held.keys() == {doc for doc, reason in gone.items() if reason == "held_out"}
        assert held.keys() == {doc ^ 1 for doc in held}


def test_each_cause_drops_both_documents(tiny, tmp_path):
    rng = random.Random(1)
    sound = [pair(words(rng, 8), words(rng, 12), words(rng, 12)) for _ in range(4)]
    rows = [
        sound[0],
        pair(sound[1]["prompt"], " " + sound[1]["chosen"], sound[1]["chosen"] + "\n"),
        pair(sound[2]["prompt"], sound[2]["chosen"], " "),
        dict(sound[0]),
        pair(sound[0]["prompt"], sound[0]["chosen"], sound[3]["rejected"]),
        pair("Which bird sings at night?", words(rng, 9), "It is said: " + (quoted := words(rng, 20))),
        pair(words(rng, 10), words(rng, 40), words(rng, 300)),
        sound[3],
    ]
    against = write(tmp_path / "eval.jsonl", [{"text": quoted}])
    path = write(tmp_path / "rows.jsonl", rows)
    options = {"tokenizer": str(tiny), "max_length": 1024, "against": [str(against)]}
    packed = tokpack.pack(path, tmp_path / "packed", **options)
    details = {
        doc: (reason, detail)
        for doc, reason, detail in packed.dropped.select("doc_id", "reason", "detail").rows()
    }
    assert details.pop(11)[0] == "contaminated"
    assert {reason for reason, _ in (details.pop(12), details.pop(13))} == {"overlong"}
    assert details == {
        2: ("chosen_equals_rejected", None),
        3: ("chosen_equals_rejected", None),
        4: ("pair_dropped", "5 empty_answer"),
        5: ("empty_answer", None),
        6: ("exact_duplicate", "0"),
        7: ("exact_duplicate", "1"),
        10: ("pair_dropped", "11 contaminated"),
    }
    assert sorted(check_pairs(packed, len(rows))) == [0, 1, 8, 9, 14, 15]
    kept = tokpack.pack(
        path, tmp_path / "kept", tokenizer=str(tiny), max_length=4096, clean="-chosen_equals_rejected"
    )
    assert 2 in places_of(kept)


def test_tool_calls_that_differ_make_a_pair(tiny, tmp_path):
    def call(name):
        function = {"name": name, "arguments": {}}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        }

    rows = [pair([{"role": "user", "content": "Go."}], [call(a)], [call(b)]) for a, b in ("xy", "zz")]
    packed = tokpack.pack(write(tmp_path / "a.jsonl", rows), tmp_path / "out", tokenizer=str(tiny))
    assert reasons(packed) == dict.fromkeys((2, 3), "chosen_equals_rejected")


def test_pairs_that_differ_in_what_is_not_rendered_are_equal(tiny, tmp_path):
    def answer(text, **more):
        return {"role": "assistant", "content": text, **more}

    ask = [{"role": "user", "content": "Go."}]
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    rows = [
        pair(ask, [answer("a", reasoning="one")], [answer("a", reasoning="two")]),
        pair(ask, [answer("a")], [answer("b")]),
        pair(ask, [answer("a", tool_calls=calls)], [answer("a", tool_calls=[{**calls[0], "id": "c2"}])]),
        pair(ask, [answer("c a")], [answer("a c")]),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    packed = tokpack.pack(path, tmp_path / "out", tokenizer=str(tiny))
    assert reasons(packed) == dict.fromkeys((0, 1, 4, 5), "chosen_equals_rejected")
    kept = tokpack.pack(path, tmp_path / "kept", tokenizer=str(tiny), clean="-chosen_equals_rejected")
    assert reasons(kept) == {}


@pytest.mark.parametrize(("overlong", "alike"), [("right", 0), ("left", 1)])
def test_pairs_that_are_equal_once_they_are_cut_are_dropped(overlong, alike, tiny, tmp_path):
    same = words(random.Random(1), 200)
    rows = [
        pair("Go on.", f"{same} a", f"{same} b"),
        pair("Go on.", f"a {same}", f"b {same}"),
        pair("Go on.", "a", "b"),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    options = {"tokenizer": str(tiny), "max_length": 120, "overlong": overlong}
    packed = tokpack.pack(path, tmp_path / "out", **options)
    left = {doc: reason for doc, reason in reasons(packed).items() if reason != "truncated"}
    assert left == dict.fromkeys((2 * alike, 2 * alike + 1), "chosen_equals_rejected")
    assert tokpack.verify(packed.folder).ok
    kept = tokpack.pack(path, tmp_path / "kept", clean="-chosen_equals_rejected", **options)
    assert set(reasons(kept).values()) == {"truncated"}


def test_near_duplicates_are_pairs_and_a_pair_is_no_duplicate_of_itself(tiny, tmp_path):
    rng = random.Random(2)
    prompt, good, bad = words(rng, 60), words(rng, 10), words(rng, 10)
    rows = [
        pair(prompt, good, bad),
        pair(prompt, good, bad + " too"),
        pair(prompt, words(rng, 60), words(rng, 60)),
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    packed = tokpack.pack(path, tmp_path / "out", tokenizer=str(tiny), near_dup=0.8)
    detail = dict(packed.dropped.select("doc_id", "detail").rows())
    assert detail.keys() == {2, 3}
    assert [text.split()[0] for text in detail.values()] == ["0", "1"]
    assert len({text.split()[2] for text in detail.values()}) == 1


# Truncation


def long_pairs():
    rng = random.Random(3)
    exchanges = [
        {"role": role, "content": words(rng, 12)} for _ in range(3) for role in ("user", "assistant")
    ]
    asked = [{"role": "user", "content": words(rng, 12)}]
    return [
        pair(exchanges + asked, words(rng, 12), words(rng, 20)),
        pair(words(rng, 6), words(rng, 4), words(rng, 4)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("overlong", ["drop", "right", "left", "turns"])
def test_truncation_keeps_both_answers_on_one_prompt(overlong, tiny, tmp_path):
    path = write(tmp_path / "rows.jsonl", long_pairs())
    whole = places_of(tokpack.pack(path, tmp_path / "whole", tokenizer=str(tiny), max_length=4096))
    capacity = sum(len(whole[doc][2]) for doc in (0, 1)) - 101
    options = {"tokenizer": str(tiny), "max_length": capacity, "overlong": overlong}
    packed = tokpack.pack(path, tmp_path / "cut", **options)
    found = check_pairs(packed, 2)
    assert {2, 3} <= found.keys()
    if overlong == "drop":
        assert reasons(packed) == dict.fromkeys((0, 1), "overlong")
        return
    (ids, labels), (other, others_labels) = found[0][2:], found[1][2:]
    full, other_full = whole[0][2].tolist(), whole[1][2].tolist()
    prompt = int(np.flatnonzero(labels != -100)[0])
    assert ids[:prompt].tolist() == other[:prompt].tolist()
    assert prompt == int(np.flatnonzero(others_labels != -100)[0])
    if overlong == "right":
        assert (ids.tolist(), other.tolist()) == (full[: len(ids)], other_full[: len(other)])
        assert capacity - 1 <= len(ids) + len(other) <= capacity
        assert len(ids) == len(other) or len(ids) == len(full) or len(other) == len(other_full)
    else:
        assert len(full) - len(ids) == len(other_full) - len(other) > 50
        assert (ids.tolist()[-40:], other.tolist()[-40:]) == (full[-40:], other_full[-40:])
    if overlong == "turns":
        assert packed.tokenizer.decode(ids.tolist()).count("<|im_start|>user") < 4
    lost = dict(packed.dropped.select("doc_id", "tokens_lost").rows())
    assert lost == {0: len(full) - len(ids), 1: len(other_full) - len(other)}


def test_what_would_tear_pairs_is_refused(tiny, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", long_pairs())
    chats = write(tmp_path / "chats.jsonl", [{"prompt": "a", "completion": "b"}])
    for data, options, message in (
        ([pairs, chats], {}, "one packed dataset cannot hold both"),
        (pairs, {"overlong": "split"}, "splitting would tear preference pairs"),
        (pairs, {"loss": "all"}, "compared by their completions"),
        (pairs, {"max_docs_per_row": 1}, "a group of 2 documents"),
    ):
        with pytest.raises(UsageError, match=message):
            tokpack.pack(data, tmp_path / "out", tokenizer=str(tiny), overwrite=True, **options)


def test_other_packed_datasets_know_nothing_of_pairs(tiny, tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    packed = tokpack.pack(rows, tmp_path / "out", tokenizer=str(tiny))
    assert packed.table.schema == schema.PACKED_SCHEMA
    assert "kind" not in packed.manifest
    report = json.loads((packed.folder / schema.REPORT).read_text(encoding="utf-8"))
    assert "kind" not in report
