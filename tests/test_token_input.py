"""Input that is tokenized already: ids and masks go through as they are, whatever is odd is set aside."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources
from tokpack.stages.truncate import truncate
from tokpack.way.store import TokenStore

SHAPE = Shape.of("tokens", {}, ["input_ids"])


def stretches(packed: tokpack.PackedFolder) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each packed piece, by document and piece."""
    found = []
    for row in (packed[i] for i in range(len(packed))):
        cuts = np.cumsum(row["seq_lengths"])[:-1]
        parts = zip(np.split(row["input_ids"], cuts), np.split(row["labels"], cuts), strict=True)
        names = zip(row["doc_ids"].tolist(), row["pieces"].tolist(), strict=True)
        found += [(*name, i.tolist(), x.tolist()) for name, (i, x) in zip(names, parts, strict=True)]
    return [(i, x) for _, _, i, x in sorted(found)]


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> tokpack.PackedFolder:
    """Chats with masks, and a long text in pieces."""
    folder = tmp_path_factory.mktemp("text")
    chats = write_rows(folder / "chats.jsonl", messy_rows(200, seed=3))
    long = " ".join(f"word {i} of a long text" for i in range(300))
    (folder / "book.txt").write_text(f"{long}\nshort text\n")
    paths = [str(chats), str(folder / "book.txt")]
    return tokpack.pack(paths, folder / "out", tokenizer=str(qwen), max_length=200)


def write_tokens(folder: Path, rows: list[tuple[list[int], list[int]]], container: str) -> Path:
    table = pa.Table.from_pylist([{"input_ids": i, "labels": x} for i, x in rows])
    path = folder / f"tokens.{container}"
    if container == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif container == "parquet":
        pq.write_table(table, path, row_group_size=17)
    elif container == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=900)
    else:
        datasets = pytest.importorskip("datasets")

        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(path, num_shards=2)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("container", [pytest.param("jsonl", marks=pytest.mark.slow), "saved"])
def test_the_documents_of_a_packed_dataset_fed_back_come_out_the_same(packed, qwen, tmp_path, container):
    rows = stretches(packed)
    assert max(len(i) for i, _ in rows) == 200
    path = write_tokens(tmp_path, rows, container)
    again = tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), max_length=200, exact_key="off")
    assert stretches(again) == rows
    assert again.manifest["inputs"][0]["format"] == "tokens"
    assert again.ledger["documents"] == {
        "read": len(rows),
        "kept": len(rows),
        "dropped": {},
        "quarantined": 0,
    }
    assert tokpack.verify(again.folder).ok
    for derived in (
        tokpack.repack(again, tmp_path / "repacked", max_length=333),
        tokpack.merge([packed, again], tmp_path / "merged"),
    ):
        assert tokpack.verify(derived.folder).ok
        assert all(stretch in stretches(derived) for stretch in rows[::20])


def test_workers_and_blocks_do_not_change_the_shards(packed, qwen, tmp_path):
    path = write_tokens(tmp_path, stretches(packed) * 20, "parquet")
    options = {"tokenizer": str(qwen), "max_length": 200}
    first = tokpack.pack(path, tmp_path / "a", workers=1, block_mb=1, **options)
    second = tokpack.pack(path, tmp_path / "b", workers=3, **options)
    assert first.manifest["shards"] == second.manifest["shards"]
    assert first.ledger["documents"]["dropped"] == {"exact_duplicate": 19 * len(stretches(packed))}


