"""What each planner's name stands for, to the last label: artefacts of one small set never change.

The digest is over the rows themselves, not over files, whose bytes are Arrow's business. Goldens are not
renewed (CONTRIBUTING.md); that of a new planner is made by running with TOKPACK_WRITE_GOLDEN=1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
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


def digest_of(artefact: tokpack.Artefact) -> str:
    digest = hashlib.sha256()
    for batch in artefact.batches():
        for column in batch.columns:
            digest.update(column.value_lengths().to_numpy().astype("<i4").tobytes())
            values = column.flatten().to_numpy()
            digest.update(values.astype(f"<i{values.itemsize}").tobytes())
    return digest.hexdigest()


def golden_of(artefact: tokpack.Artefact) -> dict[str, Any]:
    manifest = artefact.manifest
    kept = ("split", "capacity", "rows", "tokens", "trained_tokens", "documents", "pieces", "plan", "ledger")
    return {key: manifest[key] for key in kept} | {"rows_sha256": digest_of(artefact)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(250, seed=3))


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_artefact_of_a_planner_never_changes(rows, smollm2, tmp_path, planner):
    options = {} if planner == "sequential" else {"world_size": 2, "rows_per_step": 2}
    artefact = tokpack.pack(
        rows, tmp_path / "out", tokenizer=str(smollm2), max_length=300, planner=planner, val=0.1, **options
    )
    assert artefact.validation is not None
    found = {"train": golden_of(artefact), "validation": golden_of(artefact.validation)}
    path = GOLDEN / f"{planner}.json"
    if planner == "optimal":  # which of several best plans HiGHS comes to is its build's business
        path = GOLDEN / f"optimal-highspy-{version('highspy')}-{platform.machine()}.json"
    if os.environ.get("TOKPACK_WRITE_GOLDEN") and not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if planner == "optimal" and not path.exists():
        pytest.skip(f"no golden for this build of HiGHS: {path.name}")
    assert found == json.loads(path.read_text(encoding="utf-8"))
