"""Turns of a chat in one text, as sets and chat templates write them; answers that are found, or labeled."""

from __future__ import annotations

import pytest
from layout_words import A2, PAIR, Q2, A, B, Q, S, msgs, turns
from normalizing import run

from tokpack.errors import UsageError
from tokpack.stages.normalize.chats.text_turns import text_turns
from tokpack.stages.normalize.layouts.unread import worth_a_warning

TALK = (Q, A, Q2, A2)
WRITTEN = {
    "Llama 2": f"<s>[INST] {Q} [/INST] {A} </s><s>[INST] {Q2} [/INST] {A2} </s>",
    "Llama 3": "<|begin_of_text|>"
    + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns(*TALK)
    ),
    "Gemma": "<bos>"
    + "".join(
        f"<start_of_turn>{'model' if role == 'assistant' else role}\n{text}<end_of_turn>\n"
        for role, text in turns(*TALK)
    ),
    "ChatML": "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns(*TALK)),
    "Zephyr": "".join(f"<|{role}|>\n{text}</s>\n" for role, text in turns(*TALK)),
    "OIG": f"<human>: {Q}\n<bot>: {A}\n<human>: {Q2}\n<bot>: {A2}",
    "MOSS-002": f"[Human]: {Q}<eoh> [MOSS]: {A}<eoa> [Human]: {Q2}<eoh> [MOSS]: {A2}<eoa>",
    "Vicuna": f"USER: {Q}\nASSISTANT: {A}</s>\nUSER: {Q2}\nASSISTANT: {A2}</s>",
    "Vicuna in one line": f"USER: {Q} ASSISTANT: {A}</s>USER: {Q2} ASSISTANT: {A2}</s>",
    "Open Assistant": f"<|prompter|>{Q}<|endoftext|><|assistant|>{A}<|endoftext|>"
    f"<|prompter|>{Q2}<|endoftext|><|assistant|>{A2}<|endoftext|>",
    "Phi-3": "".join(f"<|{role}|>\n{text}<|end|>\n" for role, text in turns(*TALK)),
    "Alpaca": f"### Instruction:\n{Q}\n\n### Response:\n{A}\n\n### Instruction:\n{Q2}\n\n### Response:\n{A2}",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_turns_in_one_text_are_told_apart(name):
    assert [(turn["role"], turn["content"]) for turn in text_turns(WRITTEN[name])] == turns(*TALK)


def test_the_system_message_of_llama_2_is_one_of_its_own():
    written = f"[INST] <<SYS>>\n{S}\n<</SYS>>\n\n{Q} [/INST] {A} </s>"
    assert [(t["role"], t["content"]) for t in text_turns(written)] == turns(Q, A, system=S)


BELOW = "Below is an instruction. Write a response."


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (f"{S} USER: {Q} ASSISTANT: {A}</s>", turns(Q, A, system=S)),
        (f"{BELOW}\n\n### Instruction:\n{Q}\n\n### Response:\n{A}", turns(Q, A, system=BELOW)),
        (
            f"{BELOW}\n\n### Instruction:\n{Q}\n\n### Input:\n{S}\n\n### Response:\n{A}",
            turns(f"{Q}\n{S}", A, system=BELOW),
        ),
    ],
)
def test_what_stands_before_the_turns_is_the_system_message(written, read):
    assert [(t["role"], t["content"]) for t in text_turns(written)] == read


MARKED = {
    "Vicuna": (f"{S} USER: {Q} ASSISTANT: {A}</s>", "USER: and ASSISTANT:"),
    "Alpaca": (
        f"{BELOW}\n\n### Instruction:\n{Q}\n\n### Response:\n{A}",
        "### Instruction: and ### Response:",
    ),
    "Llama 2": (f"<s>[INST] {Q} [/INST] {A} </s>", "[INST] and [/INST]"),
    "Zephyr": (f"<|user|>\n{Q}</s>\n<|assistant|>\n{A}</s>", "<|user|> and <|assistant|>"),
}


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("way", [{}, {"format": "text"}, {"map": {"text": "text"}}], ids=str)
def test_texts_of_chats_are_told_with_what_trains_their_answers(name, way, tmp_path):
    written, marks = MARKED[name]
    _, _, shape = run(tmp_path, [{"text": written}, {"text": "Once upon a time."}], **way)
    assert shape.notes == (
        f"text holds chats in 1 of the first 2 rows (marks as {marks}), trained whole; "
        "--map messages=text trains their answers alone",
    )
    found, _, _ = run(tmp_path, [{"text": written}], map={"messages": "text"})
    assert found["roles"].to_list()[0][-2:] == ["user", "assistant"]
    assert found["contents"].to_list()[0][-2:] == [Q, A]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (
            f"<|start|>user<|message|>{Q}<|end|><|start|>assistant<|channel|>final<|message|>{A}<|return|>",
            "gpt-oss",
        ),
        (f"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{Q}<|END_OF_TURN_TOKEN|>", "Cohere"),
        (f"<｜User｜>{Q}<｜Assistant｜>{A}", "DeepSeek"),
    ],
)
def test_texts_of_templates_that_are_not_taken_apart_are_told_too(written, name, tmp_path):
    _, _, shape = run(tmp_path, [{"text": written}])
    assert f"as the chat template of {name} writes them" in shape.notes[0]


