"""Duplicates among chats with calls and reasoning: what is rendered counts, ids that are not do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import polars as pl
import pytest
from chats import write_rows
from encode_helpers import TOOL, document, frame, open_here, template

import tokpack
from tokpack.stages.dedup import text_hash
from tokpack.stages.render.render import Rendered, RenderSettings, render
from tokpack.stages.render.renderer import Renderer
from tokpack.stages.render.spans.chat_spans import SpanFinder
from tokpack.stages.render.template.chat_template import ChatTemplate

QUESTION = "Please look up when the next high water comes in at the harbour where I keep my boat."
ANSWER = "I have looked it up for you, see above for the time of high water at your harbour."
MISTRAL_CALLS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.id }}{{ c.function.name }}{% endfor %}{% endfor %}"
)


def call(harbour: str, days: int = 1, number: str = "c00000001") -> dict[str, Any]:
    arguments = {"harbour": harbour, "days": days, "id": "x"}
    return {"id": number, "type": "function", "function": {"name": "tide", "arguments": arguments}}


def chat(*calls: dict[str, Any], answers: tuple[str, ...] = (), **more: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "", "tool_calls": list(calls), **more},
        *({"role": "tool", "content": "ok", "tool_call_id": number} for number in answers),
        {"role": "assistant", "content": ANSWER},
    ]


def dropped(rows: list[Any], folder: Path, tokenizer: Path, **options: Any) -> list[str]:
    data = write_rows(folder / "rows.jsonl", [json.dumps(row).encode() for row in rows])
    out = tokpack.pack(data, folder / "out", tokenizer=str(tokenizer), max_length=1024, **options)
    return out.dropped["reason"].to_list()


def said(name: str, messages: list[dict[str, Any]], tools: Any = None) -> list[str | None]:
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    specials = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
    located = SpanFinder(ChatTemplate(template(name), variables), specials).locate(messages, tools)
    return [None if span is None else located.text[slice(*span)] for span in located.contents]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_a_turn_with_calls_says_its_calls_and_not_what_closes_it(name):
    found = said(name, chat(call("Emden"), answers=("c00000001",)), [TOOL])
    assert '"harbour": "Emden"' in str(found[1])
    assert "<|im_end|>" not in "".join(map(str, found))
    assert (found[0], found[2], str(found[3])[-20:]) == (QUESTION, "ok", ANSWER[-20:])


def test_a_turn_with_reasoning_says_its_reasoning():
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER, "reasoning_content": "Tides follow the moon."},
    ]
    assert said("qwen3", messages)[1] == f"<think>\nTides follow the moon.\n</think>\n\n{ANSWER}"
    assert said("qwen3", [messages[0], {"role": "assistant", "content": ANSWER}])[1] == ANSWER


@pytest.mark.parametrize("name", ["llama3_1", "gptoss"])
def test_what_a_tool_answers_as_data_is_said_where_the_template_writes_it_as_json(name):
    messages = chat(call("Emden"), answers=("c00000001",))
    for content in ({"high": "14:20", "café": [1, None]}, [1, 2], 3):
        messages[2]["content"] = content
        finder = SpanFinder(ChatTemplate(families.stock(name)), families.markers())
        located = finder.locate(messages, [TOOL])
        span = located.contents[2]
        assert span is not None
        assert json.loads(located.text[slice(*span)]) == content


@pytest.fixture(scope="module")
def calling(qwen, tmp_path_factory) -> Path:
    """Qwen's tokenizer with a template that writes calls."""
    folder = tmp_path_factory.mktemp("calling") / "model"
    tokenizer = open_here(qwen, folder.with_name("snapshot"), template("qwen3"))
    tokenizer.save(folder)
    return folder


