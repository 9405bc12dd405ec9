"""Whether a server answers with the adapter: right ones pass, and each fault made on purpose is named."""

from __future__ import annotations

import json
import shutil
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("peft")
pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'tokpack[serve]'")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from commands import run
from few import a_few
from served import running, save_place
from trainer_rows import make_documents, write_packed

from tokpack.errors import DataError, UsageError
from trainer_plugin.served_proof.http import Server
from trainer_plugin.served_proof.run import ProofSettings, verify_served
from trainer_plugin.served_proof.verdict import BASE, judge_weights
from trainer_plugin.serving.values import Limits


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = save_place(tmp_path_factory.mktemp("proof"))
    write_packed(folder / "packed", make_documents((40, 60, 9, 33, 21, 50), seed=4), 64)
    strong = shutil.copytree(folder / "math", folder / "strong")
    config = json.loads((strong / "adapter_config.json").read_text())
    (strong / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}))
    return folder


@pytest.fixture(scope="module")
def served(place):
    """math and dora as they are; `wrong` is code, `half` is math with half its scale."""
    with running(place, ("math", "dora")) as made:
        from dataclasses import replace

        from trainer_plugin.checkpoints.adapter_folder import read_adapter

        for name, folder in (("wrong", "code"), ("half", "strong")):
            made.engine.load(replace(read_adapter(place / folder), name=name)).result()
        yield made


def check(served, place, model, adapter="math", **options):
    settings = ProofSettings(dtype="float32", documents=4, **options.pop("settings", {}))
    options = {"base": str(place / "base"), "data": str(place / "packed"), **options}
    return verify_served(served.address, model, str(place / adapter), settings=settings, **options)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", a_few(["math", "dora"]))
@pytest.mark.parametrize("data", [True, False])
def test_the_right_adapter_is_proven_by_documents_and_by_its_own_answers(served, place, adapter, data):
    proof = check(served, place, adapter, adapter, **({} if data else {"data": None}))
    assert proof.passed, proof.lines()
    assert [finding.name for finding in proof.findings] == ["right", "right template"]
    right = proof.findings[0]
    assert right.differences[adapter] < 1e-3 < right.effect
    assert right.differences["base"] == pytest.approx(right.effect, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "others", "name", "said"),
    [
        ("base", (), "base", "the base answers instead"),
        ("wrong", ("code",), "another adapter", "another adapter answers, code"),
        ("wrong", (), "unknown weights", "neither base nor adapter"),
        ("half", (), "another scale", "of its strength"),
        ("maths", (), "not served", "no model 'maths'"),
    ],
)
def test_other_weights_are_named(served, place, model, others, name, said):
    proof = check(served, place, model, others=[str(place / one) for one in others])
    assert not proof.passed
    assert [finding.name for finding in proof.findings] == [name]
    assert said in proof.findings[0].sentence


@pytest.mark.slow
@pytest.mark.parametrize("echo", [True, False])
def test_another_chat_template_is_named(served, place, monkeypatch, echo):
    if not echo:
        monkeypatch.setattr(Server, "echo", lambda self, tokens: None)
        assert check(served, place, "math").passed
        assert not check(served, place, "base").passed
    tokenizer = served.engine.loaded.tokenizer
    contents = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    other = "{% for message in messages %}w77 {{ message.content }} w78 w79 {% endfor %}"
    for template, said in ((contents, "the contents alone"), (other, "none that is known here")):
        with monkeypatch.context() as patched:
            patched.setattr(tokenizer, "chat_template", template)
            proof = check(served, place, "math")
        assert not proof.passed
        if echo:
            assert [finding.name for finding in proof.findings] == ["right", "another template"]
            assert said in proof.findings[1].sentence
        else:
            assert "another chat template would look the same here" in proof.notes


