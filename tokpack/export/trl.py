"""Export for TRL's `SFTTrainer` (1.16), and for Unsloth, which trains through it.

TRL makes position ids from `seq_lengths`, and only with `padding_free`. `packing=True` would pack the rows
again and lose their boundaries; without `skip_prepare_dataset` the columns would be prepared again.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tokpack.export.common import copy_script, figures, write_datasets, write_text
from tokpack.packed.folder import PackedFolder
from tokpack.schema import PACKED_SCHEMA, keeps_order
from tokpack.stages.write import write_json

COLUMNS = ("input_ids", "labels", "seq_lengths")
SCHEMA = pa.schema([PACKED_SCHEMA.field(name) for name in COLUMNS])

SETTINGS = {
    "packing": False,
    "padding_free": True,
    "max_length": None,
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 2e-05,
    "num_train_epochs": 1,
    "bf16": True,
}
"""Arguments of `SFTConfig`. The first four are needed; the others are a start to edit."""

README = """\
# For TRL's SFTTrainer (1.16)

{figures}.

    pip install "trl==1.16.*"
    python check.py --model MODEL     # proves that the settings take effect
    python train.py --model MODEL --output OUT

`settings.json` holds the arguments of `SFTConfig`. Keep the first four: TRL finds the documents of a row by
`seq_lengths`, which `packing: true` and `padding_free: false` would both ignore without a word. On a GPU
install flash-attn and give `--attn flash_attention_2`. The data opens with `datasets.load_from_disk`.
"""


def export(packed: PackedFolder, out: Path) -> None:
    """Saved dataset, `settings.json`, `train.py`, `check.py`, tokenizer."""
    write_datasets(packed, out, SCHEMA, lambda record: [record.column(name) for name in COLUMNS])
    packed.copy_tokenizer(out)
    ordered = {"train_sampling_strategy": "sequential"} if keeps_order(packed.manifest) else {}
    write_json(out / "settings.json", SETTINGS | ordered)
    copy_script("trl_train.py", out, "train.py")
    copy_script("trl_check.py", out, "check.py")
    write_text(out / "README.md", README.format(figures=figures(packed)))
