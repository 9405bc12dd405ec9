"""Models of anybody, loaded by transformers once their files were looked at. No code of theirs runs.

    config.json     ─▶ a file of fair size; no kernel to fetch, no name of a method, no count without end
    weights         ─▶ beside it, and large enough for what config.json wants to make
    adapter beside  ─▶ refused: transformers would hand it to PEFT unread
    the rest        ─▶ what transformers raises about it is an error of the user

Custom code (`auto_map`) is never run: transformers would ask on the terminal, and a pipe may answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tokpack.encoding.backend_limits import largest_id, read_backend, too_much
from tokpack.encoding.snapshot import BACKEND
from tokpack.errors import TokpackError, UsageError
from trainer_plugin.checkpoints.adapter_config import NAME, cannot_be_tried
from trainer_plugin.checkpoints.base_digest import read_json, weight_files
from trainer_plugin.models.private_names import file_of_model

CONFIG, ADAPTER = "config.json", "adapter_config.json"
TEMPLATES, SETTINGS = "additional_chat_templates", (".json", ".jinja")
LARGE, LARGEST = 1 << 25, {"tokenizer.json": 1 << 29, "vocab.json": 1 << 29}
"""Bytes of a file that is read whole."""
COUNTS = {"layers": 10_000, "layer": 10_000, "blocks": 10_000, "depth": 10_000, "experts": 100_000}
COUNTS |= {"labels": 100_000}
"""End of a key that says how many modules or names are made, and the most of them."""
MOST_IDS = 1 << 24
"""`tokenizers` takes memory for every id up to the largest."""
SPARE, DENSEST = 1 << 24, 8
"""Weights that may lie in no file, and the most of them that a byte may hold."""
HINT = "give a folder with config.json, tokenizer and weights, or a model name on the hub"


def load_config(model: str | Path, flag: str = "--model") -> Any:
    """config.json as transformers reads it. Raises UsageError."""
    from transformers import AutoConfig

    _check_files(str(model), flag)
    with explained(model, flag):
        return AutoConfig.from_pretrained(str(model), trust_remote_code=False)


def load_tokenizer(model: str | Path, flag: str = "--model") -> Any:
    """The model's tokenizer, from its folder or the Hub. Raises UsageError."""
    from transformers import AutoTokenizer

    _check_files(str(model), flag)
    with explained(model, flag, "the model's tokenizer"):
        file = _file(str(model), BACKEND, flag)
        backend = read_backend(file) if file is not None else {}
        if (largest := largest_id(backend)) > MOST_IDS:
            wrong = f"the model's tokenizer has the id {largest:,}, and no model has {MOST_IDS:,} entries"
        else:
            wrong = too_much(backend) and f"the model's tokenizer is refused: {too_much(backend)}"
        if wrong:
            again = "fetch its files again, or take another model"
            raise UsageError(wrong, where=f"{flag} {model}", hint=again)
        return AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)


