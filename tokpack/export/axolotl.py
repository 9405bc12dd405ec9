"""Export for axolotl (0.21): rows that it neither packs nor prepares again.

axolotl's collator passes `position_ids` through and drops the attention mask that the tokenizer's padding
makes, as long as the data has none. `sample_packing: true` would number each row through from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

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
from tokpack.schema import keeps_order

SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in ("input_ids", "labels", "position_ids")])

README = """\
# For axolotl (0.21)

{figures}.

Put your model into `config.yaml` (`base_model`), then from this folder:

    python check.py config.yaml       # proves that the settings take effect
    axolotl train config.yaml

Keep the settings above the line in `config.yaml`. `sample_packing: true` or a missing
`skip_prepare_dataset` would make the position ids anew, and documents would see each other.
More than one row a step comes from `gradient_accumulation_steps`.
"""

CONFIG = """\
# Needed for packed rows: do not change.
datasets:
  - path: ./data
    split: train
{validation}{needed}

# ---------------------------------------------------------------------------------------------------
# A start to edit.
base_model: MODEL
{free}
"""


def export(packed: PackedFolder, out: Path) -> None:
    """Saved dataset in `data`, `config.yaml`, `check.py`, tokenizer."""
    write_datasets(packed, out / "data", SCHEMA, _convert)
    packed.copy_tokenizer(out)
    copy_script("axolotl_check.py", out, "check.py")
    write_text(out / "config.yaml", _config(packed))
    write_text(out / "README.md", README.format(figures=figures(packed)))


def _convert(record: pa.RecordBatch) -> list[pa.Array]:
    positions = as_lists(Rows.of(record).tokens, Rows.of(record).positions())
    return [record.column("input_ids"), record.column("labels"), positions]


def _config(packed: PackedFolder) -> str:
    held = packed.validation is not None
    validation = "test_datasets:\n  - path: ./data\n    split: validation\n" if held else ""
    needed: dict[str, Any] = {
        "tokenizer_config": "./tokenizer",
        "skip_prepare_dataset": True,
        "remove_unused_columns": False,
        "sample_packing": False,
        "eval_sample_packing": False,
        "pad_to_sequence_len": False,
        "sequence_len": packed.manifest["capacity"],
        "micro_batch_size": 1,
        "eval_batch_size": 1,
        "flash_attention": True,
        **({"curriculum_sampling": True} if keeps_order(packed.manifest) else {}),
    }
    if not held:
        needed["val_set_size"] = 0
    free = {
        "output_dir": "./out",
        "gradient_accumulation_steps": 8,
        "num_epochs": 1,
        "optimizer": "adamw_torch_fused",
        "lr_scheduler": "cosine",
        "learning_rate": 2e-05,
        "bf16": "auto",
        "gradient_checkpointing": True,
    }
    return CONFIG.format(validation=validation, needed=yaml_lines(needed), free=yaml_lines(free))
