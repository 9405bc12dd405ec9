"""Sources packed more than once: every copy whole, counted, and told apart."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from chats import messy_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import tokpack
from tokpack.errors import UsageError
from tokpack.on_disk.ledger import check
from tokpack.packed.checked_rows import PLACED
from tokpack.packed.folder import PackedFolder
from tokpack.packed.verification import _piece_faults
from tokpack.report.values import Figures
from tokpack.settings.parsing import parse_repeats
from tokpack.stages.repeat import copies_of, with_copies

Key = tuple[int, int, int]
FIRST = 120


@pytest.fixture(scope="module")
def pack(qwen, tmp_path_factory) -> Callable[..., PackedFolder]:
    """Chats and a text, the chats `repeat` times."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "chats.jsonl", messy_rows(FIRST, seed=5))
    lines = [" ".join(f"word {i} of line {line}" for i in range(20 * line)) for line in range(1, 8)]
    (folder / "book.txt").write_text("\n".join(lines))

    def run(repeat: float | None, **options: Any) -> PackedFolder:
        key = "" if repeat is None else f"repeat = {repeat}\n"
        sources = f'[[source]]\npath = "chats.jsonl"\n{key}[[source]]\npath = "book.txt"\n'
        (folder / "run.toml").write_text(sources)
        settings = {"tokenizer": str(qwen), "max_length": 256, "val": 0.1} | options
        out = tmp_path_factory.mktemp("out") / "packed"
        return tokpack.pack([], out, config=folder / "run.toml", **settings)

    return run


@pytest.fixture(scope="module")
def repeated(pack) -> PackedFolder:
    return pack(2.5)


@pytest.fixture(scope="module")
def once(pack) -> PackedFolder:
    return pack(None)


def stretches(packed: PackedFolder) -> dict[Key, tuple[list[int], list[int]]]:
    """(doc_id, piece, copy) -> ids and labels; each occurs once."""
    found: dict[Key, tuple[list[int], list[int]]] = {}
    for row in (packed[i] for i in range(len(packed))):
        cuts = np.cumsum(row["seq_lengths"])[:-1]
        copies = row.get("copies", np.zeros_like(row["doc_ids"]))
        keys = zip(row["doc_ids"].tolist(), row["pieces"].tolist(), copies.tolist(), strict=True)
        parts = zip(np.split(row["input_ids"], cuts), np.split(row["labels"], cuts), strict=True)
        for key, (ids, labels) in zip(keys, parts, strict=True):
            assert key not in found
            found[key] = (ids.tolist(), labels.tolist())
    return found


def copies_in(packed: PackedFolder) -> Counter[int]:
    return Counter(doc for doc, piece, _ in stretches(packed) if piece == 0)


def test_every_copy_is_the_whole_document_again(once, repeated):
    originals = stretches(once)
    found = stretches(repeated)
    assert {key for key in found if key[2] == 0} == set(originals)
    assert all(stretch == originals[key[0], key[1], 0] for key, stretch in found.items())
    assert max(piece for _, piece, _ in found) > 0
    times = copies_in(repeated)
    assert {doc: number for doc, number in times.items() if doc >= FIRST} == {
        doc: 1 for doc in range(FIRST, FIRST + 7) if doc in times
    }
    chats = [number for doc, number in times.items() if doc < FIRST]
    assert set(chats) == {2, 3}
    assert 0.3 < np.mean(np.array(chats) == 3) < 0.7


def test_the_ledger_counts_documents_once_and_their_copies_apart(once, repeated):
    check(repeated.ledger)
    before, after = once.ledger, repeated.ledger
    again = {key: stretch for key, stretch in stretches(repeated).items() if key[2]}
    tokens = sum(len(ids) for ids, _ in again.values())
    assert after["documents"] == before["documents"] | {"repeated": len(again)}
    assert after["tokens"] == before["tokens"] | {
        "packed": before["tokens"]["packed"] + tokens,
        "repeated": tokens,
    }
    assert after["sources"]["book.txt"]["documents"]["repeated"] == 0
    assert after["slots"]["packed"] == before["slots"]["packed"] + tokens


