"""Packed datasets that somebody altered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chats import messy_rows, write_rows

import tokpack
from tokpack.on_disk.sums import file_sha256


def pack_both(folder: Path, tokenizer: Path) -> dict[str, Path]:
    """Form of shards -> a packed dataset in it, with a validation part."""
    data = write_rows(folder / "chats.jsonl", messy_rows(40))
    options = {"tokenizer": str(tokenizer), "max_length": 256, "val": 0.2}
    return {
        form: tokpack.pack(data, folder / form, shard_format=form, **options).folder
        for form in ("arrow", "parquet")
    }


def sign(folder: Path) -> None:
    """Sums as they would be if tokpack had written the folder like this: an attacker can do so."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split("  ", 1)[1] for line in lines]
    with (folder / "SHA256SUMS").open("w") as sums:
        sums.writelines(f"{file_sha256(folder / n)}  {n}\n" for n in names if (folder / n).is_file())


def alter(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign(folder)
