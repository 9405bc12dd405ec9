"""adapter_config.json of anybody, read by form before PEFT obeys it.

    keys that name code, other models or files to unpickle   ─▶ refused
    ranks                                                    ─▶ no larger than the weights beside them
    regular expressions that choose modules                  ─▶ tried first, in a process that may be ended

Weights come from safetensors alone: a pickle is never opened.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokpack.errors import TokpackError, UsageError, system_error
from tokpack.hub import folder_like

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leave the base as it is."""
REPEATABLE = ("pissa", "olora")
"""Starts that are the same each time: they follow from the base alone."""
OBEYED = (
    "megatron_config",
    "corda_config",
    "lora_ga_config",
    "arrow_config",
    "layer_replication",
    "adapters",
    "shadow_model",
    "prompt_tuning_init_state_dict_path",
    "tokenizer_kwargs",
)
"""Keys by which PEFT imports a module, unpickles a file, loads another model, or copies layers."""
LARGEST, CHOICES, LONGEST, SECONDS = 1 << 20, 4096, 20_000, 5
"""Bytes of the file, names in it, characters of its regular expressions, and how long these may take."""
NAME = re.compile(r"[\w.-]{1,200}")
START = re.compile(r"[a-z_]+(_niter_\d{1,2})?")
FORMS = {"modules_to_save": r"(^|.*\.){}($|\..*)", "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\."}
"""How PEFT completes what a key gives; what ends in `_modules` stands alone, in `_pattern` for a suffix."""
TRY = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in map(re.compile, patterns):
    for name in names:
        pattern.match(name), pattern.fullmatch(name)
"""


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises UsageError where there is none, and for what nobody should obey."""
    path = folder / CONFIG
    if not folder.exists() and (beside := folder_like(str(folder))):
        raise UsageError("no such folder", where=str(folder), hint=f"did you mean {beside}?")
    try:
        text = path.read_bytes() if path.stat().st_size <= LARGEST else b""
        found = json.loads(text)
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            f"no adapter here: {CONFIG} is missing or no JSON object",
            where=str(folder),
            hint="give the folder that `tokpack train -o` wrote, or any PEFT adapter",
        )
    if not (folder / WEIGHTS).is_file():
        raise UsageError(
            f"{WEIGHTS} is missing",
            where=str(folder),
            hint="adapters of pickled weights are not opened: save it with PEFT's safetensors",
        )
    for what in _wrong(found, folder):
        raise UsageError(what, where=str(path), hint="PEFT would obey it; take no adapter that needs it")
    return found


def _wrong(config: dict[str, Any], folder: Path) -> Iterator[str]:
    for key in OBEYED:
        if config.get(key):
            yield f"it names code, files or layers beside its weights ({key})"
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | None) and not (isinstance(start, str) and START.fullmatch(start)):
        yield f"init_lora_weights is {str(start)[:60]!r}, which no LoRA starts as"
    for key, value in _choices(config):
        if not (isinstance(value, str) and value):
            yield f"{key} is no text, list of texts, or table of numbers"
    if len(_choices(config)) > CHOICES or sum(map(len, _patterns(config))) > LONGEST:
        yield "it chooses its modules by too many names, or by too long regular expressions"
    shapes = [shape for shape in _shapes(folder).values() if 0 not in shape]
    largest = max((side for shape in shapes for side in shape), default=0)
    for rank in _ranks(config):
        if not (isinstance(rank, int) and 0 <= rank <= largest):
            yield f"it has a rank of {str(rank)[:20]}, and its weights have none above {largest}"