def test_verify_proves_it_and_the_folder_opens_with_datasets(repeated):
    datasets = pytest.importorskip("datasets")

    assert tokpack.verify(repeated.folder).ok
    opened = datasets.load_from_disk(str(repeated.folder))
    assert opened.column_names == ["input_ids", "labels", "seq_lengths", "doc_ids", "pieces", "copies"]
    assert opened[0]["copies"] == repeated[0]["copies"].tolist()


def test_without_repeats_not_a_byte_changes(once, pack):
    same = pack(1)
    assert (same.folder / "SHA256SUMS").read_bytes() == (once.folder / "SHA256SUMS").read_bytes()
    assert "repeat" not in (same.folder / "manifest.json").read_text()
    assert "copies" not in same[0]


def test_what_is_held_out_is_not_repeated(once, repeated):
    assert repeated.validation is not None
    assert once.validation is not None
    assert stretches(repeated.validation) == stretches(once.validation)
    assert "copies" not in repeated.validation[0]


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["bfd", "sequential"])
def test_copies_stay_through_repack_and_merge(pack, repeated, once, tmp_path, planner):
    packed = repeated if planner == "bfd" else pack(2.5, planner=planner)
    again = tokpack.repack(packed, tmp_path / "again")
    assert again.manifest["shards"] == packed.manifest["shards"]
    longer = tokpack.repack(packed, tmp_path / "longer", max_length=500)
    assert stretches(longer) == stretches(packed)
    merged = tokpack.merge([once, packed], tmp_path / "merged")
    base = once.ledger["documents"]["read"]
    moved = {(doc + base, piece, copy): part for (doc, piece, copy), part in stretches(packed).items()}
    assert stretches(merged) == stretches(once) | moved
    assert merged.ledger["tokens"]["repeated"] == packed.ledger["tokens"]["repeated"]
    assert all(tokpack.verify(made.folder).ok for made in (again, longer, merged))


def test_a_budget_counts_every_copy(pack):
    small = pack(2, budget=6000, val=0.0)
    assert 5500 < small.manifest["tokens"] <= 6000
    assert set(copies_in(small).values()) <= {1, 2}


def test_inspect_shows_the_copy_and_the_terminal_the_sum(repeated, once):
    from tokpack.packed.viewer import row_view

    def text(renderable: Any) -> str:
        console = Console(width=200, no_color=True, file=io.StringIO())
        console.print(renderable)
        return console.file.getvalue()

    shown = text(row_view(repeated, 0))
    for doc, copy in zip(repeated[0]["doc_ids"].tolist(), repeated[0]["copies"].tolist(), strict=True):
        assert f"document {doc}, copy {copy}: " in shown
    assert ", copy" not in text(row_view(once, 0))
    tokens, documents = repeated.ledger["tokens"], repeated.ledger["documents"]
    assert f"tokenized + {tokens['repeated']:,} repeated = {tokens['packed']:,} packed" in text(repeated)
    assert f"{documents['repeated']:,} copies more" in text(repeated)
    report = json.loads((repeated.folder / "report.json").read_text())
    page = tokpack.report.figures.Report(Figures.read(report))
    assert f"{tokens['repeated']:,}" in text(page.full())


def test_a_pair_is_repeated_as_one(qwen, tmp_path):
    rows = [{"prompt": f"Say {i}.", "chosen": f"Yes, {i}.", "rejected": f"No {i}"} for i in range(40)]
    write_rows(tmp_path / "pairs.jsonl", [json.dumps(row).encode() for row in rows])
    (tmp_path / "run.toml").write_text('[[source]]\npath = "pairs.jsonl"\nrepeat = 1.5\n')
    packed = tokpack.pack(
        [], tmp_path / "out", config=tmp_path / "run.toml", tokenizer=str(qwen), max_length=128
    )
    assert tokpack.verify(packed.folder).ok
    times = copies_in(packed)
    assert all(times[2 * pair] == times[2 * pair + 1] for pair in range(40))
    assert set(times.values()) == {1, 2}
    assert tokpack.verify(tokpack.repack(packed, tmp_path / "again", max_length=200).folder).ok


