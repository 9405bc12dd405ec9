"""Images, sounds and films beside a text: the text speaks of what is not in it, so its row is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEDIA = frozenset(
    f"{kind}{end}"
    for kind in ("image", "audio", "video")
    for end in ("", "s", "_path", "_paths", "_url", "_urls", "_file", "_files")
)
"""Columns, and keys of messages, of what a chat is about and no text is."""


def holds_media(value: Any) -> bool:
    """Whether it is more than null, a number or a switch, at any depth."""
    if isinstance(value, Mapping):
        return any(map(holds_media, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_media, value))
    return not (value is None or value == "" or isinstance(value, bool | int | float))
