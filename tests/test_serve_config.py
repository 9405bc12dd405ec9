"""What engines need to serve adapters, what they refuse, and conversions that answer as before."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from adapter_files import save_adapter
from commands import run
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from trainer_rows import save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from tokpack.errors import UsageError
from trainer_plugin.adapters.convert import convert_adapter
from trainer_plugin.serve_config.gguf_adapter import reordered, write_gguf_adapter
from trainer_plugin.serve_config.limits import refusals, vllm_rank
from trainer_plugin.serve_config.write import write_config

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve config")  # a space, as folders of users have
    save_tiny_model(folder / "base")
    save_adapter(folder / "base", folder / "plain", seed=1, r=12)
    save_adapter(folder / "base", folder / "dora", seed=2, use_dora=True)
    save_adapter(
        folder / "base", folder / "patterns", seed=3, use_rslora=True,
        rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 3},
    )  # fmt: skip
    save_trained(folder / "base", folder / "pissa", "pissa")
    save_trained(folder / "base", folder / "olora", "olora")
    return folder


def save_trained(base: Path, folder: Path, start: str) -> None:
    """An adapter that changed the base at its start, and was trained a little."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=start)
    adapted = get_peft_model(model, settings)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)


def logits(base: Path, adapter: Path | None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pissa", "olora", "patterns"])
def test_a_converted_adapter_is_plain_and_answers_as_before(place, tmp_path, name):
    made = convert_adapter(place / name, tmp_path / "out")
    config = json.loads((made.folder / "adapter_config.json").read_text())
    assert made.way == ("fold" if name == "patterns" else "subtract")
    assert refusals(name, config, "sglang") == []
    assert not config["use_rslora"]
    before, after = logits(place / "base", place / name), logits(place / "base", made.folder)
    assert (before - after).abs().max() < 1e-4 * before.abs().max()
    assert (before - logits(place / "base", None)).abs().max() > 1e-2 * before.abs().max()


@pytest.mark.slow
def test_dora_is_merged_and_plain_or_unrepeatable_adapters_are_refused(place, tmp_path):
    made = convert_adapter(place / "dora", tmp_path / "merged")
    assert made.way == "merge"
    before = logits(place / "base", place / "dora")
    assert (before - logits(made.folder, None)).abs().max() < 1e-4 * before.abs().max()
    with pytest.raises(UsageError, match="plain LoRA already"):
        convert_adapter(place / "plain", tmp_path / "x")
    with pytest.raises(UsageError, match="not empty"):
        convert_adapter(place / "pissa", place / "base")
    config = json.loads((place / "pissa" / "adapter_config.json").read_text())
    (tmp_path / "random").mkdir()
    shutil.copy(place / "pissa" / "adapter_model.safetensors", tmp_path / "random")
    (tmp_path / "random" / "adapter_config.json").write_text(
        json.dumps(config | {"init_lora_weights": "pissa_niter_4"})
    )
    with pytest.raises(UsageError, match="cannot be made again"):
        convert_adapter(tmp_path / "random", tmp_path / "y")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("change", "engine", "way"),
    [
        ({"use_dora": True}, "vllm", "merge"),
        ({"init_lora_weights": "pissa"}, "vllm", "plain"),
        ({"init_lora_weights": "loftq"}, "llamacpp", "merge"),
        ({"modules_to_save": ["lm_head"]}, "vllm", "merge"),
        ({"bias": "all"}, "lmdeploy", "merge"),
        ({"alpha_pattern": {"q_proj": 3}}, "vllm", "plain"),
        ({"use_rslora": True}, "sglang", "plain"),
        ({"r": 600}, "vllm", "merge"),
        ({"peft_type": "IA3"}, "ollama", "merge"),
    ],
)
def test_what_engines_refuse_is_known_with_the_way_out(change, engine, way):
    plain = {"peft_type": "LORA", "r": 8, "bias": "none", "init_lora_weights": True}
    assert refusals("a", plain, engine) == []
    assert [one.way for one in refusals("a", plain | change, engine)] == [way]


def test_rslora_is_vllms_and_its_ranks_are_a_list():
    assert refusals("a", {"peft_type": "LORA", "use_rslora": True}, "vllm") == []
    assert [vllm_rank([rank]) for rank in (1, 2, 8, 9, 100, 512)] == [1, 8, 8, 16, 128, 512]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "lmdeploy", "llamacpp", "ollama"])
