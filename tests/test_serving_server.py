"""The server of adapters, asked by OpenAI's own client: answers, scores, errors, and who leaves early."""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("peft")
pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'tokpack[serve]'")
sys.path.insert(0, str(Path(__file__).parent))

import requests
import torch
from adapter_files import save_adapter
from peft import PeftModel
from served import client, refused, running, save_place
from trainer_rows import with_few_layers
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer_plugin.serving.engine import Engine
from trainer_plugin.serving.run import server_of
from trainer_plugin.serving.values import Limits

NAMES = ("math", "code", "dora")
LONG = {"role": "user", "content": "w9 " * 2000}
CHAT = [{"role": "user", "content": "w9 w8 w7"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return save_place(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def served(place):
    with running(place, NAMES, Limits(rows=8, queue=200), adapters_below=place) as made:
        yield made


@pytest.fixture(scope="module")
def alone(place):
    """`alone(name, ids, n)`: the next n tokens by transformers and PEFT, one model for each adapter."""
    models = {}
    for name in (None, *NAMES):
        base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
        models[name] = base if name is None else PeftModel.from_pretrained(base, str(place / name))
        models[name].eval()

    def generate(name, ids, n):
        rows = torch.tensor([ids])
        made = models[name].generate(
            input_ids=rows, attention_mask=torch.ones_like(rows), max_new_tokens=n, do_sample=False
        )
        return made[0, len(ids) :].tolist()

    generate.models = models
    return generate


@pytest.fixture(scope="module")
def tokenizer(place):
    return AutoTokenizer.from_pretrained(place / "base")


def wait_until_idle(served, seconds=10.0):
    end = time.monotonic() + seconds
    while served.engine.load_now().running or served.engine.load_now().waiting:
        assert time.monotonic() < end, served.engine.load_now()
        time.sleep(0.01)


def test_a_second_signal_does_not_break_off_the_answers_in_work():
    server = server_of(None)
    for _ in range(2):
        server.handle_exit(2, None)
    assert server.should_exit
    assert not server.force_exit


@pytest.mark.slow
def test_a_hundred_requests_for_three_adapters_and_the_base_at_once_are_each_as_alone(
    served, alone, tokenizer
):
    generator = torch.Generator().manual_seed(5)
    asked = []
    for number in range(100):
        size = int(torch.randint(1, 30, (1,), generator=generator))
        ids = torch.randint(3, 128, (size,), generator=generator).tolist()
        asked.append(((None, *NAMES)[number % 4], ids, 1 + number % 6))
    before = served.engine.load_now().steps
    with ThreadPoolExecutor(100) as pool:
        api = client(served)
        texts = list(
            pool.map(
                lambda one: api.completions.create(
                    model=one[0] or "base", prompt=one[1], max_tokens=one[2], temperature=0
                ),
                asked,
            )
        )
    for (name, ids, n), got in zip(asked, texts, strict=True):
        want = alone(name, ids, n)
        whole, context = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (ids + want, ids))
        assert got.choices[0].text == whole[len(context) :], (name, ids)
        assert got.choices[0].finish_reason == ("stop" if want[-1] == 2 else "length")
        assert got.usage.completion_tokens == len(want)
        assert got.usage.prompt_tokens == len(ids)
    tokens = sum(one[2] for one in asked)
    assert served.engine.load_now().steps - before < tokens / 2  # they ran together
    wait_until_idle(served)


def test_a_chat_streamed_is_the_chat_whole_and_its_prompt_the_template(served, alone, tokenizer):
    api = client(served)
    whole = api.chat.completions.create(model="math", messages=CHAT, max_tokens=12, temperature=0)
    prompt = tokenizer("w100 w9 w8 w7 w102 w101", add_special_tokens=False)["input_ids"]
    assert whole.choices[0].message.content == tokenizer.decode(
        alone("math", prompt, 12), skip_special_tokens=True
    )
    assert whole.choices[0].message.role == "assistant"
    pieces = list(
        api.chat.completions.create(
            model="math",
            messages=CHAT,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert pieces[-1].usage == whole.usage
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == "length"


def test_content_parts_and_the_system_are_read_and_other_adapters_answer_otherwise(served):
    api = client(served)
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "w9 w8"}, {"type": "text", "text": " w7"}]}
    ]
    answers = {
        name: api.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0)
        .choices[0]
        .message.content
        for name, messages in (("base", CHAT), ("math", CHAT), ("code", CHAT), ("dora", CHAT))
    }
    assert len(set(answers.values())) == 4
    again = api.chat.completions.create(model="code", messages=parts, max_tokens=8, temperature=0)
    assert again.choices[0].message.content == answers["code"]


