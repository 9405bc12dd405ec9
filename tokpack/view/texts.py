"""All texts of a packed dataset, to be searched: made behind the page in a scratch folder, mapped from there.

Kept texts come from the tokens, by the bytes of each token; left-out ones from the inputs, with the documents
that they repeat. Nothing is in memory but the views of what is mapped.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.errors import TokpackError
from tokpack.packed.originals import Original, Originals, original
from tokpack.packed.stored_pieces import flat
from tokpack.ranges import offsets_of
from tokpack.report.data.vocabulary import token_bytes
from tokpack.stages.rules.language import SAMPLED_HEAD, detect
from tokpack.view.table import DocumentTable

ORIGINAL = pa.schema(
    [
        ("doc_id", pa.int64()),
        ("row", pa.int64()),
        ("roles", pa.large_list(pa.large_string())),
        ("contents", pa.large_list(pa.large_string())),
        ("extra", pa.large_string()),
    ]
)


class Texts:
    """Made by `start`, in the background; `done` is the share so far. What is asked for too early waits."""

    def __init__(self, table: DocumentTable, folder: Path) -> None:
        self._table, self._folder = table, folder
        self._ready = {name: threading.Event() for name in ("kept", "left_out", "languages")}
        self._kept = pl.Series("text", [], dtype=pl.String)
        self._originals = pl.DataFrame()
        self.originals = Originals(table.packed)
        self.languages: pl.Series | None = None
        self.fault = ""
        self._bytes = 0
        self._all = 1
        self._starting, self._started = threading.Lock(), False

    def start(self) -> None:
        """Once; more calls do nothing."""
        with self._starting:
            if not self._started:
                threading.Thread(target=self._make, name="tokpack-texts", daemon=True).start()
            self._started = True

    @property
    def done(self) -> float:
        """Share of the work, 0 to 1."""
        if self._ready["left_out"].is_set():
            return 1.0
        return min(0.99, self._bytes / self._all)

    def is_ready(self, what: str) -> bool:
        return self._ready[what].is_set()

    def _wait(self, what: str) -> None:
        self.start()
        self._ready[what].wait()

    def _make(self) -> None:
        inputs = self._table.packed.manifest["inputs"]
        self._all = (
            4 * self._table.packed.manifest["tokens"] + sum(one["size_bytes"] or 0 for one in inputs) or 1
        )
        try:
            _ = self._table.trained
            self._kept = pl.concat([self._kept, *self._kept_texts()])
            self._ready["kept"].set()
            self._originals = self._read_originals()
            self._ready["left_out"].set()
            self.languages = self._languages()
        except (TokpackError, OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            self.fault = getattr(error, "what", "") or (str(error).splitlines() or [type(error).__name__])[0]
        finally:
            for event in self._ready.values():
                event.set()

    # Kept

    def _kept_texts(self) -> Iterator[pl.Series]:
        tokenizer = self._table.packed.tokenizer
        words = pa.array(token_bytes(tokenizer, np.arange(tokenizer.vocab_size)), pa.large_binary())
        for number, batch in enumerate(self._table.batches):
            ids, lengths = flat(batch, "input_ids"), flat(batch, "seq_lengths")
            pieces = pc.take(words, pa.array(np.minimum(ids, len(words) - 1))) if len(ids) else words[:0]
            ends = np.frombuffer(pieces.buffers()[1], np.int64)[offsets_of(lengths)]
            joined = pa.LargeBinaryArray.from_buffers(
                pa.large_binary(), len(lengths), [None, pa.py_buffer(ends.tobytes()), pieces.buffers()[2]]
            )
            table = pa.table({"text": _utf8(joined)})
            yield _mapped(self._folder / f"kept-{number}.arrow", [table])["text"]
            self._bytes += 4 * len(ids)

    # Left out

    def _read_originals(self) -> pl.DataFrame:
        """Left-out documents and those that they repeat, by doc_id."""
        left_out = self._table.left_out
        wanted = pl.concat([left_out["doc_id"], left_out["twin"].drop_nulls()]).unique().sort().to_numpy()
        frames = self.originals.read(wanted, seen=self._seen)
        tables = (frame.to_arrow().cast(ORIGINAL).replace_schema_metadata() for frame in frames)
        return _mapped(self._folder / "originals.arrow", tables, ORIGINAL)

    def _seen(self, size: int) -> None:
        self._bytes += size

    @lru_cache(maxsize=1)  # noqa: B019 - there is one for the life of the server
    def _left_out(self) -> pl.Series:
        """Text of each row of `Table.left_out`; null where there is none."""
        if self._originals.is_empty():
            return pl.repeat(None, len(self._table.left_out), dtype=pl.String, eager=True)
        texts = self._originals.select("doc_id", text=pl.col("contents").list.join("\n", ignore_nulls=True))
        return self._table.left_out.join(texts, on="doc_id", how="left", maintain_order="left")["text"]

    def find(self, doc_id: int) -> Original | None:
        """A document as its input has it: from the scratch folder, or, while that is made, from the input."""
        if not self._ready["left_out"].is_set():
            return self.originals.find(doc_id)
        at = self._originals["doc_id"].search_sorted(doc_id) if len(self._originals) else 0
        if at >= len(self._originals) or self._originals["doc_id"][at] != doc_id:
            return None
        return original(self._originals.row(at, named=True), self.originals.input_of(doc_id))

    def _languages(self) -> pl.Series | None:
        """Language of each left-out document, where py3langid is there to tell."""
        try:
            return detect(self._left_out().fill_null("").str.head(SAMPLED_HEAD), min_confidence=0.5)
        except TokpackError:
            return None

    # Search

    def hits(self, what: str, text: str) -> pl.Series:
        """Which texts, kept or left out, hold `text`, in any letter case."""
        self._wait(what)
        return self._hits(what, text)

    @lru_cache(maxsize=16)  # noqa: B019
    def _hits(self, what: str, text: str) -> pl.Series:
        texts = self._kept if what == "kept" else self._left_out()
        if len(texts) == 0 and what == "kept":  # it could not be made
            texts = pl.repeat(None, len(self._table.pieces), dtype=pl.String, eager=True)
        if text.casefold() == text.upper().casefold() and not any(map(str.isalpha, text)):
            return texts.str.contains(text, literal=True).fill_null(False)
        return texts.str.contains(f"(?i){re.escape(text)}").fill_null(False)

    def kept_text(self, at: int) -> str | None:
        """Text of a kept piece, where it is made already."""
        return self._kept[at] if at < len(self._kept) else None

    def left_out_text(self, at: int) -> str | None:
        return self._left_out()[at] if self.is_ready("left_out") else None


def _utf8(joined: pa.LargeBinaryArray) -> Any:
    """As texts; a character that is cut at an end is replaced."""
    try:
        return joined.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([value.as_py().decode("utf-8", "replace") for value in joined], pa.large_string())


def _mapped(path: Path, tables: Any, columns: pa.Schema | None = None) -> pl.DataFrame:
    """Written into a file and mapped from it."""
    writer = None
    with path.open("wb") as file:
        for table in tables:
            writer = writer or pa.ipc.new_file(file, table.schema)
            writer.write_table(table)
        if writer is None and columns is not None:
            writer = pa.ipc.new_file(file, columns)
        if writer is not None:
            writer.close()
    with pa.memory_map(str(path)) as source:
        return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all()))
