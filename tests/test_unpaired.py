"""Unpaired preferences: labels follow their documents from the rows of the input to every command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from encode_helpers import byte_level, template, tokenizer_folder

from tokpack import merge, pack, repack, verify
from tokpack.errors import UsageError
from tokpack.export import export
from tokpack.packed.preference_checks import LABELED, label_faults
from tokpack.view.table import DocumentTable


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    return tokenizer_folder(byte_level(), folder, template("qwen3", False))


def written(folder, rows, name="answers.jsonl"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(count=30):
    return [
        {"prompt": f"Question {n // 2}?", "completion": f"Answer {n}." * (1 + n % 4), "label": n % 3 == 0}
        for n in range(count)
    ]


def labels(packed):
    """doc_id -> label, of all rows."""
    found = {}
    for row in (packed[i] for i in range(len(packed))):
        assert len(row["is_desirable"]) == len(row["doc_ids"])
        for doc_id, good in zip(row["doc_ids"].tolist(), row["is_desirable"].tolist(), strict=True):
            assert found.setdefault(doc_id, good) == good
    return found


OPTIONS = {"max_length": 128, "clean": "off", "format": "unpaired"}


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("answers"), texts())
    return pack(path, path.parent / "packed", tokenizer=model, val=0.2, **OPTIONS)


def test_labels_follow_their_documents_through_packing_repacking_and_merging(packed, model, tmp_path):
    wanted = {n: n % 3 == 0 for n in range(30)}
    held_out = labels(packed.validation)
    assert labels(packed) | held_out == wanted
    assert held_out
    assert packed.manifest["kind"] == packed.validation.manifest["kind"] == "unpaired"
    count = sum(labels(packed).values())
    assert packed.report["labels"] == {"desirable": count, "undesirable": len(labels(packed)) - count}
    again = repack(packed, tmp_path / "again", max_length=512)
    assert labels(again) == labels(packed)
    other = pack(written(tmp_path / "b", texts(9)), tmp_path / "other", tokenizer=model, **OPTIONS)
    both = merge([packed, other], tmp_path / "both")
    assert labels(both) == labels(packed) | {30 + n: n % 3 == 0 for n in range(9)}
    assert both.report["labels"]["desirable"] == count + 3
    for folder in (packed.folder, again.folder, both.folder):
        result = verify(folder)
        assert result.ok
        assert any(check.name == "labels" for check in result.checks)
    shown = [check.detail for check in verify(both.folder).checks if check.name == "labels"]
    assert shown[0].startswith(f"{count + 3} desirable, ")


def test_the_page_says_in_which_row_of_its_file_a_document_stands(packed):
    table = DocumentTable(packed)
    assert {doc: table.place(doc)[1] for doc in range(30)} == {doc: doc + 1 for doc in range(30)}


def test_copies_have_the_label_of_their_document(model, tmp_path):
    path = written(tmp_path, texts(6))
    settings = tmp_path / "pack.toml"
    settings.write_text(f'[[source]]\npath = "{path}"\nformat = "unpaired"\nrepeat = 2\n', encoding="utf-8")
    options = {"config": settings, "max_length": 128, "clean": "off"}
    packed = pack([], tmp_path / "packed", tokenizer=model, **options)
    assert labels(packed) == {n: n % 3 == 0 for n in range(6)}
    assert sum(len(packed[i]["doc_ids"]) for i in range(len(packed))) == 12
    assert verify(packed.folder).ok
    assert sum(packed.report["labels"].values()) == 6


@pytest.mark.parametrize("shape", ["texts", "messages", "sharegpt", "alpaca", "words", "kwargs"])
def test_every_shape_with_one_answer_is_read_with_its_label(shape, model, tmp_path):
    rows = {
        "texts": [{"prompt": "Q", "completion": f"A{n}", "label": n % 2 == 0} for n in range(4)],
        "messages": [
            {
                "messages": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "first"},
                    {"role": "user", "content": "more"},
                    {"role": "assistant", "content": f"A{n}"},
                ],
                "kto_tag": n % 2 == 0,
            }
            for n in range(4)
        ],
        "sharegpt": [
            {
                "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": f"A{n}"}],
                "kto_tag": int(n % 2 == 0),
            }
            for n in range(4)
        ],
        "alpaca": [{"instruction": "Q", "output": f"A{n}", "label": n % 2 == 0} for n in range(4)],
        "words": [{"prompt": "Q", "completion": f"A{n}", "label": ["good", "bad"][n % 2]} for n in range(4)],
        "kwargs": [
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "completion": [{"role": "assistant", "content": f"A{n}"}],
                "label": n % 2 == 0,
            }
            for n in range(4)
        ],
    }[shape]
    packed = pack(written(tmp_path, rows), tmp_path / "packed", tokenizer=model, **OPTIONS)
    assert labels(packed) == {n: n % 2 == 0 for n in range(4)}
    trained = [
        packed.tokenizer.decode(row["input_ids"][row["labels"] != -100].tolist())
        for row in (packed[i] for i in range(len(packed)))
    ]
    said = "".join(trained)
    assert all(f"A{n}" in said for n in range(4))
    assert "first" not in said  # of a conversation, the last answer was judged


def test_parquet_gives_the_same_rows_as_json_lines(model, packed, tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "answers.parquet"
    pq.write_table(pa.Table.from_pylist(texts()), path)
    other = pack(path, tmp_path / "packed", tokenizer=model, val=0.2, **OPTIONS)
    assert [s["sha256"] for s in other.manifest["shards"]] == [s["sha256"] for s in packed.manifest["shards"]]


def test_one_answer_called_good_and_bad_is_two_documents_and_a_row_without_label_is_none(model, tmp_path):
    row = {"prompt": "Name a bird.", "completion": "The tern."}
    rows = [{**row, "label": label} for label in (True, False, True, None)] + [row]
    options = OPTIONS | {"allow_bad": 0.5}
    packed = pack(written(tmp_path, rows), tmp_path / "packed", tokenizer=model, **options)
    assert labels(packed) == {0: True, 1: False}
    assert packed.ledger["documents"]["dropped"] == {"exact_duplicate": 1}
    assert [entry["doc_id"] for entry in packed.quarantined()] == [3, 4]
    assert all("there is no label" in entry["reason"] for entry in packed.quarantined())
    assert verify(packed.folder).ok


def test_a_long_answer_is_left_out_whole(model, tmp_path):
    rows = [*texts(4), {"prompt": "Q", "completion": "long " * 200, "label": True}]
    packed = pack(written(tmp_path, rows), tmp_path / "packed", tokenizer=model, **OPTIONS)
    assert packed.ledger["documents"]["dropped"] == {"overlong": 1}
    assert set(labels(packed)) == {0, 1, 2, 3}


def test_labels_that_contradict_each_other_or_are_cut_off_are_found(packed, tmp_path):
    import polars as pl

    told = pl.DataFrame([[3, 3, 4, 5], [True, False, True, False]], schema=LABELED)
    detail, faults = label_faults(told, pl.DataFrame({"doc": [3, 4, 4], "piece": [0, 0, 1]}))
    assert detail.endswith("undesirable")
    assert faults == ["document 3 is labeled good and bad", "document 4 is torn into pieces"]
    folder = tmp_path / "altered"
    shutil.copytree(packed.folder, folder)
    shard = folder / packed.manifest["shards"][0]["file"]
    with pa.ipc.open_stream(shard.read_bytes()) as reader:  # not mapped: the file is written again
        table = reader.read_all()
    good = [[not one for one in row] for row in table.column("is_desirable").to_pylist()]
    at = table.schema.get_field_index("is_desirable")
    table = table.set_column(at, table.schema.field(at), pa.array(good, pa.list_(pa.bool_())))
    with pa.ipc.new_stream(shard, table.schema) as writer:
        writer.write_table(table)
    assert not verify(folder).ok


def test_what_cannot_be_done_with_unpaired_preferences_is_refused(packed, model, tmp_path):
    path = written(tmp_path / "a", texts())
    chats = written(tmp_path / "b", [{"prompt": "Q", "completion": "A"}], "chats.jsonl")
    for settings, message in (
        ({}, "holds unpaired preferences"),
        ({"format": "unpaired", "overlong": "split"}, "splitting would tear unpaired preferences"),
        ({"format": "unpaired", "loss": "all"}, "compared by their completions"),
        ({"format": "unpaired", "shard_format": "index"}, "holds no labels of answers"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            pack(path, tmp_path / "out", tokenizer=model, max_length=128, **settings)
        assert settings or "--format unpaired" in error.value.hint
    with pytest.raises(UsageError, match="no column says which answers are good"):
        pack(chats, tmp_path / "out", tokenizer=model, **OPTIONS)
    with pytest.raises(UsageError, match="would learn the bad answers"):
        export(packed, "trl", tmp_path / "trl")
    with pytest.raises(UsageError, match="holds no labels of answers"):
        repack(packed, tmp_path / "index", shard_format="index")
    plain = pack(chats, tmp_path / "plain", tokenizer=model, max_length=128, clean="off")
    with pytest.raises(UsageError, match="another kind of documents"):
        merge([packed, plain], tmp_path / "both")


def test_inspect_and_the_report_say_which_answers_are_good(packed):
    from io import StringIO

    from rich.console import Console

    from tokpack.packed.viewer import ShownRow

    out = StringIO()
    Console(file=out, width=200, no_color=True).print(ShownRow(packed, 0))
    row = packed[0]
    for doc_id, good in zip(row["doc_ids"].tolist(), row["is_desirable"].tolist(), strict=True):
        assert f"{'desirable' if good else 'undesirable'}, document {doc_id}:" in out.getvalue()
    assert np.dtype(bool) == row["is_desirable"].dtype