def test_documents_written_as_text_are_repeated_too(qwen, tmp_path):
    write_rows(tmp_path / "chats.jsonl", messy_rows(60, seed=6))
    for name, key in (("once", ""), ("often", "repeat = 2.5\n")):
        (tmp_path / f"{name}.toml").write_text(f'[[source]]\npath = "chats.jsonl"\n{key}')
        options = {"config": tmp_path / f"{name}.toml", "tokenizer": str(qwen)}
        report = tokpack.clean([], tmp_path / f"{name}.jsonl", **options)
    lines = {name: (tmp_path / f"{name}.jsonl").read_bytes().splitlines() for name in ("once", "often")}
    times = Counter(lines["often"])
    assert list(dict.fromkeys(lines["often"])) == lines["once"]
    assert set(times.values()) == {2, 3}
    documents = report.data["ledger"]["documents"]
    assert documents["kept"] + documents["repeated"] == len(lines["often"])


@pytest.mark.parametrize("repeat", ["0", "0.5", "-1", "1e9", "nan"])
def test_a_repeat_below_one_or_beyond_reason_is_refused(pack, repeat):
    with pytest.raises(UsageError, match="repeat cannot be") as error:
        pack(float(repeat))
    assert str(error.value.where).endswith("run.toml: source[0].repeat")


# The parts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=12))
def test_copies_of_pieces_are_numbered_and_in_order(documents):
    copies = np.array([number for number, _ in documents], np.int32)
    rows = [(doc, piece) for doc, (_, pieces) in enumerate(documents) for piece in range(pieces)]
    pieces = pl.DataFrame(rows, schema={"document": pl.Int64, "number": pl.Int32}, orient="row")
    made = with_copies(pieces, copies).select("copy", "document", "number").rows()
    assert made == sorted((copy, doc, piece) for doc, piece in rows for copy in range(copies[doc]))


def test_whole_repeats_draw_nothing_and_fractions_draw_their_share():
    high, low = np.random.default_rng(0).integers(0, 2**64, (2, 20_000), np.uint64)
    source = np.arange(20_000) % 2
    copies = copies_of((high, low), source, [3.0, 1.25], seed=7)
    assert set(copies[source == 0]) == {3}
    assert abs(copies[source == 1].mean() - 1.25) < 0.01
    turned = copies_of((high[::-1], low[::-1]), source[::-1], [3.0, 1.25], seed=7)
    assert np.array_equal(copies[::-1], turned)


keys = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=4), st.data())
def test_any_copy_that_is_missing_twice_there_or_of_another_length_is_found(documents, data):
    rows = [
        (doc, copy, piece, 10 + doc + piece)
        for doc, (copies, pieces) in enumerate(documents)
        for copy in range(copies)
        for piece in range(pieces)
    ]
    wrong = list(rows)
    change = data.draw(st.sampled_from(["nothing", "missing", "twice", "longer"])) if rows else "nothing"
    if change != "nothing":
        place = data.draw(st.integers(0, len(rows) - 1))
        doc, copy, piece, length = rows[place]
        copies, pieces = documents[doc]
        last = copy == copies - 1 and piece == pieces - 1
        if change == "missing":
            del wrong[place]
            change = "nothing" if last and (pieces == 1 or copies == 1) else change  # a document of less
        elif change == "twice":
            wrong.append(rows[place])
        else:
            wrong[place] = (doc, copy, piece, length + 1)
            change = "nothing" if copies == 1 else change
    placed = pl.DataFrame(data.draw(st.permutations(wrong)), schema=PLACED, orient="row")
    assert bool(_piece_faults(placed)) == (change != "nothing")


