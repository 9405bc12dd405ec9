"""Decisions over the whole corpus: near duplicates, evaluation text, budget."""

from __future__ import annotations

import io
import json
import random
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from chats import chat, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import LLAMA_8B

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.stages.select import by_weight, quality, select, share_out


def lines(rows):
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def one(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def words(rng, count):
    return " ".join(f"{rng.choice('bcdfgklmnprst')}{rng.randrange(10**6)}" for _ in range(count))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """60 originals; 20 of them come again with one word of the answer changed."""
    rng = random.Random(5)
    originals = [(words(rng, 20), words(rng, 60)) for _ in range(60)]
    edited = [(q, a.replace(a.split()[30], "changed")) for q, a in originals[:20]]
    path = tmp_path_factory.mktemp("near") / "rows.jsonl"
    return write_rows(path, lines(one(q, a) for q, a in [*originals, *edited]))


def reasons(packed):
    return dict(packed.dropped.group_by("reason").len().rows())


def test_near_duplicates_name_the_kept_document_and_their_similarity(copies, qwen, tmp_path):
    options = {"tokenizer": str(qwen), "max_length": 1024}
    packed = tokpack.pack(copies, tmp_path / "a", near_dup=0.8, **options)
    assert reasons(packed) == {"near_duplicate": 20}
    for doc_id, detail in packed.dropped.select("doc_id", "detail").rows():
        kept, _, similarity = detail.split()
        assert int(kept) == doc_id - 60
        assert 0.8 <= float(similarity) < 1
    assert reasons(tokpack.pack(copies, tmp_path / "b", **options)) == {}
    assert tokpack.verify(packed.folder).ok


def test_examples_of_duplicates_have_a_line_for_each_message(qwen, tmp_path):
    chats = [one("Who is there?", "A friend.\n\nCome in."), one("Who is there?", "A friend.\n\nCome in.")]
    report = tokpack.analyze(write_rows(tmp_path / "twice.jsonl", lines(chats)), tokenizer=str(qwen))
    assert report.data["drops"][0]["examples"] == ["Who is there?\nA friend.\n\nCome in."]


@pytest.mark.slow
def test_near_duplicates_do_not_depend_on_workers_or_blocks(copies, qwen, tmp_path, monkeypatch):
    from tokpack.run import Run

    def shards(name, block, workers):
        monkeypatch.setattr(Run, "block_bytes", block)
        out = tokpack.pack(copies, tmp_path / name, tokenizer=str(qwen), near_dup=0.8, workers=workers)
        return [shard["sha256"] for shard in out.manifest["shards"]]

    assert shards("a", 1 << 25, 1) == shards("b", 3000, 2) == shards("c", 700, 2)


@pytest.mark.slow
def test_analyze_measures_near_duplicates_that_nobody_asked_to_drop(copies, qwen):
    report = tokpack.analyze(copies, tokenizer=str(qwen))
    near = report.data["near_dup"]
    assert (near["documents"], near["applied"], near["threshold"]) == (20, False, 0.8)
    assert all(pair["jaccard"] >= 0.8 and pair["removed"] and pair["kept"] for pair in near["pairs"])
    assert report.data["ledger"]["documents"]["dropped"] == {}
    applied = tokpack.analyze(copies, tokenizer=str(qwen), near_dup=0.8).data["near_dup"]
    assert (applied["documents"], applied["applied"]) == (20, True)


def test_documents_with_evaluation_text_are_dropped_with_the_span(qwen, tmp_path):
    rng = random.Random(1)
    secret = words(rng, 12)
    rows = [one(words(rng, 10), words(rng, 30)) for _ in range(20)]
    rows[7] = one(f"please read this: {secret} and answer", "yes")
    data = write_rows(tmp_path / "rows.jsonl", lines(rows))
    held = write_rows(
        tmp_path / "eval.jsonl", lines([{"question": words(rng, 9), "answer": 3}, {"q": [{"x": secret}]}])
    )
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), against=[str(held)])
    assert packed.dropped.select("doc_id", "reason").rows() == [(7, "contaminated")]
    detail = packed.dropped["detail"][0]
    assert detail.startswith("eval.jsonl:2, tokens ")
    span = detail.partition(": ")[2].strip()
    assert secret.find(span) in (0, 1)  # the first letter's token may hold the space before it
    assert len(span) > 30


