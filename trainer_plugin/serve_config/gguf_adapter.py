"""A LoRA adapter of a Llama-like model as GGUF, the form of llama.cpp and Ollama.

llama.cpp multiplies B A with alpha / rank, alpha one for all; so every other scale goes into B. Llama's and
Mistral's query and key rows are reordered there (rotary pairs lie side by side), hence the rows of B are.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokpack.errors import UsageError
from trainer_plugin.adapters.convert import scale_of
from trainer_plugin.checkpoints.adapter_config import WEIGHTS, check_patterns

ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""transformers' model type -> GGUF's architecture."""
REORDERED = ("llama", "mistral")
PREFIX = "base_model.model."

Weights = npt.NDArray[np.float32]


def check_gguf(model_config: Any) -> None:
    """Raises UsageError where no GGUF adapter can be written."""
    if find_spec("gguf") is None:
        raise UsageError("gguf is not installed", where="--engine", hint="pip install gguf")
    if model_config.model_type not in ARCHITECTURES:
        raise UsageError(
            f"adapters of {model_config.model_type} are not written as GGUF here, only of "
            f"{', '.join(ARCHITECTURES)}",
            where="--engine",
            hint="llama.cpp's own convert_lora_to_gguf.py knows more models",
        )


def write_gguf_adapter(adapter: Path, config: dict[str, Any], model_config: Any, out: Path) -> Path:
    """adapter: a PEFT folder whose `refusals` are empty; model_config: its base's, of transformers."""
    import gguf

    check_gguf(model_config)
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[model_config.model_type]]
    names = gguf.get_tensor_name_map(architecture, model_config.num_hidden_layers)
    alpha = float(config.get("lora_alpha", 8))
    writer = gguf.GGUFWriter(str(out), gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    tensors = _as_numpy(adapter)
    check_patterns(config, tensors, adapter)
    for name, tensor in sorted(tensors.items()):
        module, _, side = name.removeprefix(PREFIX).partition(".lora_")
        mapped = names.get_name(module)
        if mapped is None or side not in ("A.weight", "B.weight") or not mapped.startswith("blk."):
            raise UsageError(f"llama.cpp has no place for {name}", where=str(adapter / WEIGHTS))
        values = tensor
        if side == "B.weight":
            rank = tensor.shape[1]
            values = tensor * np.float32(scale_of(config, module, rank) * rank / alpha)
            if model_config.model_type in REORDERED and module.endswith(("q_proj", "k_proj")):
                values = reordered(values, _heads(model_config, module))
        writer.add_tensor(f"{mapped}.weight.lora_{side[0].lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _as_numpy(adapter: Path) -> dict[str, Weights]:
    """In fp32; NumPy knows no bfloat16."""
    from safetensors.torch import load_file

    return {name: tensor.float().numpy() for name, tensor in load_file(str(adapter / WEIGHTS)).items()}


def _heads(model_config: Any, module: str) -> int:
    keys = getattr(model_config, "num_key_value_heads", None) or model_config.num_attention_heads
    return int(keys if module.endswith("k_proj") else model_config.num_attention_heads)


def reordered(rows: Weights, heads: int) -> Weights:
    """Each head's rows [first halves, second halves] as pairs: (0, h/2, 1, h/2 + 1, ...)."""
    each = rows.shape[0] // heads
    halves = rows.reshape(heads, 2, each // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))
