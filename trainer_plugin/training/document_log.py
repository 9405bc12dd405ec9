"""`DocumentLog`: the training loss of every document in every epoch, as a table.

Costs one masked sum per batch, on the device; nothing is copied before a checkpoint or the end. Each process
keeps its documents in parts beside the checkpoints (`OUT/document-losses/step-00000012-rank-0.parquet`), so a
resumed run loses none and counts none twice; at the end the first process joins them into one file:

    epoch   doc_id   piece   tokens   times   loss
    0       7        0       112      1       1.8342

`tokens` are those with a label. `times` counts how often the document was trained on in that epoch: copies
that `repeat` made, rows that fill up the last micro-batch of several processes. The loss is the mean over all
of them, and null for a document without trained tokens.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokpack.errors import DataError, OutputError, UsageError
from tokpack.files.own_files import is_real_folder

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tokpack")

PARTS = "document-losses"
_NAME = re.compile(r"step-\d{1,18}-rank-\d{1,9}\.parquet", re.ASCII)
_KEYS = ["epoch", "doc_id", "piece"]
_PART = pa.schema(
    [
        ("epoch", pa.int32()),
        ("doc_id", pa.int64()),
        ("piece", pa.int32()),
        ("tokens", pa.int64()),
        ("sum", pa.float64()),
    ]
)


def check_log_name(path: str | Path) -> None:
    """Raises UsageError for another ending than .parquet and .jsonl, OutputError where no file can be."""
    if (suffix := Path(path).suffix) not in (".parquet", ".jsonl"):
        raise UsageError(
            f"a log of documents cannot be a {suffix or 'file without ending'}",
            where=f"--document-log {path}",
            hint="end the name in .parquet or .jsonl",
        )
    file = Path(path).absolute()
    above = next(folder for folder in file.parents if folder.exists())
    if file.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        what = "a folder is there" if file.is_dir() else f"{above} is no folder that can be written into"
        raise OutputError(what, where=f"--document-log {path}", hint="give another place")


class DocumentLog:
    """Losses of documents, summed up as training goes by.

    path: `.parquet` or `.jsonl`; raises UsageError for another ending. folder: where the checkpoints lie.
    """

    def __init__(self, path: str | Path, folder: str | Path, rank: int = 0) -> None:
        self.path, self.parts, self.rank = Path(path), Path(folder) / PARTS, rank
        check_log_name(path)
        self._documents: list[tuple[int, np.ndarray]] = []
        self._sums: list[torch.Tensor] = []

    def begin(self, step: int) -> None:
        """Forget what was written after `step`, the checkpoint that a run goes on from; 0: everything."""
        if step == 0:
            self._remove_parts()
        for part in self._written():
            if int(part.name.split("-")[1]) > step and part.stem.endswith(f"-rank-{self.rank}"):
                part.unlink()

    def _written(self) -> list[Path]:
        """The parts of all processes, by name; no link, and nothing through one."""
        found = sorted(self.parts.iterdir()) if is_real_folder(self.parts) else []
        return [
            path for path in found if _NAME.fullmatch(path.name) and not path.is_symlink() and path.is_file()
        ]

    def _remove_parts(self) -> None:
        """All parts, and their folder where nothing else is in it."""
        for part in self._written():
            part.unlink()
        with suppress(OSError):  # not there, not empty, or a link
            self.parts.rmdir()

    def add(self, epoch: int, documents: np.ndarray, sums: torch.Tensor) -> None:
        """documents: int64[D, 3], doc_id, piece and trained tokens; sums: float[D], on any device."""
        self._documents.append((epoch, documents))
        self._sums.append(sums)

    def flush(self, step: int) -> None:
        """Write what came in since the last time."""
        if not self._sums:
            return
        import torch

        epochs = np.concatenate([np.full(len(rows), epoch, np.int32) for epoch, rows in self._documents])
        documents = np.concatenate([rows for _, rows in self._documents])
        sums = torch.cat(self._sums).cpu().double().numpy()  # in this order for MPS, which has no double
        self._documents, self._sums = [], []
        columns = [epochs, documents[:, 0], documents[:, 1].astype(np.int32), documents[:, 2], sums]
        real = documents[:, 0] >= 0  # the rest is padding
        self.parts.mkdir(parents=True, exist_ok=True)
        part = self.parts / f"step-{step:08d}-rank-{self.rank}.parquet"
        pq.write_table(pa.table([column[real] for column in columns], schema=_PART), part)

    def finish(self, keep_parts: bool = True) -> None:
        """Join the parts of all processes into the file; the first process calls it, after the last flush.

        keep_parts: a later session may go on from a checkpoint. Where the log cannot be written, that is
        told, and the parts stay: the training goes on to its end.
        """
        try:
            self._join()
        except (OSError, DataError) as error:
            what = error.what if isinstance(error, DataError) else error.strerror or error
            log.warning("the losses of documents cannot be written: %s; they stay in %s", what, self.parts)
        else:
            if not keep_parts:
                self._remove_parts()

    def _join(self) -> None:
        tables = [_read(part) for part in self._written()]
        table = document_means(pa.concat_tables([_PART.empty_table(), *tables]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".parquet":
            pq.write_table(table, self.path)
        else:
            with self.path.open("w", encoding="utf-8") as file:
                for batch in table.to_batches(max_chunksize=10_000):
                    file.write(_json_lines(batch))


def _read(part: Path) -> pa.Table:
    try:
        return pq.read_table(part, schema=_PART)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"a part of the log of documents cannot be read: {str(error).splitlines()[0][:200]}",
            where=str(part),
            hint="take it away: the losses of its steps are lost then",
        ) from None


def document_means(rows: pa.Table) -> pa.Table:
    """One row per epoch and document, in that order, from rows of sums."""
    grouped = rows.group_by(_KEYS).aggregate([("tokens", "sum"), ("sum", "sum"), ("tokens", "count")])
    times, tokens = grouped["tokens_count"], grouped["tokens_sum"]
    trained = pc.if_else(pc.equal(tokens, 0), None, tokens)
    table = pa.table(
        {
            **{name: grouped[name] for name in _KEYS},
            "tokens": pc.divide(tokens, times),
            "times": times.cast(pa.int32()),
            "loss": pc.divide(grouped["sum_sum"], trained.cast(pa.float64())),
        }
    )
    return table.sort_by([(name, "ascending") for name in _KEYS])


def _json_lines(batch: pa.RecordBatch) -> str:
    import json

    return "".join(json.dumps(row) + "\n" for row in batch.to_pylist())