@pytest.mark.parametrize(
    ("name", "body"),
    [("eval.txt", "{}\n\n"), ("eval.csv", "id,question\n1,{}\n"), ("eval.json", '[{{"q": "{}"}}]')],
)
def test_evaluation_text_may_stand_in_any_container(qwen, tmp_path, name, body):
    rng = random.Random(1)
    secret = words(rng, 12)
    data = write_rows(tmp_path / "rows.jsonl", lines([one(secret, "yes"), one(words(rng, 12), "no")]))
    (tmp_path / name).write_text(body.format(secret))
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), against=[str(tmp_path / name)])
    assert packed.dropped.select("doc_id", "reason").rows() == [(0, "contaminated")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "no evaluation text"),
        ('{"a": 1}\n', "no evaluation text"),
        ('{"a": "b"}\nnot json\n', "not JSON"),
    ],
)
def test_an_evaluation_file_without_text_is_an_error_that_names_it(qwen, tmp_path, body, message):
    data = write_rows(tmp_path / "rows.jsonl", lines([one("a", "b")]))
    held = tmp_path / "eval.jsonl"
    held.write_text(body)
    with pytest.raises(DataError, match=message) as caught:
        tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), against=[str(held)])
    assert "eval.jsonl" in str(caught.value)


def test_a_budget_is_kept_and_what_it_costs_is_in_the_ledger(copies, qwen, tmp_path):
    packed = tokpack.pack(copies, tmp_path / "out", tokenizer=str(qwen), budget=20_000)
    assert 19_000 < packed.ledger["tokens"]["packed"] <= 20_000
    left_out = packed.dropped
    assert set(left_out["reason"]) == {"over_budget"}
    # Near copies wait behind documents of their own.
    kept = set(range(80)) - set(left_out["doc_id"])
    assert kept < set(range(60))


@pytest.mark.slow
def test_weights_share_the_budget_among_sources(qwen, tmp_path):
    rng = random.Random(2)
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", lines(chat(rng, 2) for _ in range(200)))
    (tmp_path / "run.toml").write_text(
        '[[source]]\npath = "a.jsonl"\nweight = 3\n[[source]]\npath = "b.jsonl"\nweight = 1\n'
        "[select]\nbudget = 8000\n"
    )
    packed = tokpack.pack([], tmp_path / "out", config=tmp_path / "run.toml", tokenizer=str(qwen))
    tokens = {name: part["tokens"]["packed"] for name, part in packed.ledger["sources"].items()}
    assert 0.72 < tokens["a.jsonl"] / sum(tokens.values()) < 0.78
    (tmp_path / "cap.toml").write_text(
        '[[source]]\npath = "a.jsonl"\nmax_tokens = 1000\n[[source]]\npath = "b.jsonl"\n'
    )
    capped = tokpack.pack([], tmp_path / "cap", config=tmp_path / "cap.toml", tokenizer=str(qwen))
    assert 900 < capped.ledger["sources"]["a.jsonl"]["tokens"]["packed"] <= 1000
    assert capped.ledger["sources"]["b.jsonl"]["tokens"]["dropped"] == {}


