"""`--loss-mask`: exactly the tokens of the named segments lose their labels, on both ways of rendering."""

from __future__ import annotations

import json
from copy import copy

import families
import numpy as np
import pytest
from encode_helpers import byte_level, document, frame, template, tokenizer_folder
from family_judge import Judge
from few import a_few
from hypothesis import given, settings
from hypothesis import strategies as st

from tokpack import analyze, merge, pack, repack, verify
from tokpack.errors import UsageError
from tokpack.schema import SEGMENT, SEGMENTS, TRAINED
from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.tokenize import tokenize

NAMES = (
    *("qwen3", "qwen3_5_think", "gptoss", "llama3_1", "gemma4", "glm4moe", "deepseekv3", "lfm2_2_5"),
    *("muse_glimmer", "nemotron_3_nano", "cohere2", "smolvlm"),
)
ASK, TELL, CALL = families.ASK, families.TELL, families.call()
CHATS = {
    **families.CHATS,
    "think block": ([ASK, {**TELL, "content": "<think>\nA name?\n</think>\n\nOnly me."}], None),
    "think block and call": (
        [ASK, {**TELL, "content": "<think>A name?</think>Only me.", "tool_calls": [CALL]}],
        families.TOOLS,
    ),
    "reasoning and call": ([ASK, {**families.calling(CALL), **families.THOUGHT}], families.TOOLS),
    "think block, space behind": (
        [ASK, {**TELL, "content": "<think>\nA name?\n</think>\n\nOnly me. \n"}],
        None,
    ),
    "empty block": ([ASK, {**TELL, "content": "<think>\n\n</think>\n\nOnly me."}], None),
    "unopened": ([ASK, {**TELL, "content": "A name?</think>Only me."}], None),
    "a letter beside a call": ([ASK, {**families.calling(CALL), "content": "a"}], families.TOOLS),
}
needs_trl = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Judge(tmp_path_factory.mktemp("families"))._tokenizer


def with_template(tokenizer, source):
    own = copy(tokenizer)
    own.chat_template = own.tool_template = source
    return own


def labelled(tokenizer, documents, *names):
    renderer = Renderer(tokenizer, RenderSettings(loss_mask=names, paranoid=True))
    rendered = render(documents, renderer)
    return rendered, tokenize(rendered, tokenizer)


