"""Adapters with weights that matter, as PEFT saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_adapter(
    base: Path, folder: Path, *, seed: int = 0, std: float = 0.1, base_name: str = "", **lora: Any
) -> Path:
    """A LoRA adapter of random weights on the model in `base`; returns its folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora})
    adapted = get_peft_model(model, config)
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, mean=float("magnitude" in name), std=std)
    if base_name:
        adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.save_pretrained(folder)
    return folder
