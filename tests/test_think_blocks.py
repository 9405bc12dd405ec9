"""Contents with several think blocks, or a text before one: read alike on both ways, and as trl's masks."""

from __future__ import annotations

import families
import pytest
from chat_ways import by_compiler, by_jinja, differences
from encode_helpers import byte_level, document, frame, open_here, tokenizer_folder

from tokpack.stages.render.render import Renderer, RenderSettings

ASK, TELL = families.ASK, families.TELL
needs_trl = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("markers") / "tokenizer"
    return tokenizer_folder(byte_level(), place, additional_special_tokens=list(families.markers()))


def alike(folder, name, chat, masked=(), **more):
    """What Jinja renders of a chat, which the compiled shape renders as well."""
    tokenizer = open_here(folder, folder.with_name("snapshot"), families.stock(name))
    options = RenderSettings(loss_mask=masked, **more)
    documents = frame([document(chat)] * 3)
    fast = by_compiler(documents, Renderer(tokenizer, options))
    slow = by_jinja(documents, Renderer(tokenizer, options))
    assert differences(documents, fast, slow) == []
    assert fast.told == slow.told
    return slow


def trained(rendered):
    text = rendered.text[0].as_py().encode()
    return [text[slice(*span)].decode() for span in rendered.trained.of_row(0)]


TWO = "<think>\nWhy?\n</think>\n\n<think>\n\n</think>\n\n"
KEPT = [
    (TWO, "Why?\n</think>\n\n<|im_end|>", 0),
    (TWO + "Hi", "Why?\n</think>\n\nHi<|im_end|>", 0),
    ("<think>\nWhy?\n</think>\n\nHm.<think>How?</think>Hi", "Why?\n</think>\n\nHi<|im_end|>", 1),
    ("<|assistant|><think>\n\n</think>\n\nHi", "\n</think>\n\nHi<|im_end|>", 1),
]


@needs_trl
@pytest.mark.parametrize(("content", "written", "lost"), KEPT)
def test_of_several_think_blocks_the_one_that_is_written_is_trained(folder, content, written, lost):
    rendered = alike(folder, "qwen3_5_think", [ASK, said(content)])
    assert trained(rendered) == [written]
    assert rendered.told == ({"reasoning_not_rendered": 3} if lost else {})


@needs_trl
@pytest.mark.parametrize("before", ["'", "<|assistant|>", "Well."])
@pytest.mark.parametrize("reasoning", ["'", "Paris "])
def test_a_text_before_a_think_block_that_the_template_takes_away_is_counted(folder, before, reasoning):
    cut = said(f"{before}<think>\n\n</think>\n\nHi")
    chat = [ASK, said("So", reasoning=reasoning), ASK, cut]
    rendered = alike(folder, "glm4moe", chat)
    assert rendered.told["reasoning_not_rendered"] == 3 * 2


@needs_trl
@pytest.mark.parametrize("name", ["glm4moe", "nemotron_3_ultra", "qwen3", "qwen3_5_think"])
@pytest.mark.parametrize("content", ["<think>\nWhy?\n</think>\n\nSo\u2028\n\n", "<think>\n\n</think>\n\n  "])
def test_white_space_of_questions_beside_an_answer_whose_reasoning_is_taken_away_is_theirs(
    folder, name, content
):
    first, second = ({"role": "user", "content": text} for text in ("Who? ", "\u2028Who?"))
    rendered = alike(folder, name, [first, said(content), second, TELL])
    text = rendered.text[0].as_py().encode()
    found = [text[slice(*span)].decode() for span in rendered.content.of_row(0)]
    kept = name != "qwen3_5_think"  # it strips questions
    assert ("Who? " in found, "\u2028Who?" in found) == (kept, kept)


@needs_trl
def test_what_stands_before_a_call_is_the_templates_where_earlier_answers_are_written_otherwise(folder):
    calling, result = families.calling(families.call()), families.answer_of()
    first = {**calling, "content": "So.\u00a0"}
    chat = [ASK, first, result, calling, result, TELL, ASK, TELL]
    rendered = alike(folder, "nemotron_3_ultra", chat, ("none",))
    text = rendered.text[0].as_py().encode()
    found = [text[start:end].decode() for start, end, kind in rendered.segments.of_row(0) if kind == 1]
    assert found == ["</think>"] * 4


@needs_trl
@pytest.mark.parametrize("thought", ["Why?", "<b> Why?", "a <b> Why? </b>"])
def test_a_tag_in_reasoning_is_part_of_what_the_row_says(folder, thought):
    rendered = alike(folder, "qwen3", [ASK, said(f"<think>\n{thought}\n</think>\n\n")])
    text = rendered.text[0].as_py().encode()
    assert [text[slice(*span)].decode() for span in rendered.content.of_row(0)][1:] == [thought]


CUT = "<|channel>thought\n"
LEFT_OUT = {
    "with reasoning": [ASK, said(CUT, reasoning_content=" {{ x }}")],
    "with a call": [ASK, {**families.calling(families.call()), "content": CUT + "\x1f"}],
    "a sign before it": [ASK, said(f"\ufeff\t{CUT}<think>Why?</think>")],
}


@needs_trl
@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("masked", [(), ("none",)])
def test_a_content_that_begins_as_gemma_begins_reasoning_is_told_alike(folder, name, masked):
    rendered = alike(folder, "diffusion_gemma", LEFT_OUT[name], masked)
    assert not rendered.errors
    assert rendered.told["reasoning_not_rendered"] == 3
    assert "turns_of_unknown_segments" not in rendered.told or name == "a sign before it"