def test_a_context_that_is_cut_in_silence_or_refused_is_named(served, place, monkeypatch):
    from trainer_plugin.serving.prompts import Prompts

    whole = Prompts.of_prompt
    with monkeypatch.context() as patched:
        patched.setattr(Prompts, "of_prompt", lambda *given: whole(*given)[-32:])
        proof = check(served, place, "math")
    assert [finding.name for finding in proof.findings] == ["truncated context"]
    assert "read 32 of" in proof.findings[0].sentence
    with running(place, ("math",), Limits(context=48)) as short:
        proof = check(short, place, "math")
        assert [finding.name for finding in proof.findings] == ["context too short"]
        assert check(short, place, "math", settings={"tokens": 40}).passed


def test_an_adapter_that_changes_nothing_is_not_proven(served, place):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(place / "math", place / "nothing", dirs_exist_ok=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor * 0 for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    proof = check(served, place, "base", "nothing")
    assert [finding.name for finding in proof.findings] == ["no effect"]
    assert not proof.passed


def test_the_command_exits_0_for_the_right_adapter_and_1_for_the_base(served, place):
    options = ("--adapter", place / "math", "--base", place / "base", "--data", place / "packed")
    options = (*options, "--dtype", "float32", "--documents", "3", "-q")
    good = run("verify-served", served.address, "--model", "math", *options)
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, f"math at {served.address}: proven")
    bad = run("verify-served", served.address, "--model", "base", *options, "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["findings"][0]["name"] == "base"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>", "no JSON object"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"logprobs": {"token_logprobs": [null, "x"]}}]}', "no number"),
        (b'{"choices": [{"logprobs": {"token_logprobs": [null, NaN]}}]}', "no number"),
        (b"[" * 5000, "no JSON object"),
    ],
)
def test_servers_that_answer_nonsense_are_refused(answer, said):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as fake:
        Thread(target=fake.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match=said):
            Server(f"http://127.0.0.1:{fake.server_port}", "m").echo([1, 2, 3])
        fake.shutdown()


def test_fields_of_an_engine_are_sent_and_its_numbers_of_tokens_are_read():
    """As llama.cpp has it: adapters are named by `lora`, and two tokens may have one text."""
    asked = []
    token = {"id": 7, "token": "\ufffd", "logprob": -0.5}
    place = {**token, "top_logprobs": [token, {**token, "id": 8, "logprob": -1.5}]}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            choice = {"logprobs": {"content": [place]}}
            self.wfile.write(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3}}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as fake:
        Thread(target=fake.serve_forever, daemon=True).start()
        server = Server(f"http://127.0.0.1:{fake.server_port}", "m", extra={"lora": [{"id": 0, "scale": 1}]})
        chat = server.chat([{"role": "user", "content": "Hi"}], 1)
        fake.shutdown()
    assert asked[0]["lora"] == [{"id": 0, "scale": 1}]
    assert (asked[0]["model"], chat.prompt_tokens) == ("m", 3)
    assert chat.places[0].logprobs == {"token_id:7": -0.5, "token_id:8": -1.5}


def test_fields_that_are_no_json_are_named(place):
    ended = run("verify-served", "127.0.0.1:9", "-m", "m", "-a", place / "math", "--extra-body", "lora")
    assert ended.returncode == 2
    assert "--extra-body lora" in ended.stderr


def test_addresses_are_completed_and_silence_is_said():
    assert Server("localhost:8000", "m").root == "http://localhost:8000/v1"
    assert Server("https://a.example/v1/", "m").root == "https://a.example/v1"
    with pytest.raises(UsageError, match="no such address"):
        Server("ftp://a.example", "m")
    with pytest.raises(DataError, match="does not answer"):
        Server("http://127.0.0.1:9", "m", seconds=2).models()


def test_rounding_does_not_hide_the_verdict_and_too_much_of_it_is_no_proof():
    random = np.random.default_rng(0)
    base = random.normal(size=2000)
    adapter = base + random.normal(size=2000)
    ours = {BASE: base, "a": adapter}
    for noise, name in ((0.1, "right"), (0.8, "too coarse")):
        assert judge_weights(adapter + noise * random.normal(size=2000), ours, "a").name == name
    assert judge_weights(base + 0.1 * random.normal(size=2000), ours, "a").name == "base"
    assert judge_weights(base + random.normal(size=2000), ours, "a").name == "unknown weights"
