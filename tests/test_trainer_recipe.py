"""Recipes: files, flags, keys that are known, and what the documentation says of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tokpack.errors import UsageError
from trainer_plugin import Recipe, load_recipe
from trainer_plugin.recipe import training_arguments

RECIPES = Path(__file__).resolve().parent.parent / "examples" / "recipes"


def test_a_recipe_comes_from_file_and_flags_and_survives_its_own_toml(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('method = "lora"\nlearning_rate = 1\n[lora]\nr = 8\n[trainer]\noptim = "adafactor"\n')
    recipe = load_recipe(path, seed=5, method=None)
    assert (recipe.method, recipe.seed, recipe.lora["r"]) == ("lora", 5, 8)
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe
    assert training_arguments(recipe, tmp_path).optim == "adafactor"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("learning_rat = 1.0", "unknown key 'learning_rat'", "'learning_rate'"),
        ('method = "qora"', "method = 'qora' does not fit", "'qlora'"),
        ('seed = "x"', "seed = 'x' does not fit", "int"),
        ("accumulation = 0", "at least 1", ""),
        ("lora = 3", "lora = 3 does not fit", "a table"),
        ("a b", "not valid TOML", ""),
        ('[[source]]\npath = "a.jsonl"', "settings of `tokpack pack`", "leave --recipe out"),
    ],
)
def test_a_wrong_recipe_names_the_key_and_what_would_fit(tmp_path, text, what, hint):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_recipe(path)
    assert what in error.value.what
    assert hint in (error.value.hint or "")


def test_keys_of_peft_and_trainer_are_checked_too(tmp_path):
    with pytest.raises(UsageError, match="'optimm'") as error:
        training_arguments(Recipe(trainer={"optimm": "sgd"}), tmp_path)
    assert "optim" in error.value.hint
    from trainer_plugin import prepare_lora

    with pytest.raises(UsageError, match="'rank'"):
        prepare_lora(None, Recipe(lora={"rank": 3}))


def test_every_key_of_a_recipe_is_documented_with_its_default():
    page = (RECIPES.parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    keys = page.partition("| key |")[2].partition("\n\n")[0]
    table = dict(re.findall(r"^\| `(\w+|\[\w+\])` \| (.*?) \|", keys, re.MULTILINE))
    for field in dataclasses.fields(Recipe):
        if field.default_factory is not dataclasses.MISSING:
            assert f"[{field.name}]" in table
        else:
            assert table[field.name] == f"`{json.dumps(field.default)}`", field.name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_recipe_loads_and_its_keys_are_known(path, tmp_path):
    from peft import LoraConfig

    recipe = load_recipe(path)
    training_arguments(recipe, tmp_path)
    assert set(recipe.lora) <= set(LoraConfig.__dataclass_fields__)
