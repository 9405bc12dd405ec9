"""Adapters in their folders, read and refused before a library of training is loaded, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.hub import check_model, from_hub
from trainer_plugin.checkpoints.adapter_config import CONFIG, PLAIN_STARTS, base_biases, read_config
from trainer_plugin.checkpoints.base_digest import read_json

PROVENANCE = "tokpack.json"
RECIPE = "recipe.toml"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A PEFT adapter in a folder, and what `tokpack train` wrote about it."""

    name: str
    folder: Path
    config: dict[str, Any]
    """adapter_config.json"""
    provenance: dict[str, Any] = field(default_factory=dict)
    """tokpack.json; empty for adapters from elsewhere."""

    @property
    def base(self) -> str:
        """The model that it was trained on, as PEFT recorded it."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def on_4_bits(self) -> bool:
        """Whether it is known to have been trained on NF4 weights."""
        return self.provenance.get("method") == "qlora"

    @property
    def key(self) -> str:
        """The name inside PEFT, which takes no dots and mistakes words such as `weight`."""
        return "tokpack_" + re.sub(r"[^0-9A-Za-z]", lambda c: f"_{ord(c[0]):x}_", self.name)


def read_adapter(text: str | Path) -> Adapter:
    """An adapter by `FOLDER` or `NAME=FOLDER`, a folder here or a name on the Hub.

    The name is the folder's where none is given. Raises UsageError for a folder without an adapter, and for
    one that cannot be held beside others.
    """
    name, folder = _name_and_folder(str(text))
    config = read_config(folder)
    provenance = read_json(folder / PROVENANCE) or {}
    shards = provenance.get("shards", [])
    tables = [provenance.get("base", {}), provenance.get("tokenizer", {})]
    tables += shards if isinstance(shards, list) else [shards]
    if not all(isinstance(table, dict) for table in tables):
        raise UsageError(
            f"{PROVENANCE} is not as tokpack writes it: base, tokenizer and each of the shards are tables",
            where=str(folder),
            hint="take the file away, or train the adapter again",
        )
    adapter = Adapter(name, folder, config, provenance)
    _refuse(adapter)
    return adapter


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, mark, place = text.partition("=")
    if not mark or Path(text).exists() or not re.fullmatch(r"[\w.:-]+", name):
        name, place = "", text
    path = Path(place).expanduser()
    if not path.exists():
        patterns = ["adapter_*", "*.json", "recipe.toml"]
        path = from_hub(
            place, "--adapter", lambda hub: str(hub.snapshot_download(place, allow_patterns=patterns))
        )
        name = name or place.rpartition("/")[2]
    return name or path.resolve().name, path


def read_adapters(texts: Sequence[str | Path]) -> list[Adapter]:
    """Several adapters. Raises UsageError where two have one name."""
    adapters = [read_adapter(text) for text in texts]
    names = [adapter.name for adapter in adapters]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two adapters are named {name!r}", where="--adapter", hint="give names: NAME=FOLDER"
            )
    return adapters


def _refuse(adapter: Adapter) -> None:
    """What changes the base for everybody else, or is no layer that can be switched off."""
    config = adapter.config
    kind, start = str(config.get("peft_type", "")), config.get("init_lora_weights", True)
    if kind == "LORA" and start not in PLAIN_STARTS:
        raise UsageError(
            f"the adapter {adapter.name!r} starts as {start}: it changes the base weights under it",
            where=str(adapter.folder / CONFIG),
            hint="convert it to plain LoRA first (`tokpack convert-adapter`), or merge it",
        )
    if biases := base_biases(config, adapter.folder):
        raise UsageError(
            f"the adapter {adapter.name!r} changes biases of the base for everybody ({biases[0]})",
            where=str(adapter.folder / CONFIG),
            hint="merge it first (`tokpack convert-adapter`)",
        )
    if kind in (
        "PROMPT_TUNING",
        "P_TUNING",
        "PREFIX_TUNING",
        "MULTITASK_PROMPT_TUNING",
        "ADAPTION_PROMPT",
        "CPT",
    ):
        raise UsageError(
            f"the adapter {adapter.name!r} puts virtual tokens before the text ({kind})",
            where=str(adapter.folder / CONFIG),
            hint="adapters of weights (LoRA and its kin) can be told apart in one model",
        )


def base_name(model: str | Path | None, adapters: Sequence[Adapter]) -> str:
    """The base that is asked for, else the one that the first adapter names."""
    if model is not None:
        return str(model)
    if not adapters or not adapters[0].base:
        raise UsageError("no base model", where="--model", hint="give the model that the adapter belongs to")
    return adapters[0].base


def check_adapters(texts: Sequence[str], base: str | None, flag: str) -> str:
    """The base, empty where none is meant. Raises UsageError for adapters that cannot be read, and for a base
    that is not there."""
    found = read_adapters(texts)
    name = base_name(base, found) if base is not None or found else ""
    _check_base(base, flag, name)
    return name


def check_adapter(folder: Path, base: str | None, flag: str) -> None:
    """The same for one adapter of any kind, in a folder."""
    _check_base(base, flag, str(read_config(folder).get("base_model_name_or_path") or ""))


def _check_base(given: str | None, flag: str, named: str) -> None:
    if given or named:
        check_model(given or named, flag if given else "the base that the adapter names:")
