"""The names of other libraries that the plugin relies on are there, and stand in one module."""

from __future__ import annotations

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("torch")

import trainer_plugin
from tokpack.errors import UsageError
from trainer_plugin.models import private_names
from trainer_plugin.models.private_names import NAMES, OTHERS, TRAINER, TRAINER_SINCE, PrivateName, absent

PLUGIN = Path(trainer_plugin.__file__).parent
OF_TORCH = {"_execution_engine"}


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])


FULL = _number(version("transformers")) >= _number(TRAINER_SINCE)


def test_the_installed_libraries_have_every_private_name():
    assert absent(NAMES if FULL else OTHERS) == []


@pytest.mark.skipif(not FULL, reason=f"hooks of transformers {TRAINER_SINCE}")
def test_all_that_the_mixins_take_from_a_trainer_is_there_and_what_is_private_is_listed():
    body = ast.parse((PLUGIN / "training" / "trainer_hooks.py").read_text(encoding="utf-8")).body
    [hooks] = [node for node in body if isinstance(node, ast.ClassDef)]
    names = {node.target.id for node in hooks.body if isinstance(node, ast.AnnAssign)}
    names |= {node.name for node in hooks.body if isinstance(node, ast.FunctionDef)} - {"__init__"}
    places = [f"transformers.trainer:Trainer.{name}" for name in sorted(names)]
    assert [place for place in places if not PrivateName(place, "", "").present()] == []
    listed = {name.place for name in TRAINER}
    assert [place for place in places if "Trainer._" in place and place not in listed] == []


def test_a_name_that_is_gone_is_told_with_the_versions_it_was_seen_in():
    gone = PrivateName("transformers.trainer:Trainer._no_such_hook", "4.57 to 5.24", "the test")
    no_module = PrivateName("transformers.no_such_module:name", "5.4 to 5.24", "the test")
    lines = absent((TRAINER[3], gone, no_module))
    assert len(lines) == 2
    assert f"_no_such_hook (seen in transformers 4.57 to 5.24, {version('transformers')} is" in lines[0]


def test_names_are_found_in_the_code_of_methods_and_functions():
    """What `__init__` sets, a parameter, what another object has; no word of a text."""
    for name in ("neftune_noise_alpha", "__init__.processing_class", "ddp_find_unused_parameters"):
        assert PrivateName(f"transformers.trainer:Trainer.{name}", "", "").present(), name
    for name in ("no_such_attribute", "__init__.no_such_parameter", "__init__.Initialize"):
        assert not PrivateName(f"transformers.trainer:Trainer.{name}", "", "").present(), name


def test_a_name_that_is_not_needed_or_whose_library_is_not_installed_is_not_missed():
    optional = PrivateName("transformers.trainer:Trainer._no_such_hook", "5.4", "the test", needed=False)
    elsewhere = PrivateName("no_such_library.module:name", "1.0", "the test")
    assert absent((optional, elsewhere)) == []


def test_private_names_are_used_in_one_module_and_overridden_in_the_trainer():
    known = {name.place.rpartition(".")[2].rpartition(":")[2] for name in NAMES}
    strays = {}
    for file in PLUGIN.rglob("*.py"):
        if file.name != "private_names.py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            strays[str(file)] = _foreign(tree) - known - OF_TORCH
    ours = [file for file in PLUGIN.rglob("*.py") if file.name != "trainer_hooks.py"]
    own = set().union(*(_own(ast.parse(file.read_text(encoding="utf-8"))) for file in ours))
    assert {file: names - own for file, names in strays.items() if names - own} == {}


def _foreign(tree: ast.Module) -> set[str]:
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            names |= {
                arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def _own(tree: ast.Module) -> set[str]:
    """Private names that the plugin defines itself."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    fields = [node.target for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    defined |= {field.id for field in fields if isinstance(field, ast.Name)}
    set_by_us = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and getattr(node.value, "id", "") == "self"
    }
    return defined | set_by_us


def test_a_trainer_without_the_hooks_is_refused_in_one_sentence(monkeypatch):
    lost = PrivateName("transformers.trainer:Trainer._no_such_hook", "5.4 to 5.24", "the test")
    monkeypatch.setattr(private_names, "TRAINER", (lost,))
    with pytest.raises(
        UsageError,
        match=rf"PackedTrainer needs transformers {TRAINER_SINCE} or later; .* has no Trainer._no_such_h",
    ):
        private_names.require_trainer()


@pytest.mark.skipif(FULL, reason="this transformers has every hook")
def test_an_older_transformers_is_refused_by_the_trainer_itself():
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=f"PackedTrainer needs transformers {TRAINER_SINCE} or later"):
        trainer_plugin.PackedTrainer(None)


def test_a_transformers_that_does_not_shard_is_refused(monkeypatch):
    distributed = pytest.importorskip("transformers.distributed")
    from dataclasses import make_dataclass

    monkeypatch.setattr(distributed, "DistributedConfig", make_dataclass("DistributedConfig", ["tp_size"]))
    with pytest.raises(UsageError, match=r"shard needs transformers .* or later"):
        private_names.sharding_config(2)


def test_every_public_name_resolves():
    import trainer_plugin

    assert all(getattr(trainer_plugin, name) for name in trainer_plugin.__all__)
    with pytest.raises(AttributeError):
        _ = trainer_plugin.nothing
