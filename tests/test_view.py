"""The local page: what its lists, documents and wishes answer, and to whom."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="no starlette: pip install 'tokpack[view]'")
pytest.importorskip("starlette.testclient")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chats import messy_rows, write_rows
from starlette.testclient import TestClient
from test_left_out import ROWS, SETTINGS

import tokpack
from tokpack.errors import DataError, OutputError, UsageError
from tokpack.packed.folder import PackedFolder
from tokpack.stages.keep import KeepList
from tokpack.terminal.activity import Activity
from tokpack.terminal.printable import printable
from tokpack.view.run import open_data, shown
from tokpack.view.server import SCRIPTS, loopback_socket, make_app
from tokpack.view.table import DocumentTable, Query, read_losses

TOKEN = "the-token"
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\u202egnp.exe\x1b[31m'


def chat(prompt: str, answer: str) -> bytes:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode()


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> PackedFolder:
    folder = tmp_path_factory.mktemp("view")
    first = write_rows(
        folder / "sea.jsonl", [*ROWS, chat(HOSTILE, "Ω as it is"), chat("1 + 1?", "2 " + HOSTILE)]
    )
    second = write_rows(folder / "messy.jsonl", messy_rows(80, seed=3))
    return tokpack.pack([str(first), str(second)], folder / "packed", tokenizer=str(qwen), **SETTINGS)


@pytest.fixture(scope="module")
def log(packed, tmp_path_factory) -> Path:
    """Two epochs; in the last the loss of a document is its doc_id / 100."""
    ids = [doc for row in range(len(packed)) for doc in packed[row]["doc_ids"].tolist()]
    path = tmp_path_factory.mktemp("log") / "documents.parquet"
    columns = {
        "epoch": [0] * len(ids) + [1] * len(ids),
        "doc_id": ids * 2,
        "piece": pa.array([0] * 2 * len(ids), pa.int32()),
        "tokens": [1] * 2 * len(ids),
        "times": [1] * 2 * len(ids),
        "loss": [9.0] * len(ids) + [doc / 100 for doc in ids],
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def page(packed, log, tmp_path) -> Any:
    with shown(packed, tmp_path / "keep.txt", log) as found:
        client = TestClient(make_app(found, TOKEN), base_url="http://127.0.0.1:5000")
        client.texts = found.texts
        yield client


def ask(page: Any, path: str, code: int = 200) -> Any:
    answer = page.get(f"/{TOKEN}/{path}")
    assert answer.status_code == code, answer.text
    return answer.json()


def every(page: Any, path: str) -> list[Any]:
    """Items of all pages of a list."""
    join = "&" if "?" in path else "?"
    first = ask(page, path)
    items = first["items"]
    for number in range(1, first["pages"]):
        items += ask(page, f"{path}{join}page={number}")["items"]
    assert len(items) == first["total"]
    return items


def search(page: Any, path: str) -> list[Any]:
    page.texts.hits("kept", "x"), page.texts.hits("left_out", "x")  # both are made now
    return every(page, path)


# To whom


def test_only_who_knows_the_token_and_the_name_of_loopback_gets_an_answer(page):
    assert page.get("/").status_code == 404
    assert page.get("/another-token/api/summary").status_code == 404
    assert page.get("/api/summary").status_code == 404
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:5000",
        "localhost:1@evil.example",
    ):
        assert page.get(f"/{TOKEN}/api/summary", headers={"host": host}).status_code == 400
    for host in ("localhost:5000", "127.0.0.1"):
        assert page.get(f"/{TOKEN}/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["", *SCRIPTS, "view.css", "api/summary", "nothing", "../../etc/passwd"])
def test_every_answer_forbids_other_scripts_and_frames(page, path):
    answer = page.get(f"/{TOKEN}/{path}")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_names_no_other_place(page):
    for name in ("", *SCRIPTS, "view.css"):
        text = page.get(f"/{TOKEN}/{name}").text.replace("http://www.w3.org/2000/svg", "")
        assert "//cdn" not in text
        assert "http" not in text


def test_wishes_need_a_post(page):
    assert page.get(f"/{TOKEN}/api/keep/1").status_code == 405


def test_the_socket_is_on_loopback_alone_and_a_taken_port_is_an_error():
    with loopback_socket(0) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), timeout=5):
            pass  # before anything serves
        with pytest.raises(OutputError, match=f"port {port} cannot be used"):
            loopback_socket(port)


# What


def test_rows_are_blocks_of_documents_with_their_trained_stretches(page, packed):
    rows = every(page, "api/list/rows")
    assert [row["row"] for row in rows] == list(range(len(packed)))
    for row in rows:
        record = packed[row["row"]]
        assert [doc["doc_id"] for doc in row["documents"]] == record["doc_ids"].tolist()
        assert [doc["length"] for doc in row["documents"]] == record["seq_lengths"].tolist()
        drawn = [
            e - s
            for doc in row["documents"]
            for s, e in zip(doc["runs"][::2], doc["runs"][1::2], strict=True)
        ]
        assert sum(drawn) == row["trained"] == int((record["labels"] != -100).sum())
    by_documents = every(page, "api/list/rows?sort=documents&descending=1")
    counts = [len(row["documents"]) for row in by_documents]
    assert counts == sorted(counts, reverse=True)


def test_documents_sort_and_filter_by_what_they_are(page):
    for sort in ("length", "loss", "doc_id"):
        for descending in (0, 1):
            found = every(page, f"api/list/kept?sort={sort}&descending={descending}")
            values = [doc[sort] for doc in found]
            assert values == sorted(values, reverse=bool(descending)), sort
    shares = [d["trained"] / d["length"] for d in every(page, "api/list/kept?sort=trained")]
    assert shares == sorted(shares)
    of_one = every(page, "api/list/kept?source=messy.jsonl")
    assert of_one
    assert {doc["source"] for doc in of_one} == {"messy.jsonl"}
    assert all(20 <= doc["length"] <= 60 for doc in every(page, "api/list/kept?shortest=20&longest=60"))
    assert every(page, "api/list/kept?source=none") == []


def test_what_was_left_out_is_all_there_by_reason(page, packed):
    everything = every(page, "api/list/left_out")
    dropped = packed.ledger["documents"]
    assert len(everything) == sum(dropped["dropped"].values()) + dropped["quarantined"]
    reasons = {reason["name"]: reason["count"] for reason in ask(page, "api/summary")["reasons"]}
    assert reasons == dropped["dropped"] | {"unreadable": dropped["quarantined"]}
    for reason, count in reasons.items():
        assert len(every(page, f"api/list/left_out?reason={reason}")) == count


def test_search_finds_what_texts_hold_in_any_case_and_nothing_else(page, packed):
    texts = {}
    for doc in every(page, "api/list/kept"):
        shown = ask(page, f"api/kept/{doc['doc_id']}?piece={doc['piece']}")
        texts[doc["doc_id"]] = "".join(text for text, _ in shown["runs"])
    for wanted in ("QUICK", "ω as", "<b>", "x=1;", "nowhere at all", "(", "你好"):
        found = {doc["doc_id"] for doc in search(page, f"api/list/kept?text={wanted}")}
        assert found == {doc for doc, text in texts.items() if wanted.lower() in text.lower()}, wanted
    left_out = search(page, "api/list/left_out?text=language model")
    assert [doc["reason"] for doc in left_out] == ["refusal"]


def test_a_kept_document_is_its_text_as_rendered(page, packed):
    def text_of(ids: Any) -> str:
        return printable(packed.tokenizer.decode(ids))

    doc = every(page, "api/list/kept")[0]
    shown = ask(page, f"api/kept/{doc['doc_id']}")
    record = packed[doc["packed_row"]]
    start = dict(zip(record["doc_ids"].tolist(), [0, *record["seq_lengths"].cumsum().tolist()], strict=False))
    first = start[doc["doc_id"]]
    part = slice(first, first + doc["length"])
    assert "".join(text for text, _ in shown["runs"]) == text_of(record["input_ids"][part])
    trained = record["input_ids"][part][record["labels"][part] != -100]
    assert "".join(text for text, kind in shown["runs"] if kind == "trained") == text_of(trained)
    assert shown["loss"] == doc["doc_id"] / 100
    ask(page, "api/kept/99999", 404)


def test_a_duplicate_stands_beside_what_it_repeats(page):
    near = ask(page, "api/left-out/1")
    assert (near["reason"], near["twin"]["doc_id"], near["twin"]["same"]) == ("near_duplicate", 0, False)
    marked = [[text for text, kind in message["runs"] if kind == "mark"] for message in near["messages"]]
    assert marked == [[], ["end"]]
    assert near["detail"].startswith("document 0, similarity 0.")
    assert near["detail"] in {line["detail"] for line in every(page, "api/list/left_out")}
    assert ask(page, "api/left-out/5")["twin"]["same"] is True
    refusal = ask(page, "api/left-out/4")
    assert [text for text, kind in refusal["messages"][1]["runs"] if kind] == ["As an AI language model"]
    unread = ask(page, "api/left-out/3")
    assert unread["raw"] == '{"broken \\xff'
    ask(page, "api/left-out/0", 404)


def test_hostile_text_is_told_as_text_with_what_steers_it_made_visible(page):
    shown = ask(page, "api/kept/6")
    text = "".join(text for text, _ in shown["runs"])
    assert "<script>alert(1)</script>" in text
    assert "\u202e" not in json.dumps(shown, ensure_ascii=False)
    assert "\\u202e" in text
    assert page.get(f"/{TOKEN}/api/kept/6").headers["content-type"] == "application/json"


def test_without_the_inputs_the_page_says_why_there_is_no_text(packed, tmp_path):
    copy = tmp_path / "packed"
    shutil.copytree(packed.folder, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(
        json.dumps(record | {"inputs": ["/nowhere/a.jsonl", "https://b.example/b"]})
    )
    with shown(PackedFolder(copy), tmp_path / "keep.txt") as found:
        found.texts.hits("left_out", "x")
        client = TestClient(make_app(found, TOKEN), base_url="http://127.0.0.1")
        assert "sea.jsonl is no longer at" in ask(client, "api/left-out/1")["fault"]
        other = next(doc for doc in every(client, "api/list/left_out") if doc["source"] == "messy.jsonl")
        if other["reason"] != "unreadable":
            assert "it is not fetched" in ask(client, f"api/left-out/{other['doc_id']}")["fault"]
        assert ask(client, "api/summary")["fault"] == ""


# Wishes


def test_wishes_become_a_list_that_pack_honors(page, packed, qwen, tmp_path):
    for doc in (4, 5):
        assert page.post(f"/{TOKEN}/api/keep/{doc}").json()["wanted"] is True
    assert page.post(f"/{TOKEN}/api/keep/5?wanted=0").json() == {"wanted": False, "all": 1}
    assert page.post(f"/{TOKEN}/api/keep/3").status_code == 400  # unreadable
    assert page.post(f"/{TOKEN}/api/keep/0").status_code == 400  # kept anyway
    path = tmp_path / "keep.txt"
    assert KeepList.load(path).doc_ids.tolist() == [4]
    assert "4  # refusal, sea.jsonl row 6" in path.read_text()
    assert ask(page, "api/left-out/4")["wanted"] is True
    assert ask(page, "api/summary")["wanted"] == 1
    paths = packed.input_paths
    again = tokpack.pack(paths, tmp_path / "again", tokenizer=str(qwen), keep=str(path), **SETTINGS)
    assert again.row_of_document(4) is not None
    assert again.ledger["documents"]["kept_after_all"] == {"refusal": 1}


def test_a_keep_list_of_other_data_is_refused(packed, tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text(f"# input other.jsonl {'0' * 64}\n1\n")
    with pytest.raises(UsageError, match="of other data"), shown(packed, path):
        pass


# Opening


def test_raw_data_is_packed_first_and_needs_a_tokenizer(packed, qwen, tmp_path):
    rows = packed.input_paths[:1]
    with pytest.raises(UsageError, match="there is no tokenizer"):
        open_data(rows, tmp_path, Activity(quiet=True), {})
    options = {"tokenizer": str(qwen), **SETTINGS}
    assert len(open_data(rows, tmp_path, Activity(quiet=True), options)) > 0
    with pytest.raises(UsageError, match="shown as it is") as caught:
        open_data([str(packed.folder)], tmp_path, Activity(quiet=True), {"near_dup": 0.8})
    assert caught.value.where == "--near-dup"
    assert open_data([str(packed.folder)], tmp_path, Activity(quiet=True), {}).folder == packed.folder
    copied = open_data([f"file://{packed.folder}"], tmp_path, Activity(quiet=True), {})
    assert copied.manifest == packed.manifest


def test_a_log_of_something_else_is_an_error(packed, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 0, "doc_id": 5000, "piece": 0, "loss": 1.0}\n')
    assert read_losses(tmp_path / "log.jsonl")["loss"].to_list() == [1.0]
    with pytest.raises(UsageError, match="no document of the log"):
        _ = DocumentTable(packed, tmp_path / "log.jsonl").pieces
    (tmp_path / "log.jsonl").write_text("no log\n")
    with pytest.raises(DataError, match="not a log of documents"):
        read_losses(tmp_path / "log.jsonl")


def test_the_rows_of_pairs_are_shown(qwen, tmp_path):
    pairs = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}."} for n in range(4)]
    packed = tokpack.pack(pairs, tmp_path / "pairs", tokenizer=str(qwen), max_length=64)
    with shown(packed, tmp_path / "keep.txt") as found:
        page = TestClient(make_app(found, TOKEN), base_url="http://127.0.0.1:5000")
        assert sum(len(row["documents"]) for row in every(page, "api/list/rows")) == 8
        assert "Yes, 3." in json.dumps(ask(page, "api/kept/6"))


def test_the_first_list_is_answered_before_texts_are_made(packed, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("tokpack.view.texts.Texts._make", lambda texts: made.append("texts"))
    with shown(packed, tmp_path / "keep.txt") as found:
        page = TestClient(make_app(found, TOKEN), base_url="http://127.0.0.1:5000")
        for path in ("", "view.js", "api/summary"):
            page.get(f"/{TOKEN}/{path}")
        assert made == []
        monkeypatch.setattr(found.table, "row_order", lambda query: made.append("rows") or np.arange(1))
        every(page, "api/list/rows")
        ask(page, "api/list/kept?text=sea")
        assert made == ["rows", "texts"]


def test_of_a_row_of_very_many_documents_the_first_are_drawn(page, monkeypatch):
    (whole,) = [row for row in every(page, "api/list/rows") if row["row"] == 0]
    assert whole["count"] == len(whole["documents"]) > 1
    monkeypatch.setattr("tokpack.view.detail.MOST_DOCUMENTS", 1)
    (cut,) = [row for row in every(page, "api/list/rows") if row["row"] == 0]
    assert cut == whole | {"documents": whole["documents"][:1]}


def test_queries_that_make_no_sense_are_no_crash(page):
    assert ask(page, "api/list/kept?page=99999999999&shortest=-3&sort=nonsense")["items"] == []
    assert ask(page, "api/list/left_out?language=xx&sort=length&longest=abc")["page"] == 0
    ask(page, "api/list/secrets", 404)
    for digits in (19, 5000):  # more than an integer takes
        assert page.get(f"/{TOKEN}/api/kept/{'9' * digits}").status_code == 404
    assert Query().page == 0
