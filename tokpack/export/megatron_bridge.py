"""Export for Megatron-Bridge (0.6): packed Parquet for its `GPTSFTPackedParquetDataset`.

    input_ids: list<int32>, seq_start_id: list<int32> (from 0), loss_mask: list<int8>

Megatron-Bridge cuts the last token of each document from the inputs and the first from the targets, so a
document of L tokens takes L - 1 places, and `loss_mask[i]` belongs to the target `input_ids[i + 1]`.
A document of one token has no target: it is left out.

For context parallelism over N ranks the places of a document are a multiple of 2 N: it is filled up with EOS
tokens that have no loss. The loader takes EOS tokens at a document's end for such padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokpack.export.common import (
    Rows,
    as_lists,
    copy_script,
    figures,
    shards,
    splits,
    write_text,
)
from tokpack.packed.folder import PackedFolder
from tokpack.ranges import offsets_of
from tokpack.schema import IGNORE_INDEX, keeps_order

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("seq_start_id", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int8())),
    ]
)
LOADER_MULTIPLE = 16
"""The loader fills rows up to a multiple of this, and never past the length that is set."""
GROUP_ROWS = 500
GROUP_TOKENS = 1 << 20
"""A reader decodes a whole row group for each row it takes."""

README = """\
# For Megatron-Bridge (0.6)

{figures}.

    python check.py                   # proves that the rows are read as packed; on the training machine
    # in your recipe:
    from dataset_config import dataset_config
    cfg.dataset = dataset_config("{folder}")
    cfg.model.seq_length = {capacity}
    cfg.train.micro_batch_size = 1    # needed: one packed row is one batch
{parallel}
Use the tokenizer in `tokenizer/` (`cfg.tokenizer.tokenizer_model`). Megatron-Bridge takes the loss from
targets that follow an EOS token inside a document: {lost:,} of {trained:,} trained tokens here.
Documents and pieces of one token have nothing to predict and are left out: {left_out:,} here.
"""

PARALLEL = """\
    cfg.model.context_parallel_size = {ranks}
    cfg.model.calculate_per_token_loss = True    # needed with context parallelism
    cfg.ddp.average_in_collective = False

Each document is filled up to a multiple of {multiple} places: {filled:,} more places, without a loss.
A row has at most {capacity:,}.
"""

ORDER_LOST = """
The order of these rows is part of the data (a curriculum). Megatron-Bridge shuffles rows: the order will be
lost.
"""

CONFIG = '''\
"""Megatron-Bridge's settings for the packed rows beside this file."""

from pathlib import Path

from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetConfig
from megatron.bridge.data.packing import PackedSequenceSpecs


def dataset_config(folder=Path(__file__).resolve().parent):
    """`folder`: where this export lies on the training machine."""
    folder = Path(folder)
    return GPTSFTDatasetConfig(
        dataset_root=str(folder),
        seq_length={capacity},
        enable_offline_packing=True,
        offline_packing_specs=PackedSequenceSpecs(
            packed_sequence_size={capacity},{multiple}
            packed_train_data_path=str(folder / "train"),{validation}
        ),
        dataset_kwargs={{"answer_only_loss": True}},
        do_validation={held},
        do_test=False,
    )
