"""Write all that an engine needs into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.terminal.activity import Activity
from trainer_plugin.adapters.convert import convert_adapter
from trainer_plugin.checkpoints.adapter_config import read_config
from trainer_plugin.checkpoints.adapter_folder import PROVENANCE, RECIPE
from trainer_plugin.output_folder import check_empty, new_folder
from trainer_plugin.serve_config import engines, gguf_adapter
from trainer_plugin.serve_config.asked import named_adapters, refused_adapters
from trainer_plugin.serve_config.limits import GGUF_ENGINES, highest_rank

ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    PROVENANCE,
    RECIPE,
)


@dataclass(slots=True)
class WrittenConfig:
    """What is in the folder, and what the user has to know."""

    folder: Path
    command: list[str]
    merged: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_config(
    adapters: Sequence[str],
    engine: str,
    out: Path,
    *,
    base: str | None = None,
    convert: bool = False,
    context: int | None = None,
    port: int = 8000,
    tell: Activity | None = None,
) -> WrittenConfig:
    """adapters: FOLDER or NAME=FOLDER. convert: make of refused ones what can be served; they are an error
    otherwise. context: tokens; None: what the model has, up to 8,192.

    Raises UsageError with every refusal.
    """
    tell = tell or Activity(quiet=True)
    check_empty(out)
    named = named_adapters(adapters)
    configs = {name: read_config(folder) for name, folder in named.items()}
    refused = refused_adapters(configs, engine, convert)
    base = base or str(next(iter(configs.values())).get("base_model_name_or_path") or "")
    with tell.doing("looking at the base"):
        model_config = _model_config(base)
    if engine in GGUF_ENGINES:
        gguf_adapter.check_gguf(model_config)
    if engine == "llamacpp" and set(":,") & set(str(out.resolve())):
        raise UsageError(
            "llama.cpp takes no adapter whose path has a colon or a comma",
            where=str(out.resolve()),
            hint="give another folder",
        )
    with new_folder(out) as folder:
        writer = _Writer(engine, base, model_config, folder, out.resolve(), tell)
        writer.adapters(named, {one.adapter: one.way for one in refused})
        return writer.files(context, port)


class _Writer:
    """Writes into `folder`, and names all by their places in `out`, which it becomes."""

    def __init__(
        self, engine: str, base: str, model_config: Any, folder: Path, out: Path, tell: Activity
    ) -> None:
        self.engine, self.base, self.model_config, self.tell = engine, base, model_config, tell
        self.folder, self.out = folder, out
        self.served: dict[str, Path] = {}
        self.ranks: list[int] = []
        self.merged: list[Path] = []
        self.notes: list[str] = []
        self.on_4_bits: dict[str, bool] = {}

    def adapters(self, named: dict[str, Path], ways: dict[str, str]) -> None:
        """Each in the engine's form; those that no engine takes as models of their own."""
        for name, folder in named.items():
            way = ways.get(name)
            if way == "merge":
                place = self.folder / "merged" / name
                place.parent.mkdir(exist_ok=True)
                convert_adapter(folder, place, base=self.base, tell=self.tell)
                self.merged.append(self._final(place))
                self.notes.append(
                    f"`{name}` is merged into a model of its own, {self.merged[-1]}: serve that by itself"
                )
                continue
            place = self.folder / "adapters" / name
            place.parent.mkdir(exist_ok=True)
            if way == "plain":
                convert_adapter(folder, place, base=self.base, tell=self.tell)
                self.notes.append(f"`{name}` was converted to plain LoRA")
            else:
                _copy(folder, place)
            self.on_4_bits[name] = _on_4_bits(folder)
            config = read_config(place)
            self.ranks.append(highest_rank(config))
            self.served[name] = self._final(self._in_form(name, place, config))

    def _final(self, place: Path) -> Path:
        return self.out / place.relative_to(self.folder)

    def _in_form(self, name: str, place: Path, config: dict[str, Any]) -> Path:
        if self.engine not in GGUF_ENGINES:
            return place
        made = gguf_adapter.write_gguf_adapter(
            place, config, self.model_config, self.folder / "adapters" / f"{name}.gguf"
        )
        shutil.rmtree(place)
        return made

    def files(self, context: int | None, port: int) -> WrittenConfig:
        """The base where it is another one than the user has, and the engine's files."""
        base = self._base()
        longest = int(getattr(self.model_config, "max_position_embeddings", None) or 8192)
        source, served = "", base
        if self.engine in GGUF_ENGINES:
            source, served = base, str(self.out / "base.gguf")
        plan = engines.ServePlan(
            engine=self.engine,
            base=served,
            base_name=Path(self.base).name,
            adapters={name: str(path) for name, path in self.served.items()},
            ranks=self.ranks or [8],
            context=min(context or 8192, longest),
            dtype=_dtype_name(self.model_config),
            port=port,
            source=source,
        )
        if self.engine not in GGUF_ENGINES and self.served:
            self.notes.append("one tokenizer and one chat template serve all: the base's")
        (self.folder / "start.sh").write_text(engines.script(plan), encoding="utf-8")
        (self.folder / "served.service").write_text(engines.unit(plan, self.out), encoding="utf-8")
        (self.folder / "compose.yaml").write_text(engines.compose(plan, self.out), encoding="utf-8")
        (self.folder / "README.md").write_text(engines.readme(plan, self.notes), encoding="utf-8")
        if self.engine == "ollama":
            for name in self.served:
                (self.folder / f"Modelfile.{name}").write_text(
                    engines.modelfile(plan, name), encoding="utf-8"
                )
        return WrittenConfig(self.out, engines.command(plan), self.merged, self.notes)

    def _base(self) -> str:
        """The base itself, or as 4 bits left it where QLoRA trained on that."""
        kinds = set(self.on_4_bits.values())
        if kinds == {True, False}:
            names = [name for name, yes in self.on_4_bits.items() if yes]
            raise UsageError(
                f"QLoRA trained {', '.join(names)} on 4 bits and the others on the original weights",
                where="ADAPTER",
                hint="one base cannot be both: write two folders",
            )
        if kinds == {True}:
            from trainer_plugin.adapters.merge import dequantize_base

            place = self.folder / "base"
            dequantize_base(self.base, place, tell=self.tell)
            self.notes.append(
                "the base went through 4 bits, as QLoRA trained on it: serve it, not the original"
            )
            return str(self._final(place))
        path = Path(self.base)
        return str(path.resolve()) if path.exists() else self.base


def _copy(folder: Path, place: Path) -> None:
    place.mkdir()
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, place / name)


def _on_4_bits(folder: Path) -> bool:
    from trainer_plugin.checkpoints.base_digest import read_json

    return (read_json(folder / PROVENANCE) or {}).get("method") == "qlora"


def _model_config(base: str) -> Any:
    from trainer_plugin.checkpoints.model_files import load_config

    return load_config(base, "--base")


def _dtype_name(config: Any) -> str:
    """In words that all engines know; fp16 and bf16 as stored, fp32 as it is."""
    return str(config.dtype or "auto").removeprefix("torch.")
