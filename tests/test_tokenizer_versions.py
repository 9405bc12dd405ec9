"""Tokenizer folders under other versions of transformers than the one that saved them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest

from tokpack.encoding import snapshot
from tokpack.errors import UsageError


def _folder(path, tokenizer_class):
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    path.mkdir()
    (path / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": tokenizer_class, "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def test_the_plain_class_of_transformers_5_is_read_where_it_has_its_old_name(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "PLAIN_CLASS", "BackendOfAnotherVersion")
    renamed = snapshot.auto_tokenizer(str(_folder(tmp_path / "new", "BackendOfAnotherVersion")))
    plain = snapshot.auto_tokenizer(str(_folder(tmp_path / "old", "PreTrainedTokenizerFast")))
    assert renamed.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
    assert renamed.pad_token_id == plain.pad_token_id == 0


def test_without_transformers_a_new_tokenizer_says_what_to_install(tmp_path, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(snapshot, "version", absent)
    with pytest.raises(UsageError, match="transformers is not installed"):
        snapshot.snapshot_folder(_folder(tmp_path / "model", "PreTrainedTokenizerFast"), tmp_path / "cache")
