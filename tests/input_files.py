"""A file of 20 chats, and what is read from files like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import Source, open_sources

CHATS = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}]}
    for i in range(20)
]
LINES = "".join(json.dumps(row) + "\n" for row in CHATS).encode()


def look(path: Path | str, **config: Any) -> tuple[Source, str]:
    [source] = open_sources((SourceConfig(path=str(path), **config),))
    return source, detect_shape(source).format


def texts_of(path: Path | str, **config: Any) -> list[list[str]]:
    """The contents of every document, in order; nothing may have been set aside."""
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shapes = [detect_shape(source) for source in sources]
    found = []
    for block in read_blocks(sources):
        normalized = normalize(block, sources[block.source], shapes[block.source])
        assert not normalized.quarantined
        found += normalized.documents["contents"].to_list()
    return found


CONTENTS = [[f"{i}?", f"{i}!"] for i in range(20)]