def test_a_budget_and_weights_in_trained_tokens(qwen, tmp_path):
    rng = random.Random(3)
    for name, size in (("long_prompts", 90), ("long_answers", 9)):
        rows = [one(words(rng, size), words(rng, 100 - size)) for _ in range(150)]
        write_rows(tmp_path / f"{name}.jsonl", lines(rows))
    (tmp_path / "run.toml").write_text(
        '[[source]]\npath = "long_prompts.jsonl"\nweight = 1\n'
        '[[source]]\npath = "long_answers.jsonl"\nweight = 3\nmax_tokens = 5900\n'
    )
    options = {"config": tmp_path / "run.toml", "tokenizer": str(qwen), "budget": "8k-trained"}
    packed = tokpack.pack([], tmp_path / "out", **options)
    sources = packed.ledger["sources"]
    trained = dict.fromkeys(sources, 0)
    for row in packed:
        ends = np.cumsum(row["seq_lengths"])
        for doc, labels in zip(row["doc_ids"], np.split(np.array(row["labels"]), ends[:-1]), strict=True):
            trained["long_prompts.jsonl" if doc < 150 else "long_answers.jsonl"] += int((labels >= 0).sum())
    assert packed.manifest["config"]["select"]["weight_by"] == "trained"
    assert 7_400 < sum(trained.values()) <= 8_000
    assert 5_300 < trained["long_answers.jsonl"] <= 5_900
    packed_tokens = {name: part["tokens"]["packed"] for name, part in sources.items()}
    assert packed_tokens["long_prompts.jsonl"] > packed_tokens["long_answers.jsonl"]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_select_never_goes_over_a_budget_or_a_cap_and_is_deterministic(data):
    count, sources = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 3))

    def array(strategy, dtype, size=count):
        return np.array(data.draw(st.lists(strategy, min_size=size, max_size=size)), dtype=dtype)

    arguments = {
        "lengths": array(st.integers(1, 50), np.int64),
        "source": array(st.integers(0, sources - 1), np.int32),
        "quality": array(st.floats(0, 1, width=32), np.float32),
        "repeats": array(st.booleans(), bool),
        "eligible": array(st.booleans(), bool),
        "weights": array(st.sampled_from([0.0, 1.0, 3.0]), np.float64, sources),
        "max_tokens": array(st.sampled_from([0, 30, 200]), np.int64, sources),
        "budget": data.draw(st.sampled_from([0, 1, 100, 400, 10**6])),
    }
    chosen = select(**arguments)
    with patch.multiple("tokpack.stages.select", SORTED=4, PER_RANGE=2, SLICE=3):  # a few at a time
        assert np.array_equal(chosen, select(**arguments))
    assert not (chosen & ~arguments["eligible"]).any()
    lengths, source = arguments["lengths"], arguments["source"]
    if arguments["budget"]:
        assert lengths[chosen].sum() <= arguments["budget"]
    for number, cap in enumerate(arguments["max_tokens"]):
        if cap:
            assert lengths[chosen & (source == number)].sum() <= cap
    if arguments["budget"] == 10**6 and not arguments["max_tokens"].any():
        assert np.array_equal(chosen, arguments["eligible"])


def test_what_a_source_cannot_use_goes_to_the_others():
    assert share_out(100, np.array([10, 1000]), np.array([1.0, 1.0])).tolist() == [10, 90]
    assert share_out(100, np.array([10, 20]), np.array([1.0, 1.0])).tolist() == [10, 20]


def test_sources_without_a_weight_get_their_share_by_tokens():
    caps = np.array([500, 300, 200])
    assert share_out(500, caps, by_weight(np.array([3.0, 1.0, 0.0]), caps)).tolist() == [300, 100, 100]
    assert share_out(500, caps, by_weight(np.zeros(3), caps)).tolist() == [250, 150, 100]


