"""`--keep`: documents that a person wants, whatever rules, duplicates and evaluation texts say of them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from chats import write_rows

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.packed.folder import PackedFolder
from tokpack.stages.keep import FACTS, KeepList

CHAT = '{{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "{}"}}]}}'
ROWS = [
    CHAT.format("Where is the cat?", "On the mat."),
    CHAT.format("Where is the cat?", "On the mat."),  # 1 and 2 repeat 0
    CHAT.format("Where is the cat?", "On the mat."),
    CHAT.format("Say nothing.", " "),  # 3: empty
    '{"broken',  # 4
    CHAT.format("Who are you?", "As an AI language model, I am nobody."),  # 5: refusal
    CHAT.format("Count.", " ".join(str(n * 7919 % 1000) for n in range(90))),  # 6: overlong
]
LEFT_OUT = {1: "exact_duplicate", 2: "exact_duplicate", 3: "empty_answer", 5: "refusal", 6: "overlong"}


@pytest.fixture
def pack(qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", [row.encode() for row in ROWS])

    def run(keep: str | None, out: str = "packed", rows: Path = data, **options) -> PackedFolder:
        if keep is not None:
            (tmp_path / "keep.txt").write_text(keep)
            options["keep"] = str(tmp_path / "keep.txt")
        settings = {"max_length": 128, "overlong": "drop", "clean": "default,+refusal", "allow_bad": 0.5}
        return tokpack.pack(rows, tmp_path / out, tokenizer=str(qwen), **settings | options)

    return run


def fates(packed: PackedFolder) -> dict[int, str]:
    return dict(packed.dropped.select("doc_id", "reason").rows())


def kept(packed: PackedFolder) -> list[int]:
    return sorted(doc for row in range(len(packed)) for doc in packed[row]["doc_ids"].tolist())


def test_documents_in_the_list_stay_and_ledger_and_manifest_say_so(pack):
    assert fates(pack(None)) == LEFT_OUT
    packed = pack("# mine\n2  # exact_duplicate\n\n5\n3\n0\n", "again")
    assert kept(packed) == [0, 2, 3, 5]
    assert fates(packed) == {1: "exact_duplicate", 6: "overlong"}
    documents = packed.ledger["documents"]
    assert documents["kept_after_all"] == {"empty_answer": 1, "exact_duplicate": 1, "refusal": 1}
    assert (
        packed.ledger["sources"]["chats.jsonl"]["documents"]["kept_after_all"] == documents["kept_after_all"]
    )
    assert packed.manifest["keep"]["documents"] == 4
    assert packed.manifest["config"]["select"]["keep"] == "keep.txt"
    assert tokpack.verify(packed.folder).ok


def test_a_wish_makes_no_row_longer(pack):
    packed = pack("6")
    assert fates(packed)[6] == "overlong"
    assert "kept_after_all" not in packed.ledger["documents"]


@pytest.mark.slow
def test_wishes_in_vain_are_told(pack, caplog):
    pack("1\n5\n")
    assert "all the same" not in caplog.text
    pack("1\n6\n", "again")
    (told,) = [record.message for record in caplog.records if "all the same" in record.message]
    assert told.startswith("1 document that ")
    assert told.endswith("keep.txt names is left out all the same: overlong 1; no wish overrules that")


def test_within_a_budget_wanted_documents_come_first(pack):
    length = dict(pack(None, out="all").dropped.select("doc_id", "tokens_lost").rows())
    packed = pack("5", budget=length[5])
    assert kept(packed) == [5]
    assert fates(packed)[0] == "over_budget"


def test_near_duplicates_that_are_wanted_stay(qwen, tmp_path):
    text = "The answer is a long text about the sea and the many ships that sail on it day by day, "
    rows = [CHAT.format("Tell me of the sea.", text * 3 + end).encode() for end in ("fin", "end", "stop")]
    data = write_rows(tmp_path / "near.jsonl", rows)
    (tmp_path / "keep.txt").write_text("2\n")
    options = {"tokenizer": str(qwen), "max_length": 256, "near_dup": 0.7}
    plain = tokpack.pack(data, tmp_path / "plain", **options)
    assert fates(plain) == {1: "near_duplicate", 2: "near_duplicate"}
    wished = tokpack.pack(data, tmp_path / "wished", keep=str(tmp_path / "keep.txt"), **options)
    assert fates(wished) == {1: "near_duplicate"}
    assert wished.ledger["documents"]["kept_after_all"] == {"near_duplicate": 1}
    [drop] = wished.report["drops"]
    assert [at["place"] for at in drop["places"]] == ["near.jsonl:2"]
    assert len(drop["examples"]) == 1


def test_near_duplicates_that_are_wanted_count_as_no_saving(qwen, tmp_path):
    text = "The answer is a long text about the sea and the many ships that sail on it day by day, "
    rows = [CHAT.format("Tell me of the sea.", text * 3 + end).encode() for end in ("fin", "end", "stop")]
    data = write_rows(tmp_path / "near.jsonl", rows)
    (tmp_path / "keep.txt").write_text("2\n")
    options = {"tokenizer": str(qwen), "max_length": 256}
    for near_dup in (0.8, None):
        plain = tokpack.analyze(data, near_dup=near_dup, **options).data["near_dup"]
        wished = tokpack.analyze(data, near_dup=near_dup, keep=str(tmp_path / "keep.txt"), **options)
        near = wished.data["near_dup"]
        assert (plain["documents"], near["documents"]) == (2, 1)
        assert near["tokens"] * 2 - plain["tokens"] in (-1, 0, 1)
        assert len(near["pairs"]) == 1


def test_of_a_pair_both_are_kept(qwen, tmp_path):
    row = {"prompt": "Where?", "chosen": "Here it is.", "rejected": "Here it is."}
    data = write_rows(tmp_path / "pairs.jsonl", [json.dumps(row).encode()])
    (tmp_path / "keep.txt").write_text("1\n")
    wished = tokpack.pack(data, tmp_path / "packed", tokenizer=str(qwen), keep=str(tmp_path / "keep.txt"))
    assert kept(wished) == [0, 1]
    assert wished.ledger["documents"]["kept_after_all"] == {"chosen_equals_rejected": 2}


def test_a_pair_is_kept_that_is_alike_once_it_is_cut(qwen, tmp_path):
    long = " ".join(f"w{number}" for number in range(120))
    rows = [{"prompt": "Where?", "chosen": long + end, "rejected": long + "?"} for end in "ab"]
    data = write_rows(tmp_path / "pairs.jsonl", [json.dumps(row).encode() for row in rows])
    (tmp_path / "keep.txt").write_text("1\n")
    options = {"tokenizer": str(qwen), "max_length": 128, "overlong": "right"}
    with pytest.raises(DataError, match="chosen_equals_rejected"):
        tokpack.pack(data, tmp_path / "none", **options)
    wished = tokpack.pack(data, tmp_path / "packed", keep=str(tmp_path / "keep.txt"), **options)
    assert kept(wished) == [0, 1]


def test_without_a_list_the_manifest_is_as_ever(pack):
    manifest = pack(None).manifest
    assert "keep" not in manifest
    assert "keep" not in manifest["config"]["select"]


@pytest.mark.parametrize(
    ("keep", "error", "what"),
    [
        ("7", UsageError, r"no document 7\n.*\n.*documents are 0 to 6"),
        ("4", UsageError, "no document 4, its row could not be read"),
        ("1\nseven", UsageError, r"'seven' is no number of a document\n.*keep\.txt:2"),
        ("-1", UsageError, "'-1' is no number"),
        (f"# input chats.jsonl {'0' * 64}\n1", DataError, r"chats\.jsonl is another file now"),
        (f"# input other.jsonl {'0' * 64}\n1", DataError, r"other\.jsonl is no input of this run"),
    ],
)
def test_a_list_that_cannot_be_meant_is_an_error_with_a_hint(tmp_path, keep, error, what):
    (tmp_path / "keep.txt").write_text(keep)
    docs = pl.DataFrame({"doc_id": [0, 1, 2, 3, 5, 6]})
    with pytest.raises(error, match=what) as caught:
        KeepList.load(tmp_path / "keep.txt").check(docs, {"chats.jsonl": "1" * 64})
    assert caught.value.hint


def test_a_list_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("tokpack.stages.keep.MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="more than 1,000 bytes are no list"):
        KeepList.load("/dev/zero")


def test_a_long_comment_costs_no_time(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("# input a" + " " * 50_000 + "b\n# input" + " x" * 50_000 + "\n7\n")
    assert KeepList.load(path).doc_ids.tolist() == [7]


def test_a_list_of_unknown_documents_ends_the_run(pack):
    with pytest.raises(UsageError, match="no document 7"):
        pack("7")


def test_the_list_decides_whether_a_finished_folder_is_the_same(pack):
    first = pack("1", "out")
    assert pack("1 # the same\n", "out").manifest == first.manifest
    with pytest.raises(UsageError, match="a finished packed dataset is here"):
        pack("2", "out")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot open: No such file"):
        KeepList.load(tmp_path / "none.txt")


def test_what_no_wish_overrules_are_reasons_that_the_report_knows():
    from tokpack.on_disk.reasons import REASONS

    assert set(FACTS) <= set(REASONS)
    assert KeepList().sha256 == KeepList.load("").sha256
