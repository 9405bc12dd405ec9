"""From tokens to text as they come, and up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT = 8
"""Tokens before the new ones that are decoded with them."""
INCOMPLETE = "\ufffd"


class TextStream:
    """The text of a growing list of tokens, in pieces that never take anything back.

    A token's text depends on what stands before it (spaces, halves of characters), so a few earlier tokens
    are decoded with it. A piece waits while it ends within a character, or like the beginning of a stop
    string. `ended`: a stop string was met; it is not part of the text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids = list(before[-CONTEXT:])
        self._from, self._read = 0, len(self._ids)
        self._held = ""
        self.ended = False

    def add(self, token: int) -> str:
        """The text that this token settles."""
        self._ids.append(token)
        before, after = (
            self._decode(self._ids[self._from : self._read]),
            self._decode(self._ids[self._from :]),
        )
        if after.endswith(INCOMPLETE) or len(after) < len(before):
            return ""
        if len(after) > len(before):  # else only skipped tokens came, which are no context
            self._from = self._read
        self._read = len(self._ids)
        return self._up_to_stop(self._held + after[len(before) :])

    def finish(self) -> str:
        """What was held back: there are no more tokens."""
        if self.ended:
            return ""
        before, after = (
            self._decode(self._ids[self._from : self._read]),
            self._decode(self._ids[self._from :]),
        )
        left = self._up_to_stop(self._held + after[len(before) :])
        return left if self.ended else left + self._held

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _up_to_stop(self, text: str) -> str:
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`: ("one tw", "two") -> 2."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
