"""Every template family that trl ships: ids and labels against `apply_chat_template` and trl's tags."""

from __future__ import annotations

from copy import copy
from functools import cache

import families
import pytest
from encode_helpers import byte_level, document, expected, frame, open_here, tokenizer_folder

from tokpack.schema import TRAINED
from tokpack.stages.render.render import Renderer, RenderOptions, render
from tokpack.stages.tokenize import tokenize

pytestmark = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small vocabulary that takes the markers of every family whole."""
    return tokenizer_folder(
        byte_level(),
        tmp_path_factory.mktemp("families") / "tokenizer",
        additional_special_tokens=list(families.markers()),
    )


@cache
def loaded(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), open_here(folder, folder.with_name("snapshot"), "{{ x }}")


def opened(folder, template):
    """(AutoTokenizer, tokenizer with the template), the vocabulary loaded once."""
    auto, tokenizer = loaded(folder)
    tokenizer = copy(tokenizer)
    tokenizer.chat_template = tokenizer.tool_template = template
    return auto, tokenizer


def labels(renderer, messages, tools):
    rendered = render(frame([document(messages, tools)]), renderer)
    tokens = tokenize(rendered, renderer.tokenizer)
    return rendered, tokens.input_ids.tolist(), (tokens.flags & TRAINED).tolist()


@pytest.mark.parametrize("name", families.names())
def test_ids_and_labels_are_those_of_the_tagged_template(folder, name):
    auto, tokenizer = opened(folder, families.stock(name))
    renderer = Renderer(tokenizer, RenderOptions())
    for kind, (messages, tools) in families.CHATS.items():
        refusal = families.refusal(name, kind)
        rendered, ids, mask = labels(renderer, messages, tools)
        if refusal:
            assert refusal in rendered.errors[0], kind
            continue
        assert not rendered.errors, kind
        shown = families.wanted_form(name, messages)
        true_ids, tagged = expected(auto, shown, families.tagged(name), tools)
        assert ids == true_ids, kind
        assert ids == expected(auto, shown, families.stock(name), tools)[0], (
            f"{kind}: the tags changed the text"
        )
        if "endgeneration" in families.stock(name):
            assert mask == tagged, kind  # its own tags are taken at their word
            continue
        tokens = [auto.decode([number]) for number in ids]
        right, empty = families.trained_by_tokpack(tagged, tokens, name)
        assert mask == right, kind
        assert rendered.told.get("turns_left_empty", 0) == empty, kind