def in_format(name: str, harbour: str, days: int) -> dict[str, Any]:
    """One chat that calls, in a format."""
    if name == "sharegpt":
        value = json.dumps({"name": "tide", "arguments": {"harbour": harbour, "days": days}})
        turns = [("human", QUESTION), ("function_call", value), ("observation", "ok"), ("gpt", ANSWER)]
        return {"conversations": [{"from": role, "value": text} for role, text in turns], "tools": [TOOL]}
    messages = chat(call(harbour, days), answers=("c00000001",))
    if name == "preference":
        return {
            "prompt": messages[:1],
            "chosen": messages[1:],
            "rejected": [{"role": "assistant", "content": f"{ANSWER} I think."}],
        }
    return {"messages": messages, "tools": [TOOL]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["messages", "sharegpt", "preference"])
def test_chats_that_differ_in_call_arguments_are_no_near_duplicates(name, calling, tmp_path):
    places = [("Emden", 1), ("Wilhelmshaven", 7), ("Emden", 1), ("Cuxhaven", 30)]
    rows = [in_format(name, *place) for place in places]
    reasons = dropped(rows, tmp_path, calling, near_dup=0.8)
    assert reasons == ["exact_duplicate"] * (2 if name == "preference" else 1)


@pytest.mark.slow
def test_evaluation_text_is_found_in_call_arguments(calling, tmp_path):
    text = "the harbour of Emden by the river Ems where the tide comes in at twenty past two in the afternoon"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": text}) + "\n", encoding="utf-8")
    rows = [{"messages": chat(call(place), answers=("c00000001",))} for place in (text, "Cuxhaven")]
    assert dropped(rows, tmp_path, calling, against=[str(tmp_path / "eval.jsonl")]) == ["contaminated"]


@pytest.mark.slow
def test_evaluation_text_is_found_where_a_template_writes_it_as_json(calling, tmp_path, caplog):
    text = 'the tide\ncomes\nin\n"at"\ntwenty\npast\ntwo\nby\nthe\nharbour\nof\nEmden\non\nthe\nEms'
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": [text, "a\nb"]}) + "\n", encoding="utf-8")
    rows = [{"messages": chat(call(place), answers=("c00000001",))} for place in (text, "Cuxhaven")]
    assert dropped(rows, tmp_path, calling, against=[str(tmp_path / "eval.jsonl")]) == ["contaminated"]


ACCENTED = "Überall höher: für Süden später, für Öfen früher, über Dünen größer, gegen fünf täglich möglich"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"tool_arguments": "as-is"}], ids=["as read", "as-is"])
@pytest.mark.parametrize("place", ["arguments", "answer", "question"])
def test_evaluation_text_is_found_where_letters_are_escaped(place, options, calling, tmp_path):
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": ACCENTED}) + "\n", encoding="utf-8")
    escaped = json.dumps({"text": ACCENTED})
    asked, called, answer, *rest = chat(call("Emden"), answers=("c00000001",))
    if place == "arguments":
        called = {**called, "tool_calls": [{"function": {"name": "tide", "arguments": escaped}}]}
    texts = {"answer": answer, "question": asked}
    messages = [{**m, "content": escaped} if m is texts.get(place) else m for m in (asked, called, answer)]
    rows = [{"messages": [*messages, *rest]}, {"messages": chat(call("Cuxhaven"), answers=("c00000001",))}]
    found = dropped(rows, tmp_path, calling, against=[str(tmp_path / "eval.jsonl")], **options)
    assert found == ["contaminated"]


