"""Export for Megatron-Bridge (0.6): packed Parquet for its `GPTSFTPackedParquetDataset`.

    input_ids: list<int32>, seq_start_id: list<int32> (from 0), loss_mask: list<int8>

Megatron-Bridge cuts the last token of each document from the inputs and the first from the targets, so a
document of L tokens takes L - 1 places, and `loss_mask[i]` belongs to the target `input_ids[i + 1]`.
A document of one token has no target: it is left out.
"""

from __future__ import annotations

from pathlib import Path

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

Use the tokenizer in `tokenizer/` (`cfg.tokenizer.tokenizer_model`). Megatron-Bridge takes the loss from
targets that follow an EOS token inside a document: {lost:,} of {trained:,} trained tokens here.
{left_out:,} documents or pieces of one token have nothing to predict and are left out.
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
            packed_sequence_size={capacity},
            packed_train_data_path=str(folder / "train"),{validation}
        ),
        dataset_kwargs={{"answer_only_loss": True}},
        do_validation={held},
        do_test=False,
    )
'''


def export(packed: PackedFolder, out: Path) -> None:
    """`train/*.idx.parquet`, `validation/*.idx.parquet`, `dataset_config.py`, `check.py`, tokenizer."""
    capacity, eos = packed.manifest["capacity"], packed.manifest["tokenizer"]["eos_token_id"]
    lost = left_out = 0
    for split, part in splits(packed).items():
        (out / split).mkdir()
        for number, records in enumerate(shards(part)):
            path = out / split / f"shard-{number:05}.idx.parquet"
            with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
                for record in records:
                    rows = Rows.of(record)
                    converted = _convert(rows)
                    if converted.num_rows:
                        size = max(1, min(GROUP_ROWS, GROUP_TOKENS // capacity))
                        writer.write_batch(converted, row_group_size=size)
                    if split == "train":
                        trained_after = rows.labels[1:] != IGNORE_INDEX
                        lost += int(np.count_nonzero(trained_after & (rows.input_ids[:-1] == eos)))
                        left_out += int(np.count_nonzero(rows.lengths == 1))
    held = packed.validation is not None
    validation = '\n            packed_val_data_path=str(folder / "validation"),' if held else ""
    write_text(out / "dataset_config.py", CONFIG.format(capacity=capacity, validation=validation, held=held))
    packed.copy_tokenizer(out)
    copy_script("megatron_bridge_check.py", out, "check.py")
    facts = {"lost": lost, "left_out": left_out, "trained": packed.manifest["trained_tokens"]}
    text = README.format(figures=figures(packed), folder="THIS FOLDER", capacity=capacity, **facts)
    write_text(out / "README.md", text + (ORDER_LOST if keeps_order(packed.manifest) else ""))


def _convert(rows: Rows) -> pa.RecordBatch:
    trained = np.append(rows.labels[1:] != IGNORE_INDEX, False).astype(np.int8)
    keep = rows.lengths > 1
    kept = np.repeat(keep, rows.lengths)
    running = offsets_of(keep.astype(np.int64))[rows.documents]
    documents = np.unique(running)  # rows that keep nothing have no place
    tokens = offsets_of(rows.lengths[keep])
    starts = tokens[:-1] - np.repeat(tokens[documents[:-1]], np.diff(documents))
    row_offsets = tokens[documents]
    columns = [
        as_lists(row_offsets, rows.input_ids[kept]),
        as_lists(documents, starts.astype(np.int32)),
        as_lists(row_offsets, trained[kept]),
    ]
    return pa.record_batch(columns, schema=SCHEMA)
