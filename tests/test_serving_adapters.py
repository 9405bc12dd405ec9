"""Adapters that come and go while the server runs, and those that it does not load."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'tokpack[serve]'")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from adapter_files import save_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from served import client, refused, running, save_place
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokpack.errors import UsageError
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapters
from trainer_plugin.serving import batch
from trainer_plugin.serving.batch import Lane, Row
from trainer_plugin.serving.engine import can_be_mixed
from trainer_plugin.serving.values import MIXED, Job, Limits

NAMES = ("math", "code")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return save_place(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def served(place):
    with running(place, NAMES, Limits(rows=8, queue=200), adapters_below=place) as made:
        yield made


@pytest.mark.slow
def test_adapters_come_and_go_while_others_are_answered(served, place):
    api = client(served)
    save_adapter(place / "base", place / "new", seed=9)
    long = api.completions.create(
        model="math",
        prompt=[9, 8],
        max_tokens=200,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(long))
    api.post("/load_lora_adapter", body={"lora_name": "fresh", "lora_path": "new"}, cast_to=object)
    assert "fresh" in [model.id for model in api.models.list()]
    got = api.completions.create(model="fresh", prompt=[9, 8], max_tokens=6, temperature=0)
    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(place / "new")).eval()
    ids = torch.tensor([[9, 8]])
    want = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )
    assert (
        got.choices[0].text.split()
        == AutoTokenizer.from_pretrained(place / "base").decode(want[0, 2:], skip_special_tokens=True).split()
    )
    api.post("/unload_lora_adapter", body={"lora_name": "fresh"}, cast_to=object)
    with refused("NotFoundError", match="'fresh' is not served"):
        api.completions.create(model="fresh", prompt="w5")
    text = "".join(piece.choices[0].text for piece in long)
    assert len(text.split()) > 150


@pytest.fixture(scope="module")
def strangers(place, tmp_path_factory):
    """Folders of adapters beside those served, each with something in it that is not obeyed."""
    for name, change in (
        ("pissa", {"init_lora_weights": "pissa"}),
        ("code-name", {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}),
        ("pattern", {"rank_pattern": {"(((": 3}}),
        *[(name, {}) for name in ("linked-config", "pipe", "cut", "record")],
    ):
        folder = save_adapter(place / "base", place / name, seed=9)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in (place / "math").iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    (place / "outside").symlink_to(elsewhere)
    (place / "linked-config" / "adapter_config.json").unlink()
    (place / "linked-config" / "adapter_config.json").symlink_to(elsewhere / "adapter_config.json")
    os.mkfifo(place / "pipe" / "chat_template.jinja")
    weights = place / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (place / "record" / "tokpack.json").write_text('{"base": [1], "method": {}}')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"lora_name": "x", "lora_path": "../../etc"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "/etc"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "outside"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "base"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "pissa"}, "BadRequestError", "starts as pissa"),
        ({"lora_name": "x", "lora_path": "code-name"}, "BadRequestError", "megatron"),
        ({"lora_name": "x", "lora_path": "linked-config"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "pipe"}, "NotFoundError", "no folder"),
        ({"lora_name": "x", "lora_path": "pattern"}, "BadRequestError", "regular expression"),
        ({"lora_name": "x", "lora_path": "cut"}, "BadRequestError", "cannot be read"),
        ({"lora_name": "x", "lora_path": "record"}, "BadRequestError", "as tokpack writes it"),
        ({"lora_name": "math", "lora_path": "math"}, "ConflictError", "served already"),
        ({"lora_name": "a b", "lora_path": "math"}, "BadRequestError", "a name of letters"),
    ],
)
def test_adapters_from_elsewhere_are_not_loaded(served, strangers, body, kind, said):
    with refused(kind, match=said):
        client(served).post("/load_lora_adapter", body=body, cast_to=object)
    assert [model.id for model in client(served).models.list()] == ["base", *NAMES]


def test_what_is_no_adapter_is_not_unloaded(served):
    for name in ("nobody", "base"):
        with refused("NotFoundError", match=f"no adapter '{name}' is loaded; loaded are: ") as error:
            client(served).post("/unload_lora_adapter", body={"lora_name": name}, cast_to=object)
        assert error.value.body["param"] == "lora_name"


def scores(loaded, names: tuple[str | None, ...], lane: str) -> torch.Tensor:
    """Logits behind one prompt, a row for each name."""
    rows = [Row(Job(prompt=(9, 8, 7), max_tokens=3, adapter=name), loaded.tokenizer) for name in names]
    with torch.inference_mode():
        return Lane(loaded, lane)._prefill(rows)[0]


def load(place: Path, *names: str):
    return load_adapted(place / "base", read_adapters([place / name for name in names]), dtype="float32")


def test_an_adapter_with_a_whole_layer_of_its_own_leaves_the_others_alone(place):
    save_adapter(place / "base", place / "head", seed=5, modules_to_save=["lm_head"])
    weights = load_file(place / "head" / "adapter_model.safetensors")
    weights = {name: value * 2 if "lm_head" in name else value for name, value in weights.items()}
    save_file(weights, place / "head" / "adapter_model.safetensors", {"format": "pt"})
    loaded = load(place, "math", "code", "head")
    assert not can_be_mixed(loaded.find("head"))
    for _ in range(2):
        mixed = scores(loaded, ("math", "code", None), MIXED)
        for row, name in zip(mixed, NAMES, strict=False):
            assert torch.allclose(row, scores(load(place, name), (name,), name)[0], atol=1e-4)
        assert torch.allclose(mixed[2], scores(load(place), (None,), MIXED)[0], atol=1e-4)
        alone = scores(load(place, "head"), ("head",), "head")
        assert torch.allclose(scores(loaded, ("head",), "head"), alone, atol=1e-4)
        assert (alone[0] - mixed[2]).abs().max() > 0.1


def test_a_failed_pass_leaves_nothing_behind_for_the_next_one(place, monkeypatch):
    loaded = load(place, "math", "code")
    before = scores(loaded, ("math",), "math")
    network = loaded.network.get_base_model()

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(network.lm_head, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            scores(loaded, ("math", "code", None), MIXED)
    assert torch.equal(scores(loaded, ("math",), "math"), before)


def test_without_the_flag_nothing_is_loaded_over_http_and_the_key_is_asked_for(place):
    with running(place, ("math",), key="long-enough-key") as served:
        with refused("AuthenticationError", match="missing or wrong"):
            client(served).models.list()
        api = client(served, api_key="long-enough-key")
        assert [model.id for model in api.models.list()] == ["base", "math"]
        for path in ("load", "unload"):
            with refused("PermissionDeniedError", match="--adapters-below"):
                api.post(
                    f"/{path}_lora_adapter", body={"lora_name": "math", "lora_path": "x"}, cast_to=object
                )


@pytest.mark.parametrize(
    ("dtype", "difference", "proven"),
    [
        ("float32", 0.01, True),
        ("float32", 0.03, False),
        ("bfloat16", 0.03, True),
        ("bfloat16", 0.08, False),
    ],
)
def test_a_batch_may_differ_from_a_row_alone_by_what_kernels_do(
    place, monkeypatch, dtype, difference, proven
):
    """A GPU takes a kernel for padded rows and another for one alone."""
    loaded = load_adapted(str(place / "base"), dtype=dtype)
    monkeypatch.setattr(batch, "_difference", lambda *_: difference)
    if proven:
        batch.prove_batches(loaded)
    else:
        with pytest.raises(UsageError, match="in a batch as alone"):
            batch.prove_batches(loaded)
