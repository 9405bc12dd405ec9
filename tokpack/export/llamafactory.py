"""Export for LLaMA-Factory (0.9.5): a tokenized dataset as its own `neat_packing` would have saved it.

Each row is padded to a multiple of 8, as LLaMA-Factory's own rows are: its collator pads every column but
`position_ids`. `attention_mask` holds the number of the document, 0 for padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokpack.arrays import Int32
from tokpack.export.common import (
    Rows,
    as_lists,
    copy_script,
    figures,
    write_datasets,
    write_text,
    yaml_lines,
)
from tokpack.packed.folder import PackedFolder
from tokpack.ranges import offsets_of, range_indices
from tokpack.schema import IGNORE_INDEX, keeps_order

SCHEMA = pa.schema(
    [(name, pa.list_(pa.int32())) for name in ("input_ids", "attention_mask", "labels", "position_ids")]
)
MULTIPLE = 8

README = """\
# For LLaMA-Factory (0.9.5)

{figures}.

Put your model and its `template` into `train.yaml`, then from this folder:

    python check.py train.yaml        # proves that the settings take effect
    llamafactory-cli train train.yaml

Keep the settings above the line in `train.yaml`: `neat_packing` with one row a batch is what makes
LLaMA-Factory keep documents apart, and with `flash_attn: fa2` it needs no quadratic mask.
`template` only sets special tokens here: the data is rendered already.
"""

CONFIG = """\
# Needed for packed rows: do not change.
{needed}

# ---------------------------------------------------------------------------------------------------
# A start to edit.
model_name_or_path: MODEL
template: TEMPLATE
{free}
"""


def export(packed: PackedFolder, out: Path) -> None:
    """Saved dataset in `data`, `train.yaml`, `check.py`, tokenizer."""
    tokenizer = packed.manifest["tokenizer"]
    padding = (
        tokenizer["pad_token_id"] if tokenizer["pad_token_id"] is not None else tokenizer["eos_token_id"]
    )
    write_datasets(packed, out / "data", SCHEMA, lambda record: _convert(record, padding or 0))
    packed.copy_tokenizer(out)
    copy_script("llamafactory_check.py", out, "check.py")
    write_text(out / "train.yaml", _config(packed))
    write_text(out / "README.md", README.format(figures=figures(packed)))


def _convert(record: pa.RecordBatch, padding: int) -> list[pa.Array]:
    """Columns of `SCHEMA`, rows filled up to `MULTIPLE`."""
    rows = Rows.of(record)
    sizes = np.diff(rows.tokens)
    padded = offsets_of(-(-sizes // MULTIPLE) * MULTIPLE)
    places = range_indices(padded[:-1], sizes)

    def column(values: Int32, fill: int) -> pa.ListArray:
        spread = np.full(padded[-1], fill, dtype=np.int32)
        spread[places] = values
        return as_lists(padded, spread)

    return [
        column(rows.input_ids, padding),
        column(rows.document_numbers(), 0),
        column(rows.labels, IGNORE_INDEX),
        column(rows.positions(), 0),
    ]


def _config(packed: PackedFolder) -> str:
    needed: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "tokenized_path": "./data",
        "dataset": "packed",  # must be given, and is not looked at
        "neat_packing": True,
        "flash_attn": "fa2",
        "cutoff_len": -(-packed.manifest["capacity"] // MULTIPLE) * MULTIPLE,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        **({"disable_shuffling": True} if keeps_order(packed.manifest) else {}),
    }
    free: dict[str, Any] = {
        "finetuning_type": "full",
        "output_dir": "./out",
        "gradient_accumulation_steps": 8,
        "learning_rate": 2e-05,
        "num_train_epochs": 1,
        "lr_scheduler_type": "cosine",
        "bf16": True,
    }
    if packed.validation is not None:
        needed["eval_dataset"] = "packed"
        free["eval_strategy"] = "epoch"
    return CONFIG.format(needed=yaml_lines(needed), free=yaml_lines(free))
