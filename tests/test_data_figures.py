"""What a report says of the data: lengths and fit by source, vocabulary, languages, ranks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import HOSTILE, hostile, planned, sample
from rich.console import Console

import tokpack
from tokpack.cost.capacity import fit_lengths
from tokpack.cost.training import CostedDocuments
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.report.data import data_charts
from tokpack.report.data.data_figures import (
    counted_quantiles,
    quantiles,
    rank_figures,
    row_figures,
    truncation_figures,
)
from tokpack.report.data.data_words import NO_LANGUAGES, language_words, ranks_words, rules_without_hits
from tokpack.report.data.vocabulary import script_of, token_bytes
from tokpack.report.figures import Report
from tokpack.report.html import page
from tokpack.report.values import Figures, Script, Vocabulary
from tokpack.settings.config import PlanConfig
from tokpack.stages.plan import make_plan

pytestmark = pytest.mark.slow

ENGLISH = "The weather in the mountains changes quickly, so take a warm coat and enough water with you."
GERMAN = "Das Wetter in den Bergen ändert sich schnell, nimm also eine warme Jacke und genug Wasser mit."

LONG = " ".join(f"word{i}" for i in range(400))


def chat(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, qwen: Path) -> dict[str, Any]:
    """Sixty English chats, twenty German ones, an empty answer, one document longer than a row."""
    folder = tmp_path_factory.mktemp("data")
    english = "".join(chat(f"{i}? {ENGLISH}", f"{ENGLISH} {i}") for i in range(60))
    (folder / "en.jsonl").write_text(english + chat("nothing?", "  ") + chat("long?", LONG))
    (folder / "de.jsonl").write_text("".join(chat(f"{i}? {GERMAN}", f"{GERMAN} {i}") for i in range(20)))
    return tokpack.analyze(str(folder), tokenizer=str(qwen), max_length=512).data


def by_name(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in lines}


def test_sources_add_up_to_the_ledger(report: dict[str, Any]) -> None:
    sources, ledger = by_name(report["sources"]), report["ledger"]
    assert {name: line["documents"] for name, line in sources.items()} == {"en.jsonl": 60, "de.jsonl": 20}
    assert sum(line["packed"] for line in sources.values()) == ledger["trained"]["packed"]
    assert sum(line["trained"] for line in sources.values()) == ledger["trained"]["trained"]
    for line in sources.values():
        assert line["p50"] <= line["p90"] <= line["p99"] <= line["max"]
        assert 0 < line["trained_share"] < 1
    assert max(line["max"] for line in sources.values()) == report["lengths"]["max"]


def test_the_longest_documents_name_their_place_and_fate(report: dict[str, Any]) -> None:
    first = report["longest"][0]
    assert (first["source"], first["row"], first["fate"]) == ("en.jsonl", 62, "overlong")
    tokens = [line["tokens"] for line in report["longest"]]
    assert len(tokens) == 10
    assert tokens == sorted(tokens, reverse=True)


def test_a_longer_row_takes_back_what_is_too_long_for_this_one(report: dict[str, Any]) -> None:
    lost = {line["capacity"]: line for line in report["truncation"]}
    assert lost[512]["documents"] == 1
    assert lost[512]["tokens"] == report["longest"][0]["tokens"]
    assert lost[2048]["tokens"] == lost[2048]["share"] == 0


def test_rules_that_found_nothing_are_named(report: dict[str, Any]) -> None:
    missed = rules_without_hits(Figures.read(report))
    assert "mojibake" in missed
    assert "empty_answer" not in missed
    assert "empty_answer" in report["rules"]


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    st.integers(2, 4000),
    st.data(),
)
def test_every_token_of_a_length_is_kept_or_lost(
    lengths: list[int], capacity: int, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from("csu"), min_size=len(lengths), max_size=len(lengths)))
    split, uncut = (np.array([kind == wanted for kind in kinds]) for wanted in "su")
    documents = CostedDocuments(
        raw=np.array(lengths), whole=np.array(lengths), split=split, uncut=uncut,
        pieces=np.array(lengths), rows=1, capacity=capacity, rows_for=lambda *_: 1,
    )  # fmt: skip
    found = fit_lengths(lengths, capacity, split, uncut)
    wanted: Counter[int] = Counter()
    for length, kind in zip(lengths, kinds, strict=True):
        if kind == "s":
            wanted.update([capacity] * (length // capacity) + [length % capacity] * (length % capacity > 0))
        elif kind == "c" or length <= capacity:
            wanted[min(length, capacity)] += 1
    assert Counter(found.tolist()) == wanted
    here = next(line for line in truncation_figures(documents) if line.capacity == capacity)
    assert here.tokens == sum(lengths) - found.sum()


# Vocabulary and languages


def test_ids_are_counted_over_the_contents_of_kept_documents(report: dict[str, Any], qwen: Path) -> None:
    reference = load_tokenizer(qwen).reference
    counts: Counter[int] = Counter()
    for text, number in ((ENGLISH, 60), (GERMAN, 20)):
        for i in range(number):
            counts.update(reference.encode(f"{i}? {text}", add_special_tokens=False).ids)
            counts.update(reference.encode(f"{text} {i}", add_special_tokens=False).ids)
    vocabulary = report["vocabulary"]
    assert (vocabulary["tokens"], vocabulary["used"]) == (counts.total(), len(counts))
    assert vocabulary["top"][0]["count"] == max(counts.values())
    assert all(counts[token["id"]] == token["count"] for token in vocabulary["top"])
    assert sum(line["tokens"] for line in vocabulary["scripts"]) == counts.total()


def test_bytes_per_token_are_those_of_the_text(report: dict[str, Any]) -> None:
    sources = by_name(report["vocabulary"]["sources"])
    for name, text, count in (("en.jsonl", ENGLISH, 60), ("de.jsonl", GERMAN, 20)):
        size = sum(len(f"{i}? {text}{text} {i}".encode()) for i in range(count))
        assert sources[name]["bytes"] == size
    english, german = (sources[name]["bytes"] / sources[name]["tokens"] for name in ("en.jsonl", "de.jsonl"))
    assert english > german


@pytest.mark.parametrize("name", ["qwen", "smollm2"])
def test_token_bytes_put_together_are_the_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(request.getfixturevalue(name))
    text = "Grüße, 東京 \U0001f600\n\tfor x in range(10):  print('é')"
    ids = tokenizer.reference.encode(text, add_special_tokens=False).ids
    assert b"".join(token_bytes(tokenizer, np.array(ids))).decode() == text


@pytest.mark.parametrize(
    ("token", "script"),
    [
        (" the", "Latin"), ("Да", "Cyrillic"), ("語", "Han"), ("ひ", "Kana"), ("한", "Hangul"),
        ("42", "digits"), ("。", "signs"), ("\n\n", "white space"), ("µ", "other letters"), ("Ω", "Greek"),
    ],
)  # fmt: skip
def test_a_token_has_the_script_of_its_first_letter(token: str, script: str) -> None:
    assert script_of(token.encode()) == script
    assert script_of(token.encode()[:-1] + b"\xff") == "parts of characters"


def test_languages_are_estimated_where_the_extra_is_there(report: dict[str, Any]) -> None:
    pytest.importorskip("py3langid")
    languages = report["languages"]
    assert (languages["sample"], languages["of"]) == (80, 80)
    shares = {line["language"]: line for line in languages["shares"]}
    assert shares["en"]["share"] == pytest.approx(0.75)
    assert shares["de"]["share"] == pytest.approx(0.25)
    assert shares["en"]["error"] == 0  # all were looked at
    assert "English 75.0%" in language_words(Figures.read(report).languages)
    assert "estimated" in language_words(Figures.read(report).languages)


def test_a_sample_has_an_error(monkeypatch: pytest.MonkeyPatch, qwen: Path, tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    monkeypatch.setattr("tokpack.report.data.vocabulary.SAMPLE", 25)
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(chat(f"{i}?", f"{GERMAN if i % 2 else ENGLISH} {i}") for i in range(100)))
    first, again = (tokpack.analyze(str(path), tokenizer=str(qwen)).figures.languages for _ in range(2))
    assert first == again
    assert (first.sample, first.of) == (25, 100)
    largest = first.shares[0]
    p = largest.share
    assert largest.error == pytest.approx(1.96 * (p * (1 - p) / 25 * 0.75) ** 0.5)
    assert " ± " in language_words(first)


def test_without_the_extra_the_report_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, qwen: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("tokpack.report.data.vocabulary.find_spec", lambda name: None)
    path = tmp_path / "chats.jsonl"
    path.write_text(chat("who?", ENGLISH))
    report = tokpack.analyze(str(path), tokenizer=str(qwen))
    assert report.data["languages"]["shares"] == []
    assert language_words(report.figures.languages) == NO_LANGUAGES
    assert "tokpack[lang]" in page(report.figures)


def test_what_pack_writes_does_not_depend_on_the_extra(qwen: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(chat("who?", ENGLISH))
    packed = tokpack.pack(str(path), tmp_path / "packed", tokenizer=str(qwen))
    report = json.loads((packed.folder / "report.json").read_text())
    assert "languages" not in report
    assert report["sources"][0]["documents"] == 1


# Rows and ranks


def test_rows_are_classed_by_their_free_slots() -> None:
    lengths = np.array([100, 99, 60, 40, 95, 30])
    plan = make_plan(lengths, 100, "none")
    lines = {line.up_to: line.rows for line in row_figures(plan, lengths)}
    assert lines == {0.0: 1, 0.001: 0, 0.01: 1, 0.05: 1, 0.10: 0, 0.25: 0, 1.0: 3}
    chart = data_charts.free_chart(row_figures(plan, lengths), 100).wide
    for words in ("no free slot", "0.1% to 1% free", "1% to 5% free", "more than 25% free"):
        assert words in chart


def test_ranks_wait_less_when_rows_are_dealt() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.0, 1.2, 4000), 4, 2048).astype(np.int32)
    plan = make_plan(lengths, 2048)
    found = rank_figures(plan, lengths, PlanConfig(), 0, 8, seed=0)
    assert found is not None
    assert found.dealt.idle_share < 0.05 < found.shuffled.idle_share
    for waiting in (found.shuffled, found.dealt):
        assert len(waiting.step) == 8
        assert max(waiting.step) == 1
    weighed = rank_figures(plan, lengths, PlanConfig(), 100_000, 8, seed=0)
    assert weighed is not None
    assert weighed.shuffled.idle_share < found.shuffled.idle_share


def test_fewer_rows_than_ranks_have_no_figure() -> None:
    lengths = np.array([10, 10])
    assert rank_figures(make_plan(lengths, 10), lengths, PlanConfig(), 0, 8, seed=0) is None


def test_ranks_wait_where_there_are_ranks_and_a_model() -> None:
    assert sample()["ranks"] is None
    assert sample(training=planned())["ranks"] is None
    asked = sample(training=planned(gpu_count=4), gpu_count=4)
    assert asked["ranks"]["ranks"] == 4
    assert asked["ranks"]["token_cost"] > 0
    assert 'id="ranks"' in page(Figures.read(asked))
    assert "4 ranks wait" in ranks_words(Figures.read(asked).ranks)


# Views


def test_page_and_terminal_show_every_part(report: dict[str, Any]) -> None:
    drawn = page(Figures.read(report))
    for name in ("text", "rows", "files", "lengths"):
        assert f'id="{name}"' in drawn
    for words in ("en.jsonl:62", "bytes a token", "Latin", "Looked for and not found: unknown_role"):
        assert words in drawn
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(Report(Figures.read(report)).full())
    text = console.export_text()
    for words in ("Lengths by file", "en.jsonl:62", "vocabulary", "What rows of other lengths would cut"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_tokens_and_names_are_shown_harmless() -> None:
    data = hostile()
    data["vocabulary"] = {
        "size": 9, "used": 1, "share": 1 / 9, "tokens": 3, "bytes": 30, "covered": 1,
        "top": [{"id": 1, "text": HOSTILE.replace("\ud800", ""), "count": 3}],
        "scripts": [{"script": "Latin", "tokens": 3}],
        "sources": [{"name": line["name"], "tokens": 3, "bytes": 30} for line in data["sources"]],
    }  # fmt: skip
    data["languages"] = {"sample": 1, "of": 1, "shares": [{"language": HOSTILE, "share": 1.0, "error": 0.0}]}
    data["near_dup"] = {
        "threshold": 0.8, "applied": False, "documents": 1, "tokens": 1, "bounded": 0,
        "on": "both", "kept": {},
        "pairs": [{"alike": "", "jaccard": 0.9, "removed": HOSTILE, "kept": HOSTILE}],
    }  # fmt: skip
    drawn = page(Figures.read(data))
    assert "<script>alert" not in drawn
    assert "<img" not in drawn
    assert "\u202e" not in drawn
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(Report(Figures.read(data)))
    console.print(Report(Figures.read(data)).full())
    assert "\x1b" not in console.export_text()


def test_many_files_and_scripts_are_drawn_together() -> None:
    data = sample(sources=tuple(f"{n}.jsonl" for n in range(30)))
    assert "20 more files" in data_charts.sources_chart(Figures.read(data).ledger.sources).wide
    scripts = [Script(script=f"Script{n}", tokens=100 - n) for n in range(12)]
    total = sum(script.tokens for script in scripts)
    figures = {"size": 9, "used": 9, "share": 1.0, "bytes": 9, "covered": 9, "top": [], "sources": []}
    chart = data_charts.scripts_chart(Vocabulary(scripts=scripts, tokens=total, **figures))
    assert "4 more scripts" in chart.wide


@given(lengths=st.lists(st.integers(0, 50), max_size=230))
def test_quantiles_of_counted_lengths_are_those_of_numpy(lengths):
    tokens = np.array(lengths, np.int32)
    assert counted_quantiles(*np.unique(tokens, return_counts=True)) == quantiles(tokens)