def test_a_run_is_not_continued_with_labels_that_changed(qwen, tmp_path, monkeypatch):
    rows = [(list(range(i, i + 90)), list(range(i, i + 90))) for i in range(3000)]
    path = write_tokens(tmp_path, rows, "arrow")
    commit, options = TokenStore.commit, {"tokenizer": str(qwen), "block_mb": 1, "workers": 1}

    def stop_after_the_first(store, key, *rest):
        if key != (0, 0):
            raise KeyboardInterrupt
        commit(store, key, *rest)

    monkeypatch.setattr(TokenStore, "commit", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        tokpack.pack(path, tmp_path / "out", **options)
    monkeypatch.setattr(TokenStore, "commit", commit)
    write_tokens(tmp_path, [(ids, [-100, *labels[1:]]) for ids, labels in rows], "arrow")
    with pytest.raises(DataError, match="changed since"):
        tokpack.pack(path, tmp_path / "out", **options)
    assert tokpack.verify(tokpack.pack(path, tmp_path / "out", overwrite=True, **options).folder).ok


def test_text_and_tokens_go_into_one_packed_dataset(packed, qwen, tmp_path):
    rows = stretches(packed)[:50]
    write_tokens(tmp_path, rows, "parquet")
    write_rows(tmp_path / "chats.jsonl", messy_rows(40, seed=9))
    (tmp_path / "run.toml").write_text(
        f'[tokenize]\ntokenizer = "{qwen}"\n[truncate]\nmax_length = 200\n'
        '[[source]]\npath = "chats.jsonl"\n[[source]]\npath = "tokens.parquet"\nformat = "tokens"\n'
    )
    mixed = tokpack.pack([], tmp_path / "out", config=tmp_path / "run.toml")
    read = {name: part["documents"]["read"] for name, part in mixed.ledger["sources"].items()}
    assert read == {"chats.jsonl": 40, "tokens.parquet": 50}
    assert stretches(mixed)[-50:] == rows
    assert tokpack.verify(mixed.folder).ok


LONG = list(range(250))
MODES = {
    "drop": [],
    "right": [LONG[:100]],
    "left": [LONG[150:]],
    "turns": [],
    "split": [LONG[:100], LONG[100:200], LONG[200:]],
}


@pytest.mark.parametrize(("overlong", "kept"), MODES.items())
@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("others", [0, 1])
def test_long_documents_are_dropped_cut_or_split(tmp_path, overlong, kept, labeled, others):
    row = {"input_ids": LONG, **({"labels": LONG} if labeled else {})}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [row, *[{"input_ids": [1, 2, 3]}] * others]))
    source = open_sources((SourceConfig(path=str(path)),))[0]
    [block] = read_blocks([source])
    normalized, tokens = take_tokens(block, source, SHAPE, 1000)
    for mode in (overlong, "auto") if overlong == ("right" if labeled else "split") else (overlong,):
        pieces = truncate(normalized.documents, tokens, 100, mode, True, lambda documents: tokens)
        cuts = pieces.tokens.offsets
        found = [pieces.tokens.input_ids[a:b].tolist() for a, b in pairwise(cuts)]
        assert found == [*kept, *[[1, 2, 3]] * others]
        assert pieces.cut[0] == (250 - sum(map(len, kept)) if kept else 0)


def test_rules_in_tokens_apply_and_rules_in_text_do_not(qwen, tmp_path):
    rows = [(list(range(n)), [-100, *range(1, n)]) for n in (3, 30, 300)] + [([], []), ([5], [5])]
    path = write_tokens(tmp_path, rows, "jsonl")
    packed = tokpack.pack(
        path, tmp_path / "out", tokenizer=str(qwen), max_length=512, clean="strict,too_short,too_long"
    )
    dropped = dict(packed.dropped.select("doc_id", "reason").rows())
    assert dropped == {0: "too_short", 3: "too_short", 4: "too_short"}
    plain = tokpack.pack(path, tmp_path / "plain", tokenizer=str(qwen), max_length=512)
    assert dict(plain.dropped.select("doc_id", "reason").rows()) == dict.fromkeys((3, 4), "no_trained_tokens")