@pytest.mark.parametrize("form", ["arrow", "index"])
def test_repacking_repeats_as_packing_at_once_does(pack, once, tmp_path, form):
    at_once = pack(3)
    stored = once if form == "arrow" else tokpack.repack(once, tmp_path / "stored", shard_format=form)
    again = tokpack.repack(stored, tmp_path / "out", repeat={"chats.jsonl": 3}, shard_format="arrow")
    assert again.manifest["shards"] == at_once.manifest["shards"]
    assert again.ledger == at_once.ledger
    assert again.manifest["derived"]["repeat"] == {"chats.jsonl": 3}
    assert tokpack.verify(again.folder).ok
    back = tokpack.repack(again, tmp_path / "back", repeat={"chats.jsonl": 1})
    assert back.manifest["shards"] == once.manifest["shards"]
    assert back.ledger == once.ledger
    other = tokpack.repack(again, tmp_path / "other", repeat={"book.txt": 2})
    assert set(copies_in(other).values()) == {2, 3}
    assert other.validation.manifest["shards"] == once.validation.manifest["shards"]


def test_an_index_is_repeated_without_its_tokens(once, tmp_path):
    stored = tokpack.repack(once, tmp_path / "stored", shard_format="index")
    again = tokpack.repack(stored, tmp_path / "out", repeat={"chats.jsonl": 5})
    assert again.manifest["token_files"] == stored.manifest["token_files"]
    assert again.manifest["tokens"] > 3 * stored.manifest["tokens"]
    assert tokpack.verify(again.folder).ok


def test_a_fraction_draws_its_share_of_the_documents(once, tmp_path):
    again = tokpack.repack(once, tmp_path / "out", repeat={"chats.jsonl": 2.5})
    times = copies_in(again)
    chats = [count for document, count in times.items() if document < FIRST]
    assert set(chats) == {2, 3}
    assert 0.3 < chats.count(3) / len(chats) < 0.7
    assert {count for document, count in times.items() if document >= FIRST} == {1}
    same = tokpack.repack(once, tmp_path / "same", repeat={"chats.jsonl": 2.5})
    assert same.manifest["shards"] == again.manifest["shards"]
    seeded = tokpack.repack(once, tmp_path / "seeded", repeat={"chats.jsonl": 2.5}, seed=7)
    assert copies_in(seeded) != times


def test_pairs_are_repeated_as_one_by_repacking_too(qwen, tmp_path):
    rows = [{"prompt": f"How {n}?", "chosen": f"Like this, {n}.", "rejected": "No."} for n in range(40)]
    data = write_rows(tmp_path / "pairs.jsonl", [json.dumps(row).encode() for row in rows])
    packed = tokpack.pack(data, tmp_path / "packed", tokenizer=str(qwen), max_length=256)
    again = tokpack.repack(packed, tmp_path / "again", repeat={"pairs.jsonl": 1.5})
    times = copies_in(again)
    assert {times[2 * pair] == times[2 * pair + 1] for pair in range(40)} == {True}
    assert set(times.values()) == {1, 2}
    assert tokpack.verify(again.folder).ok


def test_repeats_that_cannot_be_are_refused(pack, once, tmp_path):
    for repeat, words in (
        ({"chat.jsonl": 2}, "no source named 'chat.jsonl'"),
        ({"chats.jsonl": 0.5}, "cannot be repeated 0.5 times"),
        ({"chats.jsonl": float("nan")}, "cannot be repeated nan times"),
    ):
        with pytest.raises(UsageError, match=words):
            tokpack.repack(once, tmp_path / "out", repeat=repeat)
    masked = pack(None, loss_mask="template")
    with pytest.raises(UsageError, match="segments of answers apart"):
        tokpack.repack(masked, tmp_path / "out", repeat={"chats.jsonl": 2})
    assert not (tmp_path / "out").exists()
    assert parse_repeats(["a=b.jsonl=2.5", "c=3"]) == {"a=b.jsonl": 2.5, "c": 3.0}
    for text in ("chats.jsonl", "=2", "chats.jsonl=two"):
        with pytest.raises(UsageError, match="cannot read the repeat"):
            parse_repeats([text])