def test_each_engine_gets_a_folder_whose_commands_name_what_is_in_it(place, tmp_path, engine):
    yaml = pytest.importorskip("yaml")
    if engine in ("llamacpp", "ollama"):
        pytest.importorskip("gguf")
    ended = run(
        "serve-config", f"math={place / 'plain'}", f"other={place / 'plain'}",
        "--engine", engine, "-o", tmp_path / "out", "-q",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    script = Path(ended.stdout.strip())
    assert script == tmp_path / "out" / "start.sh"
    lines = script.read_text().splitlines()
    if engine == "ollama":
        assert [shlex.split(line)[2] for line in lines if line.startswith("ollama create")] == [
            "math",
            "other",
        ]
        assert "PARAMETER num_ctx 256" in (tmp_path / "out" / "Modelfile.math").read_text()
    else:
        words = shlex.split(lines[-1])
        assert words[0] == "exec"
        assert str(place / "base" if engine != "llamacpp" else tmp_path / "out" / "base.gguf") in words
        assert all(any(part in word for word in words) for part in ("/adapters/math", "/adapters/other"))
        assert "127.0.0.1" in words
        assert "256" in words  # what the model has
        if engine == "llamacpp":  # with --lora alone every request would get all adapters at once
            loras = words[words.index("--lora-scaled") + 1].split(",")
            assert loras == [f"{tmp_path / 'out' / 'adapters' / name}.gguf:0" for name in ("math", "other")]
        if engine == "vllm":
            assert words[words.index("--max-lora-rank") + 1] == "16"
            modules = words[words.index("--lora-modules") + 1 :]
            assert [json.loads(one)["name"] for one in modules] == ["math", "other"]
            assert all((Path(json.loads(one)["path"]) / "adapter_config.json").is_file() for one in modules)
    service = yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text())["services"]["model"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert all(mount.endswith(":ro") for mount in service["volumes"])
    assert "ExecStart=" in (tmp_path / "out" / "served.service").read_text()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert len(readme.splitlines()) < 25
    assert ("verify-served" in readme) == (engine != "ollama")


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["systemd-analyze", "verify"], "served.service"),
        (["shellcheck", "-S", "warning"], "start.sh"),
        (["sh", "-n"], "start.sh"),
        (["docker", "compose", "config", "-q", "-f"], "compose.yaml"),
    ],
)
def test_what_reads_the_files_finds_no_fault(place, tmp_path, command, file):
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    if command[0] == "docker" and subprocess.run(["docker", "compose", "version"], check=False).returncode:
        pytest.skip("no Docker Compose")
    folder = tmp_path / "50% of $HOME"
    write_config([f"math={place / 'plain'}"], "vllm", folder)
    read = subprocess.run([*command, folder / file], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stdout + read.stderr
    assert not read.stderr


def test_names_of_folders_are_no_variables(place, tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = tmp_path / "50% of $HOME"
    write_config([f"math={place / 'plain'}"], "vllm", folder)
    assert "50%% of $$HOME/start.sh" in (folder / "served.service").read_text()
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert any("50% of $$HOME" in mount for mount in service["volumes"])
    assert any("50% of $$HOME" in word for word in service["command"])


def test_refused_adapters_are_an_error_until_they_may_be_converted(place, tmp_path):
    asked = [str(place / "dora"), str(place / "pissa"), str(place / "plain")]
    with pytest.raises(UsageError) as error:
        write_config(asked, "vllm", tmp_path / "out")
    assert error.value.what.splitlines()[0] == "vllm does not serve these adapters as they are:"
    assert "dora: DoRA" in error.value.what
    assert "pissa: init_lora_weights = 'pissa'" in error.value.what
    assert not (tmp_path / "out").exists()
    made = write_config(asked, "vllm", tmp_path / "out", convert=True)
    assert [path.name for path in made.merged] == ["dora"]
    assert (tmp_path / "out" / "merged" / "dora" / "model.safetensors").is_file()
    modules = made.command[made.command.index("--lora-modules") + 1 :]
    assert [json.loads(one)["name"] for one in modules] == ["pissa", "plain"]


def test_the_base_of_qlora_adapters_is_written_once_as_4_bits_left_it(place, tmp_path):
    pytest.importorskip("bitsandbytes")
    from trainer_plugin.adapters.loaded import load_adapted
    from trainer_plugin.checkpoints.adapter_folder import read_adapter

    folders = []
    for number in range(2):
        folder = save_adapter(place / "base", tmp_path / f"q{number}", seed=number)
        (folder / "tokpack.json").write_text(json.dumps({"method": "qlora"}))
        folders.append(str(folder))
    made = write_config(folders, "vllm", tmp_path / "out")
    assert made.command[2] == str(tmp_path / "out" / "base")
    trained_on = load_adapted(place / "base", [read_adapter(folders[0])], dtype="float32")
    with trained_on.using("q0") as model, torch.no_grad():
        want = model(input_ids=IDS).logits
    got = logits(tmp_path / "out" / "base", tmp_path / "out" / "adapters" / "q0")
    assert (want - got).abs().max() < 1e-4 * want.abs().max()
    with pytest.raises(UsageError, match="on 4 bits and the others"):
        write_config([*folders, str(place / "plain")], "vllm", tmp_path / "mixed")


@pytest.mark.parametrize("name", ["plain", "patterns"])
def test_a_gguf_adapter_changes_the_weights_as_the_adapter_does(place, tmp_path, name):
    gguf = pytest.importorskip("gguf")
    config = json.loads((place / name / "adapter_config.json").read_text())
    settings = AutoConfig.from_pretrained(place / "base")
    path = write_gguf_adapter(place / name, config, settings, tmp_path / "a.gguf")
    read = gguf.GGUFReader(path)
    alpha = float(read.fields["adapter.lora.alpha"].contents())
    assert read.fields["general.type"].contents() == "adapter"
    assert read.fields["general.architecture"].contents() == "llama"
    tensors = {one.name: np.array(one.data) for one in read.tensors}
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32), str(place / name)
    ).merge_and_unload()
    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    places = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    for short, module in {**places, "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}.items():
        for layer in range(2):
            a, b = (tensors[f"blk.{layer}.{short}.weight.lora_{side}"] for side in "ab")
            key = f"model.layers.{layer}.{module}.weight"
            delta = (merged.state_dict()[key] - base.state_dict()[key]).numpy()
            if short in ("attn_q", "attn_k"):
                delta = reordered(delta, 4 if short == "attn_q" else 2)
            np.testing.assert_allclose(alpha / a.shape[0] * (b @ a), delta, atol=1e-5)
    assert len(tensors) == len(load_file(place / name / "adapter_model.safetensors"))


def test_rows_are_reordered_into_rotary_pairs():
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert reordered(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_architectures_that_no_gguf_adapter_is_written_for_are_said(place, tmp_path):
    settings = AutoConfig.from_pretrained(place / "base")
    settings.model_type = "gemma3_text"
    with pytest.raises(UsageError, match="adapters of gemma3_text are not written as GGUF here"):
        write_gguf_adapter(place / "plain", {}, settings, tmp_path / "a.gguf")
