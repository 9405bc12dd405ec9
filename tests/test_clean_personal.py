"""Personal data: what is masked, what is left alone, and how it is counted."""

from __future__ import annotations

import json

import polars as pl
import pytest
from clean_cases import Doc, ask, documents

from tokpack.settings.config import CleanConfig
from tokpack.stages.clean import clean
from tokpack.stages.mask_personal import count_personal, mask_personal

# Joined at run time, so that no scanner takes them for leaked keys.
KEYS = [
    "AKIA" + "ABCDEFGH12345678",
    "sk-" + "proj-abc123DEF456ghi789jkl",
    "ghp" + "_" + "a1" * 18,
    "xoxb" + "-123456789012-abcdef",
    "AIza" + "Sy" + "A1b2C3d4E5" * 3 + "xyz",
    "hf" + "_" + "aB3" * 11,
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----",
]


def masked(text: str) -> str:
    return str(mask_personal(documents([ask(text, "ok")]))[0]["contents"][0][0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write to anna.meier+news@firma-nord.de.", "Write to <EMAIL>."),
        ("<a href='mailto:j_doe@mail.corp.co.uk'>", "<a href='mailto:<EMAIL>'>"),
        ("写信到 wang@公司.cn 或 wang@mail.cn。", "写信到 wang@公司.cn 或 <EMAIL>。"),
        ("a@b.io,c@d.io", "<EMAIL>,<EMAIL>"),
        ("Tel. +49 (0)30 901820-12", "Tel. <PHONE>"),
        ("call +1-202-456-1111 or (202) 456-1414", "call <PHONE> or <PHONE>"),
        ("at 702-383-0381.", "at <PHONE>."),
        *((f"key = '{key}'", "key = '<KEY>'") for key in KEYS),
    ],
)
def test_personal_data_is_masked(text: str, wanted: str) -> None:
    assert masked(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "john@example.com, jane@mail.example.org, root@localhost, x@host.test",
        "git clone git@github.com:acme/tool.git",
        "@decorator\ndef f(a @ b): return a@b",
        "x = 702-383-0381.5; y = a+4912345678901; 2024-01-31 12:30:45",
        "555-0100 and (212) 555-0123 are not real numbers",
        "ISBN 978-3-16-148410-0, 3.14159265358979, 10 + 1234567 = 1234577, 192.168.100.2000",
        "sk-learn, sk-estimator-with-long-name, hf_hub_download, AKIA, eyJ",
        "1.234.567,89 EUR; order 2000-12-3456",
    ],
)
def test_what_is_not_personal_stays(text: str) -> None:
    assert masked(text) == text


def test_tool_calls_stay_valid_json_when_masked() -> None:
    arguments = json.dumps({"to": "boss@firma.de", "body": "Hi\nbob@firma.de\tx"})
    call = {"messages": [{}, {"tool_calls": [{"function": {"name": "mail", "arguments": arguments}}]}]}
    doc = Doc([("user", "Mail my boss"), ("assistant", "")], extra=json.dumps(call))
    cleaned, counters = mask_personal(documents([doc, ask("Hi", "Hello")]))
    function = json.loads(cleaned["extra"][0])["messages"][1]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"to": "<EMAIL>", "body": "Hi\n<EMAIL>\tx"}
    assert cleaned["extra"][1] is None
    assert counters == {"with_email": 1, "with_phone": 0, "with_key": 0}


def test_documents_are_counted_once_a_kind() -> None:
    docs = [
        ask("a@b.io and c@d.io", "e@f.io, +49 30 1234567"),
        ask("Hi", None),
        Doc([]),
        ask(KEYS[0], "g@h.io"),
    ]
    frame = documents(docs)
    assert count_personal(frame) == {"with_email": 2, "with_phone": 1, "with_key": 1}
    cleaned, _ = mask_personal(frame)
    assert cleaned["contents"].to_list()[1:] == [["Hi", None], [], ["<KEY>", "<EMAIL>"]]
    assert cleaned.schema == frame.schema


def test_the_stage_masks_on_request_and_counts_in_strict() -> None:
    docs = documents([ask("Hi", "Write to anna@firma.de")])
    plain = clean(docs, CleanConfig())
    assert "with_email" not in plain.counters
    strict = clean(docs, CleanConfig(rules="strict,-url_only"))
    assert strict.counters["with_email"] == 1
    assert strict.documents["contents"].to_list() == docs["contents"].to_list()
    asked = clean(docs, CleanConfig(mask_personal=True))
    assert asked.documents["contents"].to_list() == [["Hi", "Write to <EMAIL>"]]
    assert asked.counters["with_email"] == 1
    assert asked.documents["drop_reason"].to_list() == [None]


def test_without_personal_data_the_documents_are_the_same_object() -> None:
    docs = documents([ask("Hi", "Hello"), ask("a+b@c", None)])
    assert mask_personal(docs)[0] is docs
    assert isinstance(docs, pl.DataFrame)
