"""Rendering: plain documents, errors, options; chats are in `test_render_spans.py`."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from encode_helpers import byte_level, document, frame, small_tokenizer, template, tokenizer_folder

from tokpack.errors import UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.render.left_out import warnings
from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.tokenize import tokenize

PAIR = {"kind": "prompt_completion", "roles": ["user", "assistant"], "contents": ["Question é", "Answer"]}
WITH_SYSTEM = {
    "kind": "prompt_completion",
    "roles": ["system", "user", "assistant"],
    "contents": ["Be good", "Question", "Answer"],
}
TEXT = {"kind": "text", "roles": ["text"], "contents": ["Some text"]}
CHAT = {"roles": ["user", "assistant"], "contents": ["Hi", "Hello"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("render") / "tokenizer"


@cache
def opened(folder, chat_template=None):
    return small_tokenizer(folder, chat_template=chat_template)


def encode(tokenizer, rows, **options):
    """[(text, text of the trained tokens, text of the content tokens)] of the rows."""
    rendered = render(frame(rows), Renderer(tokenizer, RenderSettings(**options)))
    assert not rendered.errors
    tokens = tokenize(rendered, tokenizer)
    found = []
    for low, high in zip(tokens.offsets, tokens.offsets[1:], strict=False):
        ids, flags = tokens.input_ids[low:high], tokens.flags[low:high]
        chosen = [ids, ids[flags & TRAINED > 0], ids[flags & CONTENT > 0]]
        found.append(tuple(tokenizer.decode(part) for part in chosen))
    return found


def test_plain_documents_are_joined_and_closed_with_one_eos(folder):
    assert encode(opened(folder), [PAIR, TEXT, WITH_SYSTEM], separator="\n") == [
        ("Question é\nAnswer</s>", "Answer</s>", "Question éAnswer"),
        ("Some text</s>", "Some text</s>", "Some text"),
        ("Be good\nQuestion\nAnswer</s>", "Answer</s>", "Be goodQuestionAnswer"),
    ]


def test_prompt_and_completion_are_tokenized_together(folder):
    rows = [{**PAIR, "contents": ["hel", "lo"]}]
    tokens = tokenize(render(frame(rows), Renderer(opened(folder), RenderSettings())), opened(folder))
    ids = opened(folder).reference.encode("hello").ids
    assert tokens.input_ids.tolist() == [*ids, opened(folder).eos_id]
    crossing = [token for token in opened(folder).decode_rows([[i] for i in ids]) if "l" in token]
    assert crossing, (
        "the vocabulary has a token across the edge, which is trained as it holds the first character"
    )
    assert tokens.flags[-1] & TRAINED


def test_eos_can_be_left_out_and_is_never_doubled(folder):
    ended = {**TEXT, "contents": ["Some text</s>"]}
    assert encode(opened(folder), [TEXT, ended, PAIR], eos=False) == [
        ("Some text", "Some text", "Some text"),
        ("Some text</s>", "Some text</s>", "Some text</s>"),
        ("Question éAnswer", "Answer", "Question éAnswer"),
    ]
    assert encode(opened(folder), [ended])[0][0] == "Some text</s>"


def test_loss_all_trains_the_prompt_of_plain_documents_too(folder):
    assert encode(opened(folder), [PAIR], loss="all")[0][1] == "Question éAnswer</s>"


@pytest.mark.parametrize("both", [False, True])
def test_bos_is_what_the_post_processor_adds_and_its_eos_is_not_doubled(tmp_path, both):
    from tokenizers import processors

    backend = byte_level()
    made = tokenizer_folder(backend, tmp_path / "bos")
    raw = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    number = {token["content"]: token["id"] for token in raw["added_tokens"]}
    single = "<s> $A </s>" if both else "<s> $A"
    pairs = [("<s>", number["<s>"]), ("</s>", number["</s>"])]
    from tokenizers import Tokenizer as Backend

    changed = Backend.from_str(json.dumps(raw))
    changed.post_processor = processors.TemplateProcessing(single=single, special_tokens=pairs)
    changed.save(str(made / "tokenizer.json"))
    tokenizer = small_tokenizer(made)
    again = {**TEXT, "contents": ["<s>Some text"]}
    assert encode(tokenizer, [TEXT, PAIR, again]) == [
        ("<s>Some text</s>", "<s>Some text</s>", "Some text"),
        ("<s>Question éAnswer</s>", "Answer</s>", "Question éAnswer"),
        ("<s>Some text</s>", "<s>Some text</s>", "<s>Some text"),
    ]
    assert encode(tokenizer, [TEXT], eos=False)[0][0] == "<s>Some text"


def test_auto_renders_pairs_by_the_template_if_there_is_one_and_text_never(folder):
    tokenizer = opened(folder, template("smollm2"))
    rows = [PAIR, TEXT, CHAT, WITH_SYSTEM]
    texts = [text for text, _, _ in encode(tokenizer, rows)]
    assert texts[0].endswith(
        "<|im_start|>user\nQuestion é<|im_end|>\n<|im_start|>assistant\nAnswer<|im_end|>\n"
    )
    assert texts[1] == "Some text</s>"
    assert texts[3].startswith("<|im_start|>system\nBe good<|im_end|>\n")
    plain = encode(tokenizer, rows, render="plain", separator=" ")
    assert [text for text, _, _ in plain] == [
        "Question é Answer</s>",
        "Some text</s>",
        "Hi Hello</s>",
        "Be good Question Answer</s>",
    ]
    assert plain[2][1] == "Hello</s>"


def test_a_chat_of_several_turns_rendered_plain_is_an_error_row(folder):
    long = {"roles": ["user", "assistant"] * 2, "contents": ["a", "b", "c", "d"]}
    rendered = render(frame([CHAT, long]), Renderer(opened(folder), RenderSettings(render="plain")))
    assert list(rendered.errors) == [1]
    assert "4 messages" in rendered.errors[1]


@pytest.mark.parametrize(
    ("kind", "mode"), [("chat", "auto"), ("chat", "chat"), ("prompt_completion", "chat")]
)
def test_a_template_that_is_needed_and_missing_is_a_usage_error(folder, kind, mode):
    with pytest.raises(UsageError, match="--chat-template FILE"):
        render(frame([{**CHAT, "kind": kind}]), Renderer(opened(folder), RenderSettings(render=mode)))


def test_plain_documents_and_a_tokenizer_without_eos_are_a_usage_error(tmp_path):
    tokenizer = small_tokenizer(tokenizer_folder(byte_level(), tmp_path / "none", eos_token=None))
    with pytest.raises(UsageError, match="--no-eos"):
        render(frame([TEXT]), Renderer(tokenizer, RenderSettings()))
    assert encode(tokenizer, [TEXT], eos=False)[0][0] == "Some text"


def test_what_the_template_refuses_is_an_error_row_with_its_words(folder):
    tokenizer = opened(folder, template("gemma"))
    rows = [CHAT, {"roles": ["user", "user"], "contents": ["a", "b"]}, {"roles": [], "contents": []}]
    rendered = render(frame(rows), Renderer(tokenizer, RenderSettings()))
    assert rendered.errors == {
        1: "Conversation roles must alternate user/assistant/user/assistant/...",
        2: "a chat without messages",
    }
    tokens = tokenize(rendered, tokenizer)
    assert tokens.offsets[1:].tolist() == [tokens.offsets[1]] * 3


def test_half_a_surrogate_pair_is_an_error_row(folder):
    row = document([{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}])
    rendered = render(frame([row]), Renderer(opened(folder, template("parts")), RenderSettings()))
    assert "surrogate" in rendered.errors[0]


def test_contents_of_dropped_documents_may_be_null(folder):
    tokenizer = opened(folder, template("qwen2_5"))
    kept = {"roles": ["user", "assistant"], "contents": ["Hi", None]}
    rows = [{**kept, "drop_reason": "empty_answer"}, {**TEXT, "contents": [None]}]
    rendered = render(frame(rows), Renderer(tokenizer, RenderSettings()))
    assert not rendered.errors
    assert rendered.text[0].as_py().endswith("<|im_start|>assistant\n<|im_end|>\n")
    assert tokenize(rendered, tokenizer).offsets[2] - tokenize(rendered, tokenizer).offsets[1] == 1


def test_a_turn_left_out_of_a_plain_document_takes_its_eos_along(folder):
    extra = json.dumps({"messages": [{}, {"train": False}]})
    assert encode(opened(folder), [{**PAIR, "extra": extra}])[0][1] == ""


def test_the_date_of_a_template_is_pinned_and_said(folder):
    tokenizer = opened(folder, template("parts"))
    renderer = Renderer(tokenizer, RenderSettings(date="2024-07-26"))
    assert "26 July 2024" in render(frame([CHAT]), renderer).text[0].as_py()
    assert renderer.uses_date
    assert "2024-07-26" in renderer.warnings[0]
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        Renderer(tokenizer, RenderSettings(date="tomorrow"))


def test_a_template_with_a_tool_variant_uses_it_for_chats_with_tools(tmp_path):
    folder = tokenizer_folder(byte_level(), tmp_path / "several")
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(folder)
    auto.chat_template = {"default": template("smollm2"), "tool_use": template("qwen2_5")}
    auto.save_pretrained(folder)
    tokenizer = small_tokenizer(folder)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = render(
        frame([document(chat), document(chat, tools=[{"name": "f"}])]), Renderer(tokenizer, RenderSettings())
    )
    assert "SmolLM" in rendered.text[0].as_py()
    assert "# Tools" in rendered.text[1].as_py()
    again = small_tokenizer(save(tokenizer, tmp_path / "saved"))
    assert (again.chat_template, again.tool_template) == (tokenizer.chat_template, tokenizer.tool_template)


def save(tokenizer, folder):
    tokenizer.save(folder)
    return folder


def test_every_document_and_byte_is_there_once(folder):
    """Offsets cover the text without gap or overlap, whatever the mixture of paths."""
    tokenizer = opened(folder, template("qwen3"))
    rows = [
        CHAT,
        TEXT,
        PAIR,
        {"roles": ["user", "assistant"], "contents": ["?", "x</think>é"]},
        {"roles": ["user", "assistant"], "contents": ["?", ""]},
    ]
    rendered = render(frame(rows * 3), Renderer(tokenizer, RenderSettings()))
    alone = [render(frame([row]), Renderer(tokenizer, RenderSettings())).text[0].as_py() for row in rows]
    assert rendered.text.to_pylist() == alone * 3
    assert rendered.counters["jinja"] == 2  # the first of a shape cut at what the template asks for
    assert np.array_equal(rendered.plain, [row is TEXT for row in rows] * 3)


THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{{ '[think]' if enable_thinking }}{{ mood }}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_arguments_of_a_row_and_of_the_run_reach_the_template(folder):
    tokenizer = opened(folder, THINKING)
    row = {**CHAT, "extra": json.dumps({"chat_template_kwargs": {"enable_thinking": True}})}
    both = {**CHAT, "extra": json.dumps({"chat_template_kwargs": {"mood": "sad"}})}
    renderer = Renderer(tokenizer, RenderSettings(template_kwargs={"mood": "glad"}))
    rendered = render(frame([CHAT, row, both, CHAT, row, row, row]), renderer)
    base = "<user>Hi</s><assistant>Hello</s>"
    texts = [base + end for end in ("glad", "[think]glad", "sad", "glad", *["[think]glad"] * 3)]
    assert rendered.text.to_pylist() == texts
    assert rendered.told == {"with_template_arguments": 5, "template_arguments_overruled": 1}
    assert [rendered.trained.of_row(i) for i in range(3)] == [[(23, 32)]] * 3


@pytest.mark.parametrize(("own", "count"), [({"mood": "sad"}, 1), ({"mood": "glad"}, 0), ({"unread": 2}, 0)])
def test_arguments_of_a_row_that_win_over_those_of_the_run_are_counted(folder, own, count):
    rows = [{**CHAT, "extra": json.dumps({"chat_template_kwargs": own})}, CHAT]
    options = RenderSettings(template_kwargs={"mood": "glad", "unread": 1})
    rendered = render(frame(rows), Renderer(opened(folder, THINKING), options))
    assert rendered.told.get("template_arguments_overruled", 0) == count
    said = (
        "1 document brings other arguments of the chat template than --template-kwarg gives, "
        "and is rendered with its own"
    )
    assert warnings(rendered.told) == [said] * count


def test_a_row_cannot_replace_messages_or_fill_the_memory_with_engines(folder):
    tokenizer = opened(folder, THINKING)
    odd = [{"messages": [], "tools": 1, "add_generation_prompt": True, "mood": str(i)} for i in range(40)]
    rows = [{**CHAT, "extra": json.dumps({"chat_template_kwargs": kwargs})} for kwargs in odd]
    renderer = Renderer(tokenizer, RenderSettings())
    rendered = render(frame(rows), renderer)
    assert rendered.text.to_pylist() == [f"<user>Hi</s><assistant>Hello</s>{i}" for i in range(40)]
    assert len(renderer._engines) <= 32