def test_log_probabilities_are_those_of_the_model_in_both_forms(served, alone):
    api, ids = client(served), [9, 8, 7, 33]
    made = api.completions.create(
        model="code", prompt=ids, max_tokens=3, temperature=0, logprobs=2, echo=True,
        extra_body={"return_tokens_as_token_ids": True, "ignore_eos": True},
    )  # fmt: skip
    got = made.choices[0].logprobs
    tokens = [int(token.removeprefix("token_id:")) for token in got.tokens]
    assert tokens[:4] == ids
    with torch.no_grad():
        want = torch.log_softmax(alone.models["code"](torch.tensor([tokens])).logits[0], -1)
    assert got.token_logprobs[0] is None
    assert got.top_logprobs[0] is None
    for place, (token, logprob) in enumerate(zip(tokens[1:], got.token_logprobs[1:], strict=True)):
        assert logprob == pytest.approx(float(want[place, token]), abs=1e-4)
        best = got.top_logprobs[place + 1]
        assert sorted(best.values(), reverse=True) == pytest.approx(
            want[place].topk(2).values.tolist(), abs=1e-4
        )
    chat = api.chat.completions.create(
        model="code", messages=CHAT, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = chat.choices[0].logprobs.content
    assert [entry.top_logprobs[0].token for entry in entries] == [entry.token for entry in entries]
    assert all(bytes(entry.bytes).decode() == entry.token for entry in entries)
    assert all(len(entry.top_logprobs) == 3 for entry in entries)


def test_the_prompt_alone_is_scored_without_generating(served):
    made = client(served).completions.create(
        model="base", prompt=[5, 6, 7], max_tokens=0, logprobs=0, echo=True
    )
    assert len(made.choices[0].logprobs.token_logprobs) == 3
    assert made.usage.completion_tokens == 0
    assert made.choices[0].text == "w5 w6 w7"


def test_stop_strings_end_the_text_before_them_streamed_or_not(served):
    api = client(served)
    options = {"model": "math", "prompt": [9, 8, 7], "max_tokens": 30, "temperature": 0}
    options["extra_body"] = {"ignore_eos": True}
    full = api.completions.create(**options).choices[0].text
    words = full.split(" ")
    stop = " ".join(words[4:6])[1:]  # begins within a word
    want = full[: full.index(stop)]
    whole = api.completions.create(**options, stop=["zebra", stop]).choices[0]
    assert (whole.text, whole.finish_reason) == (want, "stop")
    pieces = [piece.choices[0].text for piece in api.completions.create(**options, stop=stop, stream=True)]
    assert "".join(pieces) == want


def test_a_seed_draws_the_same_tokens_alone_and_among_others(served):
    api = client(served)

    def drawn(seed, temperature=1.5, **options):
        return api.completions.create(
            model="math", prompt=[9, 8, 7], max_tokens=12, temperature=temperature, seed=seed, **options
        ).choices[0].text  # fmt: skip

    first = drawn(1)
    with ThreadPoolExecutor(8) as pool:
        among = list(pool.map(drawn, [1, 2, 3, 1, 4, 5, 1]))
    assert {among[0], among[3], among[6]} == {first}
    assert len(set(among)) > 3
    assert drawn(1, top_p=1e-6) == drawn(7, temperature=0)


def test_several_prompts_are_answered_by_one_request(served):
    api = client(served)
    prompts = ["w9 w8", "w7", "w9 w8"]
    many = api.completions.create(model="code", prompt=prompts, max_tokens=5, temperature=0)
    each = [
        api.completions.create(model="code", prompt=prompt, max_tokens=5, temperature=0).choices[0].text
        for prompt in prompts
    ]
    assert [choice.text for choice in many.choices] == each
    assert [choice.index for choice in many.choices] == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "maths"}, "NotFoundError", "'maths' is not served here; served are: base, math"),
        ({"n": 2}, "BadRequestError", "n is not served here"),
        ({"temperature": -1}, "BadRequestError", "a number from 0 to 2"),
        ({"max_tokens": 5000}, "BadRequestError", "together more than the 1,024"),
        ({"prompt": [1000]}, "BadRequestError", "between 0 and 127"),
        ({"prompt": []}, "BadRequestError", "a list of tokens"),
        ({"prompt": ""}, "BadRequestError", "the prompt is empty"),
        ({"stop": [""]}, "BadRequestError", "a text or up to"),
        ({"seed": 1 << 70}, "BadRequestError", "whole number"),
        ({"extra_body": {"temprature": 1}}, "BadRequestError", "did you mean 'temperature'"),
    ],
)
def test_what_cannot_be_served_is_said_with_its_field(served, change, kind, said):
    with refused(kind, match=said) as error:
        client(served).completions.create(**{"model": "base", "prompt": "w5", **change})
    assert set(error.value.body) == {"message", "type", "param", "code"}
    wait_until_idle(served)


