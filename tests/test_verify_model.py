"""`tokpack verify --model`: the isolation of documents, proven on the model that is to train."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import LENGTHS, make_documents, save_tiny_model, tiny_llama, write_packed
from typer.testing import CliRunner

import tokpack
from tokpack.cli import app
from tokpack.errors import UsageError
from trainer_plugin import verify_model


def test_verify_probes_every_backend_on_the_packed_datasets_own_rows(tmp_path):
    write_packed(tmp_path / "p", make_documents(LENGTHS), 64)
    result = verify_model(tmp_path / "p", tiny_llama())
    assert result.ok
    assert list(result.reports) == ["tokpack", "sdpa", "eager"]
    assert "exact" in str(result)
    assert "use attn=tokpack" in result.advice[0]
    assert verify_model(tmp_path / "p", tiny_llama(), attn="eager").reports.keys() == {"eager"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed dataset, as `tokpack pack` writes it, and the folder of its model."""
    folder = tmp_path_factory.mktemp("verify")
    save_tiny_model(folder / "model")
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in make_documents(LENGTHS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = {"tokenizer": str(folder / "model"), "max_length": 64}
    tokpack.pack([folder / "rows.jsonl"], folder / "packed", **settings)
    return str(folder / "packed"), str(folder / "model")


def verify(packed, *flags):
    return CliRunner().invoke(app, ["verify", packed[0], "--model", packed[1], *flags])


def test_verify_with_a_model_ends_in_a_table_and_advice(packed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = verify(packed)
    assert result.exit_code == 0
    assert re.search(r"tokpack .*exact", result.stdout)
    heads = r"^attention +dtype +changed +changed +alone +gradients +changed +result"
    assert re.search(heads, result.stdout, re.MULTILINE)
    assert "use attn=tokpack" in result.stdout


def test_verify_exits_with_one_and_says_why_when_documents_see_each_other(packed, monkeypatch):
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    result = verify(packed, "--attn", "sdpa")
    assert result.exit_code == 1
    assert "LEAKS" in result.stdout
    assert "do not train packed rows with attn=sdpa: first document changed" in result.stdout
    found = json.loads(verify(packed, "--attn", "sdpa", "--json").stdout)
    assert (found["ok"], found["isolation"]["reports"]["sdpa"]["ok"]) == (False, False)


def test_verify_of_one_attention_advises_about_that_one(packed):
    result = verify(packed, "--attn", "eager")
    assert result.exit_code == 0
    assert "use attn=eager (`tokpack train --attn eager`)" in result.stdout
    words = " ".join(verify(packed, "--attn", "no_such_attention").stdout.split())
    assert "no backend keeps documents apart" not in words
    assert "verify without --attn tries the others" in words


@pytest.mark.parametrize("device", ["no_such_device", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_the_machine_has_not_is_refused_by_name(packed, device):
    with pytest.raises(UsageError, match=f"cannot use the device '{device}'") as caught:
        tokpack.verify(packed[0], packed[1], device=device)
    assert caught.value.where == f"--device {device}"


def test_verify_of_an_attention_that_the_machine_has_not_is_a_failed_proof(packed):
    result = verify(packed, "--attn", "flash_attention_3", "--json")
    assert result.exit_code == 1
    assert (
        json.loads(result.stdout)["isolation"]["reports"]["flash_attention_3"]["checks"][0]["difference"]
        is None
    )
