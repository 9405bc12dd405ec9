"""What cannot work is refused before PyTorch is loaded, which takes seconds, and before any work is done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run

import tokpack

ASKED = """
import json, sys
from commands import run
for arguments in json.load(sys.stdin):
    ended = run(*arguments)
    print(json.dumps([ended.returncode, ended.stderr, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen) -> Path:
    """packed, adapter (that names its base), a model with another tokenizer, full."""
    folder = tmp_path_factory.mktemp("early")
    messages = [{"role": role, "content": f"a word of the {role}"} for role in ("user", "assistant")]
    tokpack.pack([{"messages": messages}], folder / "packed", tokenizer=str(qwen), max_length=64)
    weights = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    (folder / "adapter").mkdir()
    weights.save_file({"a": numpy.zeros((2, 2))}, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": str(qwen), "r": 2}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(qwen, folder / "other")
    file = folder / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_begin|>"))
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    return folder


@pytest.mark.slow
def test_what_cannot_work_is_refused_before_pytorch_is_loaded(folder, qwen, monkeypatch):
    pytest.importorskip("peft")
    packed, adapter, other, full = (folder / name for name in ("packed", "adapter", "other", "full"))
    gone, new = folder / "gone", folder / "new"
    train = "train", packed, "-m", qwen, "-o", new
    gate, served, by_url = "nothing", "http://127.0.0.1:9/v1", "s3://bucket/adapter"
    cases = {
        ("merge-adapter", by_url, "-o", new): "not opened from URLs",
        ("merge-adapter", gone, "-o", new): "no adapter here",
        ("merge-adapter", adapter, "-o", full): "the output is not empty",
        ("merge-adapter", adapter, "-o", new, "-m", gone): f"--model {gone}",
        ("convert-adapter", by_url, "-o", new): "not opened from URLs",
        ("convert-adapter", adapter, "-o", full): "the output is not empty",
        ("eval", packed, "-a", by_url): "not opened from URLs",
        ("eval", gone, "-a", adapter): "no such folder",
        ("eval", packed, "-a", adapter, "--gate", gate): "no gate: 'nothing'",
        ("eval", packed, "-a", adapter, "--html", gone / "page.html"): "its folder is not there",
        ("serve", gone): f"BASE {gone}",
        ("serve", qwen, "-a", gone): f"--adapter {gone}",
        ("serve", qwen, "--port", "99999"): "--port",
        ("serve", qwen, "--host", "0.0.0.0"): "there is no API key",
        ("chat", gone): f"--adapter {gone}",
        ("verify-served", served, "-m", "x", "-a", adapter, "--data", gone): "no such folder",
        ("serve-config", gone, "-e", "vllm", "-o", new): f"ADAPTER {gone}",
        ("serve-config", adapter, "-e", "vllm", "-o", full): "the output is not empty",
        ("train", gone, "-m", qwen, "-o", new): "no such folder",
        ("train", packed, "-m", f"{qwen}x", "-o", new): f"did you mean {qwen}?",
        (*train, "--gpu", "a11"): "unknown GPU 'a11'",
        (*train, "--merge", full): "the output is not empty",
        (*train, "--eval"): "nothing is held out to compare on",
        (*train, "--resume"): "no checkpoint to resume from",
        (*train, "--document-log", "x.csv"): "a log of documents cannot be a .csv",
        (*train, "--max-steps", "0"): "--max-steps must be at least 1\n  at: --max-steps 0",
        (*train, "--method", "loar"): "--method = 'loar' does not fit\n  at: --method loar",
        ("verify", packed, "--model", gone): f"--model {gone}",
        ("verify", packed, "--model", other): "the model's tokenizer is not the one",
        ("train", packed, "-m", other, "-o", new): "the model's tokenizer is not the one",
        ("eval", packed, "-a", adapter, "-m", other): "the model's tokenizer is not the one",
    }
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = json.dumps([[str(part) for part in case] for case in cases])
    ended = subprocess.run(
        [sys.executable, "-c", ASKED], input=asked, capture_output=True, text=True, check=True
    )
    for (case, said), line in zip(cases.items(), ended.stdout.splitlines(), strict=True):
        code, error, loaded = json.loads(line)
        assert (case, code in (2, 73), said in error, loaded) == (case, True, True, False), error
    assert not new.exists()


@pytest.mark.parametrize("command", ["inspect", "compare"])
def test_a_command_that_only_reads_says_what_it_does_and_nothing_when_quiet(command, folder):
    packed = folder / "packed"
    arguments = [command, packed, packed][: 2 + (command == "compare")]
    told, quiet = run(*arguments), run(*arguments, "--quiet")
    assert told.stderr.startswith("loading libraries ...\n")
    assert (quiet.stderr, quiet.stdout) == ("", told.stdout)
