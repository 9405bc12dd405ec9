"""The configurations in examples/accelerate are what accelerate reads, with the effect that they promise."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate.utils")
sys.path.insert(0, str(Path(__file__).parent))

from rank_processes import start
from trainer_rows import LENGTHS, make_documents, save_tiny_model, write_packed

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "accelerate"
CONFIGS = sorted(EXAMPLES.glob("*.yaml"))


def launched(path: Path) -> Any:
    """The arguments of `accelerate launch --config_file path`."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "tokpack"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return arguments


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_launch_knows_every_key(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))
    known = vars(launch_command_parser().parse_args(["-m", "tokpack"]))
    for name in ("fsdp_config", "deepspeed_config"):
        assert set(getattr(config, name)) <= set(known), name
    assert launched(path).num_processes == 4
    assert f"--config_file examples/accelerate/{path.name} -m tokpack train" in path.read_text()


@pytest.fixture
def clean_environment(monkeypatch):
    for name in os.environ:
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)


def test_fsdp_shards_by_version_2_and_loads_the_weights_everywhere(monkeypatch, clean_environment):
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name, value in prepare_multi_gpu_env(launched(EXAMPLES / "fsdp.yaml")).items():
        monkeypatch.setenv(name, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert not plugin.cpu_ram_efficient_loading


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_the_stage_and_leaves_the_rest_to_the_recipe(monkeypatch, clean_environment, stage):
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    _, environment = prepare_deepspeed_cmd_env(launched(EXAMPLES / f"deepspeed_zero{stage}.yaml"))
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("the plugin itself needs deepspeed: pip install deepspeed")
    from accelerate.utils import DeepSpeedPlugin

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = DeepSpeedPlugin().deepspeed_config
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["gradient_accumulation_steps"] == "auto"
    assert DeepSpeedPlugin().zero3_init_flag is False


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="pip install deepspeed")
def test_two_processes_under_deepspeed_end_at_the_weights_of_two_without(tmp_path):
    from accelerate.utils.launch import prepare_deepspeed_cmd_env
    from safetensors.torch import load_file

    save_tiny_model(tmp_path / "model")
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 2), 64)
    write_packed(tmp_path / "packed" / "validation", make_documents(LENGTHS, seed=1), 64)
    script = tmp_path / "train.py"
    script.write_text("from trainer_plugin.cli import app; app()")
    recipe = ["--method", "full", "--dtype", "float32", "--accumulation", "2", "--learning-rate", "1e-3"]
    models = {}
    for stage in (0, 2, 3):
        environment = {}
        if stage:
            wanted = prepare_deepspeed_cmd_env(launched(EXAMPLES / f"deepspeed_zero{stage}.yaml"))[1]
            environment = {**wanted, "ACCELERATE_MIXED_PRECISION": "no", "DS_ACCELERATOR": "cpu"}
        out = tmp_path / f"stage{stage}"
        command = ["train", tmp_path / "packed", "-m", tmp_path / "model", "-o", out, *recipe]
        done = start(script, *command, ranks=2, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        models[stage] = load_file(out / "model.safetensors")
    for stage in (2, 3):
        for name, weight in models[0].items():
            assert (models[stage][name] - weight).abs().max() < 1e-6, (stage, name)


def test_under_fsdp_4_bit_weights_are_stored_in_the_type_that_can_be_sharded(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    from trainer_plugin.adapters.qlora import quantization_config

    assert quantization_config(torch.bfloat16).bnb_4bit_quant_storage == torch.uint8
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert quantization_config(torch.bfloat16).bnb_4bit_quant_storage == torch.bfloat16
