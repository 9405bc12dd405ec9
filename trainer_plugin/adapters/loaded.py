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

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tokpack.errors import TokpackError, UsageError, near_matches
from tokpack.on_disk.fingerprint import vocab_digest
from tokpack.terminal.activity import Activity
from trainer_plugin.adapters.qlora import load_model
from trainer_plugin.checkpoints.adapter_config import fill, with_place_for
from trainer_plugin.checkpoints.adapter_folder import Adapter, base_name
from trainer_plugin.checkpoints.base_digest import base_digest
from trainer_plugin.checkpoints.model_files import load_tokenizer
from trainer_plugin.dtypes import DtypeChoice, settle_dtype
from trainer_plugin.recipe import Recipe

BaseWeights = Literal["auto", "original", "nf4"]


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
    with tell.doing(f"loading {name}"):
        recipe, choice = settle_dtype(recipe, name)
        tokenizer = load_tokenizer(name)
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
