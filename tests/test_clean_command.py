"""`tokpack clean`: what pack would keep, as rows of text that read back as the same documents."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from chats import messy_rows, write_rows
from commands import run as command
from encode_helpers import frame
from hypothesis import given, settings
from hypothesis import strategies as st

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.files.locks import beside
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.blocks import Block
from tokpack.stages.read.sources import Source
from tokpack.terminal.activity import Activity, Task
from tokpack.text import cleaning
from tokpack.text.formats import FORMATS
from tokpack.text.formats import write_rows as write_lines

pytestmark = pytest.mark.slow

CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"q": "größe"}'}}
ODD_ROWS: list[Any] = [
    {
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "messages": [
            {"role": "user", "content": "How tall?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "4 m", "tool_call_id": "a"},
            {"role": "assistant", "content": "4 metres."},
        ],
    },
    {
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "not this", "weight": 0},
            {"role": "user", "content": "mail me at jo@somewhere.org"},
            {"role": "assistant", "content": "I will."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": ["parts", {"type": "text", "text": "!"}]},
            {"role": "assistant", "content": "\u2028yes"},
        ]
    },
]
SAME = {"clean": "off", "exact_key": "off", "max_length": 100_000, "special_in_content": "keep"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    odd = [json.dumps(row).encode() for row in ODD_ROWS]
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", [*messy_rows(300), *odd])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def documents_of(packed: tokpack.PackedFolder) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of the documents in order."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for number in range(len(packed)):
        row, start = packed[number], 0
        for doc, length in zip(row["doc_ids"].tolist(), row["seq_lengths"].tolist(), strict=True):
            part = slice(start, start + length)
            found[doc] = row["input_ids"][part].tolist(), row["labels"][part].tolist()
            start += length
    return [found[doc] for doc in sorted(found)]


@pytest.mark.parametrize("format", ["openai", "sharegpt"])
def test_kept_rows_read_back_as_the_same_documents_and_tokens(rows, smollm2, tmp_path, format):
    out = tmp_path / "kept.jsonl"
    tokenizer = str(smollm2)
    report = tokpack.clean(rows, out, to=format, tokenizer=tokenizer, near_dup=0.8, mask_personal=True)
    assert not report.data["estimated"]
    whole = {"tokenizer": tokenizer, "max_length": 100_000, "near_dup": 0.8, "mask_personal": True}
    packed = tokpack.pack(rows, tmp_path / "packed", **whole)
    again = tokpack.pack(out, tmp_path / "again", tokenizer=tokenizer, **SAME)
    assert documents_of(again) == documents_of(packed)
    assert len(lines_of(out)) == packed.manifest["documents"] == report.data["ledger"]["documents"]["kept"]
    both = tokpack.pack([str(rows), str(out)], tmp_path / "both", tokenizer=tokenizer, clean="off")
    if format == "openai":  # equal by their hash, too; masked ones are not the originals
        copies = both.ledger["sources"]["kept.jsonl"]["documents"]["dropped"]["exact_duplicate"]
        assert copies >= len(lines_of(out)) - report.data["counters"]["with_email"]
    assert report.data["ledger"]["tokens"] == packed.ledger["tokens"]


def test_everything_that_is_not_in_the_file_is_on_record(rows, tmp_path):
    report = tokpack.clean(rows, tmp_path / "kept.jsonl")
    documents = report.data["ledger"]["documents"]
    dropped = pl.read_parquet(tmp_path / "kept.dropped.parquet")
    quarantined = lines_of(tmp_path / "kept.quarantine.jsonl")
    assert documents["quarantined"] == len(quarantined) > 0
    assert documents["dropped"] == dict(dropped.group_by("reason").len().sort("reason").rows())
    assert (
        documents["read"] == 303 == len(lines_of(tmp_path / "kept.jsonl")) + len(dropped) + len(quarantined)
    )
    assert json.loads((tmp_path / "kept.report.json").read_text()) == report.data


def test_rows_keep_input_order_and_do_not_depend_on_workers_or_blocks(rows, tmp_path):
    written = []
    for number, options in enumerate(({"workers": 1}, {"workers": 3, "block_mb": 1})):
        out = tmp_path / f"{number}.jsonl"
        tokpack.clean([str(rows)] * 2, out, exact_key="off", **options)
        written.append(out.read_bytes())
    assert written[0] == written[1]
    half = len(written[0]) // 2
    assert written[0][:half] == written[0][half:]


def test_a_call_gets_what_the_service_asks_for(tmp_path):
    row = {
        "conversations": [
            {"from": "human", "value": "How tall?"},
            {"from": "function_call", "value": '{"name": "look", "arguments": {"q": 1}}'},
            {"from": "observation", "value": "4 m"},
            {"from": "gpt", "value": "4 metres."},
        ]
    }
    data = write_rows(tmp_path / "calls.jsonl", [json.dumps(row).encode()])
    tokpack.clean(data, tmp_path / "kept.jsonl")
    (kept,) = lines_of(tmp_path / "kept.jsonl")
    call = kept["messages"][1]["tool_calls"][0]
    assert call == {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}}
    assert kept["messages"][2]["tool_call_id"] == "call_0"


def test_train_false_is_weight_zero_for_the_service(tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    messages[1]["train"] = False  # type: ignore[assignment]
    data = write_rows(tmp_path / "chats.jsonl", [json.dumps({"messages": messages}).encode()])
    tokpack.clean(data, tmp_path / "kept.jsonl")
    assert [turn.get("weight") for turn in lines_of(tmp_path / "kept.jsonl")[0]["messages"]] == [
        None,
        0,
        None,
        None,
    ]


@pytest.fixture(scope="module")
def whole(rows, smollm2, tmp_path_factory) -> tokpack.PackedFolder:
    """The rows packed with default cleaning, none too long."""
    out = tmp_path_factory.mktemp("whole") / "packed"
    return tokpack.pack(rows, out, tokenizer=str(smollm2), max_length=100_000)


@pytest.mark.parametrize(("format", "field"), [("alpaca", "history"), ("prompt_completion", "completion")])
def test_other_shapes_hold_what_they_can_and_name_the_rest(rows, whole, smollm2, tmp_path, format, field):
    out = tmp_path / "kept.jsonl"
    report = tokpack.clean(rows, out, to=format, tokenizer=str(smollm2))
    assert any(field in row for row in lines_of(out))
    documents = report.data["ledger"]["documents"]
    assert documents["dropped"]["not_in_format"] > 0
    assert documents["kept"] == len(lines_of(out)) > 50
    again = tokpack.pack(out, tmp_path / "again", tokenizer=str(smollm2), **SAME)
    originals = documents_of(whole)
    assert all(document in originals for document in documents_of(again))


def test_texts_are_written_as_texts_and_nothing_else(tmp_path):
    rows = [json.dumps({"text": f"Some words, number {n}.\n\tTabs\u0007 and é"}).encode() for n in range(30)]
    data = write_rows(tmp_path / "texts.jsonl", rows)
    tokpack.clean(data, tmp_path / "kept.jsonl", to="text")
    assert lines_of(tmp_path / "kept.jsonl") == [json.loads(row) for row in rows]
    with pytest.raises(DataError, match="30 not_in_format"):
        tokpack.clean(data, tmp_path / "chat.jsonl")


def test_a_budget_and_a_longest_document_are_in_tokens(rows, smollm2, tmp_path):
    report = tokpack.clean(rows, tmp_path / "kept.jsonl", tokenizer=str(smollm2), budget=3000, max_length=200)
    ledger = report.data["ledger"]
    assert 2500 < ledger["tokens"]["packed"] <= 3000
    assert {"over_budget", "overlong"} <= ledger["documents"]["dropped"].keys()


def test_masked_text_is_what_is_written(rows, tmp_path):
    tokpack.clean(rows, tmp_path / "kept.jsonl", mask_personal=True)
    text = (tmp_path / "kept.jsonl").read_text()
    assert "jo@somewhere.org" not in text
    assert "mail me at <EMAIL>" in text


def test_the_bill_is_tokens_times_epochs_times_price(rows, tmp_path):
    out = tmp_path / "kept.jsonl"
    bill = tokpack.clean(rows, out, api_price=4.0, epochs=3).data
    (service,) = bill["bill"]["services"]
    for key, tokens in (("as_it_came", "tokenized"), ("kept", "packed")):
        assert service[key]["value"] == pytest.approx(bill["ledger"]["tokens"][tokens] * 3 * 4.0 / 1e6)
    listed = tokpack.clean(rows, out, overwrite=True).data["bill"]["services"]
    assert listed
    assert all(price["provider"] == "OpenAI" for price in listed)
    named = tokpack.clean(rows, out, overwrite=True, api="fireworks-lora-16b").data["bill"]["services"]
    assert [price["key"] for price in named] == ["fireworks-lora-16b"]
    assert tokpack.clean(rows, out, overwrite=True, to="sharegpt").data["bill"]["services"] == []
    with pytest.raises(UsageError, match="both a price and a service"):
        tokpack.clean(rows, out, overwrite=True, api_price=1.0, api="openai-gpt-4o")


def test_a_tokenizer_learned_from_the_data_counts_about_as_a_models_own(rows, smollm2, tmp_path):
    learned = tokpack.clean(rows, tmp_path / "a.jsonl").data
    own = tokpack.clean(rows, tmp_path / "b.jsonl", tokenizer=str(smollm2)).data
    assert learned["estimated"]
    assert "estimates" in console_text(tokpack.clean(rows, tmp_path / "c.jsonl"))
    assert learned["ledger"]["tokens"]["tokenized"] == pytest.approx(
        own["ledger"]["tokens"]["tokenized"], rel=0.5
    )
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    assert tokpack.clean(rows, tmp_path / "d.jsonl").data == learned


def console_text(renderable: Any) -> str:
    from rich.console import Console

    console = Console(width=140, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_a_file_that_is_there_is_replaced_only_when_asked_and_whole(rows, tmp_path, monkeypatch):
    out = tmp_path / "kept.jsonl"
    tokpack.clean(rows, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        tokpack.clean(rows, out)
    real = cleaning._figures
    monkeypatch.setattr(cleaning, "_figures", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tokpack.clean(rows, out, overwrite=True, clean="off")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.setattr(cleaning, "_figures", real)
    tokpack.clean(rows, out, overwrite=True, clean="off")
    assert out.read_bytes() != before["kept.jsonl"]


def test_a_command_killed_before_the_rows_have_their_name_is_repeated_as_if_nothing_was(rows, tmp_path):
    out = tmp_path / "kept.jsonl"
    tokpack.clean(rows, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    out.rename(beside(out, "part"))  # its companions have theirs
    tokpack.clean(rows, out)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    out.unlink()
    with pytest.raises(UsageError, match="exists already"):
        tokpack.clean(rows, out)


def test_input_that_changes_between_the_passes_is_an_error(tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(50))

    class Changing(Activity):
        def end(self, task: Task) -> None:
            super().end(task)
            if task.what == "reading and tokenizing":
                data.write_bytes(data.read_bytes().replace(b"so ", b"no "))

    with pytest.raises(DataError, match="changed while it was read"):
        tokpack.clean(data, tmp_path / "kept.jsonl", tell=Changing(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["chats.jsonl"]


def test_what_cannot_be_cleaned_to_text_is_refused(rows, tmp_path):
    out = tmp_path / "kept.jsonl"
    ids = write_rows(tmp_path / "ids.jsonl", [b'{"input_ids": [1, 2], "labels": [1, 2]}'])
    pairs = write_rows(tmp_path / "pairs.jsonl", [b'{"prompt": "a", "chosen": "b", "rejected": "c"}'])
    for data, options, message in (
        ("-", {}, "standard input"),
        (ids, {}, "tokenized already"),
        (pairs, {}, "preference pairs"),
        (rows, {"to": "opena"}, "did you mean 'openai'"),
    ):
        with pytest.raises(UsageError) as error:
            tokpack.clean(data, out, **options)  # type: ignore[arg-type]
        assert message in str(error.value)
    with pytest.raises(UsageError, match="a folder"):
        tokpack.clean(rows, tmp_path)
    assert not out.exists()


def test_the_command_line(rows, tmp_path):
    run = partial(command, "clean")
    out = str(tmp_path / "kept.jsonl")
    shown = run(str(rows), "--to", "openai", "-o", out, "--format", "messages")
    assert shown.returncode == 0, shown.stderr
    assert "OpenAI gpt-4o" in shown.stdout
    assert "documents kept" in shown.stdout
    assert run(str(rows), "-o", out).returncode == 2
    assert json.loads(run(str(rows), "-o", out, "--overwrite", "--json").stdout)["to"] == "openai"


# Shapes


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text("ab", min_size=1)
extras = st.fixed_dictionaries(
    {}, optional={"name": names, "reasoning_content": names, "train": st.just(False)}
)
said = st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), texts, extras)
DATA = ("tool", '{"a": [1, "b", null]}', {"content_is_json": True})
ARGUMENTS = {"chat_template_kwargs": {"enable_thinking": False}}


@st.composite
def chats(draw: st.DrawFn) -> pl.DataFrame:
    count = draw(st.integers(1, 4))
    turns = [draw(st.lists(said | st.just(DATA), min_size=1, max_size=4)) for _ in range(count)]
    held = [{"messages": [e for _, _, e in turn]} if any(e for _, _, e in turn) else {} for turn in turns]
    beside = [draw(st.sampled_from([{}, ARGUMENTS])) for _ in turns]
    extra = [
        json.dumps(h | b, ensure_ascii=False) if h or b else None for h, b in zip(held, beside, strict=True)
    ]
    columns: dict[str, Any] = {
        "doc_id": list(range(count)),
        "source": [0] * count,
        "row": list(range(1, count + 1)),
        "kind": ["chat"] * count,
        "roles": [[role for role, _, _ in turn] for turn in turns],
        "contents": [[content for _, content, _ in turn] for turn in turns],
        "extra": extra,
        "drop_reason": [None] * count,
        "drop_detail": [None] * count,
    }
    return pl.DataFrame(columns, schema=DOCUMENT_SCHEMA)


@pytest.mark.parametrize("format", ["openai", "sharegpt"])
@settings(max_examples=80, deadline=None)
@given(documents=chats())
def test_any_chat_reads_back_as_it_was(format: str, documents: pl.DataFrame) -> None:
    lines, lost = write_lines(documents, FORMATS[format])
    assert not lost.any()
    field = "messages" if format == "openai" else "conversations"
    rows = lines.count(b"\n")
    assert rows == len(documents)
    block = Block(0, 0, 0, 0, rows, rows, lines)
    source = Source("rows.jsonl", "rows.jsonl", "jsonl", "", SourceConfig(path="rows.jsonl"))
    read = normalize(block, source, Shape.of("messages" if format == "openai" else "sharegpt", {}, [field]))
    assert not read.quarantined
    for column in ("roles", "contents"):
        assert read.documents[column].to_list() == documents[column].to_list()
    found, wanted = ([json.loads(e or "{}") for e in d["extra"]] for d in (read.documents, documents))
    assert found == wanted
    assert np.array_equal(read.documents["doc_id"], documents["doc_id"])


@pytest.mark.parametrize("format", ["alpaca", "prompt_completion"])
def test_arguments_of_the_template_stand_beside_any_conversation(format):
    plain = frame([{"roles": ["user", "assistant"], "contents": ["q", "a"], "extra": json.dumps(ARGUMENTS)}])
    lines, lost = write_lines(plain, FORMATS[format])
    assert not lost.any()
    assert json.loads(lines)["chat_template_kwargs"] == ARGUMENTS["chat_template_kwargs"]


def test_the_input_is_not_replaced_by_what_is_kept_of_it(rows, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    copy = folder / "kept.jsonl"
    copy.write_bytes(rows.read_bytes())
    for data in (copy, folder):
        with pytest.raises(UsageError, match="the output is one of the inputs"):
            tokpack.clean(str(data), copy, overwrite=True)
    assert copy.read_bytes() == rows.read_bytes()
