"""Ids and masks against transformers, for every template with and without its generation tags."""

from __future__ import annotations

import re
from functools import cache

import families
import pytest
from encode_helpers import (
    NAMES,
    SPECIALS,
    byte_level,
    document,
    expected,
    frame,
    open_here,
    random_chats,
    sentencepiece_like,
    template,
    tokenizer_folder,
)
from few import a_few
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokpack.schema import TRAINED
from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.tokenize import tokenize

KINDS = ("byte_level", "nfc", "byte_fallback", "llama2")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """kind -> (AutoTokenizer, folder, snapshot folder)."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("tokenizers")
    backends = {
        "byte_level": byte_level(),
        "nfc": byte_level(normalizer=normalizers.NFC()),
        "byte_fallback": sentencepiece_like(),
        "llama2": sentencepiece_like("sections"),
    }
    made = {}
    for kind, backend in backends.items():
        folder = tokenizer_folder(backend, root / kind)
        made[kind] = AutoTokenizer.from_pretrained(folder), folder, root / f"{kind}-snapshot"
    return made


@cache
def open_once(folder, snapshot, name, tagged):
    return open_here(folder, snapshot, template(name, tagged))


def opened(tokenizers, kind, name, tagged):
    return open_once(*tokenizers[kind][1:], name, tagged)


def compare(tokenizers, kind, name, chats, tagged, may_fail=0):
    """Render and tokenize the chats, and hold every document against transformers."""
    auto = tokenizers[kind][0]
    tokenizer = opened(tokenizers, kind, name, tagged)
    rendered = render(frame(document(*chat) for chat in chats), Renderer(tokenizer, RenderSettings()))
    tokens = tokenize(rendered, tokenizer)
    lost = empty = 0
    for row, (messages, tools) in enumerate(chats):
        try:
            ids, mask = expected(auto, messages, template(name), tools)
        except Exception:
            if row not in rendered.errors:
                assert any(m.get("content") is None for m in messages), (
                    "calls get the content that is asked for"
                )
                continue
            assert tokens.offsets[row] == tokens.offsets[row + 1]
            continue
        if row in rendered.errors:
            assert re.search("cannot tell|leaves out the content", rendered.errors[row])
            lost += "cannot tell" in rendered.errors[row]
            continue
        here = slice(*tokens.offsets[row : row + 2])
        assert tokens.input_ids[here].tolist() == ids
        got = (tokens.flags[here] & TRAINED).tolist()
        left = left_untrained(tokenizer.decode_rows([[i] for i in ids]), got, mask)
        if name == "deepseek":  # the generation prompt writes it
            left = left.replace("<think>", "")
        assert not re.sub("|".join(map(re.escape, (*SPECIALS, "</s>"))), "", left).strip(), rendered.text[row]
        empty += bool(left)
    assert lost <= may_fail
    assert empty <= rendered.told.get("turns_left_empty", 0)
    return rendered


def left_untrained(tokens, got, mask):
    """What is trained by transformers alone."""
    assert not any(ours and not theirs for ours, theirs in zip(got, mask, strict=True))
    return "".join(token for token, ours, theirs in zip(tokens, got, mask, strict=True) if ours != theirs)


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "untagged"])
@pytest.mark.parametrize("name", NAMES)
def test_plain_chats_have_the_ids_and_masks_of_transformers(tokenizers, name, tagged):
    chats = random_chats(40, seed=3)
    rendered = compare(tokenizers, "byte_level", name, chats, tagged)
    assert rendered.counters["compiled"] + rendered.counters["jinja"] == 40


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "untagged"])
@pytest.mark.parametrize("name", a_few(NAMES))
def test_tool_calls_and_reasoning_are_masked_as_by_transformers(tokenizers, name, tagged):
    compare(tokenizers, "byte_level", name, random_chats(40, seed=4, tools=True), tagged)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", a_few(["llama3", "mistral_v3", "qwen3"]))
def test_other_kinds_of_tokenizers_give_the_same_as_transformers(tokenizers, kind, name):
    for tagged in (True, False):
        compare(tokenizers, kind, name, random_chats(25, seed=5), tagged)


ODD = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from([" ", "\n", "\t", "\u00a0", "\u200d", "\u0301", "\x1f", "\u2028", "<", ">", "a"]),
    ),
    max_size=12,
)
CHATS = st.lists(st.tuples(ODD, ODD), min_size=1, max_size=3).map(
    lambda turns: [
        message
        for user, answer in turns
        for message in ({"role": "user", "content": user}, {"role": "assistant", "content": answer})
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "llama3", "smollm2", "mistral_v3", "deepseek"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(chats=st.lists(CHATS, min_size=1, max_size=4), kind=st.sampled_from(["byte_level", "nfc"]))
def test_any_unicode_in_contents_is_located(tokenizers, name, chats, kind):
    for tagged in (True, False):
        compare(tokenizers, kind, name, [(chat, None) for chat in chats], tagged)


def test_text_with_private_use_characters_is_located(tokenizers):
    used = "".join(map(chr, [0x100000, 0x100001, 0x100004, 0x10FFFD, 0xF0000, 0xE000]))
    chat = [{"role": "user", "content": f"a{used}b"}, {"role": "assistant", "content": used[::-1]}]
    for tagged in (True, False):
        compare(tokenizers, "byte_level", "qwen3", [(chat, None)], tagged)
    whole_plane = "".join(map(chr, range(0x100000, 0x10FFFE)))
    tokenizer = opened(tokenizers, "byte_level", "qwen3", tagged=False)
    documents = frame([document([{"role": "user", "content": whole_plane}, chat[1]])])
    assert "plane 16" in render(documents, Renderer(tokenizer, RenderSettings())).errors[0]


def test_content_parts_are_rendered_and_located(tokenizers):
    parts = [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two\n"}]
    answer = [{"type": "text", "text": "yes"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    rendered = compare(tokenizers, "byte_level", "parts", [(chat, None)], tagged=False)
    text = rendered.text[0].as_py()
    assert [text[a:b] for a, b in rendered.content.of_row(0)] == [" one <image>two\n", "yes"]


def trained_texts(tokenizers, name, messages, tools=None, tagged=False, **options):
    tokenizer = opened(tokenizers, "byte_level", name, tagged)
    rendered = render(frame([document(messages, tools)]), Renderer(tokenizer, RenderSettings(**options)))
    raw = rendered.text[0].as_py().encode()
    return [raw[a:b].decode() for a, b in rendered.trained.of_row(0)], rendered


CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello ü"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]


@pytest.mark.parametrize("tagged", [True, False])
def test_loss_selects_every_turn_or_the_last_or_all(tokenizers, tagged):
    texts, _ = trained_texts(tokenizers, "qwen2_5", CHAT, tagged=tagged)
    assert texts == ["Hello ü<|im_end|>", "Ciao<|im_end|>"]
    assert trained_texts(tokenizers, "qwen2_5", CHAT, tagged=tagged, loss="last")[0] == ["Ciao<|im_end|>"]
    texts, rendered = trained_texts(tokenizers, "qwen2_5", CHAT, tagged=tagged, loss="all")
    assert texts == [rendered.text[0].as_py()]


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("exclude", [{"train": False}, {"weight": 0}, {"weight": 0.0}])
def test_a_turn_can_be_left_out_of_the_loss(tokenizers, tagged, exclude):
    chat = [CHAT[0], {**CHAT[1], **exclude}, CHAT[2], {**CHAT[3], "weight": 1, "train": True}]
    assert trained_texts(tokenizers, "qwen2_5", chat, tagged=tagged)[0] == ["Ciao<|im_end|>"]
    assert trained_texts(tokenizers, "qwen2_5", [*chat[:3], {**CHAT[3], **exclude}], tagged=tagged)[0] == []
    texts, rendered = trained_texts(tokenizers, "qwen2_5", chat, tagged=tagged, loss="all")
    assert "Hello ü<|im_end|>".join(texts) == rendered.text[0].as_py()
    assert trained_texts(tokenizers, "qwen2_5", chat, tagged=tagged, loss="last")[0] == ["Ciao<|im_end|>"]


def test_a_think_block_belongs_to_the_turn_unless_the_prompt_writes_it(tokenizers):
    chat = [CHAT[0], {"role": "assistant", "content": "<think>\nWhy\n</think>\n\nSo"}]
    assert trained_texts(tokenizers, "qwen3", chat)[0] == ["<think>\nWhy\n</think>\n\nSo<|im_end|>"]
    assert trained_texts(tokenizers, "qwen3", CHAT[:2])[0] == ["<think>\n\n</think>\n\nHello ü<|im_end|>"]
    off = {"template_kwargs": {"enable_thinking": False}}
    assert trained_texts(tokenizers, "qwen3", CHAT[:2], **off)[0] == ["Hello ü<|im_end|>"]
    assert trained_texts(tokenizers, "qwen3", chat, **off)[0] == ["Why\n</think>\n\nSo<|im_end|>"]


def test_dropped_reasoning_of_earlier_turns_leaves_their_masks_right(tokenizers):
    chat = [CHAT[0], {"role": "assistant", "content": "<think>x</think>\n\none"}, CHAT[2], CHAT[3]]
    texts, rendered = trained_texts(tokenizers, "qwen3", chat)
    assert texts == ["one<|im_end|>", "<think>\n\n</think>\n\nCiao<|im_end|>"]
    raw = rendered.text[0].as_py()
    assert [raw[a:b] for a, b in rendered.content.of_row(0)] == ["Hi", "one", "Bye", "Ciao"]


def test_an_answer_that_begins_the_chat_is_located(tokenizers):
    for name in ("qwen3", "smollm2", "deepseek", "alpaca"):
        texts, _ = trained_texts(tokenizers, name, [CHAT[1], *CHAT])
        assert len(texts) == 3


def test_an_end_of_turn_token_in_tool_arguments_is_not_the_end(tokenizers):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "<|im_end|>"}}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    chat = [CHAT[0], asked, {"role": "tool", "content": "1"}, CHAT[1]]
    texts, rendered = trained_texts(tokenizers, "qwen2_5", chat)
    assert not rendered.errors
    assert texts[0].startswith("<tool_call>")
    assert texts[0].endswith("</tool_call><|im_end|>")


WITHOUT_MARKS = {
    "gemma4": ([families.MORE, families.calling(families.call())], ["<|tool_call>call:get_weather{"]),
    "phi3_5": (
        [{"role": "system", "content": ""}, families.ASK, {"role": "assistant", "content": ""}],
        ["<|end|>\n</s>"],
    ),
    "deepseek_r1_distill": ([families.ASK, families.TELL], ["Only me"]),
    "phi3": ([families.ASK, families.TELL, families.MORE, families.THEN], ["Only me", "It is fine"]),
    "glm4moe": ([families.ASK, {**families.TELL, **families.THOUGHT}], ["The user wants"]),
}


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", WITHOUT_MARKS)
def test_turns_begin_and_end_alike_where_the_marks_of_a_template_are_no_special_tokens(tmp_path, name):
    chat, begins = WITHOUT_MARKS[name]
    found = []
    for marks in ([], list(families.markers())):
        folder = tokenizer_folder(byte_level(), tmp_path / f"{len(marks)}", additional_special_tokens=marks)
        tokenizer = open_here(folder, tmp_path / f"{len(marks)}-snapshot", families.stock(name))
        options = RenderSettings(template_kwargs={"enable_thinking": False} if name == "glm4moe" else {})
        rendered = render(frame([document(chat)]), Renderer(tokenizer, options))
        text = rendered.text[0].as_py().encode()
        found.append([text[start:end].decode() for start, end in rendered.trained.of_row(0)])
    assert found[0] == found[1]
    assert [turn[: len(begin)] for turn, begin in zip(found[0], begins, strict=True)] == begins
    assert not any("<|tool_response>" in turn or "ssistant" in turn for turn in found[0])
