"""Duplicates among chats with calls and reasoning: what is rendered counts, ids that are not do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chats import write_rows
from encode_helpers import TOOL, document, frame, open_here, template

import tokpack
from tokpack.stages.call_ids import without_ids, writes_call_ids
from tokpack.stages.dedup import content_hash
from tokpack.stages.render.chat_spans import SpanFinder
from tokpack.stages.render.chat_template import ChatTemplate

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
def test_chats_that_differ_in_unwritten_ids_are_exact_duplicates(calling, tmp_path):
    rows = [{"messages": chat(call("Emden", number=i), answers=(i,))} for i in ("call_a", "call_b", "call_c")]
    assert dropped(rows, tmp_path, calling) == ["exact_duplicate"] * 2


def extra_of(messages: list[dict[str, Any]]) -> str | None:
    [extra] = without_ids(frame([document(messages)])["extra"]).to_list()
    return extra


def test_ids_are_taken_away_and_arguments_of_that_name_stay():
    bare = extra_of(chat(call("Emden"), answers=("c00000001",)))
    assert "c00000001" not in str(bare)
    assert '"id": "x"' in str(bare)


def test_calls_that_share_an_id_over_the_turns_lose_it_too():
    turn = chat(call("Emden"), answers=("c00000001",))
    assert "c00000001" not in str(extra_of(turn + turn))


def test_ids_stay_as_numbers_where_answers_are_out_of_order():
    two = [call("Emden", number="a"), call("Norden", number="b")]
    crossed, straight = chat(*two, answers=("b", "a")), chat(*two, answers=("a", "b"))
    assert extra_of(crossed) != extra_of(straight)
    renamed = [call("Emden", number="p"), call("Norden", number="q")]
    assert extra_of(crossed) == extra_of(chat(*renamed, answers=("q", "p")))


def test_a_message_with_nothing_but_an_id_equals_one_without():
    plain = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    named = [{**message, "id": f"msg_{i}"} for i, message in enumerate(plain)]
    hashes = content_hash(frame([document(plain), document(named)]), hide_ids=True)
    assert (hashes[0] == hashes[1]).all()
    assert without_ids(pl.Series([None, '{"tools": []}'], dtype=pl.String)).to_list() == [
        None,
        '{"tools": []}',
    ]


def test_a_template_that_writes_ids_or_refuses_calls_keeps_them():
    assert writes_call_ids(ChatTemplate(MISTRAL_CALLS))
    assert writes_call_ids(ChatTemplate("{{ raise_exception('no tools') }}"))
    assert not writes_call_ids(ChatTemplate(template("qwen3")))