@pytest.mark.slow
@needs_trl
@pytest.mark.parametrize("name", a_few(NAMES))
def test_only_tokens_of_the_segments_lose_their_labels(name, tokenizer):
    tokenizer = with_template(tokenizer, families.stock(name))
    documents = frame([document(*chat) for chat in CHATS.values()] * 4)  # the more, the more are compiled
    plain, all_trained = labelled(tokenizer, documents)
    for masked in (("none",), ("template",), ("thinking", "tool_calls"), SEGMENTS):
        rendered, tokens = labelled(tokenizer, documents, *masked)
        assert rendered.text == plain.text
        assert np.array_equal(tokens.input_ids, all_trained.input_ids)
        lost = (all_trained.flags ^ tokens.flags) & TRAINED > 0
        numbers = [i for i, segment in enumerate(SEGMENTS, 1) if segment in masked]
        assert np.array_equal(lost, np.isin(tokens.flags // SEGMENT, numbers))
        assert not np.any(lost & (all_trained.flags & TRAINED == 0))
        assert "turns_of_unknown_segments" not in rendered.told
        assert rendered.counters["compiled"] >= len(documents) // 3


def pieces(tokenizer, chat):
    """The last turn of a chat in (segment, text), `say` being what is said and what closes the turn."""
    rendered, tokens = labelled(tokenizer, frame([document(*chat)]), "none")
    assert not rendered.errors
    trained = tokens.flags & TRAINED > 0
    turns = np.flatnonzero(np.diff(trained, prepend=False) & trained)
    parts: list[list] = []
    for number, flags in zip(tokens.input_ids[turns[-1] :], tokens.flags[turns[-1] :], strict=True):
        if flags & TRAINED:
            segment = ("say", *SEGMENTS)[flags // SEGMENT]
            if not parts or parts[-1][0] != segment:
                parts.append([segment, []])
            parts[-1][1].append(int(number))
    return [(segment, tokenizer.decode(numbers)) for segment, numbers in parts]


CALLED = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3, "units": {"temp": "C"}}}'
WANTED = {
    ("qwen3", "plain"): [
        ("template", "<think>\n\n</think>\n\n"),
        ("say", "Only me, friend.<|im_end|>"),
    ],
    ("qwen3", "empty block"): [("template", "<think>\n\n</think>\n\n"), ("say", "Only me.<|im_end|>")],
    ("qwen3", "reasoning"): [
        ("thinking", "<think>\nThe user wants a name.\n</think>\n\n"),
        ("say", "Only me, friend.<|im_end|>"),
    ],
    ("qwen3", "think block"): [
        ("thinking", "<think>\nA name?\n</think>\n\n"),
        ("say", "Only me.<|im_end|>"),
    ],
    ("qwen3", "tool call, object"): [
        ("template", "<think>\n\n</think>\n\n"),
        ("tool_calls", f"<tool_call>\n{CALLED}\n</tool_call>"),
        ("say", "<|im_end|>"),
    ],
    ("qwen3", "reasoning and call"): [
        ("thinking", "<think>\nThe user wants a name.\n</think>\n\n"),
        ("tool_calls", f"<tool_call>\n{CALLED}\n</tool_call>"),
        ("say", "<|im_end|>"),
    ],
    ("qwen3_5_think", "plain"): [("template", "\n</think>\n\n"), ("say", "Only me, friend.<|im_end|>")],
    ("gptoss", "reasoning"): [
        ("thinking", "<|channel|>analysis<|message|>The user wants a name.<|end|>"),
        ("template", "<|start|>assistant<|channel|>final<|message|>"),
        ("say", "Only me, friend.<|return|>"),
    ],
    ("gptoss", "tool call, object"): [
        (
            "tool_calls",
            " to=functions.get_weather<|channel|>commentary json<|message|>"
            '{"city": "Paris", "days": 3, "units": {"temp": "C"}}',
        ),
        ("say", "<|call|>"),
    ],
    ("llama3_1", "think block"): [
        ("thinking", "<think>\nA name?\n</think>"),
        ("say", "\n\nOnly me.<|eot_id|>"),
    ],
    ("llama3_1", "think block, space behind"): [
        ("thinking", "<think>\nA name?\n</think>"),
        ("say", "\n\nOnly me.<|eot_id|>"),
    ],
    ("llama3_1", "tool call, object"): [
        ("tool_calls", CALLED.replace("arguments", "parameters")),
        ("say", "<|eot_id|>"),
    ],
    ("llama3_1", "a letter beside a call"): [
        ("tool_calls", CALLED.replace("arguments", "parameters")),
        ("say", "<|eot_id|>"),
    ],
    ("gemma4", "reasoning and call"): [
        ("thinking", "<|channel>thought\nThe user wants a name.\n<channel|>"),
        (
            "tool_calls",
            '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3,units:{temp:<|"|>C<|"|>}}',
        ),
        ("say", "<tool_call|>"),
    ],
}


@needs_trl
@pytest.mark.parametrize("case", WANTED, ids="-".join)
def test_segments_are_those_a_reader_would_mark(case, tokenizer):
    name, kind = case
    assert pieces(with_template(tokenizer, families.stock(name)), CHATS[kind]) == WANTED[case]


@needs_trl
def test_think_blocks_end_where_they_do_when_the_template_strips_an_earlier_one(tokenizer):
    own = with_template(tokenizer, families.stock("lfm2_2_5"))
    early = {**TELL, "content": "<think>\nA name?\n</think>\n\nOnly me."}
    late = {**TELL, "content": "<think>\nWho else?\n</think>\n\nNobody."}
    assert pieces(own, ([ASK, early, ASK, late], None)) == [
        ("thinking", "<think>\nWho else?\n</think>"),
        ("say", "\n\nNobody.<|im_end|>\n"),
    ]


@needs_trl
def test_a_line_break_at_the_end_of_an_answer_is_none_of_the_calls_behind_it(tokenizer):
    chat = [ASK, {**families.calling(CALL), "content": "<think>\nA name?\n</think>\n\nOnly me.\n"}]
    assert pieces(with_template(tokenizer, families.stock("qwen3")), (chat, None)) == [
        ("thinking", "<think>\nA name?\n</think>\n\n"),
        ("say", "Only me.\n"),
        ("tool_calls", f"\n<tool_call>\n{CALLED}\n</tool_call>"),
        ("say", "<|im_end|>"),
    ]


@needs_trl
def test_a_call_is_not_found_where_the_template_has_a_word_like_its_name(tokenizer):
    tokenizer = with_template(tokenizer, families.stock("gemma4"))
    made = {"type": "function", "function": {"name": "turn", "arguments": {}}}
    chat = [ASK, {**TELL, "tool_calls": [made]}, {"role": "tool", "name": "turn", "content": "Sun"}]
    _, tokens = labelled(tokenizer, frame([document(chat)]), "none")
    calls = tokens.input_ids[tokens.flags // SEGMENT == SEGMENTS.index("tool_calls") + 1]
    assert tokenizer.decode(calls.tolist()) == "<|tool_call>call:turn{}<tool_call|>"


word = st.text("ab <>/\n\u00e9", max_size=6)
content = st.lists(st.one_of(word, st.sampled_from(["<think>", "</think>", "hm"])), max_size=6).map("".join)


@pytest.mark.slow
@needs_trl
@settings(max_examples=10)
@given(st.lists(content, min_size=4, max_size=4), st.sampled_from(["qwen3", "llama3_1"]))
def test_any_think_blocks_are_the_same_from_pieces_and_by_jinja(tokenizer, contents, name):
    tokenizer = with_template(tokenizer, families.stock(name))
    documents = frame([document([ASK, {"role": "assistant", "content": text}]) for text in contents])
    rendered, tokens = labelled(tokenizer, documents, *SEGMENTS)  # paranoid: every row is proved
    plain, all_trained = labelled(tokenizer, documents)
    lost = (all_trained.flags ^ tokens.flags) & TRAINED > 0
    assert np.array_equal(lost, tokens.flags // SEGMENT > 0)
    assert rendered.text == plain.text
    closing = [end - 1 for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False) if end > start]
    assert all(
        tokens.flags[at] & TRAINED == all_trained.flags[at] & TRAINED for at in closing
    )  # the end of a turn stays


SAID = "m.content.replace('b', 'B')"


ENDING = "('' if m.content.endswith('b') else '?')"


@pytest.mark.parametrize(("written", "found"), [(SAID, True), (f"m.content + {ENDING}", False)])
def test_turns_whose_parts_cannot_be_found_are_trained_whole_and_counted(tokenizer, written, found):
    source = f"{{% for m in messages %}}{{{{ m.role + ':\n' + ({written}) + '</s>' }}}}{{% endfor %}}"
    own = with_template(tokenizer, source)
    chat = [ASK, {"role": "assistant", "content": "<think>b, and b</think>the b"}]
    rendered, tokens = labelled(own, frame([document(chat)]), *SEGMENTS)
    thinking = own.decode(tokens.input_ids[tokens.flags // SEGMENT == 2].tolist())
    assert thinking == ("<think>B, and B</think>" if found else "")
    assert rendered.told.get("turns_of_unknown_segments", 0) == (not found)
    assert np.any(tokens.flags // SEGMENT) == found


def test_plain_answers_have_think_blocks_too(tokenizer):
    rows = [
        {"kind": "prompt_completion", "roles": ["user", "assistant"], "contents": ["q", text], "extra": None}
        for text in ("<think>Hm.</think>Yes.", "Yes.", "<think>\n</think>No.")
    ]
    renderer = Renderer(tokenizer, RenderSettings(render="plain", loss_mask=("thinking",)))
    rendered = render(frame(rows), renderer)
    tokens = tokenize(rendered, tokenizer)
    found = [
        [
            tokenizer.decode(tokens.input_ids[at][tokens.flags[at] // SEGMENT == number].tolist())
            for number in (1, 2)
        ]
        for at in (slice(*tokens.offsets[i : i + 2]) for i in range(3))
    ]
    assert found == [["", "<think>Hm.</think>"], ["", ""], ["<think>\n</think>", ""]]


# Whole runs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    specials = [*families.markers(), "<|im_start|>", "<|im_end|>"]
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    return tokenizer_folder(
        byte_level(), folder, template("qwen3", False), additional_special_tokens=specials
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [{"messages": [ASK, {**TELL, "content": f"Answer {i}."}]} for i in range(20)]
    rows += [{"messages": [ASK, {**TELL, "content": f"Said {i}.", **families.THOUGHT}]} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def packed_with(data, model, out, **options):
    return pack(data, out, tokenizer=model, max_length=256, clean="off", **options)


def test_a_run_masks_measures_and_stays_provable(data, model, tmp_path):
    whole = packed_with(data, model, tmp_path / "whole")
    masked = packed_with(data, model, tmp_path / "masked", loss_mask="template")
    assert "segments" not in whole.ledger
    assert "loss_mask" not in json.dumps(whole.manifest)
    segments = masked.ledger["segments"]
    assert masked.manifest["template"]["loss_mask"] == "template"
    assert segments["template"]["trained"] == 0 < segments["template"]["masked"]
    assert segments["thinking"]["trained"] > 0 == segments["thinking"]["masked"]
    assert sum(part["trained"] for part in segments.values()) == masked.ledger["trained"]["trained"]
    lost = whole.ledger["trained"]["trained"] - masked.ledger["trained"]["trained"]
    assert lost == segments["template"]["masked"]
    measured = analyze(data, tokenizer=model, max_length=256, clean="off", loss_mask="none").data["ledger"]
    assert measured["segments"]["template"] == {"trained": lost, "masked": 0}
    assert measured["trained"] == whole.ledger["trained"]
    labels = [row["labels"] for row in (masked[i] for i in range(len(masked)))]
    assert sum(int((values != -100).sum()) for values in labels) == masked.ledger["trained"]["trained"]
    assert verify(tmp_path / "masked").ok
    again = repack(masked, tmp_path / "again", max_length=512)
    assert again.ledger["segments"] == segments
    assert verify(tmp_path / "again").ok
    both = merge([masked, masked], tmp_path / "both")
    assert both.ledger["segments"]["template"]["masked"] == 2 * lost
    assert verify(tmp_path / "both").ok
    with pytest.raises(UsageError, match="another loss mask"):
        merge([whole, masked], tmp_path / "mixed")


def test_a_segment_that_is_none_is_refused_by_name(data, model, tmp_path):
    with pytest.raises(UsageError, match="no segment is called 'thought'") as error:
        packed_with(data, model, tmp_path / "out", loss_mask="thought")
    assert "thinking" in error.value.hint


def test_a_batch_of_as_many_documents_as_a_byte_counts_adds_up(model):
    rows = [{"messages": [ASK, {**TELL, "content": f"Answer {i}."}]} for i in range(128)]
    ledger = analyze(rows, tokenizer=model, max_length=256, clean="off", loss_mask="none").data["ledger"]
    assert sum(part["trained"] for part in ledger["segments"].values()) == ledger["trained"]["trained"] > 0
