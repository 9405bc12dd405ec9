"""Adapters that are named over HTTP: only from below one folder, only weights that hold no code."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokpack.errors import TokpackError
from trainer_plugin.checkpoints.adapter_config import CONFIG, WEIGHTS
from trainer_plugin.checkpoints.adapter_folder import PROVENANCE, Adapter, read_adapter
from trainer_plugin.serving.errors import ApiError
from trainer_plugin.serving.prompts import TEMPLATE

FILES = (WEIGHTS, CONFIG, PROVENANCE, TEMPLATE)
"""That are read of an adapter."""
NAME = re.compile(r"[\w.:/-]{1,200}", re.ASCII)


def read_name(body: dict[str, Any]) -> str:
    """`lora_name`. Raises ApiError."""
    name = body.get("lora_name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ApiError("a name of letters, digits and ._:/- is needed", param="lora_name")
    return name


def _is_plain(path: Path, root: Path) -> bool:
    """Whether nothing is there, or a regular file below `root`, links followed."""
    return not os.path.lexists(path) or (path.resolve().is_relative_to(root) and path.is_file())


def adapter_below(root: Path | None, body: dict[str, Any], taken: Sequence[str]) -> Adapter:
    """The adapter that `lora_path` names. Raises ApiError unless it lies below `root`, links followed."""
    if root is None:
        raise ApiError("adapters are not changed over HTTP here (--adapters-below allows it)", 403)
    name, path = read_name(body), body.get("lora_path")
    if name in taken:
        raise ApiError(f"{name!r} is served already", 409, param="lora_name")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ApiError("a path is needed", param="lora_path")
    root = root.resolve()
    try:
        folder = (root / path).resolve()
        there = folder.is_relative_to(root) and (folder / WEIGHTS).is_file()
        there = there and all(_is_plain(folder / name, root) for name in FILES)
    except (OSError, ValueError, RuntimeError):
        there = False
    if not there:
        raise ApiError(
            f"no folder with {WEIGHTS} of that name below the folder that --adapters-below names",
            404,
            param="lora_path",
        )
    try:
        return replace(read_adapter(folder), name=name)
    except TokpackError as error:
        raise ApiError(error.what, param="lora_path") from None
