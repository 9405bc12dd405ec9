"""A base model in memory once, with any number of PEFT adapters beside it, told apart by name.

    adapters = [read_adapter("math=runs/math"), read_adapter("runs/code")]
    loaded = load_adapted("base", adapters)
    with loaded.using("math"):      # or None: the base alone
        loaded.network(...)

An adapter that QLoRA trained belongs to the base as 4 bits left it, every other one to the base as it is; one
model in memory can be only one of the two (`base_weights`). What would change the base for all others
(PiSSA's start, prompts of virtual tokens, whole embeddings) is refused by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokpack.activity import Activity
from tokpack.errors import TokpackError, UsageError, near_matches
from tokpack.fingerprint import vocab_digest
from tokpack.hub import from_hub
from trainer_plugin.adapter_config import (
    CONFIG,
    PLAIN_STARTS,
    base_biases,
    fill,
    read_config,
    with_place_for,
)
from trainer_plugin.base_digest import base_digest, read_json
from trainer_plugin.dtypes import DtypeChoice, settle_dtype
from trainer_plugin.model_files import load_tokenizer
from trainer_plugin.qlora import PROVENANCE, load_model
from trainer_plugin.recipe import Recipe

BaseWeights = Literal["auto", "original", "nf4"]


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


class AdaptedModel:
    """The loaded base and its adapters. `network` is the PEFT model, or the base while there are none.

    on_4_bits: the base went through 4 bits. any_adapter: also adapters that were trained on the other kind.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        name: str,
        dtype: DtypeChoice,
        *,
        on_4_bits: bool,
        any_adapter: bool = False,
    ) -> None:
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.dtype, self.on_4_bits, self.any_adapter = dtype, on_4_bits, any_adapter
        self.adapters: dict[str, Adapter] = {}

    def load(self, adapter: Adapter) -> None:
        """Put an adapter beside the others. Raises UsageError where it does not belong to this base."""
        if adapter.name in self.adapters:
            raise UsageError(
                f"there is an adapter named {adapter.name!r} already",
                where=str(adapter.folder),
                hint="give another name: NAME=FOLDER",
            )
        known = adapter.provenance.get("method") and not self.any_adapter
        if known and adapter.on_4_bits != self.on_4_bits:
            raise _other_base(adapter, self.on_4_bits)
        self._check_base(adapter)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of PEFT about the name of the base
                self.network = with_place_for(self.network, adapter.folder, adapter.key)
                fill(self.network, adapter.folder, adapter.key)
        except TokpackError:
            self._forget(adapter)
            raise
        except Exception as error:  # PEFT and safetensors raise what they like about the files of anybody
            self._forget(adapter)
            raise _does_not_fit(adapter, error, self.name) from None
        self.network.eval()
        self.adapters[adapter.name] = adapter

    def unload(self, name: str) -> None:
        """Take an adapter out of memory. Raises UsageError for a name that is not there."""
        self._forget(self.find(name))
        del self.adapters[name]

    def find(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise UsageError(
                f"no adapter named {name!r}", where="adapter", hint=near_matches(name, self.adapters)
            )
        return self.adapters[name]

    def _forget(self, adapter: Adapter) -> None:
        """PEFT keeps one adapter at least: after the last one the base stands alone again."""
        known = getattr(self.network, "peft_config", {})
        if adapter.key not in known:
            return
        if len(known) == 1:
            self.network = self.network.unload()
            if hasattr(self.network, "peft_config"):  # PEFT 0.18 leaves it, and takes the next one for known
                del self.network.peft_config
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # another one becomes the active one
                self.network.delete_adapter(adapter.key)

    @contextmanager
    def using(self, name: str | None) -> Iterator[Any]:
        """The model with this adapter, with None the base alone."""
        if name is not None:
            self.network.set_adapter(self.find(name).key)
            yield self.network
        elif not self.adapters:
            yield self.network
        else:
            with self.network.disable_adapter():
                yield self.network

    def _check_base(self, adapter: Adapter) -> None:
        """The digest of the base that `tokpack train` recorded, and the vocabulary, against those here."""
        expected = adapter.provenance.get("base", {}).get("digest")
        if expected and expected != base_digest(self.name):
            raise UsageError(
                f"the adapter {adapter.name!r} was trained on another base ({adapter.base or 'unknown'})",
                where=f"{adapter.folder}, --model {self.name}",
                hint="give that base: an adapter changes the weights that it was trained on",
            )
        vocabulary = adapter.provenance.get("tokenizer", {}).get("vocab_sha256")
        if vocabulary and vocabulary != vocab_digest(self.tokenizer.get_vocab()):
            raise UsageError(
                f"the adapter {adapter.name!r} was trained with another tokenizer",
                where=f"{adapter.folder}, --model {self.name}",
                hint="give the base that it was trained on",
            )


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


def load_adapted(
    model: str | Path | None,
    adapters: Sequence[Adapter] = (),
    *,
    base_weights: BaseWeights = "auto",
    dtype: str = "auto",
    tell: Activity | None = None,
) -> AdaptedModel:
    """The base, with its tokenizer, on the device that trains, and the adapters beside it.

    model: a folder or a name on the Hub; None: the base that the first adapter names.
    base_weights: "nf4" puts the base through 4 bits, as QLoRA trained on it; "original" leaves it; both take
    any adapter. "auto" asks the adapters, which then have to agree. On a CPU weights that went through 4 bits
    are held whole: it has no units for them.
    dtype: of the weights; auto: what the device is fast at.
    """
    tell = tell or Activity(quiet=True)
    name = base_name(model, adapters)
    on_4_bits = _on_4_bits(adapters, base_weights)
    recipe = Recipe(method="qlora" if on_4_bits else "lora", dtype=dtype)  # type: ignore[arg-type]
    recipe, choice = settle_dtype(recipe, name)
    tokenizer = load_tokenizer(name)
    with tell.doing(f"loading {name}"):
        network = load_model(name, recipe)
        if on_4_bits and network.device.type == "cpu":
            network = network.dequantize().to(choice.dtype)
        network.eval().requires_grad_(False)
    loaded = AdaptedModel(
        network, tokenizer, name, choice, on_4_bits=on_4_bits, any_adapter=base_weights != "auto"
    )
    for adapter in adapters:
        if note := other_name(adapter, name):
            tell.say(note)
        with tell.doing(f"loading the adapter {adapter.name}"):
            loaded.load(adapter)
    return loaded


def base_name(model: str | Path | None, adapters: Sequence[Adapter]) -> str:
    """The base that is asked for, else the one that the first adapter names."""
    if model is not None:
        return str(model)
    if not adapters or not adapters[0].base:
        raise UsageError("no base model", where="--model", hint="give the model that the adapter belongs to")
    return adapters[0].base


def _on_4_bits(adapters: Sequence[Adapter], base_weights: BaseWeights) -> bool:
    if base_weights != "auto":
        return base_weights == "nf4"
    first = next((one for one in adapters if one.provenance.get("method")), None)
    return first is not None and first.on_4_bits


def other_name(adapter: Adapter, base: str) -> str:
    """A note where PEFT recorded a base of another name and nothing proves that it is this one."""
    known = adapter.base
    if not known or adapter.provenance.get("base", {}).get("digest"):
        return ""
    if Path(known).name == Path(base).name or Path(base).resolve() == Path(known).resolve():
        return ""
    return f"note: the adapter {adapter.name} names {known} as its base; here it is on {base}"


def _does_not_fit(adapter: Adapter, error: Exception, base: str) -> UsageError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return UsageError(
        f"the adapter {adapter.name!r} does not fit this base: {' '.join(lines[:2])[:300]}",
        where=f"{adapter.folder}, --model {base}",
        hint=f"it was trained on {adapter.base}" if adapter.base else "give the base that it was trained on",
    )


def _other_base(adapter: Adapter, on_4_bits: bool) -> UsageError:
    ways = "on 4 bits (QLoRA)", "on the original weights"
    trained, here = (ways[0 if yes else 1] for yes in (adapter.on_4_bits, on_4_bits))
    return UsageError(
        f"the adapter {adapter.name!r} was trained {trained}, the base here is {here.partition(' ')[2]}",
        where=str(adapter.folder),
        hint="one base in memory cannot be both: run them apart, or say which (original or nf4)",
    )
