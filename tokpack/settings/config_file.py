"""`run.toml`: its tables as plain data, and flags laid over them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError

PATHS = (("render", "chat_template"), ("select", "keep"), ("cost", "gpus"), ("cost", "apis"))
PATHS_OR_NAMES = (("tokenize", "tokenizer"), ("cost", "model"), ("decontaminate", "against"))


def load_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a `run.toml`. Paths in it are relative to the file."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no such config file", where=str(path), hint="check --config") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"not valid TOML: {error}", where=str(path), hint="see docs/configuration.md"
        ) from None
    for source in data.get("source", []):
        _anchor(source, "path", path.parent)
    for section, key in PATHS:
        _anchor(data.get(section), key, path.parent)
    for section, key in PATHS_OR_NAMES:
        table = data.get(section)
        if isinstance(table, dict) and key in table:
            table[key] = _beside(table[key], path.parent)
    return data


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins; sections merge key by key; None in `over` means not given."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = result.get(key)
            result[key] = merge(below if isinstance(below, dict) else {}, value)
        elif value is not None:
            result[key] = value
    return {key: value for key, value in result.items() if value != {}}


def _anchor(section: Any, key: str, folder: Path) -> None:
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(value, str) and value and value != "-" and "://" not in value:
        section[key] = str(folder / value)


def _beside(value: Any, folder: Path) -> Any:
    """A path relative to the file, where there is one; else the value, which may be a Hub name; or a list."""
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    return str(folder / value) if isinstance(value, str) and (folder / value).exists() else value