def _choices(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Key, and each of the texts under it, of all keys that choose modules."""
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if value is None or (not key.endswith(("_modules", "_pattern")) and key != "modules_to_save"):
            continue
        numbers = isinstance(value, dict) and all(type(one) in (int, float, list) for one in value.values())
        listed = list(value) if isinstance(value, list) or numbers else [value]
        found += [(key, one) for one in listed]
    return found


def _ranks(config: dict[str, Any]) -> list[Any]:
    """That PEFT makes weights of. LoKr takes one that is too large for whole matrices; AdaLoRA masks them."""
    if config.get("peft_type") == "LOKR":
        return []
    table = config.get("rank_pattern")
    ranks = [config.get("r"), config.get("init_r"), *(table.values() if isinstance(table, dict) else ())]
    return [rank for rank in ranks if rank is not None and not isinstance(rank, list)]


def _patterns(config: dict[str, Any]) -> list[str]:
    """What is more than a name, as PEFT compiles it. Lists of modules are compared as they are."""
    found = []
    for key, text in _choices(config):
        literal = key.endswith("_modules") and not isinstance(config[key], str)
        if not literal and not NAME.fullmatch(text):
            alone = "{}" if key.endswith("_modules") else r"(.*\.)?({})$"
            found.append(FORMS.get(key, alone).replace("{}", text))
    return found


def base_biases(config: dict[str, Any], folder: Path) -> list[str]:
    """Names of the biases of the base's own layers that the adapter brings: PEFT puts them into the base.

    Raises UsageError where the weights cannot be read.
    """
    if config.get("bias", "none") == "none":
        return []
    whole = config.get("modules_to_save") or []
    biases = [name for name in _shapes(folder) if name.endswith(".bias") and "lora_" not in name]
    return [name for name in biases if name.split(".")[-2] not in whole]


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of the weights in the file, by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / WEIGHTS), "np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{WEIGHTS} cannot be read: {str(error).splitlines()[0]}", where=str(folder)
        ) from None


def check_patterns(config: dict[str, Any], modules: Iterable[str], where: Path) -> None:
    """Raises UsageError where its regular expressions take too long on the names of these modules.

    `re` cannot be stopped from within: they are tried in another process.
    """
    patterns = _patterns(config)
    if what := cannot_be_tried(patterns, modules):
        raise UsageError(
            f"a regular expression by which the adapter chooses modules {what}",
            where=f"{where / CONFIG}: {max(patterns, key=len)[:80]}",
            hint="list the modules by name: target_modules, layers_pattern, rank_pattern, alpha_pattern",
        )


def cannot_be_tried(patterns: list[str], modules: Iterable[str]) -> str:
    """What is wrong with regular expressions for names of modules; empty where all of them end."""
    if not patterns:
        return ""
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRY],
            input=json.dumps([patterns, list(modules)]).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {SECONDS} seconds on the modules of this base"
    except subprocess.CalledProcessError:
        return "cannot be read"
    return ""


def with_place_for(network: Any, folder: Path, name: str = "default") -> Any:
    """The PEFT model of a base with room for the adapter in `folder`, after every check of this module.

    The room of a plain start takes no memory until `fill` has compared it with the file.
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    config = read_config(folder)
    check_patterns(config, [module for module, _ in network.named_modules()], folder)
    settings = PeftConfig.from_pretrained(str(folder))
    settings.inference_mode = True
    plain = config.get("peft_type") == "LORA" and config.get("init_lora_weights", True) in PLAIN_STARTS
    if isinstance(network, PeftModel):
        network.add_adapter(name, settings, low_cpu_mem_usage=plain)
        return network
    return get_peft_model(network, settings, name, low_cpu_mem_usage=plain)


def fill(network: Any, folder: Path, name: str = "default", *, whole: bool = False) -> None:
    """Put the weights in `folder` into their room. Raises ValueError unless each has a place of its shape.

    whole: weights that replace some of the base (embeddings) are taken too.
    """
    import torch
    from peft import get_peft_model_state_dict

    room = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
    written, made = _shapes(folder), {key: list(tensor.shape) for key, tensor in room.items()}
    for what, keys in (
        ("the base has no place for", set() if whole else written.keys() - made.keys()),
        ("the adapter lacks", made.keys() - written.keys()),
        ("the base has places of another shape for", {key for key in made if made[key] != written.get(key)}),
    ):
        if keys:
            raise ValueError(f"{what} {len(keys)} of its weights, as {min(keys)}")
    for module in network.modules():
        for key, tensor in module.named_parameters(recurse=False):
            if tensor.is_meta:
                dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
                empty = torch.empty(tensor.shape, dtype=dtype, device=network.device)
                setattr(module, key, torch.nn.Parameter(empty, requires_grad=False))
    network.load_adapter(str(folder), name)


def with_adapter(network: Any, folder: Path) -> Any:
    """The PEFT model of a base and the adapter in `folder`. Raises UsageError where they do not fit."""
    with explained(folder):
        network = with_place_for(network, folder)
        fill(network, folder, whole=True)
    return network


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What PEFT raises about the files of anybody, in our words."""
    try:
        yield
    except (TokpackError, OSError):
        raise
    except Exception as error:
        if system_error(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UsageError(
            f"the adapter does not fit: {type(error).__name__}: {' '.join(lines[:2])[:300]}",
            where=str(folder),
            hint="is this the base that it was trained on? Is its adapter_config.json as PEFT wrote it?",
        ) from None
