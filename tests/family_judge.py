"""Holds tokpack's ids and labels of a family's chats against transformers and the family's tags."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import families
from encode_helpers import byte_level, document, expected, frame, tokenizer_folder

from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.schema import TRAINED
from tokpack.stages.render.render import Rendered, Renderer, RenderSettings, render
from tokpack.stages.tokenize import tokenize

TOLD = {
    "tool_calls_not_rendered": "call not written",
    "reasoning_not_rendered": "reasoning not written",
    "turns_not_closed": "not closed",
}


class Judge:
    """One tokenizer, loaded once: by default a small one that takes the markers of every family whole."""

    def __init__(self, scratch: Path, folder: Path | None = None) -> None:
        from transformers import AutoTokenizer

        if folder is None:
            specials = list(families.markers())
            made = scratch / "tokenizer"
            folder = tokenizer_folder(byte_level(), made, additional_special_tokens=specials)
        self.auto = AutoTokenizer.from_pretrained(folder)
        self._tokenizer = load_tokenizer(folder, chat_template="{{ x }}")

    def renderer(self, template: str) -> Renderer:
        tokenizer = copy(self._tokenizer)
        tokenizer.chat_template = tokenizer.tool_template = template
        return Renderer(tokenizer, RenderSettings())

    def labels(self, renderer: Renderer, messages: Any, tools: Any) -> tuple[Rendered, list[int], list[int]]:
        """(rendered, ids, labels as a mask) by tokpack."""
        rendered = render(frame([document(messages, tools)]), renderer)
        encoded = tokenize(rendered, renderer.tokenizer)
        return rendered, encoded.input_ids.tolist(), (encoded.flags & TRAINED).tolist()

    def cells(self, name: str) -> dict[str, str]:
        """Kind of chat -> `equal`, with what the template leaves out, or why it is refused.

        Raises AssertionError for a difference.
        """
        renderer = self.renderer(families.stock(name))
        return {kind: self._cell(renderer, name, kind) for kind in families.CHATS}

    def _cell(self, renderer: Renderer, name: str, kind: str) -> str:
        messages, tools = families.CHATS[kind]
        rendered, ids, mask = self.labels(renderer, messages, tools)
        if refusal := families.refusal(name, kind):
            assert refusal in rendered.errors[0], (name, kind)
            return "refused: " + rendered.errors[0].removeprefix("the template ").split(" user/")[0].rstrip(
                ".!"
            )
        assert not rendered.errors, (name, kind)
        chat = families.wanted_form(name, messages)
        true_ids, right = expected(self.auto, chat, families.tagged(name), tools)
        assert ids == true_ids, (name, kind)
        assert ids == expected(self.auto, chat, families.stock(name), tools)[0], "the tags changed the text"
        empty = 0
        if "endgeneration" not in families.stock(name):  # its own tags are taken at their word
            tokens = [self.auto.decode([number]) for number in ids]
            right, empty = families.trained_by_tokpack(right, tokens, name)
        assert mask == right, (name, kind)
        assert rendered.told.get("turns_left_empty", 0) == empty, (name, kind)
        notes = [note for key, note in TOLD.items() if rendered.told.get(key)]
        return f"equal ({', '.join(notes)})" if notes else "equal"
