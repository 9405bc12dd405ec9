"""`init`, `doctor`, `gpus`: what is asked before the first run."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
from chats import messy_rows, write_rows
from commands import run as command
from trainer_rows import tiny_chat_model
from typer.testing import CliRunner

from tokpack.cli import app
from tokpack.cost import Gpu
from tokpack.cost.gpu_table import chosen
from tokpack.doctor import Finding, Findings, examine
from tokpack.errors import OutputError, UsageError
from tokpack.settings.config_file import load_toml
from tokpack.settings.options import make_config
from tokpack.starting import choose_length, first_recipe, write_recipe
from tokpack.terminal.activity import counted


@pytest.fixture
def chats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return write_rows(tmp_path / "data" / "chats.jsonl", messy_rows(300))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_first_recipe_says_what_was_seen_and_runs_as_it_is(chats, smollm2, tmp_path):
    out = tmp_path / "recipes" / "run.toml"
    out.parent.mkdir()
    text = first_recipe(["data/chats.jsonl"], str(smollm2), out, gpu="a10")
    write_recipe(text, out)
    assert load_toml(out)["source"][0]["path"] == str(out.parent / "../data/chats.jsonl")
    config = make_config([], {"config": out})
    assert (config.truncate.max_length, config.cost.method, config.cost.gpu) == (2048, "lora", "A10")
    assert config.write.val == 0.02
    assert "rendered by the model's own chat template" in text
    assert "Recognized: messages" in text
    assert "lora fits A10 at 2,048 tokens" in text
    assert f"#   tokpack train packed --model {smollm2} --method lora -o adapter\n" in text
    report = run("analyze", "--config", out, "--json")
    assert report.exit_code == 0, report.output
    assert json.loads(report.stdout)["ledger"]["documents"]["read"] == 300


def test_the_command_writes_the_file_once(chats, qwen, tmp_path):
    first = run("init", chats, "--model", qwen, "-o", tmp_path / "run.toml", "-q")
    assert (first.exit_code, first.stdout.strip()) == (0, str(tmp_path / "run.toml"))
    text = (tmp_path / "run.toml").read_text()
    assert "[cost]" not in text  # a tokenizer alone: no model to cost
    with pytest.raises(UsageError, match="there already"):
        write_recipe(text, tmp_path / "run.toml")
    write_recipe("seed = 1\n", tmp_path / "run.toml", overwrite=True)


def test_a_full_disk_leaves_no_half_file_that_stops_the_next_try(tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OutputError, match="No space left"):
            write_recipe("seed = 1\n", tmp_path / "run.toml")
    assert list(tmp_path.iterdir()) == []
    write_recipe("seed = 1\n", tmp_path / "run.toml")


def test_a_shape_and_columns_that_were_given_are_in_the_file(qwen, tmp_path):
    rows = [
        {"question": f"What is {n}?", "completion": f"It is {n}, and no more.", "label": n % 2}
        for n in range(40)
    ]
    data = write_rows(tmp_path / "kto.jsonl", [json.dumps(row).encode() for row in rows])
    out = tmp_path / "run.toml"
    refused = run("init", data, "--model", qwen, "-o", out)
    assert "--format unpaired packs both" in str(refused.exception.hint)
    run("init", data, "--model", qwen, "-o", out, "--format", "unpaired", "--map", "prompt=question")
    source = load_toml(out)["source"][0]
    assert (source["format"], source["map"]) == ("unpaired", {"prompt": "question"})
    packed = run("pack", "--config", out, "-o", tmp_path / "packed")
    assert packed.exit_code == 0, packed.output


def test_preferences_get_no_settings_of_a_bill(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    tiny_chat_model(tmp_path / "a model")
    pairs = [{"prompt": f"{n}?", "chosen": "Yes, it is.", "rejected": "No, it is not."} for n in range(9)]
    write_rows(tmp_path / "pairs.jsonl", [json.dumps(pair).encode() for pair in pairs])
    assert run("init", "pairs.jsonl", "--model", "a model").stdout == "run.toml\n"
    text = (tmp_path / "run.toml").read_text()
    assert "preferences are trained beside a reference" in text
    assert "--model 'a model' --method qlora --learning-rate 1e-5 -o adapter\n" in text
    assert run("analyze", "--config", "run.toml", "-q").exit_code == 0
    assert "no bill" not in caplog.text


def test_documents_that_are_all_left_out_are_no_recipe_and_the_reasons_are_named(qwen, tmp_path):
    rows = [{"question": f"What is {n}?", "answer": "No idea.", "good": False} for n in range(3)]
    data = write_rows(tmp_path / "bad.jsonl", [json.dumps(row).encode() for row in rows])
    refused = run("init", data, "--model", qwen, "-o", tmp_path / "run.toml", "--map", "label=good")
    assert "could not be used at all: 3 labelled_bad" in str(refused.exception)
    assert not (tmp_path / "run.toml").exists()


def test_one_document_is_told_in_the_singular(qwen, tmp_path):
    data = write_rows(tmp_path / "one.jsonl", messy_rows(1))
    first = run("init", data, "--model", qwen, "-o", tmp_path / "run.toml")
    assert "from one document. Change" in (tmp_path / "run.toml").read_text()
    assert (first.exit_code, counted(1, "row"), counted(2000, "row")) == (0, "1 row", "2,000 rows")


@pytest.mark.parametrize(("longest", "capacity"), [(100, 512), (513, 1024), (1024, 1024), (10**6, 131_072)])
def test_the_row_is_the_smallest_that_holds_nearly_all_documents(longest, capacity):
    assert choose_length(np.full(50, longest), None)[0] == capacity
    assert choose_length(np.append(np.full(199, 40), longest), None)[0] == 512


def test_gpus_are_filtered_by_words_memory_and_price():
    table = {
        "A-16": Gpu(key="A-16", name="Maker A 16", tflops=1, memory_gb=16, price_usd_h=1.0),
        "B-24": Gpu(key="B-24", name="Maker B 24", tflops=2, memory_gb=24),
    }
    assert [gpu.key for gpu in chosen(table, [], 0, None)] == ["A-16", "B-24"]
    assert [gpu.key for gpu in chosen(table, ["maker", "b24"], 0, None)] == ["B-24"]
    assert [gpu.key for gpu in chosen(table, [], 20, None)] == ["B-24"]
    assert [gpu.key for gpu in chosen(table, [], 0, 2.0)] == ["A-16"]
    with pytest.raises(UsageError, match="no such GPU") as caught:
        chosen(table, ["b-25"], 0, None)
    assert "'B-24'" in str(caught.value.hint)
    assert "h100-sxm" in run("gpus", "h100").output
    quiet = run("gpus", "4090", "--json", "--quiet")
    assert ({gpu["key"] for gpu in json.loads(quiet.stdout)}, quiet.stderr) == ({"RTX-4090"}, "")


def test_the_doctor_names_versions_memory_disk_and_caches():
    found = {finding.what: finding for finding in examine().findings}
    assert {"tokpack", "packages", "cores", "disk, here", "cache", "Hub"} <= set(found)
    assert all(finding.advice for finding in found.values() if finding.state == "wrong")
    assert json.loads(run("doctor", "--json").stdout)[0]["what"] == "tokpack"


def test_the_doctor_says_what_it_looks_at_and_nothing_when_quiet(monkeypatch):
    monkeypatch.setattr("tokpack.doctor._torch", lambda: iter(()))
    monkeypatch.setattr("tokpack.doctor._bitsandbytes", lambda: iter(()))
    told, quiet = command("doctor"), command("doctor", "-q")
    assert "looking at PyTorch ...\n" in told.stderr
    assert (quiet.stderr, quiet.returncode) == ("", told.returncode)


def test_what_is_wrong_ends_the_doctor_with_code_1(monkeypatch):
    sick = Findings((Finding("cache", "[no] place", "wrong", "set TOKPACK_CACHE"),))
    monkeypatch.setattr("tokpack.doctor.examine", lambda tell: sick)
    result = run("doctor")
    assert result.exit_code == 1
    assert "[no] place" in result.output
    assert "set TOKPACK_CACHE" in result.output


def test_without_pytorch_the_doctor_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("tokpack.doctor.find_spec", lambda name: None)
    found = {finding.what: finding for finding in examine().findings}
    assert "tokpack[train]" in found["PyTorch"].advice


def test_what_the_template_leaves_out_or_refuses_is_said_before_the_first_run(qwen, tmp_path, caplog):
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    model = tmp_path / "model"
    shutil.copytree(qwen, model)
    (model / "chat_template.jinja").write_text(template)
    call = {"type": "function", "function": {"name": "count", "arguments": "{}"}}
    asked = {"role": "user", "content": "How many?"}
    calling = {"role": "assistant", "content": "Let me count.", "tool_calls": [call], "reasoning": "I count."}
    answered = [asked, calling, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "Three."}]
    rows = [json.dumps({"messages": messages}).encode() for messages in ([asked, calling], answered)]
    data = write_rows(tmp_path / "c.jsonl", rows)
    text = first_recipe([str(data)], str(model), tmp_path / "run.toml")
    for sentence in (
        "1 tool call is left out by the chat template; --chat-template FILE takes one that writes it",
        "1 turn has reasoning that the chat template leaves out",
        "1 could not be used at all: 1 template_error (no tools here)",
    ):
        assert sentence in text
        assert sentence in caplog.text
