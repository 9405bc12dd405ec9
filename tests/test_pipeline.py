"""The whole way, JSONL to packed dataset: identity of every document, sums, same bytes, crashes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import DataError, InternalError
from tokpack.on_disk.sums import covered_files

CAPACITY = 256


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(500))


@pytest.fixture(scope="module")
def packed(messy, whole_qwen, tmp_path_factory) -> tokpack.PackedFolder:
    return tokpack.pack(
        messy, tmp_path_factory.mktemp("out") / "packed", tokenizer=str(whole_qwen), max_length=CAPACITY
    )


@pytest.fixture(scope="module")
def full(messy, whole_qwen, tmp_path_factory) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """The same documents, none of them cut."""
    out = tmp_path_factory.mktemp("full") / "out"
    return documents_of(tokpack.pack(messy, out, tokenizer=str(whole_qwen), max_length=4096))


def documents_of(packed: tokpack.PackedFolder) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """doc_id -> (ids, labels) of its pieces in order, wherever they stand."""
    found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for row in range(len(packed)):
        record = packed[row]
        ends = np.cumsum(record["seq_lengths"])
        starts = ends - record["seq_lengths"]
        for doc_id, piece, start, end in zip(record["doc_ids"], record["pieces"], starts, ends, strict=True):
            assert (int(doc_id), int(piece)) not in found
            found[int(doc_id), int(piece)] = (record["input_ids"][start:end], record["labels"][start:end])
    documents: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for (doc_id, _), part in sorted(found.items(), key=lambda item: item[0]):
        documents.setdefault(doc_id, []).append(part)
    return documents


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in [*covered_files(folder), "SHA256SUMS"]}


def test_every_kept_document_is_there_once_with_the_reference_ids_and_mask(messy, packed, whole_qwen):
    from tokpack.encoding.snapshot import auto_tokenizer

    reference = auto_tokenizer(whole_qwen)
    lines = messy.read_bytes().splitlines()
    truncated = set(packed.dropped.filter(pl.col("reason") == "truncated")["doc_id"])
    assert truncated
    found = documents_of(packed)
    whole = 0
    for doc_id, places in found.items():
        assert len(places) == 1
        ids, labels = places[0]
        messages = json.loads(lines[doc_id])["messages"]
        if doc_id in truncated:
            system = messages[:1] if messages[0]["role"] == "system" else []
            tails = [system + messages[i:] for i in range(len(system) + 2, len(messages), 2)]
            encoded = [
                reference.apply_chat_template(t, return_dict=True, return_assistant_tokens_mask=True)
                for t in tails
            ]
            expected = next(e for e in encoded if len(e["input_ids"]) <= CAPACITY)  # the longest that fits
        else:
            expected = reference.apply_chat_template(
                messages, return_dict=True, return_assistant_tokens_mask=True
            )
            whole += 1
        assert ids.tolist() == expected["input_ids"]
        wanted = [
            i if m else -100 for i, m in zip(expected["input_ids"], expected["assistant_masks"], strict=True)
        ]
        assert labels.tolist() == [-100, *wanted[1:]]
    assert whole > 350


def test_documents_kept_left_out_and_quarantined_are_all_that_was_read(messy, packed):
    found = set(documents_of(packed))
    left_out = packed.dropped.filter(pl.col("reason") != "truncated")
    quarantined = [json.loads(line) for line in (packed.folder / "quarantine.jsonl").read_text().splitlines()]
    everything = sorted([*found, *left_out["doc_id"], *(q["doc_id"] for q in quarantined)])
    assert everything == list(range(500))
    assert len(quarantined) == 20
    assert {q["line"] for q in quarantined} == {'{"messages": [{"role": "user"'}
    counts = dict(left_out.group_by("reason").len().rows())
    assert counts["empty_answer"] == 20
    assert counts["unknown_role"] == 20
    assert counts["no_answer"] == 20
    assert counts["exact_duplicate"] == 20
    copies = left_out.filter(pl.col("reason") == "exact_duplicate")
    lines = messy.read_bytes().splitlines()
    for doc_id, detail in copies.select("doc_id", "detail").rows():
        assert lines[doc_id] == lines[int(detail)]


def test_the_folder_opens_with_datasets(packed):
    datasets = pytest.importorskip("datasets")

    opened = datasets.load_from_disk(str(packed.folder))
    assert opened.num_rows == len(packed)
    assert opened[1]["input_ids"] == packed[1]["input_ids"].tolist()
    assert opened.column_names == ["input_ids", "labels", "seq_lengths", "doc_ids", "pieces"]


@pytest.mark.slow
def test_the_tokenizer_in_the_folder_is_the_one_that_was_given(packed, whole_qwen):
    from tokpack.encoding.snapshot import auto_tokenizer

    ours, given = (
        auto_tokenizer(packed.folder / "tokenizer"),
        auto_tokenizer(whole_qwen),
    )
    text = "Übung <|im_end|>\n 123 你好"
    assert ours(text)["input_ids"] == given(text)["input_ids"]
    assert ours.chat_template == given.chat_template


def test_same_bytes_for_any_workers_blocks_and_a_second_run(messy, packed, whole_qwen, tmp_path):
    options = {"tokenizer": str(whole_qwen), "max_length": CAPACITY}
    expected = bytes_of(packed.folder)
    for workers in (1, 2):
        again = tokpack.pack(messy, tmp_path / f"w{workers}", workers=workers, **options)
        assert bytes_of(again.folder) == expected


@pytest.mark.slow
def test_rows_do_not_depend_on_the_size_of_blocks(whole_qwen, tmp_path, monkeypatch):
    from functools import partial

    from tokpack.run import Run

    data = write_rows(tmp_path / "chats.jsonl", messy_rows(120, seed=1))
    shards = []
    for number, size in enumerate((1 << 25, 4000, 900)):
        monkeypatch.setattr(Run, "block_bytes", size)
        out = partial(
            tokpack.pack,
            data,
            tmp_path / str(number),
            tokenizer=str(whole_qwen),
            max_length=CAPACITY,
            val=0.1,
        )()
        shards.append(bytes_of(out.folder))
    assert shards[0] == shards[1] == shards[2]


def test_the_ledger_adds_up_and_is_refused_when_it_does_not(packed):
    from tokpack.on_disk.ledger import check

    check(packed.ledger)
    for path in (("tokens", "truncated"), ("documents", "kept"), ("slots", "free"), ("trained", "masked")):
        broken = json.loads(json.dumps(packed.ledger))
        broken[path[0]][path[1]] += 1
        with pytest.raises(InternalError, match="does not add up"):
            check(broken)


@pytest.mark.slow
def test_validation_takes_whole_conversations_and_copies_stay_on_one_side(messy, whole_qwen, tmp_path):
    options = {"tokenizer": str(whole_qwen), "max_length": CAPACITY, "exact_key": "off"}
    split = tokpack.pack(messy, tmp_path / "split", val=0.2, **options)
    train, held = documents_of(split), documents_of(split.validation)
    assert held
    assert not set(train) & set(held)
    lines = messy.read_bytes().splitlines()
    assert not {lines[d] for d in train} & {lines[d] for d in held}
    assert set(train) | set(held) == set(documents_of(tokpack.pack(messy, tmp_path / "all", **options)))
    assert split.ledger["documents"]["dropped"]["held_out"] == len(held)
    assert split.validation.ledger["documents"]["kept"] == len(held)
    assert tokpack.verify(split.folder).ok
    other = tokpack.pack(messy, tmp_path / "other", val=0.2, seed=7, **options)
    assert set(documents_of(other.validation)) != set(held)


@pytest.mark.slow
@pytest.mark.parametrize("overlong", ["drop", "right", "left", "turns", "split"])
def test_truncation_is_exact_to_the_token(messy, full, whole_qwen, tmp_path, overlong):
    cut = tokpack.pack(messy, tmp_path / "cut", tokenizer=str(whole_qwen), max_length=128, overlong=overlong)
    found = documents_of(cut)
    lost = dict(cut.dropped.filter(pl.col("reason") == "truncated").select("doc_id", "tokens_lost").rows())
    for doc_id, places in found.items():
        ids = full[doc_id][0][0].tolist()
        if doc_id not in lost:
            pieces = [piece.tolist() for piece, _ in places]
            assert [i for piece in pieces for i in piece] == ids if overlong == "split" else pieces == [ids]
            continue
        kept = [token for piece, _ in places for token in piece.tolist()]
        assert len(ids) - len(kept) == lost[doc_id]
        assert overlong in ("right", "left", "turns", "split")
        if overlong == "right":
            assert kept == ids[:128]
        if overlong == "left":
            assert kept == ids[-128:]
        if overlong == "split":
            assert any(kept == ids[at : at + len(kept)] for at in range(0, len(ids), 128))
    dropped = set(cut.dropped.filter(pl.col("reason") == "overlong")["doc_id"])
    assert all(len(full[d][0][0]) > 128 for d in dropped & set(full))  # copies are no part of full
    assert bool(dropped) == (overlong in ("drop", "turns"))
    assert tokpack.verify(cut.folder).ok


def test_split_chats_keep_no_piece_before_their_first_label_nor_behind_their_last(whole_qwen, tmp_path):
    long = " ".join(f"word{i}" for i in range(60))
    talk = [
        ("user", long),
        ("assistant", "So it is."),
        ("user", long),
        ("assistant", "It is."),
        ("user", long),
    ]
    row = {"messages": [{"role": role, "content": text} for role, text in talk]}
    data = write_rows(tmp_path / "c.jsonl", [json.dumps(row).encode()])
    tokenizer = str(whole_qwen)
    [(ids, labels)] = documents_of(
        tokpack.pack(data, tmp_path / "full", tokenizer=tokenizer, max_length=4096)
    )[0]
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=tokenizer, max_length=64, overlong="split")
    labeled = np.flatnonzero(labels != -100)
    first, last = labeled[0] // 64 * 64, (labeled[-1] // 64 + 1) * 64
    pieces = documents_of(packed)[0]
    assert [token for piece, _ in pieces for token in piece.tolist()] == ids[first:last].tolist()
    assert 0 < first < last < len(ids)
    assert packed.manifest["ledger"]["tokens"]["truncated"] == len(ids) - (last - first)


def test_right_truncation_cuts_where_no_document_leaves(whole_qwen, tmp_path):
    texts = [" ".join(f"word{i}" for i in range(n)) for n in (300, 3)]
    data = write_rows(tmp_path / "t.jsonl", [json.dumps({"text": text}).encode() for text in texts])
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=str(whole_qwen), max_length=64, overlong="right")
    assert [len(documents_of(packed)[doc][0][0]) for doc in (0, 1)] == [64, 7]
    assert packed.ledger["tokens"]["truncated"] > 200


@pytest.mark.slow
def test_split_pieces_keep_their_order(whole_qwen, tmp_path):
    text = " ".join(f"word{i}" for i in range(3000))
    data = write_rows(tmp_path / "t.jsonl", [json.dumps({"text": text}).encode(), b'{"text": "short"}'])
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=str(whole_qwen), max_length=100)
    pieces = documents_of(packed)[0]
    assert max(len(ids) for ids, _ in pieces) == 100
    joined = packed.tokenizer.decode(np.concatenate([ids for ids, _ in pieces]))
    assert joined.removesuffix("<|im_end|>") == text


@pytest.mark.slow
def test_special_tokens_in_contents_are_stripped_kept_or_dropped(whole_qwen, tmp_path):
    rows = [("a", "b<|endoftext|>"), ("c <|im_end|> c", "d"), ("e", "<|endoftext|> "), ("f", "g")]
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        ).encode()
        for q, a in rows
    ]
    data = write_rows(tmp_path / "rows.jsonl", lines)

    def texts(mode):
        out = tokpack.pack(data, tmp_path / mode, tokenizer=str(whole_qwen), special_in_content=mode)
        return {d: out.tokenizer.decode(p[0][0]) for d, p in documents_of(out).items()}, out

    stripped, out = texts("strip")
    assert set(stripped) == {0, 1, 3}
    assert stripped[0].endswith("assistant\nb<|im_end|>\n")
    assert "c <|im_end|> c" in stripped[1]
    counters = json.loads((out.folder / "report.json").read_text())["counters"]
    assert counters["special_token_stripped"] == 2
    assert counters["special_token_inside"] == 1
    assert set(texts("keep")[0]) == {0, 1, 2, 3}
    assert set(texts("drop")[0]) == {3}


@pytest.mark.slow
def test_strict_stops_at_the_first_bad_row_and_too_many_are_fatal(whole_qwen, tmp_path):
    rows = messy_rows(100)
    data = write_rows(tmp_path / "chats.jsonl", rows)
    with pytest.raises(DataError, match=r"chats\.jsonl:12"):
        tokpack.pack(data, tmp_path / "a", tokenizer=str(whole_qwen), strict=True)
    worse = write_rows(tmp_path / "worse.jsonl", rows + [b"{"] * 20)
    with pytest.raises(DataError, match="--allow-bad"):
        tokpack.pack(worse, tmp_path / "b", tokenizer=str(whole_qwen))
    packed = tokpack.pack(worse, tmp_path / "b", tokenizer=str(whole_qwen), allow_bad=0.5, overwrite=True)
    assert packed.ledger["documents"]["quarantined"] == 24


def test_analyze_says_what_pack_does(messy, whole_qwen, packed):
    report = tokpack.analyze(messy, tokenizer=str(whole_qwen), max_length=CAPACITY)
    assert report.data.pop("near_dup")["documents"] == 0
    for measured_by_analyze_alone in ("languages", "vocabulary"):
        assert report.data.pop(measured_by_analyze_alone)
    assert report.data == json.loads((packed.folder / "report.json").read_text())
    assert "500 documents" in repr(report)
    assert "<iframe" in report._repr_html_()


@pytest.mark.slow
def test_a_config_file_says_the_same_as_flags(messy, whole_qwen, packed, tmp_path):
    (tmp_path / "run.toml").write_text(
        f'[[source]]\npath = "{messy}"\n'
        f'[tokenize]\ntokenizer = "{whole_qwen}"\n'
        f"[truncate]\nmax_length = {CAPACITY}\n"
    )
    again = tokpack.pack([], tmp_path / "out", config=tmp_path / "run.toml")
    assert bytes_of(again.folder) == bytes_of(packed.folder)


def test_input_order_is_kept_by_the_sequential_planner(messy, whole_qwen, tmp_path):
    packed = tokpack.pack(
        messy, tmp_path / "out", tokenizer=str(whole_qwen), max_length=CAPACITY, planner="sequential"
    )
    order = np.concatenate([packed[row]["doc_ids"] for row in range(len(packed))])
    assert (np.diff(order) > 0).all()


def test_row_order_does_not_follow_file_order(packed):
    firsts = np.array([packed_row["doc_ids"].min() for packed_row in (packed[i] for i in range(len(packed)))])
    assert abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.3
