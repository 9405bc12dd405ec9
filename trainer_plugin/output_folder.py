"""The folder that a training writes: checked before libraries are loaded, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from tokpack.errors import UsageError


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Raises UsageError for a file, and for a folder in use; of a training from its beginning."""
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file", where=str(out), hint="give a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(
            "the output folder is not empty", where=str(out), hint="--resume, --overwrite, or another folder"
        )