def load_causal_model(model: str | Path, flag: str = "--model", **options: Any) -> Any:
    """The model with all its weights, `options` as `from_pretrained` takes them. Raises UsageError."""
    from transformers import AutoModelForCausalLM

    config = load_config(model, flag)
    made = skeleton(config, model, flag)
    _check_size(made, str(model), flag)
    _check_left_whole(config, made, f"{flag} {model}")
    del made
    with explained(model, flag):
        loaded, info = AutoModelForCausalLM.from_pretrained(
            str(model),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    for what, names in (
        ("are in none of its files", info["missing_keys"]),
        (f"have another shape than {CONFIG} gives them", [name for name, *_ in info["mismatched_keys"]]),
    ):
        if names:
            raise UsageError(
                f"{len(names):,} of the model's weights {what}, as {min(names)}",
                where=f"{flag} {model}",
                hint="fetch its files again: transformers would make up what does not fit",
            )
    return loaded


def skeleton(config: Any, model: str | Path, flag: str = "--model") -> Any:
    """The modules of a model without weights; of one with pictures, those of its text."""
    from transformers import AutoModelForCausalLM

    make = AutoModelForCausalLM.from_config
    with explained(model, flag), torch.device("meta"):
        try:
            return make(config, trust_remote_code=False)
        except ValueError:
            text = config.get_text_config(decoder=True)
            if text is config:
                raise
            return make(text, trust_remote_code=False)


def weight_names(file: Path) -> list[str]:
    """Of a safetensors file. Raises UsageError."""
    from safetensors import safe_open

    with explained(file.parent, what=file.name), safe_open(str(file), "pt") as tensors:
        return list(tensors.keys())


@contextmanager
def explained(model: str | Path, flag: str = "--model", what: str = "the model") -> Iterator[None]:
    """What transformers, safetensors and tokenizers raise about the files of anybody, in our words."""
    try:
        yield
    except TokpackError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # tokenizers' own
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        kind = "" if isinstance(error, OSError | ValueError) and lines else f"{type(error).__name__}: "
        raise UsageError(
            f"{what} cannot be loaded: {kind}{' '.join(lines[:2])[:400]}",
            where=f"{flag} {model}",
            hint=HINT,
        ) from None


def _check_files(model: str, flag: str) -> None:
    """Raises UsageError for files that nobody should read, and for what config.json should not say."""
    where = f"{flag} {model}"
    if what := next(_unreadable(Path(model)), ""):
        raise UsageError(what, where=where, hint=HINT)
    if _file(model, ADAPTER, flag) is not None:
        raise UsageError(
            f"it holds an adapter ({ADAPTER}), not a model alone",
            where=where,
            hint="give its base, or merge it first: `tokpack merge-adapter`",
        )
    config = _file(model, CONFIG, flag)
    if config is None:
        return  # transformers says so
    values = read_json(config)
    if values is None:
        raise UsageError(f"{CONFIG} is no JSON object", where=where, hint=HINT)
    for what in _wrong(values):
        raise UsageError(f"{CONFIG} {what}", where=where, hint="take no model that needs it, or take it out")


def _unreadable(folder: Path) -> Iterator[str]:
    """Pipes and devices, which have no end, and settings beyond all measure."""
    for inside in (folder, folder / TEMPLATES):
        for path in inside.iterdir() if inside.is_dir() else ():
            if path.exists() and not path.is_file() and not path.is_dir():
                yield f"{path.name} is no regular file"
            elif path.suffix in SETTINGS and path.is_file() and path.stat().st_size > _most(path.name):
                yield f"{path.name} is too large"


def _most(name: str) -> int:
    return LARGEST.get(name, LARGE)


def _wrong(values: Mapping[str, Any]) -> Iterator[str]:
    from transformers import PretrainedConfig

    for key, value in values.items():
        shown = f"{key} = {str(value)[:60]!r}"
        if callable(getattr(PretrainedConfig, key, None)):
            yield f"has a key {key!r}, which is a method of transformers"
        if key.strip("_").removesuffix("_internal").endswith("_implementation") and "/" in str(value):
            yield f"names code on the Hub: {shown}"
        if type(value) is int and value > COUNTS.get(key.rpartition("_")[2], value):
            yield f"asks for too much: {shown}"
        if isinstance(value, dict):
            yield from _wrong(value)


def _file(model: str, name: str, flag: str) -> Path | None:
    if Path(model).is_dir():
        found = Path(model, name)
        return found if found.is_file() else None
    with explained(model, flag):
        path = file_of_model(model, name)
    return None if path is None else Path(path)


def _check_size(made: torch.nn.Module, model: str, flag: str) -> None:
    """Raises UsageError where config.json wants more weights than the files can hold."""
    with explained(model, flag):
        held = sum(path.stat().st_size for path in weight_files(model))
    wanted = sum(tensor.numel() for tensor in (*made.parameters(), *made.buffers()))
    if held and wanted > SPARE + DENSEST * held:
        raise UsageError(
            f"{CONFIG} asks for {wanted:,} weights, and its files have {held:,} bytes",
            where=f"{flag} {model}",
            hint="fetch its files again, or take another model",
        )


def _check_left_whole(config: Any, made: torch.nn.Module, where: str) -> None:
    """Raises UsageError for regular expressions without end by which modules are left unquantized."""
    texts = _texts(getattr(config, "quantization_config", None))
    patterns = [text.removeprefix("re:") for text in texts if not NAME.fullmatch(text)]
    patterns = list(filter(_is_pattern, patterns))
    if what := cannot_be_tried(patterns, [name for name, _ in made.named_modules()]):
        raise UsageError(
            f"a regular expression in quantization_config {what}",
            where=where,
            hint="name the modules in its place, or take another model",
        )


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from (str(key), *_texts(value))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)