def test_quality_prefers_text_to_noise_and_to_short_answers():
    good = "Bees find their way home by the sun, by landmarks and by the smell of their own hive."
    noise, short = "#$%^ &*() " * 12, "ok"
    documents = pl.DataFrame(
        {"roles": [["user", "assistant"]] * 3, "contents": [["q", text] for text in (good, noise, short)]}
    )
    scores = quality(documents).to_list()
    assert scores[0] == max(scores)
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.slow
def test_personal_data_is_masked_on_request(qwen, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", lines([one("who?", "write to jane.doe@mailbox.org please")]))
    plain = tokpack.pack(data, tmp_path / "a", tokenizer=str(qwen))
    masked = tokpack.pack(data, tmp_path / "b", tokenizer=str(qwen), mask_personal=True)
    assert "jane.doe@mailbox.org" in plain.tokenizer.decode(plain[0]["input_ids"])
    text = masked.tokenizer.decode(masked[0]["input_ids"])
    assert "jane.doe" not in text
    assert "<EMAIL>" in text


def test_rules_in_tokens_see_the_tokenized_length(qwen, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", lines([one("q", "a"), one("q", words(random.Random(3), 60))]))
    (tmp_path / "run.toml").write_text(
        '[clean]\nrules = "default,+too_long"\n[clean.options.too_long]\nmax_tokens = 100\n'
    )
    packed = tokpack.pack(data, tmp_path / "out", config=tmp_path / "run.toml", tokenizer=str(qwen))
    assert packed.dropped.select("doc_id", "reason").rows() == [(1, "too_long")]


def test_budgets_read_like_people_write_them():
    from tokpack.settings.parsing import parse_budget, parse_tokens

    assert [parse_tokens(text) for text in ("20M", "1.5b", "500k", "123")] == [
        20_000_000,
        1_500_000_000,
        500_000,
        123,
    ]
    with pytest.raises(UsageError, match="--budget 20M"):
        parse_tokens("lots")
    assert parse_budget("5M-trained")["weight_by"] == "trained"
    for wrong in ("5usd-trained", "5M-trained5", "-trained", "5M trained"):
        with pytest.raises(UsageError, match="--budget 20M"):
            parse_budget(wrong)


def test_rows_are_dealt_so_that_ranks_have_equal_attention(copies, qwen, tmp_path):
    options = {"tokenizer": str(qwen), "max_length": 1024, "world_size": 2, "rows_per_step": 2}
    packed = tokpack.pack(copies, tmp_path / "out", **options)
    dealt = json.loads((packed.folder / "report.json").read_text())["plan"]["dealt"]
    assert dealt["steps"] > 2
    assert dealt["steps"] * 4 + dealt["leftover_rows"] == len(packed)
    costs = np.array([(packed[row]["seq_lengths"].astype(float) ** 2).sum() for row in range(len(packed))])
    steps = costs[: dealt["steps"] * 4].reshape(dealt["steps"], 2, 2).sum(axis=1)
    idle = 1 - steps.sum() / (steps.max(axis=1).sum() * 2)
    assert dealt["idle_share"] == pytest.approx(idle, abs=1e-6)
    assert dealt["idle_share"] <= dealt["idle_share_shuffled"]
    assert tokpack.verify(packed.folder).ok


@pytest.mark.slow
def test_the_models_balance_of_weights_and_attention_is_part_of_the_plan(copies, qwen, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    options = {"tokenizer": str(qwen), "max_length": 1024, "world_size": 2}
    with_model = tokpack.pack(copies, tmp_path / "a", model=str(tmp_path / "config.json"), **options)
    dealt = with_model.manifest["plan"]["dealt"]
    assert dealt["token_cost"] == with_model.manifest["config"]["plan"]["token_cost"] > 1000
    run = tmp_path / "run.toml"
    run.write_text(f"[plan]\ntoken_cost = {dealt['token_cost']}\n")
    by_file = tokpack.pack(copies, tmp_path / "b", config=run, **options)
    assert by_file.manifest == with_model.manifest
    alone = tokpack.pack(copies, tmp_path / "c", **options)
    assert alone.manifest["plan"]["dealt"]["token_cost"] == 0
    assert alone.manifest["plan"]["dealt"]["idle_share"] > dealt["idle_share"]


def test_rows_that_keep_input_order_are_not_dealt(copies, qwen, tmp_path):
    with pytest.raises(UsageError, match="world_size cannot be 2"):
        tokpack.pack(
            copies, tmp_path / "out", tokenizer=str(qwen), planner="sequential", world_size=2, max_length=1024
        )


def test_the_report_says_which_flag_drops_near_duplicates(copies, qwen):
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(tokpack.analyze(copies, tokenizer=str(qwen)).full())
    assert "20 documents nearly repeat an earlier one" in console.export_text()
