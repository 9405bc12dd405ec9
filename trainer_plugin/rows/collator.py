"""`PackedCollator`: packed rows in, the one batch out that every attention backend reads correctly.

transformers finds the documents of a packed row by different rules in different backends, and ignores them as
soon as an attention mask or a cache is in the way. One form is right everywhere:

    rows   [A A A B B] [C C]           capacity=None
    batch  input_ids     [[a0 a1 a2 b0 b1 c0 c1]]      one flat row, int64
           labels        [[-100 . . -100 . -100 .]]    unshifted, int64
           position_ids  [[0 1 2 0 1 0 1]]             restart at each document
           seq_idx       [[0 0 0 1 1 2 2]]             int32, for state-space kernels
           cu_seq_lens_q [0 3 5 7] = cu_seq_lens_k     int32, for flash and "tokpack" attention
           max_length_q  3 = max_length_k              int
           (no attention_mask)

What it costs: one concatenation per column; about 30 microseconds for a row of 1024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tokpack.errors import DataError, UsageError
from tokpack.schema import IGNORE_INDEX, LOSS_WEIGHTS
from tokpack.terminal.activity import counted
from trainer_plugin.rows.mismatched import labels_of, mismatched

Loss = Literal["token", "document"]


class PackedCollator:
    """Flatten packed rows into one row of documents.

    capacity: tokens per row. When given, the batch is padded to `capacity * len(rows)`, so that all batches
        have one shape (for `torch.compile`, and to keep memory flat). The padding is made of documents of
        its own, with ascending positions and no labels, which no other document can see.
    loss: "document" adds `loss_weights`, float32 like `labels`: 1 / (trained tokens of the document) at each
        trained token, for the per-document mean that `PackedTrainer` computes.
    loss_weights: what becomes of weights that rows bring. True hands them on, beside `labels`, and deals out
        a document's share by them; False leaves them out. When not given they are an error, because a plain
        Trainer hands them to a model, which ignores them; `PackedTrainer` sets True.
    counts: add what `PackedTrainer` takes out again before the model sees the batch: `packed_counts`, NumPy
        int64 `[rows, tokens, trained tokens, documents]`, `packed_doc_ids`, NumPy int64, and `packed_places`,
        int64 `[K]`, the predictions that are of a label, so that nobody has to ask a GPU for them.
    pairs: add `packed_pairs`, int64 `[P, 2]`: which documents of the batch are the chosen and the rejected
        one of each preference pair; pairs without trained tokens are not among them.
    unpaired: add `packed_desirable`, int64 `[D]`: of unpaired preferences, 1 where a document's answer is
        good, 0 where it is bad, -1 for padding and documents without trained tokens.
    mismatched: add `packed_mismatched`, a batch like this one of each prompt with the answer to another
        (`trainer_plugin.rows.mismatched`), documents of at most so many tokens.
    documents: add `packed_documents`, NumPy int64 `[D, 3]`: doc_id, piece and trained tokens of each document
        of the batch (-1 for padding), for the log of losses per document.

    Rows may hold lists, NumPy arrays or tensors. Raises DataError for rows that are not packed rows.
    """

    def __init__(
        self,
        capacity: int | None = None,
        loss: Loss = "token",
        *,
        pad_token_id: int = 0,
        counts: bool = False,
        documents: bool = False,
        pairs: bool = False,
        unpaired: bool = False,
        mismatched: int | None = None,
        loss_weights: bool | None = None,
    ) -> None:
        if loss not in ("token", "document"):
            raise UsageError(f"unknown loss {loss!r}", where="loss", hint='"token" or "document"')
        if capacity is not None and capacity < 1:
            raise UsageError("capacity must be positive", where=f"capacity={capacity}")
        self.capacity, self.loss, self.pad_token_id = capacity, loss, pad_token_id
        self.counts, self.documents, self.pairs = counts, documents, pairs
        self.unpaired, self.mismatched = unpaired, mismatched
        self.loss_weights = loss_weights

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        input_ids, labels, lengths = _flatten(rows)
        real, documents = len(input_ids), len(lengths)
        if self.capacity is not None:
            tail = self._tail(rows, real)
            pad = int(tail.sum())
            input_ids = np.concatenate([input_ids, np.full(pad, self.pad_token_id, np.int64)])
            labels = np.concatenate([labels, np.full(pad, IGNORE_INDEX, np.int64)])
            lengths = np.concatenate([lengths, tail])
        flat = input_ids, labels, lengths
        batch = _batch(input_ids, labels, lengths)
        weights = self._weights(rows, labels)
        if self.loss == "document":
            weights = _document_weights(labels, lengths, weights)
        if weights is not None:
            import torch

            batch[LOSS_WEIGHTS] = torch.from_numpy(weights.astype(np.float32))[None]
        if self.counts:
            import torch

            batch["packed_places"] = places = torch.from_numpy(np.flatnonzero(labels[1:] != IGNORE_INDEX))
            batch["packed_counts"] = np.array([len(rows), real, len(places), documents])
            batch["packed_doc_ids"] = _doc_ids(rows)
        if self.documents:
            batch["packed_documents"] = _document_table(rows, labels, lengths)
        if self.pairs:
            import torch

            batch["packed_pairs"] = torch.from_numpy(_pairs(rows, labels, lengths))
        if self.unpaired:
            import torch

            trained_tokens = _trained_tokens(labels, lengths)
            batch["packed_desirable"] = torch.from_numpy(labels_of(rows, trained_tokens))
        if self.mismatched is not None:
            import torch

            ids, labels, lengths = self._as_long(*mismatched(*flat, self.mismatched), len(rows))
            places = torch.from_numpy(np.flatnonzero(labels[1:] != IGNORE_INDEX))
            batch["packed_mismatched"] = {**_batch(ids, labels, lengths), "packed_places": places}
        return batch

    def _as_long(
        self, input_ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray, rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Padded to the shape of the batch, where batches have one; documents may have been cut."""
        short = 0 if self.capacity is None else self.capacity * rows - len(input_ids)
        if not short:
            return input_ids, labels, lengths
        assert self.capacity is not None
        ids = np.concatenate([input_ids, np.full(short, self.pad_token_id, np.int64)])
        labels = np.concatenate([labels, np.full(short, IGNORE_INDEX, np.int64)])
        return ids, labels, np.concatenate([lengths, self._documents_of(short)])

    def _weights(self, rows: Sequence[Mapping[str, Any]], labels: np.ndarray) -> np.ndarray | None:
        """The rows' weights of tokens, 0 without label; None where every label counts in full."""
        if LOSS_WEIGHTS not in rows[0] or self.loss_weights is False:
            return None
        if self.loss_weights is None:
            raise DataError(
                "rows with weights of tokens, which a plain Trainer would ignore",
                where=LOSS_WEIGHTS,
                hint="train with PackedTrainer, or without weights: PackedCollator(loss_weights=False)",
            )
        weights = np.concatenate([np.asarray(row[LOSS_WEIGHTS], dtype=np.float32) for row in rows])
        weights = np.concatenate([weights, np.zeros(len(labels) - len(weights), np.float32)])
        return np.where(labels != IGNORE_INDEX, weights, 0)

    def _tail(self, rows: Sequence[Any], real: int) -> np.ndarray:
        """Lengths of the padding documents; none is longer than a row, so positions stay in range."""
        assert self.capacity is not None
        pad = self.capacity * len(rows) - real
        if pad < 0:
            raise UsageError(
                f"{len(rows)} rows hold {counted(real, 'token')}, more than {len(rows)} x {self.capacity:,}",
                where="PackedCollator(capacity=...)",
                hint="give the packed dataset's capacity, or leave it out to pad nothing",
            )
        return self._documents_of(pad)

    def _documents_of(self, pad: int) -> np.ndarray:
        assert self.capacity is not None
        whole, rest = divmod(pad, self.capacity)
        return np.array([self.capacity] * whole + [rest] * (rest > 0), dtype=np.int64)


