"""Which weights an adapter was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from trainer_plugin.models.private_names import file_of_model

BLOCK, BLOCKS = 1 << 16, 16


def base_digest(model: str | Path) -> str:
    """A digest of a model's weights, made in milliseconds: of each file of weights its size, its head and
    some blocks spread over it. Empty where the model has no such files.

    Two trainings of one model differ in nearly every block; a file that was damaged in one byte may pass.
    """
    digest, files = hashlib.sha256(), weight_files(str(model))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            for number in range(BLOCKS):
                file.seek(number * max(size - BLOCK, 0) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest() if files else ""


def weight_files(model: str) -> list[Path]:
    """Of a model folder or Hub name; empty where one is missing. Raises UsageError for an index that names
    other places."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (single := file_of_model(model, name)) is not None:
            return [Path(single)]
        if (index := file_of_model(model, f"{name}.index.json")) is not None:
            found = [file_of_model(model, one) for one in files_of_index(Path(index))]
            return [Path(one) for one in found if one is not None] if None not in found else []
    return []


def files_of_index(path: Path) -> list[str]:
    """The files that an index of weights names. Raises UsageError for one that is not beside it."""
    table = (read_json(path) or {}).get("weight_map")
    names: list[Any] = list(table.values()) if isinstance(table, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UsageError(
                f"it names {str(name)[:80]!r}, which is no file of weights beside it",
                where=str(path),
                hint="fetch the model's files again, or take another one",
            )
    return sorted(set(names))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file, None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
