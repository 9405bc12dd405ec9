"""The adapters asked for, by name, and what the engine refuses of them; before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.hub import from_hub
from trainer_plugin.checkpoints.adapter_folder import RECIPE
from trainer_plugin.serve_config.limits import Refusal, refusals

NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)


def named_adapters(adapters: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, of FOLDER or NAME=FOLDER. Raises UsageError."""
    found: dict[str, Path] = {}
    for text in adapters:
        name, mark, place = text.partition("=")
        if not mark or Path(text).exists():
            name, place = "", text
        path = _folder(place)
        name = name or (path.resolve().name if Path(place).exists() else place.rpartition("/")[2])
        if not NAME.fullmatch(name) or name in found or name in (".", ".."):
            raise UsageError(
                f"{name!r} is no name, or one that is there already",
                where=text,
                hint="give a name of letters, digits and ._-: NAME=FOLDER",
            )
        found[name] = path
    return found


def _folder(place: str) -> Path:
    """Here, or fetched from the Hub."""
    if Path(place).exists():
        return Path(place)
    patterns = ["adapter_*", "*.json", RECIPE]
    return from_hub(place, "ADAPTER", lambda hub: hub.snapshot_download(place, allow_patterns=patterns))


def refused_adapters(configs: Mapping[str, Mapping[str, Any]], engine: str, convert: bool) -> list[Refusal]:
    """Every refusal; they are a UsageError unless all is converted."""
    refused = [one for name, config in configs.items() for one in refusals(name, config, engine)]
    if refused and not convert:
        raise _refused(engine, refused)
    return refused


def _refused(engine: str, refused: Sequence[Refusal]) -> UsageError:
    lines = [f"  {one.adapter}: {one.what}" for one in refused]
    return UsageError(
        "\n".join([f"{engine} does not serve these adapters as they are:", *lines]),
        where="ADAPTER",
        hint="--convert makes plain LoRA of them where that can be, and merges the others",
    )