def _flatten(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(input_ids, labels, document lengths)` of all rows, int64; labels at document starts masked."""
    if not rows:
        raise DataError("no rows to collate")
    for name in ("input_ids", "labels", "seq_lengths"):
        if name not in rows[0]:
            hint = (
                "set `remove_unused_columns=False` in TrainingArguments"
                if "input_ids" in rows[0]
                else "give rows of a packed dataset"
            )
            raise DataError(f"a row has no {name!r}, only {sorted(rows[0])}", hint=hint)
    input_ids, labels, lengths = (
        np.concatenate([np.asarray(row[name], dtype=np.int64) for row in rows])
        for name in ("input_ids", "labels", "seq_lengths")
    )
    for number, row in enumerate(rows):
        tokens, ends = len(row["input_ids"]), int(np.sum(np.asarray(row["seq_lengths"])))
        if not tokens == len(row["labels"]) == ends:
            raise DataError(
                f"a row has {tokens} input_ids, {len(row['labels'])} labels, seq_lengths adding up to {ends}",
                where=f"row {number} of the batch",
                hint="the three must agree: do not truncate packed rows",
            )
    lengths = lengths[lengths > 0]
    labels[np.cumsum(lengths) - lengths] = IGNORE_INDEX
    return input_ids, labels, lengths


def _batch(input_ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    import torch

    ends = np.cumsum(lengths)
    positions = np.arange(len(input_ids)) - np.repeat(ends - lengths, lengths)
    numbers = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    bounds = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
    longest = int(lengths.max(initial=0))
    return {
        "input_ids": torch.from_numpy(input_ids)[None],
        "labels": torch.from_numpy(labels)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "seq_idx": torch.from_numpy(numbers)[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds.clone(),
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _trained_tokens(labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Tokens with a label in each document: int64[D]."""
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(numbers[labels != IGNORE_INDEX], minlength=len(lengths))


def _document_weights(labels: np.ndarray, lengths: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Such that those of a document add up to 1."""
    if weights is None:
        per_token = np.repeat(np.maximum(_trained_tokens(labels, lengths), 1), lengths)
        return np.where(labels != IGNORE_INDEX, 1.0 / per_token, 0.0)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(numbers, weights, minlength=len(lengths))
    return weights / np.where(sums > 0, sums, 1)[numbers]


def _pairs(rows: Sequence[Mapping[str, Any]], labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`[P, 2]`; raises DataError unless each chosen document has its rejected one behind it."""
    if not {"pair_ids", "is_chosen"} <= rows[0].keys():
        raise DataError(
            f"a row has no 'pair_ids' and 'is_chosen', only {sorted(rows[0])}",
            hint="give rows of preference pairs: `tokpack pack` data with chosen and rejected answers",
        )
    pair_ids, is_chosen = (
        np.concatenate([np.asarray(row[name]) for row in rows]) for name in ("pair_ids", "is_chosen")
    )
    whole = len(pair_ids) % 2 == 0 and len(pair_ids) <= len(lengths)
    if not whole or (pair_ids[::2] != pair_ids[1::2]).any() or not (is_chosen[::2] & ~is_chosen[1::2]).all():
        raise DataError(
            "half a pair: a chosen document is not followed by its rejected one",
            where="a row of the batch",
            hint="keep rows of preference pairs as they were packed",
        )
    pairs = np.arange(len(pair_ids)).reshape(-1, 2)
    return pairs[(_trained_tokens(labels, lengths)[pairs] > 0).all(axis=1)]


def _doc_ids(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Of all documents, int64[D]; none where rows come without."""
    known = [np.asarray(row.get("doc_ids", ()), dtype=np.int64) for row in rows]
    return np.concatenate(known)


def _document_table(rows: Sequence[Mapping[str, Any]], labels: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    if "doc_ids" not in rows[0]:
        raise DataError(
            "rows without doc_ids cannot be logged by document", hint="give rows of a packed dataset"
        )
    table = np.full((len(lengths), 3), -1, np.int64)
    table[:, 2] = _trained_tokens(labels, lengths)
    kept = np.concatenate([np.asarray(row["seq_lengths"]) > 0 for row in rows])
    for column, name in enumerate(("doc_ids", "pieces")):
        known = np.concatenate([np.asarray(row.get(name, np.zeros(len(row["doc_ids"])))) for row in rows])
        table[: kept.sum(), column] = known[kept]
    return table