@needs_trl
def test_a_content_that_is_taken_away_is_not_taken_for_written_because_reasoning_is_written_like_it(folder):
    calling = {**families.calling(families.call()), "content": CUT, "reasoning": "Why?"}
    rendered = alike(folder, "gemma4", [ASK, calling, families.answer_of(), TELL], ("none",))
    assert rendered.told == {"contents_beside_calls_not_rendered": 3}


@needs_trl
@pytest.mark.parametrize("before", ["", " ", "So. "])
@pytest.mark.parametrize("cut", [CUT, CUT.strip(), f"{CUT}Why? <b> And"])
def test_reasoning_that_was_cut_off_and_that_gemmas_template_takes_away_is_told(folder, before, cut):
    for content in (before + cut, [{"type": "text", "text": before + cut}]):
        rendered = alike(folder, "gemma4", [ASK, said(content), ASK, TELL])
        empty = {} if before.strip() else {"turns_left_empty": 3}
        assert (rendered.errors, rendered.told) == ({}, {"reasoning_not_rendered": 3, **empty})
        assert trained(rendered) == ["So.<turn|>"] * (not empty) + ["Only me, friend.<turn|>"]


@needs_trl
@pytest.mark.parametrize(("value", "word"), [(None, "None"), (True, "True"), (True, "true"), (None, "null")])
def test_reasoning_is_not_taken_for_written_because_an_argument_is_written_like_it(folder, value, word):
    calling = {**families.calling(families.call({"n": value})), "reasoning_content": word}
    rendered = alike(folder, "nemotron_3_ultra", [ASK, calling, families.answer_of(), TELL, ASK, TELL])
    assert rendered.told == {"reasoning_not_rendered": 3}


@needs_trl
@pytest.mark.parametrize(
    "content", [f"<channel|>So. {CUT}<b> Why?<think>", f"{CUT}Why?<channel|>So.{CUT}And."]
)
def test_what_stands_between_reasoning_that_gemmas_template_takes_away_is_trained(folder, content):
    rendered = alike(folder, "gemma4", [ASK, said(content), ASK, TELL])
    assert (rendered.errors, rendered.told) == ({}, {"reasoning_not_rendered": 3})
    assert trained(rendered) == ["So.<turn|>", "Only me, friend.<turn|>"]


LOST = {
    "an empty block before what is cut off": ("gemma4", said(f"<think>\n\n</think>\n\n{CUT}Why?")),
    "a tag before what is cut off": ("diffusion_gemma", said(f"<think>\n{CUT}Why?</think>So.")),
}


@needs_trl
@pytest.mark.parametrize("name", LOST)
def test_an_answer_of_which_gemmas_template_leaves_tags_alone_is_left_empty(folder, name):
    family, answer = LOST[name]
    rendered = alike(folder, family, [ASK, answer, ASK, TELL])
    assert rendered.told == {"reasoning_not_rendered": 3, "turns_left_empty": 3}
    assert len(trained(rendered)) == 1


@needs_trl
def test_reasoning_is_not_taken_for_written_because_an_argument_in_json_holds_it(folder):
    calling = {**families.calling(families.call('{"city": "caf\\u00e9s"}')), "thinking": "caf\u00e9"}
    rendered = alike(folder, "gemma4_v2", [ASK, calling, families.answer_of(), TELL], tool_arguments="as-is")
    assert rendered.told == {"reasoning_not_rendered": 3}


@needs_trl
@pytest.mark.parametrize(("block", "two"), [("\n\n", 0), ("\nWhy?\n", 3)])
def test_an_empty_think_block_beside_reasoning_is_not_written_twice(folder, block, two):
    answer = said(f"<think>{block}</think>\n\nSo.", reasoning_content="Why?")
    rendered = alike(folder, "diffusion_gemma", [ASK, answer])
    assert rendered.told.get("reasoning_rendered_twice", 0) == two


@needs_trl
@pytest.mark.parametrize("behind", ["", "So.", "So. ", "\n\n So. "])
def test_reasoning_between_gemmas_own_marks_that_its_template_takes_away_is_told(folder, behind):
    block = f"{CUT}Why?\n<channel|>"
    rendered = alike(folder, "gemma4", [ASK, said(block + behind), ASK, TELL])
    assert rendered.told == {"reasoning_not_rendered": 3, **({} if behind else {"turns_left_empty": 3})}
    assert trained(rendered) == ["So.<turn|>"] * bool(behind) + ["Only me, friend.<turn|>"]


@needs_trl
@pytest.mark.parametrize("more", [[{}], ["x"]])
def test_a_call_without_arguments_has_none_that_are_left_out(folder, more):
    calling = families.calling(families.call({"n": more}), families.call("{}", 2))
    rendered = alike(folder, "lfm2_2_5_vl", [ASK, calling, TELL], tool_arguments="as-is")
    assert rendered.told == {}


@needs_trl
@pytest.mark.parametrize("content", ["<channel|>\r\nSo.", "So.\x1f<channel|>", "<channel|> So. <channel|>\n"])
@pytest.mark.parametrize("masked", [(), ("none",)])
def test_ends_of_reasoning_that_gemmas_template_takes_from_an_answer_are_no_reasoning(
    folder, content, masked
):
    calling = {**families.calling(families.call()), "content": content}
    for chat in ([ASK, said(content)], [ASK, calling, families.answer_of(), TELL]):
        rendered = alike(folder, "gemma4_v2", chat, masked)
        assert (rendered.errors, rendered.told) == ({}, {})
