"""Special tokens written out in contents: what a template's are, what is stripped, what is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import write_rows
from encode_helpers import small_tokenizer, template

import tokpack
from tokpack.stages.render.template.template_markers import special_tokens_of

MARKERS = {
    "qwen2_5": ({"<|im_start|>"}, {"<|im_end|>"}),
    "llama3": ({"<|start_header_id|>"}, {"<|eot_id|>"}),
    "gemma": ({"<start_of_turn>"}, {"<end_of_turn>"}),
    "mistral_v3": ({"[INST]"}, set()),
    "llama2": ({"[INST]"}, set()),
    "deepseek": ({"<｜User｜>"}, {"<｜end▁of▁sentence｜>"}),
}
USUAL = {"<s>", "</s>", "<|endoftext|>"}


@pytest.mark.parametrize("name", MARKERS)
def test_a_template_shows_what_begins_its_messages_and_what_ends_them(tmp_path, name):
    found = special_tokens_of(small_tokenizer(tmp_path / "t", chat_template=template(name)))
    openers, closers = MARKERS[name]
    assert set(found.openers) == openers
    assert set(found.ends) == USUAL | closers


def test_a_tag_is_never_the_end_of_a_text(tmp_path):
    tokenizer = small_tokenizer(tmp_path / "t", chat_template=template("qwen2_5"))
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<repo_name>", "<file_sep>"]
    tokenizer.special_tokens += tags
    tokenizer.pad_token = "</think>"
    assert not {*special_tokens_of(tokenizer).ends} & {*tags}


RENDERED = "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n"
CODE = "<|repo_name|>demo/app<|endoftext|>\nx = 1\n"


def packed_texts(rows: list[Any], folder: Path, tokenizer: Path, **options: Any) -> list[str]:
    data = write_rows(folder / "rows.jsonl", [json.dumps(row).encode() for row in rows])
    out = tokpack.pack(data, folder / "out", tokenizer=str(tokenizer), max_length=256, **options)
    parts = [
        (int(doc), out.tokenizer.decode(ids))
        for record in (out[row] for row in range(len(out)))
        for doc, ids in zip(
            record["doc_ids"],
            np.split(record["input_ids"], np.cumsum(record["seq_lengths"])[:-1]),
            strict=True,
        )
    ]
    return [text for _, text in sorted(parts)]


def test_rendered_texts_stay_and_the_flag_is_named(qwen, tmp_path, caplog):
    rows = [{"text": f"{RENDERED}The Ems.<|im_end|>\n"}, {"text": CODE}]
    assert packed_texts(rows, tmp_path, qwen) == [row["text"] + "<|im_end|>" for row in rows]
    assert "1 text begins with the chat template's own markers" in caplog.text
    assert "--no-eos" in caplog.text
    caplog.clear()
    bare = tmp_path / "bare"
    bare.mkdir()
    assert packed_texts(rows, bare, qwen, eos=False) == [row["text"] for row in rows]
    assert "markers" not in caplog.text


@pytest.mark.slow
def test_a_rendered_prompt_and_its_completion_stay_and_the_flag_is_named(qwen, tmp_path, caplog):
    rows = [{"prompt": RENDERED, "completion": "The Ems.<|im_end|>\n"}]
    [text] = packed_texts(rows, tmp_path, qwen, format="prompt_completion")
    assert RENDERED in text
    assert "1 document holds a message that begins with the chat template's own markers" in caplog.text
    assert "--render plain" in caplog.text
    caplog.clear()
    bare = tmp_path / "bare"
    bare.mkdir()
    options = {"format": "prompt_completion", "render": "plain", "eos": False, "separator": ""}
    plain = packed_texts(rows, bare, qwen, **options)
    assert plain == [RENDERED + "The Ems.<|im_end|>\n"]
    assert "markers" not in caplog.text


ENDS = {
    "an answer": ("Rhine <|im_end|> Elbe", True),
    "a question": ("Rhine", False),
    "an end": ("Rhine<|im_end|>\n", False),
    "a tag": ("<think>hm</think> Rhine", False),
    "an opener": ("Rhine <|im_start|> Elbe", False),
}


@pytest.mark.parametrize("mode", ["strip", "keep", "drop"])
@pytest.mark.parametrize("name", ENDS)
def test_an_end_that_is_left_inside_a_text_is_warned_of(name, mode, qwen, tmp_path, caplog):
    answer, warned = ENDS[name]
    plain = [{"prompt": f"Name river {i}.", "completion": f"River {i}."} for i in range(3)]
    packed_texts(
        [*plain, {"prompt": "Name a river.", "completion": answer}], tmp_path, qwen, special_in_content=mode
    )
    found = [r.getMessage() for r in caplog.records if "turn or text inside" in r.getMessage()]
    assert bool(found) == (warned and mode == "strip")
    assert all("--special-in-content drop" in text for text in found)