def test_a_prompt_that_is_too_long_names_its_own_field(served):
    api = client(served)
    for field, ask in (
        ("prompt", lambda: api.completions.create(model="base", prompt=[9] * 2000)),
        ("messages", lambda: api.chat.completions.create(model="base", messages=[LONG])),
    ):
        with refused("BadRequestError", match="together more than") as error:
            ask()
        assert error.value.body["param"] == field


def test_chats_that_cannot_be_served_are_refused(served):
    api = client(served)
    for messages, said in (
        ([], "a list of messages"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "only text"),
        ([{"content": "w5"}], "an object with a role"),
    ):
        with refused("BadRequestError", match=said):
            api.chat.completions.create(model="base", messages=messages)
    tools = [{"type": "function", "function": {"name": "f"}}]
    with refused("BadRequestError", match="tools is not served"):
        api.chat.completions.create(model="base", messages=CHAT, tools=tools)
    with refused("BadRequestError", match="chat_template cannot be set"):
        api.chat.completions.create(
            model="base",
            messages=CHAT,
            extra_body={"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        )


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[1]", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"model": "base", "prompt": "w5", "max_tokens": ' + b"9" * 5000 + b"}", {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b'{"model": "base", "prompt": "\\ud800"}', {}, 400),
        (b'{"model": "\\ud800", "prompt": "w5"}', {}, 404),
        (b" " * (5 << 20), {}, 413),
        (b'{"model": "base", "prompt": "w5"}', {"host": "evil.example"}, 403),
        (b'{"model": "base", "prompt": "w5"}', {"host": "127.0.0.1:80@evil.example"}, 400),
        (b'{"model": "base", "prompt": "w5"}', {"host": "127.0.0.1:80:80"}, 400),
        (b'{"model": "base", "prompt": "w5"}', {"host": "[127.0.0.1].evil.example"}, 400),
        (b'{"model": "base", "prompt": "w5"}', {"host": ""}, 400),
    ],
)
def test_bodies_and_hosts_that_are_no_request_get_openais_shape_of_error(served, body, headers, status):
    headers = {"content-type": "application/json", **headers}
    got = requests.post(f"{served.address}/completions", data=body, headers=headers, timeout=30)
    assert got.status_code == status
    assert "Traceback" not in got.text
    assert got.json()["error"]["message"]
    missing = requests.get(f"{served.address}/nothing", timeout=30)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize("length", ["1099511627776", "9" * 30, "-5", "five", "٣"])
