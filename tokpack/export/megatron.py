"""Export for Megatron-LM pretraining: `.bin` and `.idx` of its `IndexedDataset`.

    .bin   the ids of all documents, uint16 for vocabularies under 65,500, else int32
    .idx   "MMIDIDX\\0\\0", u64 version 1, u8 code of the id type (8: uint16, 4: int32), u64 sequences,
           u64 sequences + 1, int32 lengths, int64 byte offsets, int64 numbers 0..sequences; little-endian

The format has no labels: every token is trained on, and Megatron packs by itself. So only datasets
without masked tokens are taken. The pieces of a split document are joined again.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokpack.arrays import Int32, Int64
from tokpack.errors import UsageError
from tokpack.export.common import copy_script, figures, splits, write_text
from tokpack.packed.folder import PackedFolder
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.ranges import offsets_of, range_indices
from tokpack.stages.write import FlatBatch
from tokpack.terminal.activity import counted

MAGIC = b"MMIDIDX\x00\x00"
SMALL_VOCABULARY = 65_500
CODES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
CHUNK_TOKENS = 4 << 20

README = """\
# For Megatron-LM pretraining

{figures}.

    python check.py                   # reads every document back
    torchrun ... pretrain_gpt.py --data-path 1.0 {folder}/train_text_document \\
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model {folder}/tokenizer \\
        --reset-position-ids --reset-attention-mask --seq-length {capacity}

Megatron cuts and packs the documents anew, and trains on every token. The two `--reset` flags keep
documents apart where they end in the tokenizer's EOS; without them they see each other.
"""


def export(packed: PackedFolder, out: Path) -> None:
    """`train_text_document.bin` and `.idx`, the same for `validation`, `check.py`, tokenizer.

    Raises UsageError for a packed dataset with masked tokens.
    """
    for split, part in splits(packed).items():
        _refuse_masked(part)
        _write(part, out / f"{split}_text_document")
    packed.copy_tokenizer(out)
    copy_script("megatron_check.py", out, "check.py")
    text = README.format(figures=figures(packed), folder="THIS FOLDER", capacity=packed.manifest["capacity"])
    write_text(out / "README.md", text)


def _refuse_masked(packed: PackedFolder) -> None:
    manifest = packed.manifest
    masked = manifest["tokens"] - manifest["trained_tokens"] - manifest["pieces"]
    if masked:
        raise UsageError(
            f"{counted(masked, 'token')} have no label, and Megatron's format would train on them",
            where="--to megatron",
            hint="give --to megatron-bridge, or pack again with --loss all",
        )


def _write(packed: PackedFolder, path: Path) -> None:
    stored = StoredPieces.of([packed]).by_document()
    pieces = stored.placement
    small = packed.manifest["tokenizer"]["vocab_size"] < SMALL_VOCABULARY
    dtype: npt.DTypeLike = np.uint16 if small else np.int32
    ends = offsets_of(pieces.length)
    with path.with_suffix(".bin").open("wb") as file:
        start = 0
        while start < len(pieces.length):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + CHUNK_TOKENS, side="right")) - 1)
            file.write(_ids(stored, start, stop).astype(dtype).tobytes())
            start = stop
    firsts = np.flatnonzero(pieces.number == 0)
    lengths = np.add.reduceat(pieces.length, firsts) if len(firsts) else pieces.length
    _write_index(path.with_suffix(".idx"), lengths.astype(np.int32), np.dtype(dtype))


def _ids(stored: StoredPieces, start: int, stop: int) -> Int32:
    """The ids of pieces start..stop-1, one after another."""
    pieces = stored.placement
    lengths = pieces.length[start:stop]
    targets = offsets_of(lengths)
    ids = np.empty(targets[-1], dtype=np.int32)
    for number in np.unique(pieces.batch[start:stop]):
        here = np.flatnonzero(pieces.batch[start:stop] == number)
        batch: FlatBatch = stored.batches(int(number))
        source: Int64 = range_indices(batch[0][pieces.index[start:stop][here]], lengths[here])
        ids[range_indices(targets[here], lengths[here])] = batch[1][source]
    return ids


def _write_index(path: Path, lengths: Int32, dtype: np.dtype[np.generic]) -> None:
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<QBQQ", 1, CODES[dtype], len(lengths), len(lengths) + 1))
        file.write(lengths.astype("<i4").tobytes())
        file.write((offsets_of(lengths)[:-1] * dtype.itemsize).astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
