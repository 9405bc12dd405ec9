"""Real chats, with real tokenizers: ids and masks against transformers, one by one."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from itertools import islice

import pyarrow as pa
import pytest
from encode_helpers import document, expected, frame, template

from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.schema import TRAINED
from tokpack.stages.render.render import Renderer, RenderSettings, render
from tokpack.stages.tokenize import tokenize


def mixed_chats(real_data, step):
    """Every `step`-th chat of the mixture."""
    with pa.input_stream(real_data / "mix.jsonl.zst") as file:
        lines = file.read().splitlines()
    yield from (json.loads(line)["messages"] for line in lines[::step])


def tool_chats(real_data):
    """(messages, tools) of the function-calling chats, calls as OpenAI writes them."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool", "system": "system"}
    for row in json.loads((real_data / "glaive_toolcall_en_demo.json").read_text(encoding="utf-8")):
        messages = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                call = {"type": "function", "function": json.loads(turn["value"])}
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            else:
                messages.append({"role": roles[turn["from"]], "content": turn["value"]})
        yield messages, json.loads(row["tools"] or "null")


@lru_cache
def judge(folder):
    from tokpack.encoding.snapshot import auto_tokenizer

    return auto_tokenizer(folder)


def agree(folder, chats, tagged, untagged, batch=4000):
    """Compare all chats, batch by batch; how many took the fast paths."""
    auto = judge(folder)
    tokenizer = load_tokenizer(folder, chat_template=untagged)
    renderer = Renderer(tokenizer, RenderSettings())
    chats, counts = iter(chats), {"compiled": 0, "fast": 0, "all": 0}
    while part := list(islice(chats, batch)):
        roles = [[message["role"] for message in chat] for chat in part]
        contents = [[message["content"] for message in chat] for chat in part]
        rows = frame({"roles": r, "contents": c} for r, c in zip(roles, contents, strict=True))
        rendered = render(rows, renderer)
        tokens = tokenize(rendered, tokenizer)
        assert not rendered.errors
        for row, chat in enumerate(part):
            here = slice(*tokens.offsets[row : row + 2])
            ids, mask = expected(auto, chat, tagged)
            assert tokens.input_ids[here].tolist() == ids
            assert (tokens.flags[here] & TRAINED).tolist() == mask
        counts["compiled"] += rendered.counters["compiled"]
        counts["fast"] += tokens.stats["fast"]
        counts["all"] += len(part)
    assert not renderer.warnings
    assert not tokenizer.warnings
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_real_tool_calls_have_the_ids_and_masks_of_transformers(name, real_data, smollm2):
    auto = judge(smollm2)
    chats = list(tool_chats(real_data))[:100]
    for tagged in (True, False):
        tokenizer = load_tokenizer(smollm2, chat_template=template(name, tagged))
        rendered = render(frame(document(*chat) for chat in chats), Renderer(tokenizer, RenderSettings()))
        tokens = tokenize(rendered, tokenizer)
        assert not rendered.errors
        for row, (messages, tools) in enumerate(chats):
            here = slice(*tokens.offsets[row : row + 2])
            ids, mask = expected(auto, messages, template(name), tools)
            assert tokens.input_ids[here].tolist() == ids
            assert (tokens.flags[here] & TRAINED).tolist() == mask


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "every"),
    [
        ("smollm2", "smollm2", 50),
        pytest.param("qwen2_5", "whole_qwen", 100, marks=pytest.mark.slow),
        pytest.param("qwen3", "whole_qwen", 101, marks=pytest.mark.slow),
    ],
)
def test_real_chats_have_the_ids_and_masks_of_transformers(name, model, every, real_data, request):
    """Chats from the whole length of the mixture, of all its sources; `TOKPACK_CHATS=all` takes every one."""
    step = 1 if os.environ.get("TOKPACK_CHATS") == "all" else every
    folder = request.getfixturevalue(model)
    chats = mixed_chats(real_data, step)
    counts = agree(folder, chats, template(name), template(name, tagged=False))
    assert counts["all"] == -(-94_639 // step)
    assert counts["fast"] == counts["all"]
    assert counts["compiled"] > 0.95 * counts["all"]
