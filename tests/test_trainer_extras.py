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
