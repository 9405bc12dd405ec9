"""What flags and files give to the bill: the model, GPUs, prices, services; and what they may not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_samples import LLAMA_8B

from tokpack.cost.training import load_training, model_config, model_name
from tokpack.errors import UsageError
from tokpack.settings.config import CostConfig


def test_a_gpu_without_a_price_asks_for_the_flag(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA_8B))
    with pytest.raises(UsageError, match="no price known for V100-32GB") as error:
        load_training(CostConfig(model=str(config), gpu="v100-32gb"))
    assert error.value.where == "--gpu-price"
    assert load_training(CostConfig(model=str(config), gpu="v100-32gb", gpu_price=1.0)) is not None
    with pytest.raises(UsageError, match="unknown GPU 'a11'") as near:
        load_training(CostConfig(model=str(config), gpu="a11"))
    assert "A10" in str(near.value.hint)
    with pytest.raises(UsageError, match="a price without a GPU"):
        load_training(CostConfig(model=str(config), gpu_price=1.0))


def test_a_cost_flag_without_a_model_asks_for_the_model() -> None:
    assert load_training(CostConfig()) is None
    with pytest.raises(UsageError, match="needs the model") as error:
        load_training(CostConfig(gpu="a10"))
    assert error.value.where == "--gpu"


def test_own_gpus_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    table = tmp_path / "gpus.toml"
    table.write_text("[MY-CARD]\ntflops = 100\nmemory_gb = 48\nprice_usd_h = 0.5\n")
    run = load_training(CostConfig(model=str(tmp_path), gpu="my card", gpus=str(table)))
    assert run is not None
    assert run.gpu is not None
    assert run.gpu.memory_gb == 48


def test_a_model_is_a_folder_a_file_or_a_name_on_the_hub(tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    other = tmp_path / "eight.json"
    other.write_text(json.dumps(LLAMA_8B))
    assert [model_name(str(p)) for p in (folder, folder / "config.json", other)] == [
        "my-model",
        "my-model",
        "eight",
    ]
    assert model_name("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(folder / file))
    assert model_config("some/model") == folder / "config.json"

    def offline(name: str, file: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UsageError, match="which cannot be reached") as error:
        model_config("some/model")
    assert error.value.where == "--model some/model"
    assert error.value.hint
    with pytest.raises(UsageError, match="no such folder"):
        load_training(CostConfig(model="./nothing"))


def test_a_service_that_does_not_take_the_model_is_refused_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": 320}))
    with pytest.raises(UsageError, match="up to 16B, this one has") as error:
        load_training(CostConfig(model=str(tmp_path), api="together-lora-16b"))
    assert "together-lora-100b" in str(error.value.hint)
    assert "together-lora-69b" not in str(error.value.hint)
    own = tmp_path / "apis.toml"
    own.write_text("[mine]\nusd_per_million = 2\n")
    settings = CostConfig(model=str(tmp_path), api="mine", apis=str(own))
    run = load_training(settings)
    assert run is not None
    assert run.api is not None
    assert run.api.usd_per_million == 2
