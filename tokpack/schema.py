"""The contract on disk: columns, dtypes, drop reasons, file names. Nothing here computes.

`trainer_plugin` imports this module, errors, fingerprint, cost and shards: nothing else of tokpack.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

FORMAT_VERSION: Final = 1
IGNORE_INDEX: Final = -100
"""Label of a token without loss (PyTorch's cross entropy and transformers share it)."""

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
RUN: Final = "run.json"
REPORT: Final = "report.json"
DROPPED: Final = "dropped.parquet"
CHOICE: Final = "choice.parquet"
QUARANTINE: Final = "quarantine.jsonl"
WORK: Final = ".work"
VALIDATION: Final = "validation"
"""Sub-folder of a packed dataset that holds the validation packed dataset."""

# Bits of the token store's `flags`, one byte a token.
TRAINED: Final = 1
CONTENT: Final = 2
"""The token belongs to a message's content, not to the template around it."""
SEGMENTS: Final = ("template", "thinking", "tool_calls")
"""Parts of an answer, numbered from 1; 0 is what is said."""
SEGMENT: Final = 4
"""Times the number of the segment that a trained token belongs to, or one that `loss_mask` took the label of;
0 where it is an answer's, or nobody asked."""

PACKED_SCHEMA: Final = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("seq_lengths", pa.list_(pa.int32())),
        ("doc_ids", pa.list_(pa.int64())),
        ("pieces", pa.list_(pa.int32())),
    ]
)
"""One record per packed row. `sum(seq_lengths) == len(input_ids) == len(labels)`, labels unshifted.

`pieces` numbers the parts of a document that was split, from 0; it is 0 for a whole one."""

PREFERENCE: Final = "preference"
"""Input format, and `kind` in the manifest, of preference pairs."""

PREFERENCE_SCHEMA: Final = pa.schema(
    [*PACKED_SCHEMA, ("pair_ids", pa.list_(pa.int64())), ("is_chosen", pa.list_(pa.bool_()))]
)
"""Packed rows of preference pairs. Pair k is the documents 2k, chosen, and 2k + 1, rejected, side by side."""
PAIR_WIDTH: Final = 2

UNPAIRED: Final = "unpaired"
"""Input format, and `kind` in the manifest, of unpaired preferences: answers labeled good or bad."""
IS_DESIRABLE: Final = "is_desirable"
"""Of unpaired preferences: a column of rows, true for each document whose answer is good."""

SEQUENTIAL: Final = "sequential"
"""The planner whose rows keep the order of the input."""

COPIES: Final = "copies"
"""Where a source repeats: the last column of rows, number of the copy from 0; and a key of the manifest."""
VARIANT: Final = "variant"
"""Of documents: which arguments of the template change their text, 0 for none."""
DRAWN: Final = "drawn"
"""Of documents while they are decided about: whether the hold-out draws them."""

KEPT_AFTER_ALL: Final = "kept_after_all"
"""In the ledger: documents that are kept because `--keep` names them, by the reason that was overruled."""

LOSS_WEIGHTS: Final = "loss_weights"
"""Where messages have weights: a column of rows, by how much each label counts in the loss; 0 without label.
A key of the manifest, too."""

TOKEN_FILES: Final = ("tokens/pieces.arrow", "tokens/input_ids.npy", "tokens/trained.npy")
"""Of an index packed dataset: its pieces, and the tokens of all, end to end (`on_disk/token_files.py`)."""

PIECES_SCHEMA: Final = pa.schema(
    [
        ("doc_id", pa.int64()),
        ("piece", pa.int32()),
        ("start", pa.int64()),
        ("length", pa.int32()),
        ("trained", pa.int32()),
    ]
)
"""One record a piece, by document and piece: `length` tokens from `start` on, `trained` with a label."""

INDEX_SCHEMA: Final = pa.schema([("records", pa.list_(pa.int64()))])
"""One record per row of an index packed dataset: its pieces, by their number in `PIECES_SCHEMA`.

Where a source repeats, `copies` follows as in packed rows."""

STORE_SCHEMA: Final = pa.schema(
    [
        ("doc_id", pa.int64()),
        ("piece", pa.int32()),
        ("trained", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
        ("flags", pa.list_(pa.uint8())),
    ]
)
"""Token store: one record per document, or per piece of a document that was split.

`trained` counts the tokens that get a label; a piece's first token never does."""
STORED_WEIGHTS: Final = pa.field("weights", pa.list_(pa.float32()))
"""One more column of the store, in batches that have weights."""

CHOICE_SCHEMA: Final = pa.schema(
    [("doc_id", pa.int64()), ("row", pa.int64()), ("quality", pa.float32()), ("repeats", pa.bool_())]
)
"""One record per document that is kept or held out, of a pair for the first: what a choice under a budget
goes by."""
DROPPED_SCHEMA: Final = pa.schema(
    [
        ("doc_id", pa.int64()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("tokens_lost", pa.int64()),
    ]
)
"""One record per document left out or shortened; `row` counts from 1, in lines for JSONL."""


def is_preference(manifest: dict[str, Any]) -> bool:
    """Whether the rows hold preference pairs."""
    return manifest.get("kind") == PREFERENCE


def is_unpaired(manifest: dict[str, Any]) -> bool:
    """Whether the rows hold unpaired preferences."""
    return manifest.get("kind") == UNPAIRED


def pair_width(manifest: dict[str, Any]) -> int:
    """Documents that belong together, numbered one after another: 2 in preference pairs, else 1."""
    return PAIR_WIDTH if is_preference(manifest) else 1


def summed_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """`file` and `sha256` of what holds rows and tokens, as the manifest has them."""
    return [*manifest["shards"], *manifest.get("token_files", [])]


def keeps_order(manifest: dict[str, Any]) -> bool:
    """Whether the order of the rows is part of the data, to be trained on as it lies: a curriculum, or steps
    that each have their share of every source."""
    kept = manifest.get("derived", {}).get("keep_order", False)
    plan = manifest.get("config", {}).get("plan", {})
    return bool(kept or plan.get("planner") == SEQUENTIAL or plan.get("mix_per_step"))


def row_schema(kind: str, copies: bool, weights: bool = False) -> pa.Schema:
    """Columns of packed rows; `kind` as in the manifest, empty for none, `copies` where a document may be in
    them more than once, `weights` where labels do not all count in full."""
    columns = PREFERENCE_SCHEMA if kind == PREFERENCE else PACKED_SCHEMA
    if kind == UNPAIRED:
        columns = columns.append(pa.field(IS_DESIRABLE, pa.list_(pa.bool_())))
    if copies:
        columns = columns.append(pa.field(COPIES, pa.list_(pa.int32())))
    return columns.append(pa.field(LOSS_WEIGHTS, pa.list_(pa.float32()))) if weights else columns


def packed_schema(manifest: dict[str, Any]) -> pa.Schema:
    """Columns of a packed dataset's rows."""
    return row_schema(manifest.get("kind", ""), bool(manifest.get(COPIES)), bool(manifest.get(LOSS_WEIGHTS)))
