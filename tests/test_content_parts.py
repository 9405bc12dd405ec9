"""Contents of text parts: the ids are those of `apply_chat_template` on the row as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import chat_oracle
import families
import pytest
from chat_ways import both_ways
from drawn_chats import LONG, Batch
from encode_helpers import byte_level, tokenizer_folder
from few import a_few
from fuzz_chats import Judge, run_batch
from rows_read import written

import tokpack

pytestmark = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
STRIPPING = ("gemma4", "gemma4_v2", "gemma3", "diffusion_gemma")
"""Families of which the template strips each part."""


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


ASK = {"role": "user", "content": parts(" Who", " \n", "is there? ")}
TELL = {"role": "assistant", "content": parts("Only me. \n", " A friend.")}
CALL = {**families.calling(families.call()), "content": parts("")}
ANSWER = {**families.answer_of(), "content": parts("20 ", " degrees")}
CHATS = [
    [ASK, TELL],
    [{"role": "system", "content": parts(" Be brief ")}, ASK, TELL, families.ASK, TELL],
    [ASK, {"role": "assistant", "content": parts("So.")}],
]
CALLING = [ASK, CALL, ANSWER, TELL]
RENDER = {"tool_arguments": "auto", "loss_mask": "none", "loss": "assistant", "paranoid": True}


@pytest.fixture(scope="module")
def judge():
    return Judge()


def rows_of(name):
    chats = [chat for chat in CHATS if not families.refusal(name, "system") or chat[0]["role"] != "system"]
    with_tools = [] if families.refusal(name, "tool answer") else [CALLING]
    return [{"messages": chat} for chat in chats] * 4 + [
        {"messages": chat, "tools": families.TOOLS} for chat in with_tools
    ] * 4


@pytest.mark.parametrize("name", a_few(families.names()))
def test_parts_are_written_as_by_transformers_on_both_ways(name, judge, tmp_path):
    made = Batch(name, 0, rows_of(name), RENDER, {"max_length": LONG})
    with both_ways() as ways:
        outcomes, _, _ = run_batch(made, judge.tokenizer, tmp_path)
    assert ways.differences == []
    oracle = chat_oracle.Oracle(judge.auto, name)
    for row, ours in zip(made.rows, outcomes, strict=True):
        fate = judge.fate(oracle, made, row, ours)
        assert fate in ("equal", "left out", "dropped"), fate


def test_families_that_strip_each_part_write_another_text_than_of_the_joined_one(judge):
    for name in STRIPPING:
        oracle = chat_oracle.Oracle(judge.auto, name)
        joined = [{**m, "content": "".join(part["text"] for part in m["content"])} for m in CHATS[0]]
        assert oracle.render(oracle.stock, CHATS[0], None, {}) != oracle.render(
            oracle.stock, joined, None, {}
        )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    specials = [*families.markers(), "<|im_start|>", "<|im_end|>"]
    folder = tmp_path_factory.mktemp("gemma") / "tokenizer"
    template = families.stock("gemma4")
    return tokenizer_folder(byte_level(), folder, template, additional_special_tokens=specials)


def ids_of(folder: Path, chat: list) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)[
        "input_ids"
    ]


def packed_ids(data, folder, out):
    packed = tokpack.pack(data, out, tokenizer=folder, max_length=4096, clean="off")
    found = {}
    for row in (packed[i] for i in range(len(packed))):
        at = 0
        for number, length in zip(row["doc_ids"], row["seq_lengths"], strict=True):
            found[int(number)] = row["input_ids"][at : at + length].tolist()
            at += length
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("container", ["jsonl", "json", "parquet", "saved"])
def test_every_format_and_container_keeps_the_parts(container, gemma, tmp_path):
    chat = CHATS[0]
    other = {"role": "assistant", "content": parts("Nobody. ", " ")}
    for number, (row, wanted) in enumerate(
        [
            ({"messages": chat}, [chat]),
            ({"conversations": chat}, [chat]),
            ({"prompt": [ASK], "completion": [TELL]}, [chat]),
            ({"prompt": [ASK], "chosen": [TELL], "rejected": [other]}, [chat, [ASK, other]]),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        data = written(tmp_path / str(number), [row], container)
        found = packed_ids(str(data), gemma, tmp_path / f"out{number}")
        assert found == [ids_of(gemma, each) for each in wanted]


def test_a_content_that_cleaning_changed_is_one_text(gemma, tmp_path):
    chat = [ASK, {"role": "assistant", "content": parts("Only me. ", " A friend.</s>")}]
    said = {"role": "assistant", "content": "Only me.  A friend."}
    assert packed_ids([{"messages": chat}], gemma, tmp_path / "out") == [ids_of(gemma, [ASK, said])]


def test_text_that_is_cleaned_alone_has_the_parts_joined(gemma, tmp_path):
    tokpack.clean([{"messages": CHATS[0]}], tmp_path / "kept.jsonl", tokenizer=gemma)
    [row] = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
    assert [message["content"] for message in row["messages"]] == [
        " Who \nis there? ",
        "Only me. \n A friend.",
    ]
    assert all(message.keys() == {"role", "content"} for message in row["messages"])
