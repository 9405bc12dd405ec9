"""Texts of ids without a tokenizer, for reports and pages that show a few rows.

They are kept with a snapshot where trials have shown that they make what `tokenizers` makes of ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

WORD_MARK = "\u2581"
_FILE = "texts-2.arrow"
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
_DECODERS = {
    "ByteLevel": False,
    "spaces, ByteFallback, Fuse": False,
    "spaces, ByteFallback, Fuse, strip": True,
}
"""By their steps -> whether they take a space away in front of a text."""


class IdTexts:
    """`texts`: bytes of each id, null where they are not known. `word_mark`: of a SentencePiece vocabulary;
    `strips`: a space in front of a row is none of its text."""

    def __init__(self, texts: pa.LargeBinaryArray, word_mark: bool, strips: bool) -> None:
        self.texts, self.word_mark, self._strips = texts, word_mark, strips

    def decode(self, rows: list[list[int]], without: Collection[int] = ()) -> list[str] | None:
        """Text of each row of ids, `without` some of them; None where it is not known."""
        if any(number >= len(self.texts) for row in rows for number in row):
            return None
        texts = []
        for row in rows:
            kept = [number for number in row if number not in without]
            written = self.texts.take(pa.array(kept, pa.int64()))
            if written.null_count:
                return None
            try:  # where bytes make no character, a decoder with byte fallback has its own way
                text = b"".join(written.to_pylist()).decode(errors="strict" if self.word_mark else "replace")
            except UnicodeDecodeError:
                return None
            texts.append(text.removeprefix(" ") if self._strips else text)
        return texts

    def to_bytes(self) -> bytes:
        """What `kept_texts` reads."""
        said = {"word_mark": str(self.word_mark), "strips": str(self._strips)}
        table = pa.table({"text": self.texts}).replace_schema_metadata(said)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def file_of(folder: Path) -> Path:
    """Where a snapshot folder keeps them."""
    return folder / _FILE


def kept_texts(folder: Path) -> IdTexts | None:
    """Those of a snapshot folder, if they were kept. It starts no thread: a helper is copied after it."""
    with suppress(OSError, pa.ArrowInvalid), pa.memory_map(str(file_of(folder))) as file:
        table = pa.ipc.open_stream(file).read_all()
        said = [table.schema.metadata[key] == b"True" for key in (b"word_mark", b"strips")]
        return IdTexts(table["text"].combine_chunks(), *said)
    return None


def texts_of(
    vocab: Mapping[int, bytes], added: Mapping[str, int], end: int, decoder: dict[str, Any]
) -> IdTexts | None:
    """As the decoder of a tokenizer.json writes ids; None for one that is not known. `end`: the first id that
    no text has, 0 where there is none."""
    strips = _DECODERS.get(_steps(decoder))
    if strips is None:
        return None
    word_mark = decoder["type"] != "ByteLevel"
    return IdTexts(bytes_by_id(vocab, added, end, word_mark), word_mark, strips)


def bytes_by_id(
    vocab: Mapping[int, bytes], added: Mapping[str, int], end: int, word_mark: bool
) -> pa.LargeBinaryArray:
    """What each id stands for in a text; null where nothing is known. Arguments as of `texts_of`."""
    written = {**vocab, **{number: content.encode() for content, number in added.items()}}
    texts: list[bytes | None] = [None] * (max(written, default=-1) + 1)
    for number, text in written.items():
        if end and number >= end:
            continue
        byte = _BYTE.fullmatch(text) if word_mark else None
        spaced = text.replace(WORD_MARK.encode(), b" ") if word_mark else text
        texts[number] = bytes([int(byte[1], 16)]) if byte else spaced
    return pa.array(texts, pa.large_binary())


def _steps(decoder: dict[str, Any]) -> str:
    """What it does, as `_DECODERS` names it."""
    kind = decoder.get("type", "")
    if kind == "Sequence":
        return ", ".join(map(_steps, decoder.get("decoders", ())))
    if (
        kind == "Replace"
        and decoder.get("pattern") == {"String": WORD_MARK}
        and decoder.get("content") == " "
    ):
        return "spaces"
    if kind == "Strip" and [decoder.get(key) for key in ("content", "start", "stop")] == [" ", 1, 0]:
        return "strip"
    return str(kind)