'''


@dataclass(slots=True)
class ExportedRows:
    """What one export has written, in both splits."""

    longest: int = 0
    """Places of the longest row."""
    filled: int = 0
    """Places of padding."""
    lost: int = 0
    """Trained tokens of the train split that follow an EOS token."""
    left_out: int = 0
    """Documents of one token in the train split."""


def export(packed: PackedFolder, out: Path, context_parallel: int = 1) -> None:
    """`train/*.idx.parquet`, `validation/*.idx.parquet`, `dataset_config.py`, `check.py`, tokenizer.

    `context_parallel`: ranks that share a row, a power of two.
    """
    multiple = 2 * context_parallel if context_parallel > 1 else 1
    written = ExportedRows()
    for split, part in splits(packed).items():
        (out / split).mkdir()
        for number, records in enumerate(shards(part)):
            path = out / split / f"shard-{number:05}.idx.parquet"
            _write_shard(path, records, part, multiple, written)
    capacity, held = packed.manifest["capacity"], packed.validation is not None
    parallel = ""
    if multiple > 1:
        capacity = padded(written.longest, max(multiple, LOADER_MULTIPLE))
        parallel = PARALLEL.format(
            ranks=context_parallel, multiple=multiple, filled=written.filled, capacity=capacity
        )
    settings = {
        "capacity": capacity,
        "multiple": f"\n            pad_seq_to_mult={multiple}," if multiple > 1 else "",
        "validation": '\n            packed_val_data_path=str(folder / "validation"),' if held else "",
        "held": held,
    }
    write_text(out / "dataset_config.py", CONFIG.format(**settings))
    packed.copy_tokenizer(out)
    copy_script("megatron_bridge_check.py", out, "check.py")
    facts = {"lost": written.lost, "left_out": written.left_out, "trained": packed.manifest["trained_tokens"]}
    text = README.format(
        figures=figures(packed), folder="THIS FOLDER", capacity=capacity, parallel=parallel, **facts
    )
    write_text(out / "README.md", text + (ORDER_LOST if keeps_order(packed.manifest) else ""))


def padded(length: Any, multiple: int) -> Any:
    """The next multiple, of one length or of an array of them."""
    return length + -length % multiple


def _write_shard(
    path: Path, records: Iterator[pa.RecordBatch], part: PackedFolder, multiple: int, written: ExportedRows
) -> None:
    manifest = part.manifest
    eos = manifest["tokenizer"]["eos_token_id"]
    size = max(1, min(GROUP_ROWS, GROUP_TOKENS // manifest["capacity"]))
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for record in records:
            rows = Rows.of(record)
            converted = _convert(rows, multiple, eos)
            if converted.num_rows:
                writer.write_batch(converted, row_group_size=size)
                stored, documents = (
                    np.diff(converted.column(n).offsets.to_numpy()) for n in ("input_ids", "seq_start_id")
                )
                written.longest = max(written.longest, int((stored - documents).max()))
                written.filled += int(stored.sum() - rows.lengths[rows.lengths > 1].sum())
            if manifest["split"] == "train":
                trained_after = rows.labels[1:] != IGNORE_INDEX
                written.lost += int(np.count_nonzero(trained_after & (rows.input_ids[:-1] == eos)))
                written.left_out += int(np.count_nonzero(rows.lengths == 1))


def _convert(rows: Rows, multiple: int = 1, eos: int = 0) -> pa.RecordBatch:
    """Columns of `SCHEMA`; documents are filled up with `eos` to a multiple of so many places."""
    trained = np.append(rows.labels[1:] != IGNORE_INDEX, False).astype(np.int8)
    keep = rows.lengths > 1
    kept = np.repeat(keep, rows.lengths)
    running = offsets_of(keep.astype(np.int64))[rows.documents]
    documents = np.unique(running)  # rows that keep nothing have no place
    lengths = rows.lengths[keep]
    tokens = offsets_of(padded(lengths - 1, multiple) + 1)
    starts = tokens[:-1] - np.repeat(tokens[documents[:-1]], np.diff(documents))
    places = np.arange(lengths.sum()) + np.repeat(tokens[:-1] - offsets_of(lengths)[:-1], lengths)
    input_ids, loss_mask = np.full(tokens[-1], eos, np.int32), np.zeros(tokens[-1], np.int8)
    input_ids[places], loss_mask[places] = rows.input_ids[kept], trained[kept]
    row_offsets = tokens[documents]
    columns = [
        as_lists(row_offsets, input_ids),
        as_lists(documents, starts.astype(np.int32)),
        as_lists(row_offsets, loss_mask),
    ]
    return pa.record_batch(columns, schema=SCHEMA)
