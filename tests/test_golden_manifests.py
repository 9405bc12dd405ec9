"""What each planner's name stands for, to the last label: packed datasets of one small set never change.

The digest is over the rows themselves, not over files, whose bytes are Arrow's business. Goldens are not
renewed (CONTRIBUTING.md); that of a new planner is made by running with TOKPACK_WRITE_GOLDEN=1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.stages.plan import BUILT_IN

GOLDEN = Path(__file__).parent / "golden" / "manifest"
PLANNERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "optimal" and importlib.util.find_spec("highspy") is None, reason="no highspy"
        ),
    )
    for name in BUILT_IN
]


def digest_of(packed: tokpack.PackedFolder) -> str:
    digest = hashlib.sha256()
    for batch in packed.batches():
        for column in batch.columns:
            digest.update(column.value_lengths().to_numpy().astype("<i4").tobytes())
            values = column.flatten().to_numpy()
            digest.update(values.astype(f"<i{values.itemsize}").tobytes())
    return digest.hexdigest()


def golden_of(packed: tokpack.PackedFolder) -> dict[str, Any]:
    manifest = packed.manifest
    kept = ("split", "capacity", "rows", "tokens", "trained_tokens", "documents", "pieces", "plan", "ledger")
    return {key: manifest[key] for key in kept} | {"rows_sha256": digest_of(packed)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(250, seed=3))


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_packed_dataset_of_a_planner_never_changes(rows, smollm2, tmp_path, planner):
    options = {} if planner == "sequential" else {"world_size": 2, "rows_per_step": 2}
    packed = tokpack.pack(
        rows, tmp_path / "out", tokenizer=str(smollm2), max_length=300, planner=planner, val=0.1, **options
    )
    assert packed.validation is not None
    found = {"train": golden_of(packed), "validation": golden_of(packed.validation)}
    path = GOLDEN / f"{planner}.json"
    if planner == "optimal":  # which of several best plans HiGHS comes to is its build's business
        path = GOLDEN / f"optimal-highspy-{version('highspy')}-{platform.machine()}.json"
    if os.environ.get("TOKPACK_WRITE_GOLDEN") and not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if planner == "optimal" and not path.exists():
        pytest.skip(f"no golden for this build of HiGHS: {path.name}")
    assert found == json.loads(path.read_text(encoding="utf-8"))


FEW_INSTRUCTIONS = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4,AVX512_ICL,AVX512_SPR",
    "ARROW_USER_SIMD_LEVEL": "SSE4_2",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
"""A processor without AVX2, AVX-512 and bf16 units, as far as libraries let themselves be told."""
SAYS_ITS_INSTRUCTIONS = """
import runpy, sys
import numpy, pyarrow
features = numpy._core._multiarray_umath
print([name for name in features.__cpu_dispatch__ if features.__cpu_features__[name]], file=sys.stderr)
print(pyarrow.runtime_info().simd_level, file=sys.stderr)
sys.argv = ["tokpack", *sys.argv[1:]]
runpy.run_module("tokpack", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86")
def test_the_bytes_do_not_depend_on_the_instructions_of_the_processor(rows, smollm2, tmp_path):
    """Everything that computes with fractions decides something here; the goldens above are the same on all
    machines that run them."""
    copies = near_copies(tmp_path / "copies.jsonl")
    options = ["--near-dup", "0.7", "--budget", "15000", "--world-size", "2", "--rows-per-step", "2"]
    options += ["--planner", "xfill", "--val", "0.1", "--max-length", "300", "--mask-personal"]
    few = {**FEW_INSTRUCTIONS, "NUMBA_CACHE_DIR": str(tmp_path)}
    sums, said = {}, {}
    for name, environment in (("all", {}), ("few", few)):
        command = [sys.executable, "-c", SAYS_ITS_INSTRUCTIONS, "pack", str(rows), str(copies)]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / name), "--tokenizer", str(smollm2), *options],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sums[name], said[name] = (tmp_path / name / "SHA256SUMS").read_text(), done.stderr
    assert said["few"].startswith("[]\nsse4_2\n")
    assert sums["all"] == sums["few"]
    dropped = tokpack.open_packed(tmp_path / "few").ledger["documents"]["dropped"]
    assert {"near_duplicate", "over_budget", "held_out"} <= dropped.keys()


def near_copies(path: Path) -> Path:
    """Sixty chats, half of them another one but for a word or two of the question."""
    rng, chats = random.Random(1), []
    for number in range(30):
        question = [f"w{rng.randrange(1000)}" for _ in range(20)]
        answer = " ".join(f"w{rng.randrange(1000)}" for _ in range(20))
        for changed in (0, 1 + number % 2):
            words = " ".join([*question[: 20 - changed], *(f"other{n}" for n in range(changed))])
            chats.append([{"role": "user", "content": words}, {"role": "assistant", "content": answer}])
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path
