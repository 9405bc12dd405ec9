"""A model by its name: what cannot be had says why in our words, and names the folder that was meant."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from huggingface_hub import errors
from typer.testing import CliRunner

from tokpack.cost.training import model_config
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.errors import UsageError
from tokpack.hub import from_hub
from trainer_plugin.cli import app as training


def failing(error):
    def fetch(hub):
        raise error

    return fetch


def http(kind):
    return kind("401 Client Error. (Request ID: Root=1-6)", response=Mock())


@pytest.mark.parametrize(
    ("error", "what", "hint"),
    [
        (http(errors.RepositoryNotFoundError), "not on the Hugging Face Hub", "spelling"),
        (http(errors.GatedRepoError), "gated on the Hugging Face Hub", "hf auth login"),
        (errors.LocalEntryNotFoundError("no snapshot folder"), "cannot be reached", "offline"),
        (errors.HFValidationError("Repo id must use alphanumeric chars"), "not a name", "OWNER/MODEL"),
        (ConnectionError("[Errno -3] Temporary failure"), "cannot be reached", "offline"),
    ],
)
def test_what_the_hub_refuses_is_said_without_its_exception(error, what, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        from_hub("owner/model", "--tokenizer", failing(error))
    assert what in caught.value.what
    assert hint in str(caught.value.hint)
    assert caught.value.where == "--tokenizer owner/model"
    assert not [word for word in ("Error", "Request ID", "Errno") if word in str(caught.value)]


@pytest.mark.parametrize(
    "typed", ["SmolLM2-153M-Instruct", "./smollm2-135m-instruct", "SmolLM2-135M-Instruc"]
)
@pytest.mark.parametrize("load", [load_tokenizer, model_config])
def test_a_folder_beside_a_misspelled_one_is_suggested(typed, load, tmp_path, monkeypatch):
    (tmp_path / "SmolLM2-135M-Instruct").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError) as caught:
        load(typed)
    assert caught.value.hint == "did you mean SmolLM2-135M-Instruct?"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("s3://bucket/model", "to this machine"),
        ("hf://me/math", "give me/math"),
        ("x=hf://me/math", "give me/math"),
    ],
)
def test_models_and_adapters_are_not_opened_from_urls(url, hint):
    with pytest.raises(UsageError, match="not opened from URLs") as caught:
        from_hub(url, "--adapter", failing(AssertionError()))
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "packed", "-o", "out", "--model"],
        ["merge-adapter", "-o", "out"],
        ["push-adapter", "s3://bucket/there"],
        ["eval", "packed", "--adapter"],
        ["serve", "model", "--adapter"],
        ["serve"],
        ["chat"],
        ["verify-served", "http://127.0.0.1/v1", "--model", "m", "--adapter"],
        ["serve-config", "-e", "vllm", "-o", "out"],
        ["convert-adapter", "-o", "out"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_refuses_them_before_it_loads_anything(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer_plugin.extras.need", Mock(side_effect=AssertionError))
    refused = CliRunner().invoke(training, [*words, "s3://bucket/adapter"])
    assert isinstance(refused.exception, UsageError), refused.exception
    assert refused.exception.what == "models and adapters are not opened from URLs"
    assert not list(tmp_path.iterdir())


def test_a_command_that_takes_a_folder_does_not_send_to_a_name():
    refused = CliRunner().invoke(training, ["convert-adapter", "hf://me/math", "-o", "out"])
    assert "copy its folder" in str(refused.exception.hint)