@pytest.mark.slow
def test_evaluation_text_that_stands_in_json_is_found(calling, tmp_path):
    called = {"function": {"name": "search", "arguments": json.dumps({"query": ACCENTED})}}
    row = {"messages": [{"role": "assistant", "tool_calls": [called]}]}
    (tmp_path / "eval.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    rows = [{"messages": chat(call(place), answers=("c00000001",))} for place in (ACCENTED, "Cuxhaven")]
    assert dropped(rows, tmp_path, calling, against=[str(tmp_path / "eval.jsonl")]) == ["contaminated"]


@pytest.mark.slow
def test_chats_that_differ_in_unwritten_ids_are_exact_duplicates(calling, tmp_path):
    rows = [{"messages": chat(call("Emden", number=i), answers=(i,))} for i in ("call_a", "call_b", "call_c")]
    assert dropped(rows, tmp_path, calling) == ["exact_duplicate"] * 2


def spelled(form: str) -> dict[str, Any]:  # noqa: PLR0912 - one branch a spelling
    """One chat with a call and an answer that is data, as a set may spell it."""
    data, row = {"high": "14:20", "days": [1, 2]}, in_format("messages", "Emden", 1)
    messages = row["messages"]
    messages[2]["content"] = json.dumps(data)
    match form:
        case "arguments in a text":
            function = messages[1]["tool_calls"][0]["function"]
            function["arguments"] = json.dumps(function["arguments"])
        case "data":
            messages[2]["content"] = data
        case "tools in a text":
            row["tools"] = json.dumps(row["tools"])
        case "functions":
            row["functions"] = [row.pop("tools")[0]["function"]]
        case "a call in a text":
            messages[1]["tool_calls"] = json.dumps(messages[1]["tool_calls"])
        case "nulls":
            messages[0] |= {"tool_calls": None, "name": None}
            messages[1]["content"] = None
        case "missing":
            del messages[1]["content"]
        case "bare calls":
            messages[1]["tool_calls"] = [messages[1]["tool_calls"][0]["function"]]
        case "other ids":
            messages[1]["tool_calls"][0]["id"] = messages[2]["tool_call_id"] = "z9"
        case "arguments of the template":
            row["chat_template_kwargs"] = {"unread": 1}
        case "parts":
            messages[0]["content"] = [{"type": "text", "text": QUESTION}]
        case "white space":
            messages[0]["content"] = f" {QUESTION}\n"
        case "sharegpt":
            value = json.dumps(messages[1]["tool_calls"][0]["function"])
            said = [("human", QUESTION), ("function_call", value), ("observation", json.dumps(data))]
            turns = [{"from": role, "value": text} for role, text in [*said, ("gpt", ANSWER)]]
            return {"messages": turns, "tools": row["tools"]}
    return row


SPELLINGS = (
    *("arguments in a text", "data", "tools in a text", "functions", "a call in a text", "nulls", "missing"),
    *("bare calls", "other ids", "arguments of the template", "parts", "white space", "sharegpt"),
)


def test_rows_that_are_rendered_alike_are_exact_duplicates(calling, tmp_path):
    rows = [spelled("plain"), *map(spelled, SPELLINGS)]
    assert dropped(rows, tmp_path, calling) == ["exact_duplicate"] * len(SPELLINGS)


def test_what_is_trained_and_by_how_much_tells_documents_apart(calling, tmp_path):
    rows = []
    for keys in ({}, {"train": False}, {"weight": 0.5}, {"weight": 0.25}):
        rows.append({"messages": chat(call("Emden"), answers=("c00000001",))})
        rows[-1]["messages"][1] |= keys
    assert dropped([*rows, rows[2]], tmp_path, calling) == ["exact_duplicate"]


@pytest.mark.slow
def test_calls_that_a_template_leaves_out_are_no_difference_and_those_that_it_writes_are(qwen, tmp_path):
    rows = [{"messages": chat(call("Emden", number=i), answers=(i,))} for i in ("call_a", "call_b")]
    for name, text, expected in (
        ("silent", "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", 1),
        ("writes", MISTRAL_CALLS, 0),
    ):
        folder = tmp_path / name
        open_here(qwen, folder / "snapshot", text).save(folder / "model")
        assert len(dropped(rows, folder, folder / "model")) == expected


def with_arguments(answer: str, **arguments: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "chat_template_kwargs": arguments} if arguments else {"messages": messages}


@pytest.mark.slow
def test_documents_that_arguments_of_the_template_make_another_text_are_near_duplicates_of_their_like(
    qwen, tmp_path
):
    form = (
        "{% if thinks | default(true) %}/think {% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    open_here(qwen, tmp_path / "snapshot", form).save(tmp_path / "model")
    again = f"{ANSWER} Yes."
    rows = [
        with_arguments(ANSWER),
        with_arguments(ANSWER, thinks=False),
        with_arguments(again),  # of the first
        with_arguments(again, thinks=True),  # the same text
        with_arguments(again, thinks=False),  # of the second
        with_arguments(ANSWER, unread=1),
    ]
    data = write_rows(tmp_path / "rows.jsonl", [json.dumps(row).encode() for row in rows])
    out = tokpack.pack(data, tmp_path / "out", tokenizer=str(tmp_path / "model"), near_dup=0.6)
    columns = out.dropped.select("doc_id", "reason", pl.col("detail").str.split(" ").list.first())
    assert sorted(columns.rows()) == [
        (2, "near_duplicate", "0"),
        (3, "exact_duplicate", "2"),
        (4, "near_duplicate", "1"),
        (5, "exact_duplicate", "0"),
    ]


@pytest.mark.slow
def test_a_short_text_that_an_argument_puts_into_the_header_parts_no_near_duplicates(qwen, tmp_path):
    form = (
        "{{ date | default('') }}{{ rules | default('') }}{% if mode == 'terse' %}/short {% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    open_here(qwen, tmp_path / "snapshot", form).save(tmp_path / "model")
    rules = "Answer as a sailor of the north would, and mention each harbor that you know by its name."
    again = f"{ANSWER} Yes."
    rows = [
        with_arguments(ANSWER, date="1 Mar 2025"),
        with_arguments(again, date="2 Mar 2025"),  # of the first
        with_arguments(again, rules=rules),
        with_arguments(f"{again} So.", rules=rules, date="3 Mar 2025"),  # of the third
        with_arguments(again, mode="terse"),
        with_arguments(f"{again} So.", mode="terse", date="4 Mar 2025"),  # of the fifth
    ]
    data = write_rows(tmp_path / "rows.jsonl", [json.dumps(row).encode() for row in rows])
    out = tokpack.pack(data, tmp_path / "out", tokenizer=str(tmp_path / "model"), near_dup=0.6)
    columns = out.dropped.select("doc_id", "reason", pl.col("detail").str.split(" ").list.first())
    assert sorted(columns.rows()) == [(n, "near_duplicate", str(n - 1)) for n in (1, 3, 5)]


def rendered(chats: list[list[dict[str, Any]]], form: str, tokenizer: Path, folder: Path) -> Rendered:
    renderer = Renderer(open_here(tokenizer, folder, form), RenderSettings())
    return render(frame([document(chat) for chat in chats]), renderer)


@pytest.mark.parametrize("text", ["Three.\n", " Three. \t", "<|im_start|>", "Three.<|im_start|>\n"])
def test_what_an_answer_ends_with_is_said_whichever_way_it_is_rendered(text, qwen, tmp_path):
    form = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    answers = [
        {"role": "assistant", "content": said, "reasoning_content": "Why."} for said in ("Three.", text)
    ]
    chats = [[{"role": "user", "content": "q"}, answer] for answer in answers]
    renderer = Renderer(open_here(qwen, tmp_path, form), RenderSettings(paranoid=True))
    found = render(frame([document(chat) for chat in chats]), renderer)
    assert found.counters["compiled"] == len(chats)
    assert not renderer.warnings


@pytest.mark.parametrize("key", ["raw", "nfc", "folded"])
def test_hashes_follow_the_key(key, qwen, tmp_path):
    said = ["Caf\u00e9  au lait", "Cafe\u0301  au lait", " Caf\u00e9  au lait\n", "CAF\u00c9 au lait"]
    chats = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": text}] for text in said]
    found = text_hash(rendered(chats, template("qwen3"), qwen, tmp_path / "model"), key)
    assert len(np.unique(found, axis=0)) == {"raw": 4, "nfc": 2, "folded": 1}[key]


def test_words_of_the_template_in_a_content_are_no_turns(qwen, tmp_path):
    form = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    two = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    one = [{"role": "user", "content": "a<user>b"}]
    found = text_hash(rendered([two, one, two], form, qwen, tmp_path / "model"))
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()
