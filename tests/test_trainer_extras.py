"""Packages that a recipe needs beside the plugin's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import needs_packed_trainer

from tokpack.errors import UsageError


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"optim": "galore_adamw"}, "needs the package galore-torch", "pip install galore-torch"),
        ({"optim": "apollo_adamw_layerwise"}, "needs the package apollo-torch", "pip install apollo-torch"),
        ({"optim": "schedule_free_adamw"}, "needs the package schedulefree", "pip install schedulefree"),
        ({"optim": "paged_adamw_8bit"}, "needs the package bitsandbytes", "pip install bitsandbytes"),
        ({"optim": "adamw_trch"}, "unknown optimizer 'adamw_trch'", "adamw_torch"),
        ({"use_liger_kernel": True}, "needs the package liger-kernel", "pip install liger-kernel"),
        ({"report_to": "wandb"}, "needs the package wandb", "pip install wandb"),
        ({"report_to": ["tensorboard", "trackio"]}, "needs the package", "pip install"),
        ({"report_to": "wandbb"}, "unknown logger 'wandbb'", "wandb"),
    ],
)
def test_a_package_that_the_recipe_needs_is_named_when_missing(monkeypatch, table, message, hint):
    from trainer_plugin import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message) as error:
        extras.check_extras(table)
    assert hint in error.value.hint


def test_every_optimizer_of_transformers_is_known_or_needs_nothing():
    """A new optimizer that needs a package must not slip by: those left over are torch's own."""
    needs_packed_trainer()
    from transformers.training_args import OptimizerNames

    from trainer_plugin.extras import OPTIMIZERS

    free = {one.value for one in OptimizerNames if not one.value.startswith(tuple(OPTIMIZERS))}
    own = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    of_devices = {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision"}
    assert free - {"adamw_apex_fused"} == own | of_devices  # before transformers 5.8


def test_functions_that_a_library_compiles_as_it_is_imported_are_compiled_at_their_first_call(monkeypatch):
    import torch

    from trainer_plugin.extras import compiling_at_the_first_call

    compiled = []

    def compile_at_once(function, **options):
        compiled.append((function.__name__, options))
        return lambda number: function(number) + 1

    monkeypatch.setattr(torch, "compile", compile_at_once)
    with compiling_at_the_first_call():

        @torch.compile
        def once(number):
            return number

        @torch.compile(dynamic=False)
        def twice(number):
            return 2 * number

    assert torch.compile is compile_at_once
    assert not compiled
    assert [twice(3), twice(4), once(5)] == [7, 9, 6]
    assert compiled == [("twice", {"dynamic": False}), ("once", {})]
