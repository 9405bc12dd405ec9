"""What the shell completes behind a flag: known values, told without loading a heavy library."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import get_args

import pytest


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("analyze --gpu ", "tokpack.cost.gpus:load_gpus"),
        ("train p --gpu ", "tokpack.cost.gpus:load_gpus"),
        ("export p --to ", "tokpack.export:EXPORTERS"),
        ("clean a --to ", "tokpack.text.formats:FORMATS"),
        ("pack a --planner ", "tokpack.stages.plan:BUILT_IN"),
        ("init a --format ", "tokpack.settings.config:Format"),
    ],
)
def test_the_shell_completes_known_values_without_a_heavy_library(typed, known):
    code = (
        "import sys\nfrom tokpack.cli import main\nsys.argv = ['tokpack']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'polars', 'pyarrow', 'torch', 'numpy', 'tokpack.export'} & set(sys.modules)"
    )
    asked = {"_TOKPACK_COMPLETE": "complete_bash", "COMP_WORDS": f"tokpack {typed}"}
    asked["COMP_CWORD"] = str(len(typed.split()) + 1)
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | asked
    ).stdout
    module, _, name = known.partition(":")
    values = getattr(importlib.import_module(module), name)
    values = get_args(values) or (values() if callable(values) else values)
    assert sorted(out.split()) == sorted(values)


def test_cards_are_completed_in_the_letter_case_that_is_typed():
    from tokpack.cli.options import _gpus

    assert "a10" in _gpus("a1")
    assert _gpus("rtx-4") == ["rtx-4090"]