@pytest.mark.parametrize("name", ["Vicuna", "Alpaca", "Llama 2"])
def test_a_prompt_that_is_written_out_is_refused_with_what_takes_it_apart(name, tmp_path):
    prompt = MARKED[name][0].split(A)[0]
    with pytest.raises(UsageError) as error:
        run(tmp_path, [{"prompt": prompt, "completion": A}])
    assert "--map messages=prompt,completion=completion takes them apart" in error.value.hint
    way = {"messages": "prompt", "completion": "completion"}
    found, _, _ = run(tmp_path, [{"prompt": prompt, "completion": A}], map=way)
    assert found["contents"].to_list()[0][-2:] == [Q, A]


def test_a_prompt_that_is_written_out_beside_its_instruction_is_left(tmp_path):
    row = {"instruction": Q, "output": A, "prompt": f"{BELOW}\n\n### Instruction:\n{Q}\n\n### Response:\n"}
    found, _, _ = run(tmp_path, [row])
    assert found["contents"].to_list() == [[Q, A]]


@pytest.mark.parametrize(
    "text",
    [
        "Write USER: before it.",
        "He said ASSISTANT: is a word, and USER: another.",
        "# Notes\n\n### Input:\nA file.\n\n### Output:\nAnother.",
        f"{'A long page. ' * 60}### Instruction:\n{Q}\n### Response:\n{A}",
    ],
)
def test_texts_with_a_mark_or_two_are_no_chats(text, tmp_path):
    assert text_turns(text) == []
    assert run(tmp_path, [{"text": text}])[2].notes == ()


def test_texts_that_mention_a_mark_are_no_chats():
    assert text_turns("Put [INST] before it and [/INST] behind it.") == []
    assert text_turns("It says: <human>: hi") == []


def test_of_a_bare_result_and_several_whole_answers_the_fullest_is_read(tmp_path):
    row = {"question": Q, "final_answer": "3", "r1_solution_1": A, "r1_solution_2": "Three."}
    found, _, shape = run(tmp_path, [row])
    assert found["contents"].to_list() == [[Q, A]]
    assert "final_answer, r1_solution_2 would fit too" in shape.notes[0]


def test_a_rejected_message_beside_messages_is_the_worse_answer(tmp_path):
    row = {"messages": msgs(Q, A), "rejected_message": msgs(Q, B)[1]}
    found, _, _ = run(tmp_path, [row])
    read = [list(zip(*pair, strict=True)) for pair in found.select("roles", "contents").rows()]
    assert read == PAIR


@pytest.mark.parametrize(
    ("good", "bad"), [("positive", "negative"), ("Thumbs up", "thumbs-down"), ("1", "-1"), ("pass", "FAIL")]
)
def test_a_label_that_is_named_may_say_it_in_words_and_another_word_is_no_good_answer(good, bad, tmp_path):
    rows = [{"messages": msgs(Q, A), "said": word} for word in (good, bad, "perhaps", None)]
    found, quarantined, _ = run(tmp_path, rows, map={"label": "said"})
    assert found["drop_reason"].to_list() == [None, "labelled_bad", None]
    assert [entry.reason for entry in quarantined] == [
        "its label is 'perhaps': true or false has to say whether the answer is good"
    ]


def test_columns_that_may_say_that_a_row_is_not_to_be_learned_are_a_warning():
    told = ("accepted", "is_correct", "excluded", "skip", "flagged", "user_feedback", "thumbs", "mask")
    assert worth_a_warning(dict.fromkeys([*told, "id", "source", "split"], "x")) == list(told)


def test_objects_in_a_column_called_text_are_no_texts(tmp_path):
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": A}]}
    with pytest.raises(UsageError) as error:
        run(tmp_path, [{"output": [answer], "text": {"format": {"type": "text"}}}])
    assert "completion=output" in error.value.hint