def test_a_body_that_says_it_is_huge_is_refused_before_it_comes(served, length):
    place = urlsplit(served.address)
    with socket.create_connection((place.hostname, place.port), timeout=10) as asked:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        asked.sendall(f"{head}content-length: {length}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: asked.recv(65536), b""))  # until it is closed: no body is waited for
    assert answer.split()[1] in (b"413", b"400")


def test_models_are_listed_with_their_base(served):
    listed = {model.id: model for model in client(served).models.list()}
    assert list(listed) == ["base", *NAMES]
    assert listed["math"].parent == "base"
    assert listed["base"].max_model_len == 1024
    assert client(served).models.retrieve("code").id == "code"


def test_clients_that_leave_stop_their_generation(served, monkeypatch):
    step = Engine._step
    monkeypatch.setattr(Engine, "_step", lambda engine: (time.sleep(0.002), step(engine)))
    api = client(served)
    options = {"model": "math", "prompt": [9, 8], "max_tokens": 900, "extra_body": {"ignore_eos": True}}
    stream = api.completions.create(**options, stream=True)
    next(iter(stream))
    assert served.engine.load_now().running == 1
    stream.close()
    wait_until_idle(served)
    before = served.engine.load_now().steps
    with refused("APITimeoutError"):
        client(served, timeout=0.3).completions.create(**options)
    wait_until_idle(served)
    assert served.engine.load_now().steps - before < 800  # not to the end of 900 tokens


@pytest.mark.slow
def test_a_full_queue_refuses_and_a_slow_answer_times_out(place, monkeypatch):
    from trainer_plugin.serving.batch import Lane

    step = Lane.step
    monkeypatch.setattr(Lane, "step", lambda lane: time.sleep(0.005) or step(lane))  # on any machine
    limits = Limits(rows=1, queue=1, seconds=2.0)
    options = {"model": "base", "prompt": [9, 8], "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    with running(place, (), limits) as served, ThreadPoolExecutor(2) as pool:
        api = client(served)
        slow = [pool.submit(api.completions.create, **options) for _ in range(2)]
        while served.engine.load_now().waiting < 1:
            time.sleep(0.01)
        with refused("RateLimitError", match="too many requests wait") as error:
            api.completions.create(**options)
        assert error.value.response.headers["retry-after"] == "1"
        for one in slow:
            with refused("InternalServerError", match="more than 2 seconds"):
                one.result()
        wait_until_idle(served)
        stream = api.completions.create(**options, stream=True)
        with refused("APIError", match="more than 2 seconds"):
            list(stream)


@pytest.mark.slow
def test_smollm2_answers_for_two_adapters_at_once_as_for_each_alone(smollm2, tmp_path):
    base = with_few_layers(smollm2, tmp_path / "base")
    for name, seed in (("a", 1), ("b", 2)):
        save_adapter(base, tmp_path / name, seed=seed, std=0.08, r=8)
    question = "Write one sentence about the sea."
    asked = [("base", "What is 17 + 25?"), *((name, question) for name in ("base", "a", "b"))]

    def ask(one):
        messages = [{"role": "user", "content": one[1]}]
        made = client(served, timeout=600).chat.completions.create(
            model=one[0], messages=messages, max_tokens=8, temperature=0
        )
        return made.choices[0].message.content

    with running(tmp_path, ("a", "b")) as served:
        alone = [ask(one) for one in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(ask, asked))
    assert together == alone
    assert len(set(alone[1:])) == 3  # the adapters matter
