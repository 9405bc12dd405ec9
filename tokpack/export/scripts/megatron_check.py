"""Read the `.bin` and `.idx` files beside this file back, also with Megatron's reader where it is there."""

import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TYPES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}


def read_index(path):
    """(id type, lengths, byte offsets, document bounds) of an .idx file."""
    data = path.read_bytes()
    if data[:9] != b"MMIDIDX\x00\x00":
        raise ValueError(f"{path}: not an index of Megatron")
    version, code, sequences, bounds = struct.unpack_from("<QBQQ", data, 9)
    if version != 1 or code not in TYPES or len(data) != 34 + 12 * sequences + 8 * bounds:
        raise ValueError(f"{path}: version {version}, type {code}, {len(data)} bytes")
    lengths = np.frombuffer(data, "<i4", sequences, 34)
    offsets = np.frombuffer(data, "<i8", sequences, 34 + 4 * sequences)
    return TYPES[code], lengths, offsets, np.frombuffer(data, "<i8", bounds, 34 + 12 * sequences)


def read_documents(prefix):
    """The ids of each document."""
    dtype, lengths, offsets, bounds = read_index(prefix.with_suffix(".idx"))
    ids = np.memmap(prefix.with_suffix(".bin"), dtype=dtype, mode="r")
    if not np.array_equal(bounds, np.arange(len(lengths) + 1)) or len(ids) != lengths.sum():
        raise ValueError(f"{prefix}: the index does not fit the ids")
    for length, offset in zip(lengths, offsets // dtype.itemsize, strict=True):
        yield ids[offset : offset + length]


def main():
    try:
        from megatron.core.datasets import indexed_dataset as megatron
    except ImportError:
        megatron = None
    for index in sorted(HERE.glob("*.idx")):
        prefix = index.with_suffix("")
        documents = tokens = 0
        theirs = megatron.IndexedDataset(str(prefix)) if megatron else None
        for number, ids in enumerate(read_documents(prefix)):
            documents, tokens = documents + 1, tokens + len(ids)
            if theirs is not None and not np.array_equal(theirs[number], ids):
                print(f"wrong: {prefix.name}: document {number}")
                sys.exit(1)
        by = "Megatron's reader agrees" if theirs else "Megatron is not installed: read by this file alone"
        print(f"right: {prefix.name}: {documents:,} documents, {tokens:,} tokens; {by}")


if __name__ == "__main__":
    main()
