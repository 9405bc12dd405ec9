"""The documents of a packed dataset as they stood in its inputs: read again, where these are still the same.

`run.json` says where the inputs were, the manifest how they were read and what their SHA-256 was. An input
that is gone, has another sum, or is not on this machine gives no text, and the reason is said. Nothing is
fetched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tokpack.arrays import Int64
from tokpack.errors import TokpackError
from tokpack.frozen import frozen
from tokpack.packed.folder import PackedFolder
from tokpack.packed.viewer import source_ranges
from tokpack.schema import pair_width
from tokpack.settings.config import SourceConfig
from tokpack.settings.conversion import convert
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.read.blocks import Block, read_blocks
from tokpack.stages.read.digests import source_sha256
from tokpack.stages.read.memory import was_in_memory
from tokpack.stages.read.sources import Source, open_sources

Ids = Int64
READ_BYTES = 1 << 20
"""Size of a block when one document is looked for."""
COLUMNS = ("doc_id", "row", "roles", "contents", "extra")


@frozen
class Original:
    """A document as `normalize` made it of its row."""

    doc_id: int
    source: str
    row: int
    """From 1; lines of a line format."""
    roles: list[str]
    contents: list[str | None]
    extra: dict[str, Any]
    """`tools`, and `messages`: what each message has beside its content."""

    @property
    def text(self) -> str:
        """Role and content of each message."""
        return "\n\n".join(f"[{role}]\n{content or ''}" for role, content in self.messages())

    def messages(self) -> list[tuple[str, str | None]]:
        return list(zip(self.roles, self.contents, strict=True))


class Input:
    """One input of a packed dataset. first, end: its doc_ids. `fault`: why it is not read; empty: it is."""

    def __init__(
        self, name: str, first: int, end: int, width: int, record: dict[str, Any], config: SourceConfig | None
    ) -> None:
        self.name, self.first, self.end, self.width = name, first, end, width
        self._record, self._config = record, config

    @cached_property
    def fault(self) -> str:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[Source | None, str]:
        path = self._config.path if self._config else ""
        if self._config is None or not path:
            return None, f"where {self.name} was is not recorded"
        if "://" in path or path == "-":
            return None, f"{self.name} was no file of this machine: it is not fetched"
        if not Path(path).exists():
            gone = "was data in memory" if was_in_memory(path) else f"is no longer at {path}"
            return None, f"{self.name} {gone}"
        try:
            sources = open_sources((self._config,))
            if len(sources) != 1 or not self._is_the_same(sources[0]):
                return None, f"{self.name} changed since it was packed"
            return sources[0], ""
        except (TokpackError, OSError) as error:
            return None, f"{self.name} cannot be read: {getattr(error, 'what', error)}"

    def _is_the_same(self, source: Source) -> bool:
        if source.container != "dataset" and source.size_bytes != self._record["size_bytes"]:
            return False
        return self._record["sha256"] is not None and source_sha256(source) == self._record["sha256"]

    @cached_property
    def _shape(self) -> Shape:
        source, _ = self._opened
        assert source is not None
        return detect_shape(source)

    def read(
        self, wanted: Ids, decode: Callable[[Any], str], block_bytes: int, seen: Callable[[int], None]
    ) -> Iterator[pl.DataFrame]:
        """The `wanted` documents (ascending) as frames of `COLUMNS`; `seen` gets the bytes gone through."""
        source, _ = self._opened
        mine = wanted[(wanted >= self.first) & (wanted < self.end)]
        if source is None or not len(mine):
            return
        _ = self._shape  # it also finds out how the file is to be read
        for block in read_blocks([replace(source)], block_bytes):
            low = self.first + block.first_doc_id * self.width
            high = low + block.rows * self.width
            inside = mine[np.searchsorted(mine, low) : np.searchsorted(mine, high)]
            if len(inside):
                documents = self._documents(block, source, decode).with_columns(pl.col("doc_id") + self.first)
                yield documents.filter(pl.Series(np.isin(documents["doc_id"].to_numpy(), inside)))
            seen(len(block.data) if isinstance(block.data, bytes) else block.data.nbytes)
            if high > mine[-1]:
                return

    def _documents(self, block: Block, source: Source, decode: Callable[[Any], str]) -> pl.DataFrame:
        if self._shape.format != TOKENS:
            return normalize(block, source, self._shape).documents.select(COLUMNS)
        normalized, tokens = take_tokens(block, source, self._shape, 1 << 31)
        ends = tokens.offsets.tolist()
        texts = [[decode(tokens.input_ids[start:end])] for start, end in pairwise(ends)]
        roles = [["text"]] * len(texts)
        return normalized.documents.select(
            "doc_id", "row", pl.Series("roles", roles), pl.Series("contents", texts), "extra"
        )


class Originals:
    """All inputs of a packed dataset."""

    def __init__(self, packed: PackedFolder) -> None:
        self._packed = packed
        manifest = packed.manifest
        width = pair_width(manifest)
        ranges = source_ranges(packed)
        records = {record["name"]: record for record in manifest["inputs"]}
        configs = _configs(packed)
        self.inputs = [
            Input(name, first, end, width, records.get(name, {}), configs.get(name))
            for name, (first, end) in ranges.items()
        ]

    def _decode(self, ids: Any) -> str:
        return str(self._packed.tokenizer.decode(ids))

    def input_of(self, doc_id: int) -> Input | None:
        return next((one for one in self.inputs if one.first <= doc_id < one.end), None)

    def find(self, doc_id: int) -> Original | None:
        """One document; None where its input cannot be read (`fault` says why) or its row could not."""
        for frame in self.read(np.array([doc_id], np.int64), READ_BYTES):
            for row in frame.iter_rows(named=True):
                return original(row, self.input_of(doc_id))
        return None

    def fault(self, doc_id: int) -> str:
        """Why the document has no text; empty where its input can be read."""
        one = self.input_of(doc_id)
        return one.fault if one else "no input holds this document"

    def read(
        self, wanted: Ids, block_bytes: int = 8 << 20, seen: Callable[[int], None] = lambda size: None
    ) -> Iterator[pl.DataFrame]:
        """Frames of `COLUMNS` with the `wanted` documents, ascending; inputs without any are not opened."""
        for one in self.inputs:
            if ((wanted >= one.first) & (wanted < one.end)).any():
                yield from one.read(wanted, self._decode, block_bytes, seen)


def original(row: dict[str, Any], one: Input | None) -> Original:
    extra = json.loads(row["extra"]) if row["extra"] else {}
    place = one.name if one else ""
    return Original(row["doc_id"], place, row["row"], row["roles"] or [], row["contents"] or [], extra)


def _configs(packed: PackedFolder) -> dict[str, SourceConfig]:
    """Input -> how it was read, and where it is; without those of which that is not sure."""
    manifest, paths = packed.manifest, packed.input_paths
    names = [record["name"] for record in manifest["inputs"]]
    if len(paths) != len(names):
        return {}
    given = manifest["config"]["source"]
    settings = [{key: config.get(key) for key in ("format", "container", "map")} for config in given]
    if len(given) != len(names):  # a folder or a glob became several inputs
        if any(setting != settings[0] for setting in settings):
            return {}
        settings = settings[:1] * len(names)
    found = {}
    for name, path, setting in zip(names, paths, settings, strict=True):
        known = {key: value for key, value in setting.items() if value}
        try:
            found[name] = convert(SourceConfig, {"path": path, "name": name, **known}, "source")
        except TokpackError:  # a foreign manifest
            continue
    return found
