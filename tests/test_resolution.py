"""tokpack can be installed beside other trainers: a dry run, which needs uv and a package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINERS = ("ms-swift==4.6.0", "unsloth==2026.10.9", "axolotl==0.19.0", "llamafactory==0.9.5")
NO_INDEX = ("error sending request", "failed to fetch", "network connectivity", "was not found in the cache")


def _compile(requirements: list[str], tmp_path: Path) -> str:
    """The environment that uv finds, one `name==version` a line."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("needs uv: pip install uv")
    asked = tmp_path / "asked.in"
    asked.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    done = subprocess.run(
        [uv, "pip", "compile", "-q", "--python-version", "3.11", str(asked)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode and any(words in done.stderr.lower() for words in NO_INDEX):
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _core() -> list[str]:
    return list(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_tokpack_resolves_beside(trainer, tmp_path):
    found = _compile([*_core(), trainer], tmp_path)
    assert f"\n{trainer}\n" in found
    assert "\ngigatoken==" in f"\n{found}"


@pytest.mark.slow
def test_the_core_brings_neither_torch_nor_datasets(tmp_path):
    found = f"\n{_compile(_core(), tmp_path)}"
    assert "\ntransformers==" in found
    assert not [name for name in ("torch", "datasets", "nvidia") if f"\n{name}" in found]


def test_releases_of_polars_that_crash_in_worker_threads_are_left_out():
    from packaging.requirements import Requirement

    allowed = {one.name: one.specifier for one in map(Requirement, _core())}["polars"]
    assert not [release for release in ("1.35.2", "1.41.2") if allowed.contains(release)]
    assert all(allowed.contains(release) for release in ("1.44.1", "2.1.0"))