def test_equal_ids_with_another_mask_are_no_duplicates(qwen, tmp_path):
    rows = [([1, 2, 3], [-100, 2, 3]), ([1, 2, 3], [-100, -100, 3]), ([1, 2, 3], [1, 2, 3])]
    packed = tokpack.pack(write_tokens(tmp_path, rows, "jsonl"), tmp_path / "out", tokenizer=str(qwen))
    assert packed.dropped.select("doc_id", "reason", "detail").rows() == [(2, "exact_duplicate", "0")]


def test_near_duplicates_and_evaluation_text_are_found_by_ids(qwen, tmp_path):
    question = "How many legs do seven spiders and three beetles have when they walk together at night?"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": question}))
    from tokpack.encoding.tokenizer import load_tokenizer

    asked = load_tokenizer(qwen).reference.encode(question).ids
    rng = np.random.default_rng(0)
    base = rng.integers(1000, 8000, 200).tolist()
    near = [*base[:100], 7, *base[101:]]
    rows = [(i, [-100, *i[1:]]) for i in (base, near, [*base[:50:-1], *asked, *base[50:90]])]
    packed = tokpack.pack(
        write_tokens(tmp_path, rows, "parquet"),
        tmp_path / "out",
        tokenizer=str(qwen),
        near_dup=0.8,
        against=[str(tmp_path / "eval.jsonl")],
    )
    assert dict(packed.dropped.select("doc_id", "reason").rows()) == {
        1: "near_duplicate",
        2: "contaminated",
    }


def test_a_budget_and_a_hold_out_work_without_text(packed, qwen, tmp_path):
    path = write_tokens(tmp_path, stretches(packed), "parquet")
    packed = tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), max_length=200, budget=5000, val=0.1)
    assert 4000 < packed.manifest["tokens"] <= 5000
    assert packed.validation is not None
    assert tokpack.verify(packed.folder).ok


def test_the_report_shows_the_start_of_what_was_left_out(qwen, tmp_path):
    from tokpack.encoding.tokenizer import load_tokenizer

    hello = load_tokenizer(qwen).reference.encode("Hello there").ids
    path = write_tokens(tmp_path, [(hello, [-100] * len(hello)), ([1, 2], [-100, 2])], "jsonl")
    report = tokpack.analyze(path, tokenizer=str(qwen))
    [drop] = report.data["drops"]
    assert (drop["reason"], drop["examples"]) == ("no_trained_tokens", ["Hello there"])


def test_packed_rows_are_not_taken_for_documents(packed):
    with pytest.raises(UsageError, match="packed already"):
        detect_shape(open_sources((SourceConfig(path=str(packed.folder)),))[0])


def test_too_many_foreign_ids_stop_the_run(qwen, tmp_path):
    (tmp_path / "ids.jsonl").write_text('{"input_ids": [1, 2]}\n{"input_ids": [1, 999999]}\n')
    with pytest.raises(DataError, match="1 of 2 rows cannot be read"):
        tokpack.pack(tmp_path / "ids.jsonl", tmp_path / "out", tokenizer=str(qwen))
    with pytest.raises(DataError, match=r"id 999999 at input_ids\[1\]"):
        tokpack.pack(tmp_path / "ids.jsonl", tmp_path / "strict", tokenizer=str(qwen), strict=True)


def test_kept_and_quarantined_rows_are_all_that_was_read(qwen, tmp_path):
    rows = [{"input_ids": [i, i + 1]} if i % 7 else {"input_ids": [i, 10**6]} for i in range(100)]
    (tmp_path / "ids.jsonl").write_text("\n".join(map(json.dumps, rows)))
    packed = tokpack.pack(tmp_path / "ids.jsonl", tmp_path / "out", tokenizer=str(qwen), allow_bad=0.5)
    quarantined = pl.read_ndjson(packed.folder / "quarantine.jsonl")
    assert quarantined["doc_id"].to_list() == list(range(0, 100, 7))
    assert quarantined["row"].to_list() == list(range(1, 101, 7))
    assert tokpack.verify(packed.folder).ok
